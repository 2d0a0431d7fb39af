"""Text tables are read here, in such a way that an error names the line of the malformed row."""

from __future__ import annotations

import gzip
import sys
import zlib
from pathlib import Path

import polars as pl

from mmrns.errors import DataError


def read_lines(path: Path) -> pl.Series:
    """Read all lines of a UTF-8 file (`.gz` is decompressed), without line ends (LF or CRLF) or a byte order mark.

    A final line end does not make an empty last line; other blank lines are kept, so that index + 1 is the line number.

    Raises:
        DataError: unreadable, truncated, or not UTF-8 (with the line of the first bad byte).
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(path, "is not valid UTF-8", "save the file as UTF-8", line) from error
    del data
    return split_lines(text).str.strip_suffix("\r")


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file, decompressed where its name ends in `.gz`; with `-` those of the standard input.

    Raises:
        DataError: unreadable or truncated.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(path, f"cannot be read ({reason})", "check the file") from error


def split_lines(text: str) -> pl.Series:
    """Split a text at its line feeds; a carriage return stays. An empty text has no line."""
    lines = pl.Series("line", [text.removesuffix("\n")], dtype=pl.String).str.split("\n").explode()
    return lines if text else lines.clear()


def read_columns(path: Path, columns: list[str]) -> pl.DataFrame:
    """Read a tab-separated file without a header that has exactly these columns, none of them empty.

    Nothing is quoted or escaped, so that a name may hold a double quote.

    Raises:
        DataError: the first row with another number of columns or with an empty field, by line.
    """
    lines = read_lines(path)
    width = len(columns)
    fields = lines.str.split_exact("\t", width - 1).struct.rename_fields(columns).struct.unnest()
    tabs = lines.str.count_matches("\t", literal=True)
    empty = pl.any_horizontal(pl.col(c).fill_null("").str.strip_chars() == "" for c in columns)
    bad = fields.select((empty | (pl.lit(tabs) != width - 1)).alias("bad")).get_column("bad").arg_true()
    if len(bad):
        row = int(bad[0])
        found = int(tabs[row]) + 1
        what = "blank line" if not lines[row].strip() else f"{found} column{'s' * (found != 1)}"
        if found == width and lines[row].strip():
            what = "empty field"
        wanted = " TAB ".join(columns)
        statement = lines[row].startswith(("<", "_:")) and lines[row].rstrip().endswith(".")
        remedy = (
            "it looks like RDF: let `mmrns data convert --from rdf` read it" if statement else "mend or delete the row"
        )
        raise DataError(path, f"{what} where {wanted} is expected", remedy, row + 1)
    return fields


def read_header_table(path: Path) -> pl.DataFrame:
    """Read a tab-separated file with a header line; every row must have the header's number of columns.

    Raises:
        DataError: no header, repeated column names, or a row with another number of columns, by line.
    """
    lines = read_lines(path)
    if lines.is_empty():
        raise DataError(path, "is empty", "give it a header line")
    columns: list[str] = lines[0].split("\t")
    if len(set(columns)) < len(columns):
        raise DataError(path, "column names repeat", "name each column once", 1)
    return split_fields(lines[1:], columns, path, 2)


def split_fields(lines: pl.Series, columns: list[str], path: Path, first_line: int) -> pl.DataFrame:
    """Cut lines at their tabs; each must have as many fields as there are columns."""
    tabs = lines.str.count_matches("\t", literal=True)
    bad = (tabs != len(columns) - 1).arg_true()
    if len(bad):
        row = int(bad[0])
        message = f"{int(tabs[row]) + 1} columns where the header has {len(columns)}"
        if first_line == 1:
            message = f"{int(tabs[row]) + 1} columns where the first row has {len(columns)}"
        raise DataError(path, message, "mend the row", row + first_line)
    if len(columns) == 1:
        return lines.alias(columns[0]).to_frame()
    return lines.str.split_exact("\t", len(columns) - 1).struct.rename_fields(columns).struct.unnest()
