"""What commands print and write: tables, JSON, metrics, frames, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the keys of the first row."""
    if not rows:
        out.print("nothing")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, value in rows[0].items():
        table.add_column(key, justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> Text:
    if isinstance(value, bool):
        return Text("yes" if value else "")
    if isinstance(value, float):
        return Text(f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}")
    return Text(f"{value:,}" if isinstance(value, int) else "" if value is None else str(value))


def print_metrics(split: dict[str, Any], baseline: dict[str, Any] | None = None) -> None:
    """The metrics of a split, as in `results.json`."""
    names = ["mrr", "hits@1", "hits@3", "hits@10", "mr", "amri"]

    def row(label: str, policy: str, found: dict[str, Any]) -> dict[str, Any]:
        return {"ranking": label, "ties": policy} | {name: found.get(name) for name in [*names, "interval"]}

    rows = [row("model", policy, found) for policy, found in split["both"].items()]
    for side in ("head", "tail", "seen"):
        if split[side]:
            rows.append(row(f"model, {side}", "realistic", split[side]["realistic"]))
    if baseline:
        rows.append(row("relation frequency", "realistic", baseline["realistic"]))
    print_rows(with_intervals(rows))
    out.print(f"{split['queries']:,} queries, {split['ties']:,} of them tied with another candidate")
    if split.get("outside"):
        out.print(f"{split['outside']:,} true answers are not among the candidates; they took part all the same")


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


@contextmanager
def bar(label: str, total: int) -> Generator[Callable[[int], None]]:
    """A progress bar on the terminal, silent elsewhere; yields what is told of the units done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(label, total=total)

        def advance(n: int) -> None:
            progress.advance(task, n)

        yield advance
