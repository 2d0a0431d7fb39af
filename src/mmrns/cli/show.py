"""What commands print and write: tables, JSON, metrics, frames, progress bars."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text as RichText

from mmrns.errors import MmrnsError, Note, UsageError, notes_heard
from mmrns.files import FRAME_WRITERS, refuse_unwritable, write_frame
from mmrns.launch import launched
from mmrns.pace import Pace, duration

if TYPE_CHECKING:
    import polars as pl

    from mmrns.training.world import World

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may obey instead of showing it: control characters but tabs and line feeds, what turns the direction
of writing; and half characters, which cannot be written."""


def printable(text: str) -> str:
    """A text with escapes such as `\\x1b` for what a terminal would obey instead of showing it.

    Names come from files that anyone may have written.
    """
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


_ENDLESS = 100_000


class Text(RichText):
    """A text as `printable` gives it, which counts in widths as it is shown."""

    def __init__(self, text: str = "", style: str = "", **more: Any):
        # Rich itself would drop some control characters without a trace. It makes texts of this class, too.
        super().__init__(printable(text), style, **more)


class _SafeConsole(Console):
    """A console that prints whatever else is given to it as `printable` gives it."""

    @Console.size.getter
    def size(self) -> ConsoleDimensions:
        """That of the terminal. A file or a pipe has no width at which a table would have to be folded."""
        found = Console.size.__get__(self)
        narrow = self.is_terminal or "COLUMNS" in os.environ
        return found if narrow else found._replace(width=_ENDLESS)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


out = _SafeConsole(highlight=False, markup=False, emoji=False)
err = _SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)


def say(message: object) -> None:
    """One line on standard error."""
    err.print(Text(str(message).replace("\n", "\\n")), soft_wrap=True)


