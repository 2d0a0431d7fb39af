"""`Contents`: what a layout reads and another one writes, and what all of them need for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mmrns.errors import DataError
from mmrns.prepare.delimited import read_delimited

TRIPLE = ["head", "relation", "tail"]
ENTITY = ["entity", "name", "description", "image"]
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""How the files of a split are called elsewhere, and how here."""

TEXT_SUFFIXES = (".tsv", ".txt", ".csv", ".tsv.gz", ".txt.gz", ".csv.gz")

LONGEST_NAME = 65_536
"""Bytes of a name; what is longer is a file without line ends or with a quote that is never closed."""

_BREAKS = r"[\t\r\n]+"
_COLUMNS = {
    "entity": "entity",
    "id": "entity",
    "uri": "entity",
    "iri": "entity",
    "name": "name",
    "label": "name",
    "title": "name",
    "description": "description",
    "desc": "description",
    "text": "description",
    "abstract": "description",
    "comment": "description",
    "image": "image",
    "picture": "image",
    "photo": "image",
}


@dataclass
class Contents:
    """A knowledge graph on its way from one layout to another.

    Attributes:
        source: the file or folder it was read from.
        splits: frames with the columns head, relation, tail, by split.
        order: the entity of each id, where the layout numbers them; feature tables without names follow it.
        entities: a table with the column entity and any of name, description, image.
        relations: a table with the columns relation and name.
        numbers: a table with the columns entity, attribute, value.
        texts: a table with the columns entity and text: further texts of an entity, one a row.
        malformed: statements that were left out since they are malformed.
        left_out: literals that were left out since they are neither numbers nor texts, by datatype.
        notes: what the user should know.
    """

    source: Path
    splits: dict[str, pl.DataFrame]
    order: pl.Series | None = None
    entities: pl.DataFrame | None = None
    relations: pl.DataFrame | None = None
    numbers: pl.DataFrame | None = None
    texts: pl.DataFrame | None = None
    malformed: int = 0
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    notes: list[str] = field(default_factory=list[str])

    def names(self) -> pl.Series:
        """Every entity of a triple, of the order and of `entities`, once, sorted by code point."""
        columns = [frame[column] for frame in self.splits.values() for column in ("head", "tail")]
        # Distinct within each column first: together they may be many times as long.
        parts = [column.unique() for column in columns]
        parts += [] if self.order is None else [self.order]
        parts += [] if self.entities is None else [self.entities["entity"]]
        return pl.concat([part.alias("entity") for part in parts]).unique().sort()

    def relation_names(self) -> pl.Series:
        """Every relation of a triple, once, sorted by code point."""
        return pl.concat([frame["relation"].unique() for frame in self.splits.values()]).unique().sort()


def fit_names(frame: pl.DataFrame, where: Path, first_line: int, notes: list[str]) -> pl.DataFrame:
    """Triples whose names fit a line of text: tabs and line breaks become blanks, and that is noted.

    Raises:
        DataError: a name is empty or absurdly long; by line, which is `first_line` for the first row.
    """
    frame = frame.select(pl.col(column).cast(pl.String) for column in TRIPLE)
    empty = pl.any_horizontal(pl.col(column).fill_null("").str.strip_chars() == "" for column in TRIPLE)
    bad = frame.select(empty).to_series().arg_true()
    if len(bad):
        raise DataError(where, "empty field", "mend or delete the row", int(bad[0]) + first_line)
    refuse_long_names(frame, where, first_line)
    broken = frame.select(pl.any_horizontal(pl.col(column).str.contains(_BREAKS) for column in TRIPLE).sum()).item()
    if broken:
        frame = frame.with_columns(pl.col(column).str.replace_all(_BREAKS, " ") for column in TRIPLE)
        notes.append(f"{where.name}: tabs and line breaks within the names of {broken:,} triples became blanks")
    return frame


def refuse_long_names(frame: pl.DataFrame, where: Path, first_line: int = 1) -> None:
    """Refuse triples with names of more than `LONGEST_NAME` bytes, by line."""
    long = pl.any_horizontal(pl.col(column).str.len_bytes() > LONGEST_NAME for column in TRIPLE)
    bad = frame.select(long).to_series().arg_true()
    if len(bad):
        message = f"a name of more than {LONGEST_NAME:,} bytes"
        raise DataError(where, message, "check line ends and quotes", int(bad[0]) + first_line)


def one_line(column: pl.Expr) -> pl.Expr:
    """The text with every run of white space replaced by one blank."""
    return column.fill_null("").str.replace_all(r"\s+", " ").str.strip_chars()


