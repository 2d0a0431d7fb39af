"""Triples in tables: TSV, CSV and Parquet, one file or one a split, with a choice of columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from mmrns.data.tables import read_columns
from mmrns.errors import DataError, UsageError
from mmrns.prepare.delimited import first_lines, read_delimited, sniff_delimiter
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import (
    TEXT_SUFFIXES,
    TRIPLE,
    Contents,
    fit_names,
    refuse_long_names,
    split_files,
    write_lines,
)
from mmrns.prepare.formats.statements import looks_like_rdf

SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
STEMS = ("triples", "triplets", "facts", "edges", "graph", "kg", "data", "all")
"""How a file that holds all triples may be called within a folder."""

BESIDE = ("entities", "descriptions", "texts", "relations", "numbers", "readme", "license", "licence")
"""Tables beside the triples."""

_WORDS = {
    "head": ("head", "h", "subject", "subj", "sub", "s", "source", "src", "from", "start", "head_id"),
    "relation": ("relation", "rel", "r", "predicate", "pred", "p", "property", "edge", "type", "relation_id"),
    "tail": ("tail", "t", "object", "obj", "o", "target", "dst", "to", "end", "tail_id"),
}


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
    return {"train": others[0]} if len(others) == 1 else {}


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
        return Contents(source, splits, notes=notes)

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
    start = first_lines(path)
    delimiter = delimiter or sniff_delimiter(start, path)
    first = start[0].split(delimiter) if start else []
    by_name = columns is not None and not all(column.isdecimal() for column in columns)
    named = (by_name or _is_header(first)) if header is None else header
    if delimiter == "\t" and not named and columns is None and len(first) == 3:
        # The layout of a dataset folder, read fast.
        frame = read_columns(path, TRIPLE)
        refuse_long_names(frame, path)
        return frame
    frame, first_line = read_delimited(path, delimiter, named)
    if named and header is None and not by_name:
        notes.append(f"{path.name}: the first line was taken for a header ({', '.join(frame.columns)})")
    return fit_names(_chosen(frame, columns, path, named), path, first_line, notes)


def _read_parquet(
    path: Path, columns: Sequence[str] | None, delimiter: str | None, header: bool | None, notes: list[str]
) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(path, f"is not a readable Parquet file ({reason})", "write it again") from error
    return fit_names(_chosen(frame, columns, path, True), path, 1, notes)


def _is_header(cells: Sequence[str]) -> bool:
    words = [cell.strip().strip('"').lower() for cell in cells]
    return all(any(word in known for word in words) for known in _WORDS.values())


def _chosen(frame: pl.DataFrame, columns: Sequence[str] | None, path: Path, named: bool) -> pl.DataFrame:
    """The columns of head, relation and tail under these names."""
    if columns is None:
        words = [column.strip().lower() for column in frame.columns]
        found = [next((i for i, word in enumerate(words) if word in known), None) for known in _WORDS.values()]
        if None in found or not named:
            if frame.width != 3:
                message = f"{frame.width} column{'s' * (frame.width != 1)} where 3 are expected"
                raise DataError(path, message, "choose them with --columns HEAD,RELATION,TAIL", 1)
            found = [0, 1, 2]
        places = [place for place in found if place is not None]
    else:
        places = [_place(column, frame, path) for column in columns]
    return frame.select(pl.col(frame.columns[i]).alias(name) for i, name in zip(places, TRIPLE, strict=True))


def _place(column: str, frame: pl.DataFrame, path: Path) -> int:
    if column in frame.columns:
        return frame.columns.index(column)
    if column.isdecimal() and 1 <= int(column) <= frame.width:
        return int(column) - 1
    known = ", ".join(frame.columns)
    raise UsageError(f"--columns: {path.name} has no column {column!r}; it has {frame.width}: {known}")
