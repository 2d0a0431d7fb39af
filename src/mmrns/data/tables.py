"""Text tables are read here, in such a way that an error names the line of the malformed row."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Collection
from pathlib import Path

import polars as pl

from mmrns.errors import DataError

LARGEST_GZIP = 2**28
"""Bytes up to which a gzip file may grow by any factor; beyond them it may grow `GZIP_GROWTH`-fold."""

GZIP_GROWTH = 200
"""Triples shrink ten- to fifty-fold; what grows a thousandfold is no table, and would fill the memory."""

_PIECE = 2**24

_SEVERAL = re.compile(rb"(?<!\r)\r++\n")


def read_lines(path: Path) -> pl.Series:
    """Read all lines of a UTF-8 file (`.gz` is decompressed), without line ends (see `read_text`) or a byte order mark.

    A final line end does not make an empty last line; other blank lines are kept, so that index + 1 is the line number.

    Raises:
        DataError: unreadable, truncated, or not UTF-8 (with the line of the first bad byte); a carriage return that
            ends no line.
    """
    text = read_text(path)
    lines = split_lines(text)
    if "\r" in text:
        row = int(lines.str.contains("\r", literal=True).arg_true()[0])
        remedy = "end lines with LF or CRLF, or let `mmrns data convert` read the file"
        raise DataError(path, "a carriage return within the line", remedy, row + 1)
    return lines


def read_text(path: Path) -> str:
    """Read a UTF-8 file (`.gz` is decompressed), without a byte order mark, its lines ended by LF.

    Lines may end with LF, with CRLF, with more than one CR before the LF (a file that passed twice through a text mode
    of Windows), or all with CR alone (old spreadsheets). Another carriage return stays.

    Raises:
        DataError: unreadable, truncated, or not UTF-8 (with the line of the first bad byte).
    """
    data = unify_line_ends(read_bytes(path))
    if is_utf16(data):
        raise DataError(path, "is not valid UTF-8 (it looks like UTF-16)", "save the file as UTF-8", 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(path, "is not valid UTF-8", "save the file as UTF-8", line) from error


def is_utf16(data: bytes) -> bool:
    """Whether some bytes are probably UTF-16 or UTF-32: a mark says so, or every other one or more is 0."""
    start = data[:4096]
    return start[:2] in (b"\xff\xfe", b"\xfe\xff") or 4 * start.count(0) > len(start)


def is_utf8(data: bytes) -> bool:
    """Whether some bytes are UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_text(name: str) -> bool:
    """Whether a text can be written as UTF-8: no half of a character, as JSON may hold, is in it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unify_line_ends(data: bytes) -> bytes:
    """The same lines, each ended by LF; see `read_text`."""
    if b"\r" not in data:
        return data
    if b"\n" not in data.rstrip(b"\r\n"):
        # No line but the last may end with LF, so that a CR is the end of a line.
        return _SEVERAL.sub(b"\n", data).replace(b"\r", b"\n")
    data = data.replace(b"\r\n", b"\n")
    return _SEVERAL.sub(b"\n", data) if b"\r\n" in data else data


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file, decompressed where its name ends in `.gz`; with `-` those of the standard input.

    Raises:
        DataError: unreadable or truncated; a gzip file that grows beyond all measure (see `GZIP_GROWTH`).
    """
    try:
        if path.suffix != ".gz":
            return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        limit = max(LARGEST_GZIP, GZIP_GROWTH * path.stat().st_size)
        pieces: list[bytes] = []
        with gzip.open(path) as file:
            while piece := file.read(_PIECE):
                limit -= len(piece)
                if limit < 0:
                    message = f"grows more than {GZIP_GROWTH}-fold when it is decompressed"
                    raise DataError(path, message, "check the file; decompress it yourself if it is right")
                pieces.append(piece)
        return b"".join(pieces)
    except (OSError, ValueError, EOFError, zlib.error) as error:
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
    return columns_of(read_lines(path), columns, path)


def columns_of(lines: pl.Series, columns: list[str], path: Path, may_be_empty: Collection[str] = ()) -> pl.DataFrame:
    """Cut all lines of a file as `read_columns` does; some columns may be empty."""
    width = len(columns)
    fields = lines.str.split_exact("\t", width - 1).struct.rename_fields(columns).struct.unnest()
    tabs = lines.str.count_matches("\t", literal=True)
    filled = [column for column in columns if column not in may_be_empty]
    empty = pl.any_horizontal(pl.lit(False), *(pl.col(c).fill_null("").str.strip_chars() == "" for c in filled))
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
