"""Text tables are read here, in such a way that an error names the line of the malformed row."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import polars as pl

from mmrns.errors import DataError

LARGEST_GZIP = 2**28
"""Bytes up to which a gzip file may grow by any factor; beyond them it may grow `GZIP_GROWTH`-fold."""

GZIP_GROWTH = 200
"""Triples shrink ten- to fifty-fold; what grows a thousandfold is no table, and would fill the memory."""

BLOCK = 2**25
"""Bytes of a table that are decoded and cut at a time. It takes some ten times as much, so that little is best."""

_SEVERAL = re.compile(rb"(?<!\r)\r++\n")


def read_lines(path: Path) -> pl.Series:
    """Read all lines of a UTF-8 file (`.gz` is decompressed), without line ends (see `read_text`) or a byte order mark.

    A final line end does not make an empty last line; other blank lines are kept, so that index + 1 is the line number.

    Raises:
        DataError: unreadable, truncated, or not UTF-8 (with the line of the first bad byte); a carriage return that
            ends no line.
    """
    return _lines_of(read_text(path), path, 1)


def line_blocks(path: Path) -> Iterator[tuple[int, pl.Series]]:
    """The lines that `read_lines` reads, in blocks of some `BLOCK` bytes with the number of the first line of each.

    A file that is far larger than the memory can be read so. An empty file is one block.

    Raises:
        DataError: as `read_lines`, when the block with the first error is reached.
    """
    first = 1
    for data, alone in _blocks(path):
        lines = _lines_of(_decoded(unify_line_ends(data, alone=alone), path, first), path, first)
        yield first, lines
        first += len(lines)


def _lines_of(text: str, path: Path, first: int) -> pl.Series:
    """The lines of a text that begins with the line `first` of a file."""
    lines = split_lines(text)
    if "\r" in text:
        row = int(lines.str.contains("\r", literal=True).arg_true()[0])
        remedy = "end lines with LF or CRLF, or let `mmrns data convert` read the file"
        raise DataError(path, "a carriage return within the line", remedy, row + first)
    return lines


def read_text(path: Path) -> str:
    """Read a UTF-8 file (`.gz` is decompressed), without a byte order mark, its lines ended by LF.

    Lines may end with LF, with CRLF, with more than one CR before the LF (a file that passed twice through a text mode
    of Windows), or all with CR alone (old spreadsheets). Another carriage return stays.

    Raises:
        DataError: unreadable, truncated, or not UTF-8 (with the line of the first bad byte).
    """
    return _decoded(unify_line_ends(read_bytes(path)), path, 1)


def _decoded(data: bytes, path: Path, first: int) -> str:
    """The text of bytes that begin with the line `first` of a file."""
    if first == 1 and is_utf16(data):
        raise DataError(path, "is not valid UTF-8 (it looks like UTF-16)", "save the file as UTF-8", 1)
    try:
        return data.decode("utf-8-sig" if first == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first
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


def unify_line_ends(data: bytes, *, alone: bool = True) -> bytes:
    """The same lines, each ended by LF; see `read_text`. Bytes that are not `alone` are of a file with more lines."""
    if b"\r" not in data:
        return data
    if alone and b"\n" not in data.rstrip(b"\r\n"):
        # No line but the last may end with LF, so that a CR is the end of a line.
        return _SEVERAL.sub(b"\n", data).replace(b"\r", b"\n")
    data = data.replace(b"\r\n", b"\n")
    return _SEVERAL.sub(b"\n", data) if b"\r\n" in data else data


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file, decompressed where its name ends in `.gz`; with `-` those of the standard input.

    Raises:
        DataError: unreadable or truncated; a gzip file that grows beyond all measure (see `GZIP_GROWTH`).
    """
    return b"".join(_pieces(path, -1))


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file in pieces of a size (-1: all that is not decompressed in one), see `read_bytes`."""
    packed = path.suffix == ".gz"
    try:
        limit = max(LARGEST_GZIP, GZIP_GROWTH * path.stat().st_size) if packed else None
        with _opened(path, packed) as file:
            while piece := file.read(BLOCK if packed else size):
                if limit is not None and (limit := limit - len(piece)) < 0:
                    message = f"grows more than {GZIP_GROWTH}-fold when it is decompressed"
                    raise DataError(path, message, "check the file; decompress it yourself if it is right")
                yield piece
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(path, f"cannot be read ({reason})", "check the file") from error


def _opened(path: Path, packed: bool) -> AbstractContextManager[gzip.GzipFile | IO[bytes]]:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    return gzip.open(path) if packed else path.open("rb")


def _blocks(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The bytes of a file in blocks that end where a line ends, and whether a block is the whole file."""
    kept, whole = b"", True
    for piece in _pieces(path, BLOCK):
        # More than line ends must be left for the last block: they tell what ends the lines of a whole file.
        end = piece.rfind(b"\n", 0, len(piece.rstrip(b"\r\n"))) + 1
        if end and len(piece) == BLOCK:
            whole = False
            yield kept + piece[:end], False
            kept = piece[end:]
        else:
            kept += piece
    yield kept, whole


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
    return pl.concat(column_blocks(path, columns))


def column_blocks(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    """What `read_columns` reads, block by block (`line_blocks`)."""
    for first, lines in line_blocks(path):
        yield columns_of(lines, columns, path, first_line=first)


def columns_of(
    lines: pl.Series, columns: list[str], path: Path, may_be_empty: Collection[str] = (), *, first_line: int = 1
) -> pl.DataFrame:
    """Cut lines of a file, of which the first has a number, as `read_columns` does; some columns may be empty."""
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
        raise DataError(path, f"{what} where {wanted} is expected", remedy, row + first_line)
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