def show_notes() -> None:
    """From here on a `Note` is one line on standard error, said once; for within `warnings.catch_warnings`."""
    said: set[str] = set()
    other = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, Note):
            other(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            say(f"note: {message}")

    warnings.showwarning = show
    warnings.simplefilter("always", Note)


def print_json(value: Any) -> None:
    """One line of JSON on standard output; its escapes stand for what a terminal would obey.

    Raises:
        MmrnsError: a number that JSON does not have: NaN or infinity.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise MmrnsError("the answer holds a number that is not finite, which JSON cannot say; train again") from error
    # JSON itself escapes the control characters below 32.
    sys.stdout.write(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the first row; where that is too wide, cells have several lines.

    Words are broken at hyphens only. Where that does not suffice, each row is lines of a key and a value.
    """
    if not rows:
        out.print("nothing")
        return
    cells = [[Text(key) for key in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    room = out.width - _GAP * (len(rows[0]) - 1)
    columns = [*zip(*cells, strict=True)]
    widths = [max(cell.cell_len for cell in column) for column in columns]
    for parts in (_words, _pieces):
        least = [max(part.cell_len for cell in column for part in parts(cell)) for column in columns]
        if sum(least) <= room:
            break
    else:
        _print_one_by_one(cells)
        return
    widths = _narrowed(widths, least, room)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    folded = [[_folded(cell, width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    for key, name in zip(folded[0], rows[0], strict=True):
        value = next((row[name] for row in rows if row[name] is not None), None)
        table.add_column(key, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in folded[1:]:
        table.add_row(*row)
    out.print(table)


_GAP = 2
"""Blanks between columns."""


def _words(cell: Text) -> list[Text]:
    return [Text(word) for word in cell.plain.split(" ")]


def _pieces(cell: Text) -> list[Text]:
    """What is left of words that are broken behind the hyphens within them."""
    return [Text(piece) for word in _words(cell) for piece in re.split(r"(?<=[^\W\d]-)(?=\w)", word.plain)]


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns that together have so much room: the widest are narrowed first, down to the least of each."""
    found = [*widths]
    while sum(found) > room:
        found[max((i for i in range(len(found)) if found[i] > least[i]), key=found.__getitem__)] -= 1
    return found


def _folded(cell: Text, width: int) -> Text:
    """A text in lines of so much width, broken between words, within those alone that are wider."""
    lines: list[str] = []
    for word in _words(cell):
        parts = [word] if word.cell_len <= width else _pieces(word)
        for n, part in enumerate(parts):
            longer = f"{lines[-1]}{'' if n else ' '}{part.plain}" if lines else part.plain
            if lines and Text(longer).cell_len <= width:
                lines[-1] = longer
            else:
                lines.append(part.plain)
    return Text("\n".join(lines))


def _print_one_by_one(cells: Sequence[Sequence[Text]]) -> None:
    keys = cells[0]
    longest = max(key.cell_len for key in keys)
    for n, row in enumerate(cells[1:]):
        if n:
            out.print()
        for key, value in zip(keys, row, strict=True):
            if value.plain:
                line = Text(f"{key.plain}{' ' * (longest - key.cell_len + _GAP)}{value.plain}")
                line.stylize("bold", 0, len(key.plain))
                out.print(line, soft_wrap=True)


def _cell(value: Any) -> Text:
    if isinstance(value, bool):
        return Text("yes" if value else "")
    if isinstance(value, float):
        return Text(f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}")
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else str(value))


def print_metrics(split: dict[str, Any], baseline: dict[str, Any] | None = None) -> None:
    """The metrics of a split, as in `results.json`, and where it is of no use."""
    from mmrns.evaluation.report import shortcomings

    names = ["mrr", "hits@1", "hits@3", "hits@10", "mr", "amri"]

    def row(label: str, policy: str, found: dict[str, Any]) -> dict[str, Any]:
        return {"ranking": label, "ties": policy} | {name: found.get(name) for name in [*names, "interval"]}

    rows = [row("model", policy, found) for policy, found in split["both"].items()]
    for side in ("head", "tail", "seen", "unseen"):
        # Results of earlier versions have no part of unseen triples.
        if split.get(side):
            rows.append(row(f"model, {side}", "realistic", split[side]["realistic"]))
    if baseline:
        rows.append(row("relation frequency", "realistic", baseline["realistic"]))
    print_rows(with_intervals(rows))
    out.print(f"{split['queries']:,} queries, {split['ties']:,} of them tied with another candidate")
    if split.get("outside"):
        out.print(f"{split['outside']:,} true answers are not among the candidates; they took part all the same")
    for line in shortcomings(split):
        out.print(line, soft_wrap=True)


def with_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the ends of their `interval`, where they have one, in two rows below."""
    found: list[dict[str, Any]] = []
    for row in rows:
        interval = row.pop("interval", None)
        found.append(row)
        if interval:
            for i, end in enumerate(("  95% from", "  95% to")):
                ends = {name: ends[i] for name, ends in interval.items()}
                found.append({**dict.fromkeys(row), next(iter(row)): end, **ends})
    return found


def refuse_table(file: Path | None) -> None:
    """Find out before long work whether a table can be written; see `write_table`.

    Raises:
        UsageError: another ending, or it cannot.
    """
    if file is None:
        return
    if file.suffix not in FRAME_WRITERS:
        raise UsageError(f"--out {file}: write one of {', '.join(FRAME_WRITERS)}")
    refuse_unwritable(file)


def write_table(frame: pl.DataFrame, file: Path) -> None:
    """Write a table in the format that the file's ending says.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_frame(frame, file)
    except OSError as error:
        raise UsageError(f"--out {file}: {error.strerror or error}") from error


_ENDS = ((0, "from"), (1, "to"))


def write_rows(rows: list[dict[str, Any]], file: Path) -> None:
    """Write rows as a table, and say so; see `write_table`. The ends of an `interval` are columns of their own."""
    import polars as pl

    schema = {"name": pl.String} if rows and "name" in rows[0] else None
    flat: list[dict[str, Any]] = []
    for row in rows:
        ends = {f"{key} {end}": pair[i] for key, pair in row.get("interval", {}).items() for i, end in _ENDS}
        flat.append({key: value for key, value in row.items() if key != "interval"} | ends)
    write_table(pl.DataFrame(flat, schema_overrides=schema, infer_schema_length=None), file)
    say(f"{len(rows):,} rows in {file}")


def called(name: str | None, label: str | None) -> str:
    """An entity or relation as it is printed: its id, and its readable name where that says more; `?` for None."""
    if name is None:
        return "?"
    return name if label in (None, name) else f"{name} ({label})"


def without_empty(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Rows without a key of which none has a value."""
    empty = all(row.get(key) is None for row in rows)
    return [{k: value for k, value in row.items() if k != key} for row in rows] if empty else rows


@contextmanager
def processes() -> Generator[World]:
    """The processes that `torchrun` has started to run this command together, or this one alone.

    Only the first one should print and write; the others do not even note anything.
    """
    from mmrns.training.world import world_of

    with world_of().started() as world, nullcontext() if world.first else notes_heard():
        try:
            yield world
        except KeyboardInterrupt:
            if world.first:
                raise
            sys.exit(128 + signal.SIGINT)


@contextmanager
def bar(label: str, total: int) -> Generator[Callable[[int], None]]:
    """A progress bar on the terminal, a line a minute elsewhere; yields what is told of the units done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if launched()[0]:  # The first process tells it.
        yield lambda n: None
        return
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task, pace, done = progress.add_task(label, total=total), Pace(), 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            progress.advance(task, n)
            if 0 < done < total and pace.due() and not err.is_terminal:
                left = duration(pace.elapsed / done * (total - done))
                say(f"{label}: {done:,} of {total:,}, about {left} left")

        yield advance
