"""`Contents`: what a layout reads and another one writes, and what all of them need for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mmrns.errors import DataError

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

BREAKS = r"[\t\r\n\x00]+"
"""What becomes a blank within a name. NUL ends no line, but a file with many of them passes for UTF-16."""

TABLE_COLUMNS = {"numbers": ("entity", "attribute", "value"), "texts": ("entity", "text")}
"""The columns of the tables of further facts in a dataset folder, by name."""


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
        licence: the text of the licence, where the files themselves hold it.
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
    licence: str | None = None
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
    broken = 0 if of_lines else int(frame.select(pl.any_horizontal(pl.all().str.contains(BREAKS)).sum()).item())
    if broken:
        frame = frame.with_columns(pl.all().str.replace_all(BREAKS, " "))
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
