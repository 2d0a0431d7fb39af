"""Triples in tables: TSV, CSV and Parquet, one file or one a split, with a choice of columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from mmrns.data.folders import names_of, read_parquet_table
from mmrns.data.names import Header, find_header, header_columns
from mmrns.data.tables import columns_of, split_lines
from mmrns.errors import DataError, UsageError
from mmrns.prepare.delimited import is_quoted, parse_delimited, read_table_text, rows_of, sniff_delimiter, start_of
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import (
    TEXT_SUFFIXES,
    TRIPLE,
    Contents,
    fit_names,
    split_files,
    write_lines,
)
from mmrns.prepare.formats.statements import looks_like_rdf

SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
STEMS = ("triples", "triplets", "facts", "edges", "graph", "kg", "data", "all")
"""How a file that holds all triples may be called within a folder."""

_LOOKED_AT = 200
"""Rows by which one of several tables is seen to hold the triples."""

BESIDE = ("entities", "descriptions", "texts", "relations", "numbers", "readme", "license", "licence")
"""Tables beside the triples."""


def table_files(source: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """The file of each split: those named after the splits, or the one with all triples, which counts as train."""
    if not source.is_dir():
        return {"train": source}
    found = split_files(source, suffixes)
    if found:
        return found
    whole = split_files(source, suffixes, stems=STEMS)
    if whole:
        return whole
    others = [path for path in sorted(source.iterdir()) if path.name.endswith(tuple(suffixes)) and not path.is_dir()]
    others = [path for path in others if path.name.split(".")[0].lower() not in BESIDE]
    if len(others) > 1:
        others = [path for path in others if _looks_like_triples(path)]
    return {"train": others[0]} if len(others) == 1 else {}


def _looks_like_triples(path: Path) -> bool:
    """Whether a table has three columns of which the second repeats itself, or names columns of triples."""
    try:
        if path.suffix == ".parquet":
            frame = read_parquet_table(path).head(_LOOKED_AT)
            rows = [tuple(map(str, row)) for row in frame.rows()]
            first = frame.columns
        else:
            lines = [line for line in start_of(read_table_text(path), _LOOKED_AT) if line.strip()]
            delimiter = sniff_delimiter(lines, path)
            rows = [tuple(cells) for cells in rows_of(lines, delimiter)]
            first = list(rows[0]) if rows else []
    except DataError:
        return False
    if header_columns(first) is not None:
        return True
    relations = [row[1] for row in rows if len(row) == 3]
    return len(relations) == len(rows) > 2 and 2 * len(set(relations)) <= len(relations) + 1


class Tsv(Layout, name="tsv"):
    """Tab-separated tables: a folder with a file for each split, or one file, which becomes train."""

    title = "tab-separated: a dataset folder, a folder of train/valid/test, or one file"
    aliases = ("folder",)
    suffix: ClassVar[str] = ".tsv"
    """Which of several files of a folder is meant."""

    def recognises(self, path: Path) -> bool:
        return kind_of(path) == self.suffix

    def read(
        self,
        source: Path,
        *,
        columns: Sequence[str] | None = None,
        delimiter: str | None = None,
        header: bool | None = None,
    ) -> Contents:
        """Triples of TSV, CSV or Parquet.

        Args:
            source: a file, which becomes train, or a folder with a file a split.
            columns: the columns of head, relation and tail, by name or by number from 1.
            delimiter: one character; None looks at the first lines.
            header: whether the first line names the columns; None takes it for a header where its words say so.

        Raises:
            DataError: no such file, or a malformed row, by line.
            UsageError: `columns` that are not there.
        """
        own = [suffix for suffix in SUFFIXES if self.suffix in suffix]
        files = table_files(source, own if self.suffix == ".parquet" else [*own, *TEXT_SUFFIXES])
        if not files:
            raise DataError(source, "holds no table of triples", f"add train{own[0]}, or name the file of triples")
        notes: list[str] = []
        splits: dict[str, pl.DataFrame] = {}
        for split, path in files.items():
            read = _read_parquet if path.suffix == ".parquet" else _read_text
            splits[split] = read(path, columns, delimiter, header, notes)
        return Contents(source, splits, notes=notes, fitted=True)

    def files(self, folder: Path) -> set[Path]:
        return set(table_files(folder).values())

    def write(self, contents: Contents, folder: Path) -> None:
        for split, frame in contents.splits.items():
            write_lines(frame, folder / f"{split}.tsv", header=False)


class Csv(Tsv, name="csv"):
    """Tables separated by something else, whose fields may be quoted."""

    title = "separated otherwise, fields may be quoted"
    aliases = ()
    suffix = ".csv"
    write = Layout.write


class Parquet(Tsv, name="parquet"):
    """Tables in Parquet files."""

    title = "Parquet, one file or one a split; written, it is a dataset folder too"
    aliases = ()
    suffix = ".parquet"

    def write(self, contents: Contents, folder: Path) -> None:
        for split, frame in contents.splits.items():
            frame.write_parquet(folder / f"{split}.parquet")


def kind_of(source: Path) -> str | None:
    """`.parquet`, `.csv` or else `.tsv`, as the first file of triples is called; None where there is none."""
    paths = list(table_files(source).values())
    if not paths:
        return None
    path = paths[0]
    return ".parquet" if path.suffix == ".parquet" else ".csv" if ".csv" in path.suffixes else ".tsv"


def _read_text(
    path: Path, columns: Sequence[str] | None, delimiter: str | None, header: bool | None, notes: list[str]
) -> pl.DataFrame:
    if columns is None and delimiter is None and looks_like_rdf(path):
        raise DataError(path, "is RDF, with names such as <...>", "read it with --from rdf")
    text = read_table_text(path, notes)
    if not text:
        raise DataError(path, "is empty", "check the file")
    start = start_of(text)
    delimiter = delimiter or sniff_delimiter(start, path)
    first = [cell.strip().strip('"') for cell in start[0].split(delimiter)]
    by_name = columns is not None and not all(column.isdecimal() for column in columns)
    # Of more than three columns only words can say which are meant.
    worded = header is None and columns is None and len(first) != 3 and header_columns(first) is not None
    named = (by_name or worded) if header is None else header
    if delimiter == "\t" and not named and columns is None and len(first) == 3 and not is_quoted(start, delimiter):
        # The layout of a dataset folder, read fast.
        frame, first_line = columns_of(split_lines(text), TRIPLE, path, may_be_empty=TRIPLE), 1
    else:
        frame, first_line = parse_delimited(text, path, delimiter, named, notes)
    if worded:
        notes.append(f"{path.name}: the first line was taken for a header ({', '.join(frame.columns)})")
    triples = _chosen(_without_numbering(frame, path, notes), columns, path, named)
    if header is None and not named:
        found = find_header(triples.select(pl.all().str.strip_chars()))
        _say_header(path, triples.row(0) if len(triples) else (), found, triples, notes)
        if found is not None and found.likely:
            # Chosen columns are as they were chosen, whatever their names are.
            places = [0, 1, 2] if columns is not None else found.places
            triples = triples[1:].select(pl.nth(i).alias(c) for i, c in zip(places, TRIPLE, strict=True))
            first_line += 1
    return fit_names(triples, path, first_line, notes, of_lines=delimiter == "\t" and frame.columns == TRIPLE)


def _say_header(
    path: Path, first: tuple[str, ...], found: Header | None, triples: pl.DataFrame, notes: list[str]
) -> None:
    """Note what the first line was taken for, where that is not plain."""
    said = f"{path.name}: the first line"
    if found is not None and found.likely:
        other = "" if header_columns(first) else "; --no-header makes it a triple"
        notes.append(f"{said} was taken for a header ({', '.join(first)}){other}")
    elif found is not None:
        notes.append(f"{said} ({', '.join(first)}) was taken for a triple; --header takes it for a header")
    elif len(triples) > 1 and (places := header_columns(first)) is not None:
        word = first[places[1]]
        kept = f"was taken for a triple, since its relation {word!r} occurs again"
        notes.append(f"{said} {kept}; --header takes it for a header")


def _without_numbering(frame: pl.DataFrame, path: Path, notes: list[str]) -> pl.DataFrame:
    """Without a first column that numbers the rows and has no name, as pandas writes it."""
    if frame.width != 4 or len(frame) < 2:
        return frame
    numbers, nameless = frame.to_series(0), ("", "Unnamed: 0")
    if numbers[0] in nameless:  # The first line names the columns.
        numbers = numbers[1:]
    elif frame.columns[0] not in nameless:
        return frame
    counted = pl.Series([str(i) for i in range(len(numbers))])
    if not (numbers == counted).all():
        return frame
    notes.append(f"{path.name}: the first column, which numbers the rows, was left out")
    return frame.drop(frame.columns[0])


def _read_parquet(
    path: Path, columns: Sequence[str] | None, delimiter: str | None, header: bool | None, notes: list[str]
) -> pl.DataFrame:
    frame = read_parquet_table(path)
    chosen = [frame.columns[i] for i in _places(frame, columns, path, True)]
    triples = frame.select(pl.col(column).alias(name) for column, name in zip(chosen, TRIPLE, strict=True))
    return fit_names(names_of(triples, path, chosen), path, 1, notes)


def _chosen(frame: pl.DataFrame, columns: Sequence[str] | None, path: Path, named: bool) -> pl.DataFrame:
    """The columns of head, relation and tail under these names."""
    return frame.select(
        pl.col(frame.columns[i]).alias(name)
        for i, name in zip(_places(frame, columns, path, named), TRIPLE, strict=True)
    )


def _places(frame: pl.DataFrame, columns: Sequence[str] | None, path: Path, named: bool) -> Sequence[int]:
    if columns is not None:
        return [_place(column, frame, path) for column in columns]
    found = header_columns(frame.columns) if named else None
    if found is None and frame.width != 3:
        message = f"{frame.width} column{'s' * (frame.width != 1)} where 3 are expected"
        raise DataError(path, message, "choose them with --columns HEAD,RELATION,TAIL", 1)
    return found or [0, 1, 2]


def _place(column: str, frame: pl.DataFrame, path: Path) -> int:
    if column in frame.columns:
        return frame.columns.index(column)
    if column.isdecimal() and 1 <= int(column) <= frame.width:
        return int(column) - 1
    known = ", ".join(frame.columns)
    raise UsageError(f"--columns: {path.name} has no column {column!r}; it has {frame.width}: {known}")