def merged(base: pl.DataFrame | None, more: pl.DataFrame | None) -> pl.DataFrame | None:
    """Join two tables of entities; what `base` says is kept, and new entities follow in order."""
    if base is None or more is None:
        return more if base is None else base
    both = base.join(more, on="entity", how="full", suffix=":more", maintain_order="left_right")
    keys = pl.coalesce("entity", "entity:more").alias("entity")
    columns = [keys]
    for name in dict.fromkeys([*base.columns, *more.columns]):
        if name == "entity":
            continue
        given = [column for column in (name, f"{name}:more") if column in both.columns]
        filled = [pl.when(pl.col(column) != "").then(pl.col(column)) for column in given]
        columns.append(pl.coalesce(*filled, pl.lit("")).alias(name))
    return both.select(columns)


def read_entity_table(path: Path) -> pl.DataFrame:
    """Names, descriptions or pictures of entities: a table of which the first column, or `entity`, is the entity.

    The header may be missing where there are two columns: the second is then the description. An entity may have
    several rows where descriptions are all that there is.

    Raises:
        DataError: malformed rows, an entity without a name or listed twice.
    """
    frame, first_line = read_delimited(path, header=lambda cells: any(c.strip().lower() in _COLUMNS for c in cells))
    if first_line == 1:
        if frame.width != 2:
            raise DataError(path, f"{frame.width} columns without a header line", "name them: entity, description", 1)
        frame.columns = ["entity", "description"]
    names = [_COLUMNS.get(column.strip().lower(), column) for column in frame.columns]
    # `id, name, description` and `name, description` alike: the entity is named by the first of them.
    if "entity" not in names:
        names[0] = "entity"
    if len(set(names)) < len(names):
        raise DataError(path, f"columns {', '.join(frame.columns)} mean the same", "keep one of each", 1)
    frame.columns = names
    unnamed = (frame["entity"].fill_null("").str.strip_chars() == "").arg_true()
    if len(unnamed):
        raise DataError(path, "empty entity", "name it or delete the row", int(unnamed[0]) + first_line)
    repeated = (~frame["entity"].is_first_distinct()).arg_true()
    if len(repeated) and set(names) == {"entity", "description"}:
        # Several texts of an entity, one a row.
        frame = frame.group_by("entity", maintain_order=True).agg(pl.col("description").str.join(" "))
    elif len(repeated):
        row = int(repeated[0])
        raise DataError(path, f"entity {frame['entity'][row]!r} is listed twice", "keep one row", row + first_line)
    refuse_outside(frame, path, first_line)
    return frame.select("entity", *(one_line(pl.col(column)) for column in frame.columns if column != "entity"))


def refuse_outside(entities: pl.DataFrame, where: Path, first_line: int | None = None) -> None:
    """Refuse pictures whose path leaves the folder: absolute, or through `..`; web addresses may stay.

    Raises:
        DataError: by line, or by entity where lines are not known.
    """
    if "image" not in entities.columns:
        return
    path = entities["image"].fill_null("").str.replace_all("\\", "/", literal=True)
    bad = (path.str.contains(r"(^|/)\.\.(/|$)") | path.str.contains(r"^(/|[A-Za-z]:/|file:)")).arg_true()
    if len(bad):
        row = int(bad[0])
        message = f"picture {entities['image'][row]!r} of {entities['entity'][row]!r} lies outside the folder"
        line = None if first_line is None else row + first_line
        raise DataError(where, message, "give a path within the folder", line)


def write_lines(frame: pl.DataFrame, path: Path, *, header: bool) -> None:
    """Write a table separated by tabs and without quotes, as a dataset folder has it."""
    frame.write_csv(path, separator="\t", include_header=header, quote_style="never", null_value="")


def existing(folder: Path, stems: Iterable[str], suffixes: Iterable[str]) -> list[Path]:
    """The files of a folder with one of these stems and suffixes, in that order; links that lead nowhere too."""
    suffixes = list(suffixes)
    paths = [folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes]
    return [path for path in paths if path.is_file() or path.is_symlink()]


def split_files(
    folder: Path, suffixes: Iterable[str], ending: str = "", stems: Iterable[str] | None = None
) -> dict[str, Path]:
    """The file of each split of a folder.

    Args:
        folder: where to look.
        suffixes: what the files may end with.
        ending: what follows the split's name, as in `train2id.txt`.
        stems: names of files that hold all triples, as train, in place of the names of splits.

    Raises:
        DataError: two files hold the same split.
    """
    suffixes = list(dict.fromkeys(suffixes))
    names = SPLIT_NAMES if stems is None else dict.fromkeys(stems, "train")
    found: dict[str, Path] = {}
    for stem, split in names.items():
        for path in existing(folder, [stem + ending], suffixes):
            if split in found:
                raise DataError(folder, f"{found[split].name} and {path.name} both hold split {split!r}", "keep one")
            found[split] = path
    return {split: found[split] for split in ("train", "valid", "test") if split in found}


def text_splits(folder: Path) -> dict[str, Path]:
    """The files named after the splits that are text, which several layouts have."""
    return split_files(folder, TEXT_SUFFIXES)
