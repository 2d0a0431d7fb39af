"""Problems of files as they are found, and reading tables so that a malformed row is a finding rather than the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import polars as pl

from mmrns.data.folders import read_parquet
from mmrns.data.names import BREAKS, COLUMNS, quoted_columns
from mmrns.data.tables import is_utf8, is_utf16, read_bytes, split_lines, unify_line_ends
from mmrns.errors import DataError

Severity = Literal["error", "warning", "note"]
"""An error: loading or training refuses it, or results with it mean nothing. A warning: probably a mistake. A note: to
be known."""

CONTROL = r"([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}])"
"""A control character that separates neither columns nor lines: among them those that begin a terminal's commands."""

LONGEST = 60
"""Characters of a name that a message quotes."""


@dataclass(frozen=True)
class Problem:
    """One thing to know, with its place and what to do about it.

    Attributes:
        file: path within the dataset folder.
        line: 1-based line, in a Parquet or feature file the row; None where it is about the whole file.
        code: its kind, one word for programs.
        severity: see `Severity`.
        message, remedy: what is wrong; what to do.
    """

    file: str
    line: int | None
    code: str
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True)
class Rest:
    """How many problems of one kind in one file are not listed."""

    file: str
    code: str
    severity: Severity
    count: int


class Findings:
    """Problems as they are found, at most so many of each kind in each file; the others are counted.

    Args:
        folder: the dataset folder.
        limit: problems of one code in one file that are listed.

    Attributes:
        problems, rest: what is listed; how many more there are of what.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.problems: list[Problem] = []
        self.rest: list[Rest] = []

    @property
    def errors(self) -> int:
        """Number of errors, listed or not."""
        rest = sum(rest.count for rest in self.rest if rest.severity == "error")
        return rest + sum(problem.severity == "error" for problem in self.problems)

    def add(
        self, severity: Severity, code: str, path: Path, message: str, remedy: str, line: int | None = None
    ) -> None:
        """One problem."""
        self.problems.append(Problem(self._name(path), line, code, severity, message, remedy))

    def rows(
        self,
        severity: Severity,
        code: str,
        path: Path,
        lines: Sequence[int] | pl.Series,
        message: Callable[[int], str] | str,
        remedy: str,
    ) -> None:
        """A problem of each of some lines; a callable `message` is asked for the listed ones, by place among them."""
        for i, line in enumerate(islice(lines, self.limit)):
            self.add(severity, code, path, message if isinstance(message, str) else message(i), remedy, int(line))
        if len(lines) > self.limit:
            self.rest.append(Rest(self._name(path), code, severity, len(lines) - self.limit))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def quoted(name: str) -> str:
    """A name as a message quotes it: on one line, and not longer than a line."""
    return repr(name if len(name) <= LONGEST else name[:LONGEST] + "...")


def find_lines(findings: Findings, path: Path) -> pl.DataFrame:
    """The lines of a text file, columns `text` (without CR; null where it is not UTF-8) and `line`."""
    empty = pl.DataFrame(schema={"text": pl.String, "line": pl.UInt32})
    try:
        data = read_bytes(path)
    except DataError as error:
        findings.add("error", "unreadable", path, error.message, error.remedy)
        return empty
    if is_utf16(data):
        findings.add("error", "encoding", path, "is UTF-16", "save the file as UTF-8")
        return empty
    if data[:3] == b"\xef\xbb\xbf":
        findings.add("note", "bom", path, "starts with a byte order mark", "nothing: it is skipped", 1)
    ends = _line_ends(data)
    data = unify_line_ends(data)
    try:
        lines = split_lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        lines = split_lines(data.decode("utf-8-sig", errors="replace"))
        raw = data.split(b"\n")
        # A file may hold the replacement character itself.
        suspects = lines.str.contains("\ufffd", literal=True).arg_true().to_list()
        bad = [i + 1 for i in suspects if not is_utf8(raw[i])]
        findings.rows("error", "encoding", path, bad, "is not valid UTF-8", "save the file as UTF-8")
    else:
        bad = []
    del data
    frame = pl.DataFrame({"text": lines}).with_row_index("line", offset=1).select("text", "line")
    for name, (count, line) in ends.items():
        message = f"{count:,} of {len(frame):,} lines end with {name}"
        findings.add("note", "crlf", path, message, "nothing: the CR is dropped", line)
    stray = frame.filter(pl.col("text").str.contains("\r", literal=True))
    message = "holds a carriage return (CR), which ends no line"
    findings.rows("error", "carriage-return", path, stray["line"], message, "take it out, or put a line end there")
    inside = frame.with_columns(mark=pl.col("text").str.extract(CONTROL)).drop_nulls("mark")
    findings.rows(
        "warning",
        "control-character",
        path,
        inside["line"],
        lambda i: f"holds the control character {inside['mark'][i]!r}",
        "end lines with LF and leave control characters out of names",
    )
    return frame.with_columns(pl.when(~pl.col("line").is_in(bad)).then(pl.col("text"))) if bad else frame


def _line_ends(data: bytes) -> dict[str, tuple[int, int]]:
    """How many lines end otherwise than with LF, by how, and the first of them."""
    if b"\r" not in data:
        return {}
    if b"\n" not in data.rstrip(b"\r\n"):
        return {"CR": (data.count(b"\r"), 1)}
    several = b"\r\r\n"
    counts = {"CR CR LF": (data.count(several), data.find(several))}
    counts["CR LF"] = (data.count(b"\r\n") - counts["CR CR LF"][0], data.find(b"\r\n"))
    return {name: (count, data.count(b"\n", 0, place) + 1) for name, (count, place) in counts.items() if count}


def find_fields(
    findings: Findings,
    path: Path,
    lines: pl.DataFrame,
    columns: list[str],
    where: str,
    severity: Severity = "error",
) -> pl.DataFrame:
    """The rows of a tab-separated file that have these columns, with `line`; the others are findings.

    Args:
        findings: where to.
        path: the file.
        lines: its lines (see `find_lines`).
        columns: names of the columns.
        where: what is expected, for messages.
        severity: how bad it is.
    """
    width = len(columns)
    lines = lines.drop_nulls("text")
    split = lines["text"].str.split_exact("\t", width - 1).struct.rename_fields(columns).struct.unnest()
    frame = split.with_columns(lines["line"], tabs=lines["text"].str.count_matches("\t", literal=True))
    bad = frame["tabs"] != width - 1
    if width > 1:
        empty = lines["text"].str.strip_chars() == ""
        findings.rows(
            severity, "blank-line", path, lines["line"].filter(empty), f"blank line where {where}", "delete the line"
        )
        wrong = lines.filter(bad & ~empty).with_columns(tabs=frame["tabs"].filter(bad & ~empty))
        findings.rows(
            severity,
            "columns",
            path,
            wrong["line"],
            lambda i: f"{_columns(wrong['tabs'][i] + 1)} where {where}{_guess(wrong['text'][i], width)}",
            "mend or delete the row, or let `mmrns data convert` read the file",
        )
    return frame.filter(~bad).drop("tabs")


def _columns(n: int) -> str:
    return f"{n} column{'s' * (n != 1)}"


def _guess(line: str, width: int) -> str:
    """What separates the columns of a line instead of tabs, where that can be seen."""
    for mark, name in ((",", "commas"), (";", "semicolons"), ("|", "bars"), (None, "blanks")):
        if "\t" not in line and len(line.split(mark)) == width:
            return f" (separated by {name}?)"
    return " (a count, as in OpenKE's files?)" if line.strip().isdigit() else ""


def find_triples(findings: Findings, path: Path) -> tuple[pl.DataFrame, int]:
    """The well-formed rows of a file of triples, columns head, relation, tail, line; the number of malformed ones."""
    if path.suffix == ".parquet":
        try:
            frame = read_parquet(path).with_row_index("line", offset=1).fill_null("")
        except DataError as error:
            findings.add("error", "unreadable", path, error.message, error.remedy)
            frame = pl.DataFrame(schema={"line": pl.UInt32, **dict.fromkeys(COLUMNS, pl.String)})
        rows = len(frame)
        _check_cells(findings, path, frame)
    else:
        lines = find_lines(findings, path)
        rows = len(lines)
        frame = find_fields(findings, path, lines, COLUMNS, "head TAB relation TAB tail is expected")
    empty = frame.select(pl.any_horizontal(pl.col(COLUMNS).str.strip_chars() == "")).to_series()
    findings.rows("error", "empty-field", path, frame["line"].filter(empty), "empty field", "mend or delete the row")
    frame = frame.filter(~empty).select(*COLUMNS, "line")
    if quoted := quoted_columns(frame):
        message = f"every {' and '.join(quoted)} is in quotes, which are part of the names here"
        findings.add("warning", "quoted", path, message, "`mmrns data convert` takes them off", int(frame["line"][0]))
    return frame, rows - len(frame)


def _check_cells(findings: Findings, path: Path, frame: pl.DataFrame) -> None:
    """What a name in a Parquet file may hold and a line of text could not, or should not."""
    broken = "rename it; `mmrns data convert` makes blanks of them"
    _check_cell(findings, "error", "line-break", path, frame, f"({BREAKS})", "a tab or line end", broken)
    remedy = "leave control characters out of names"
    _check_cell(findings, "warning", "control-character", path, frame, CONTROL, "the control character", remedy)


def _check_cell(
    findings: Findings,
    severity: Severity,
    code: str,
    path: Path,
    frame: pl.DataFrame,
    pattern: str,
    what: str,
    remedy: str,
) -> None:
    marks = frame.select("line", mark=pl.coalesce(pl.col(c).str.extract(pattern) for c in COLUMNS)).drop_nulls()
    lines = marks["line"]
    findings.rows(severity, code, path, lines, lambda i: f"a name holds {what} {marks['mark'][i]!r}", remedy)


def find_table(findings: Findings, path: Path, key: str, severity: Severity = "error") -> pl.DataFrame | None:
    """The rows of a table with a header line that have a `key`, columns `line` and those of the header; else None."""
    lines = find_lines(findings, path)
    if lines.is_empty() or lines["text"][0] is None:
        findings.add(severity, "header", path, "has no header line", f"give it one with the column `{key}`")
        return None
    columns: list[str] = lines["text"][0].split("\t")
    if len(set(columns)) < len(columns) or "line" in columns:
        findings.add(severity, "header", path, "column names repeat, or one is `line`", "name each column once", 1)
        return None
    if key not in columns:
        message = f"has no column `{key}`: {', '.join(map(quoted, columns[:8]))}"
        findings.add(severity, "header", path, message, f"name the column of ids `{key}`", 1)
        return None
    where = f"the header has {len(columns)}"
    frame = find_fields(findings, path, lines[1:], columns, where, severity)
    empty = frame[key].str.strip_chars() == ""
    findings.rows(
        severity, "empty-field", path, frame["line"].filter(empty), f"empty {key}", "name it or delete the row"
    )
    frame = frame.filter(~empty)
    repeated = frame.filter(~pl.col(key).is_first_distinct())
    findings.rows(
        severity,
        "repeated",
        path,
        repeated["line"],
        lambda i: f"{key} {quoted(repeated[key][i])} is listed twice",
        "keep one row",
    )
    return frame.filter(pl.col(key).is_first_distinct())
