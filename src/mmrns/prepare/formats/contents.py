"""`Contents`: what a layout reads and another one writes, and what all of them need for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

_BREAKS = r"[\t\r\n\x00]+"
"""What becomes a blank within a name. NUL ends no line, but a file with many of them passes for UTF-16."""

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


TABLE_COLUMNS = {"numbers": ("entity", "attribute", "value"), "texts": ("entity", "text")}
"""The columns of the tables of further facts in a dataset folder, by name."""

_RELATION_COLUMNS = {
    "relation": "relation",
    "id": "relation",
    "uri": "relation",
    "iri": "relation",
    "property": "relation",
    "predicate": "relation",
    "name": "name",
    "label": "name",
    "title": "name",
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
        fitted: whether `fit_names` has made the splits already, with the lines of their files.
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
    fitted: bool = False

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


def fit_names(
    frame: pl.DataFrame, where: Path, first_line: int, notes: list[str], *, of_lines: bool = False
) -> pl.DataFrame:
    """Triples whose names fit a line of text: tabs, line breaks and NUL become blanks, blanks at the ends go; noted.

    Args:
        frame: columns head, relation, tail.
        where: the file.
        first_line: of the first row.
        notes: where to what was done is added.
        of_lines: the names were cut out of lines at tabs, so that they hold none.

    Raises:
        DataError: a name is empty or absurdly long; by line, which is `first_line` for the first row.
    """
    frame = frame.select(pl.col(column).cast(pl.String) for column in TRIPLE)
    # First, since a name of nothing else is empty.
    broken = 0 if of_lines else int(frame.select(pl.any_horizontal(pl.all().str.contains(_BREAKS)).sum()).item())
    if broken:
        frame = frame.with_columns(pl.all().str.replace_all(_BREAKS, " "))
        notes.append(f"{where.name}: tabs, line breaks and NULs within the names of {broken:,} triples became blanks")
    bare = {column: pl.col(column).str.strip_chars() for column in TRIPLE}
    length = {column: pl.col(column).str.len_bytes() for column in TRIPLE}
    kinds = {
        "empty": pl.any_horizontal(bare[c].str.len_bytes().fill_null(0) == 0 for c in TRIPLE),
        "long": pl.any_horizontal(length[c] > LONGEST_NAME for c in TRIPLE),
        "edged": pl.any_horizontal(bare[c].str.len_bytes() != length[c] for c in TRIPLE),
    }
    # What they share is computed once.
    counts = frame.lazy().select(kind.sum().alias(name) for name, kind in kinds.items()).collect().row(0, named=True)
    for name, message, remedy in (
        ("empty", "empty field", "mend or delete the row"),
        ("long", f"a name of more than {LONGEST_NAME:,} bytes", "check line ends and quotes"),
    ):
        if counts[name]:
            row = int(frame.select(kinds[name].arg_true().first()).item())
            raise DataError(where, message, remedy, row + first_line)
    if counts["edged"]:
        frame = frame.with_columns(**bare)
        notes.append(f"{where.name}: blanks around the names of {counts['edged']:,} triples were taken off")
    return frame


def one_line(column: pl.Expr) -> pl.Expr:
    """The text with every run of white space, and of NUL, replaced by one blank."""
    return column.fill_null("").str.replace_all(r"[\s\x00]+", " ").str.strip_chars()


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


def read_entity_table(path: Path, notes: list[str] | None = None) -> pl.DataFrame:
    """Names, descriptions or pictures of entities: a table of which the first column, or `entity`, is the entity.

    The header may be missing where there are two columns: the second is then the description. An entity may have
    several rows where they do not contradict each other; its descriptions are joined.

    Raises:
        DataError: malformed rows, an entity without a name, or listed twice with different names or pictures.
    """
    frame, first_line = read_keyed_table(path, "entity", "description", _COLUMNS, notes)
    frame = frame.select("entity", *(one_line(pl.col(column)) for column in frame.columns if column != "entity"))
    refuse_outside(frame, path, first_line)
    if frame["entity"].n_unique() < len(frame):
        frame = _one_row_each(frame, path, first_line, notes)
    return frame


def read_relation_table(path: Path, notes: list[str] | None = None) -> pl.DataFrame:
    """Names of relations: a table of which the first column, or `relation`, is the relation, and the second its name.

    Raises:
        DataError: malformed rows, a relation that is empty or listed twice.
    """
    frame, first_line = read_keyed_table(path, "relation", "name", _RELATION_COLUMNS, notes)
    frame = frame.select("relation", *(one_line(pl.col(column)) for column in frame.columns if column != "relation"))
    repeated = (~frame["relation"].is_first_distinct()).arg_true()
    if len(repeated):
        row = int(repeated[0])
        raise DataError(path, f"relation {frame['relation'][row]!r} is listed twice", "keep one row", row + first_line)
    return frame


def read_keyed_table(
    path: Path, key: str, second: str, words: Mapping[str, str], notes: list[str] | None = None
) -> tuple[pl.DataFrame, int]:
    """A table about entities or relations with any delimiter, and the line of its first row.

    Args:
        path: the file.
        key: what the column of names is to be called; without one of its words in the header it is the first column.
        second: what the second of two columns is, where there is no header.
        words: what columns may be called, by lower case, and are to be called.
        notes: where to what was done is added.

    Raises:
        DataError: malformed rows, several columns without a header or of the same meaning, a name that is empty.
    """

    def named(cells: Sequence[str]) -> bool:
        known = [cell.strip().lower() in words for cell in cells]
        # A relation may well be called `name` or `title`.
        return any(known) if key == "entity" else all(known) or cells[0].strip().lower() == key

    frame, first_line = read_delimited(path, header=named, notes=notes)
    if first_line == 1:
        if frame.width != 2:
            raise DataError(path, f"{frame.width} columns without a header line", f"name them: {key}, {second}", 1)
        frame.columns = [key, second]
    names = [words.get(column.strip().lower(), column.strip()) for column in frame.columns]
    # `id, name, description` and `name, description` alike: the key is the first of them.
    if key not in names:
        names[0] = key
    if len(set(names)) < len(names):
        raise DataError(path, f"columns {', '.join(frame.columns)} mean the same", "keep one of each", 1)
    frame.columns = names
    broken = int(frame[key].str.contains(_BREAKS).sum())
    if broken:
        frame = frame.with_columns(pl.col(key).str.replace_all(_BREAKS, " "))
        if notes is not None:
            notes.append(f"{path.name}: tabs, line breaks and NULs within {broken:,} names became blanks")
    given = frame[key].fill_null("")
    frame = frame.with_columns(pl.col(key).str.strip_chars())
    unnamed = (frame[key].fill_null("") == "").arg_true()
    if len(unnamed):
        raise DataError(path, f"empty {key}", "name it or delete the row", int(unnamed[0]) + first_line)
    edged = int((frame[key] != given).sum())
    if edged and notes is not None:
        notes.append(f"{path.name}: blanks around {edged:,} names of the column `{key}` were taken off")
    return frame, first_line


def _one_row_each(frame: pl.DataFrame, path: Path, first_line: int, notes: list[str] | None) -> pl.DataFrame:
    """Join the rows of each entity: its distinct descriptions, and what else is said of it where that is one thing."""
    others = [column for column in frame.columns if column not in ("entity", "description")]
    filled = frame.with_columns(pl.when(pl.col(c) != "").then(pl.col(c)).alias(c) for c in frame.columns)
    several = pl.any_horizontal(pl.lit(False), *(pl.col(c).drop_nulls().n_unique().over("entity") > 1 for c in others))
    bad = filled.select(several & ~pl.col("entity").is_first_distinct()).to_series().arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(path, f"entity {frame['entity'][row]!r} is listed twice", "keep one row", row + first_line)
    joined = filled.group_by("entity", maintain_order=True).agg(
        pl.col(c).drop_nulls().unique(maintain_order=True).str.join(" ")
        if c == "description"
        else pl.col(c).drop_nulls().first()
        for c in frame.columns
        if c != "entity"
    )
    if notes is not None:
        notes.append(f"{path.name}: {len(frame) - len(joined):,} further rows of entities were joined to their first")
    return joined.with_columns(pl.all().fill_null("")).select(frame.columns)


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
