"""Tables with any delimiter, quoted or not, so that every malformed row is named by its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from mmrns.data.tables import read_text, split_fields, split_lines
from mmrns.errors import DataError

DELIMITERS = ("\t", ",", ";", "|", " ")

_START = 1 << 16
"""Bytes of a file that are looked at to find out its layout; a longer first line is none of a table."""


def sniff_delimiter(lines: Sequence[str], path: Path) -> str:
    """The first of tab, comma, semicolon, bar and blank that cuts these lines into equally many fields, at least two.

    The usual one of the file's suffix comes before them all, and where none does.
    """
    usual = "," if ".csv" in path.suffixes else "\t"
    lines = [line.strip(" ") for line in lines if line.strip()]
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        widths = {len(row) for row in rows_of(lines, delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return usual


def is_quoted(lines: Sequence[str], delimiter: str) -> bool:
    """Whether all fields of these lines but numbers are in double quotes, as R and some spreadsheets write them."""
    text = "\n".join(lines)
    end = rf"(?:[{re.escape(delimiter)}\n]|$)"
    number = r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
    fields = re.compile(rf' *(?:"(?:[^"]|"")*"|{number}|) *{end}')
    place = 0
    while place < len(text) and (field := fields.match(text, place)):
        place = field.end()
    # The last field may go on after these lines.
    return '"' in text[:place] and re.fullmatch(' *"(?:[^"]|"")*|', text[place:]) is not None


def read_delimited(
    path: Path,
    delimiter: str | None = None,
    header: bool | Callable[[Sequence[str]], bool] = True,
    notes: list[str] | None = None,
) -> tuple[pl.DataFrame, int]:
    """A table with any delimiter; fields may be quoted, as in CSV, but with the tab only where all are.

    Args:
        path: UTF-8, `.gz` is decompressed.
        delimiter: one character; None looks at the first lines.
        header: whether the first line names the columns, or what decides it from that line's fields.
        notes: where to what was done is added.

    Returns:
        The table, every column a string; its columns are `1`, `2`, ... without a header. The line of its first row.

    Raises:
        DataError: unreadable, empty, not UTF-8, or a row with another number of columns, by line.
    """
    return parse_delimited(read_table_text(path, notes), path, delimiter, header, notes)


def read_table_text(path: Path, notes: list[str] | None = None) -> str:
    """The text of a table without what is left of joining files, carriage returns within lines, and NUL characters.

    Raises:
        DataError: unreadable, not UTF-8, or the first line has no end within 64 KiB.
    """
    text = read_text(path)
    if len(text) > _START and "\n" not in text[:_START]:
        raise _endless(path)
    if "\r" in text:
        ends = _ends_lines(text)
        what = "taken for line ends" if ends else "within lines became blanks"
        _say(notes, f"{path.name}: {text.count(chr(13)):,} carriage returns {'were ' * ends}{what}")
        text = text.replace("\r", "\n" if ends else " ")
    if "\x00" in text:
        _say(notes, f"{path.name}: {text.count(chr(0)):,} NUL characters became blanks")
        text = text.replace("\x00", " ")
    if "\n\ufeff" in text:
        found = text.count("\n\ufeff")
        _say(
            notes, f"{path.name}: {found:,} byte order marks at the start of later lines were taken off (joined files?)"
        )
        text = text.replace("\n\ufeff", "\n")
    return text


def _ends_lines(text: str) -> bool:
    """Whether a carriage return stands between two rows of a table rather than within a name."""
    place = text.index("\r")
    end = text.find("\n", place)
    pieces = text[text.rfind("\n", 0, place) + 1 : None if end < 0 else end].split("\r")
    counts = ([piece.count(delimiter) for piece in pieces] for delimiter in DELIMITERS[:-1])
    return '"' not in text and any(min(found) == max(found) >= 2 for found in counts)


def start_of(text: str, n: int = 20) -> list[str]:
    """The first lines of a text, for a look at its layout."""
    lines = text[:_START].split("\n", n)
    # What the limit cut off, or nothing after the last line end.
    return lines[:-1] if len(lines) > 1 else lines


def parse_delimited(
    text: str,
    path: Path,
    delimiter: str | None = None,
    header: bool | Callable[[Sequence[str]], bool] = True,
    notes: list[str] | None = None,
) -> tuple[pl.DataFrame, int]:
    """`read_delimited` of what `read_table_text` has read."""
    if not text:
        raise DataError(path, "is empty", "check the file")
    start = start_of(text)
    delimiter = delimiter or sniff_delimiter(start, path)
    quoted = delimiter == "\t" and is_quoted(start, delimiter)
    if quoted:
        _say(notes, f"{path.name}: the fields are in quotes, which were taken off")
    quoting = delimiter != "\t" or quoted
    cells = next(rows_of(start, delimiter, quoting), [])
    if not cells:
        raise DataError(path, "blank line where a table is expected", "delete it", 1)
    named = header(cells) if callable(header) else header
    columns = cells if named else [str(i + 1) for i in range(len(cells))]
    if len(set(columns)) < len(columns):
        raise DataError(path, "column names repeat", "name each column once", 1)
    first_line = 2 if named else 1
    if not quoting or _is_aligned(text, delimiter):
        lines = split_lines(text)
        if delimiter != "\t":
            lines = lines.str.strip_chars(" ").str.replace_all(_BLANKS, "\t")
        return split_fields(lines[1:] if named else lines, columns, path, first_line), first_line
    if not _is_plain(text, delimiter):
        if delimiter != " " and re.search(rf"{re.escape(delimiter)}[ \t]", text):
            _say(notes, f"{path.name}: blanks after {delimiter!r} were taken off")
        return _read_slowly(text, path, delimiter, columns, named), first_line
    try:
        frame = pl.read_csv(
            io.BytesIO(text.encode()),
            has_header=False,
            skip_rows=int(named),
            separator=delimiter,
            infer_schema=False,
            new_columns=columns,
        )
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    except pl.exceptions.PolarsError:
        # Says which row it is, or reads what Polars does not.
        return _read_slowly(text, path, delimiter, columns, named), first_line
    # Rows that are too short end in nulls; an open quote swallows the lines after it; blank lines vanish.
    lines = text.count("\n") + (not text.endswith("\n")) - named
    if len(frame) != lines or frame.width != len(columns) or frame[:, -1].is_null().any():
        frame = _read_slowly(text, path, delimiter, columns, named)
    return frame.with_columns(pl.all().fill_null("")), first_line


_BLANKS = r"[ \t]+"


def _is_aligned(text: str, delimiter: str) -> bool:
    """Whether any number of blanks is one delimiter: where it is the blank, and no quote may hold one."""
    return delimiter == " " and '"' not in text


def _endless(path: Path) -> DataError:
    return DataError(path, f"the first line has more than {_START:,} bytes", "check its line ends", 1)


def _say(notes: list[str] | None, note: str) -> None:
    if notes is not None:
        notes.append(note)


def rows_of(lines: Sequence[str], delimiter: str, quoting: bool | None = None) -> Iterator[list[str]]:
    """The fields of lines of a table; a blank between a delimiter and a quote does not matter."""
    if delimiter == " " and not any('"' in line for line in lines):
        return (line.split() for line in lines)
    quoting = delimiter != "\t" if quoting is None else quoting
    return csv.reader(
        (f"{line}\n" for line in lines),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        skipinitialspace=quoting and delimiter != " ",
    )


def _is_plain(text: str, delimiter: str) -> bool:
    """Whether quotes, if there are any, stand only where Polars expects them: next to a delimiter or a line end.

    It takes a quote within a field for the start of a quoted one, and one after a blank for a part of the name.
    """
    if '"' not in text:
        return True
    if text.count('"') % 2:
        return False
    end = re.escape(delimiter) + "\n"
    return re.search(rf'[^{end}"]"[^{end}"]', text) is None and (
        delimiter == " " or re.search(rf'(?:^|[{end}])[ \t]+"|"[ \t]+(?:[{end}]|$)', text) is None
    )


def _read_slowly(text: str, path: Path, delimiter: str, columns: Sequence[str], named: bool) -> pl.DataFrame:
    """The rows as Python's reader finds them.

    Raises:
        DataError: the first row that has another number of fields, or quotes that do not close.
    """
    csv.field_size_limit(2**31 - 1)
    width = len(columns)
    rows: list[list[str]] = []
    reader = csv.reader(
        (f"{line}\n" for line in text.removesuffix("\n").split("\n")),
        delimiter=delimiter,
        skipinitialspace=delimiter != " ",
        strict=True,
    )
    line = 1
    try:
        for row in reader:
            if len(row) != width:
                what = f"{len(row)} column{'s' * (len(row) != 1)}" if row else "blank line"
                raise DataError(path, f"{what} where {width} are expected", "mend or delete the row", line)
            rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(path, f"is malformed ({error})", "check the quotes", line) from error
    return pl.DataFrame(rows[named:], schema=dict.fromkeys(columns, pl.String), orient="row")
