"""Tables with any delimiter, quoted or not, so that every malformed row is named by its line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from mmrns.data.tables import read_bytes, read_lines, split_fields
from mmrns.errors import DataError

DELIMITERS = ("\t", ",", ";", "|", " ")


def sniff_delimiter(lines: Sequence[str], path: Path) -> str:
    """The first of tab, comma, semicolon, bar and blank that cuts these lines into equally many fields, at least two.

    The usual one of the file's suffix comes before them all, and where none does.
    """
    usual = "," if ".csv" in path.suffixes else "\t"
    lines = [line for line in lines if line.strip()]
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        widths = {len(row) for row in _rows(lines, delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return usual


def read_delimited(
    path: Path,
    delimiter: str | None = None,
    header: bool | Callable[[Sequence[str]], bool] = True,
) -> tuple[pl.DataFrame, int]:
    """A table with any delimiter; fields may be quoted, as in CSV, unless it is the tab.

    Args:
        path: UTF-8, `.gz` is decompressed.
        delimiter: one character; None looks at the first lines.
        header: whether the first line names the columns, or what decides it from that line's fields.

    Returns:
        The table, every column a string; its columns are `1`, `2`, ... without a header. The line of its first row.

    Raises:
        DataError: unreadable, empty, not UTF-8, or a row with another number of columns, by line.
    """
    start = first_lines(path)
    if not start:
        raise DataError(path, "is empty", "check the file")
    delimiter = delimiter or sniff_delimiter(start, path)
    cells = next(_rows(start, delimiter), [])
    if not cells:
        raise DataError(path, "blank line where a table is expected", "delete it", 1)
    named = header(cells) if callable(header) else header
    columns = cells if named else [str(i + 1) for i in range(len(cells))]
    if len(set(columns)) < len(columns):
        raise DataError(path, "column names repeat", "name each column once", 1)
    first_line = 2 if named else 1
    if delimiter == "\t":
        lines = read_lines(path)
        return split_fields(lines[1:] if named else lines, columns, path, first_line), first_line
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        if _BARE_QUOTE.search(data):
            # Polars takes a quote within a field for its start.
            frame = _read_slowly(path, delimiter, columns, named)
        else:
            frame = pl.read_csv(
                io.BytesIO(data),
                has_header=False,
                skip_rows=int(named),
                separator=delimiter,
                infer_schema=False,
                new_columns=columns,
            )
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().split("\n")[0]
        raise _misfit(path, delimiter, len(columns)) or DataError(
            path, f"is not a table separated by {delimiter!r} ({reason})", "check the file"
        ) from error
    # Rows that are too short end in nulls; an open quote swallows the lines after it; blank lines vanish.
    blank = b"\n\n" in data or b"\n\r\n" in data or data.startswith((b"\n", b"\r"))
    if blank or data.count(b'"') % 2 or frame.width != len(columns) or frame[:, -1].is_null().any():
        misfit = _misfit(path, delimiter, len(columns))
        if misfit is not None:
            raise misfit
    return frame.with_columns(pl.all().fill_null("")), first_line


def first_lines(path: Path, n: int = 20) -> list[str]:
    """The first lines of a text file, decompressed, for a look at its layout; undecodable bytes are replaced.

    Raises:
        DataError: unreadable, or the first line has no end within 64 KiB.
    """
    limit = 1 << 16
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(limit)
    except (OSError, EOFError, zlib.error):
        # Says why.
        data = read_bytes(path)[:limit]
    if len(data) == limit and b"\n" not in data:
        raise DataError(path, f"the first line has more than {limit:,} bytes", "check its line ends", 1)
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    # What the limit cut off, or nothing after the last line end.
    whole = lines[:-1] if len(lines) > 1 else lines
    return [line.removesuffix("\r") for line in whole[:n] if line or data]


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    return csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, quoting=quoting)


_BARE_QUOTE = re.compile(rb'[\w ]"[\w ]')


def _read_slowly(path: Path, delimiter: str, columns: list[str], named: bool) -> pl.DataFrame:
    misfit = _misfit(path, delimiter, len(columns))
    if misfit is not None:
        raise misfit
    rows = list(_rows(read_lines(path).to_list(), delimiter))[named:]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _misfit(path: Path, delimiter: str, width: int) -> DataError | None:
    """The first row that does not have so many fields; slow, for the message only."""
    csv.field_size_limit(2**31 - 1)
    lines = read_lines(path).to_list()
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in rows:
            if len(row) != width:
                what = f"{len(row)} column{'s' * (len(row) != 1)}" if row else "blank line"
                return DataError(path, f"{what} where {width} are expected", "mend or delete the row", line)
            line = rows.line_num + 1
    except csv.Error as error:
        return DataError(path, f"is malformed ({error})", "check the quotes", line)
    return None
