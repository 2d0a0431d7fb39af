"""`mmrns sees`: does a model see its features?"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunArgument, RunDatasetOption, RunDeviceOption, Split, TableOption
from mmrns.cli.show import bar, out, print_json, print_rows, refuse_table, without_empty, write_table


class By(StrEnum):
    """How to break it down."""

    relation = "relation"


@app.command(epilog="Example: mmrns sees runs/fused --by relation")
def sees(
    run: RunArgument,
    split: Annotated[Split, typer.Option(help="Which split to rank.")] = Split.test,
    by: Annotated[By | None, typer.Option(help="What shuffling takes from each relation, the most first.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often to draw what is shuffled, dropped or noise.")] = 3,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="SAMPLES", help="95% intervals of the differences; 0 = none.")
    ] = 1000,
    file: TableOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Rank with features that are not the true ones: a model that does as well with others' pictures does not see."""
    from mmrns.runs.run import load_run

    refuse_table(file)
    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    grouped = None if by is None else by.value
    rankings = 1 + sum(len(one.seeds) for one in opened.alterations(seeds, grouped))
    graph = opened.dataset.graph
    triples = len(graph.test if split is Split.test else graph.valid)
    with bar("ranking", rankings * 2 * triples) as advance:
        found = opened.sees(split.value, by=grouped, seeds=seeds, bootstrap=bootstrap, progress=advance)
    rows = found.to_dicts()
    if file is not None:
        write_table(found, file)
    if as_json:
        print_json(rows)
    elif file is None:
        print_rows(without_empty(rows, "name") if by is not None else _table(rows))


_HEADERS = {"all": "all", "few": "few triples", "unseen": "not in train"}


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each alteration; for each part of the queries its MRR, and the difference with its interval."""
    found: dict[tuple[Any, str], dict[str, Any]] = {}
    for row in rows:
        key = row["modality"], row["features"]
        line = found.setdefault(key, {"modality": row["modality"] or "", "features": row["features"]})
        name = _HEADERS[row["part"]]
        line[name] = row["mrr"]
        line[f"{name}: difference"] = "" if row["difference"] is None else _difference(row)
    counts = {row["part"]: row["queries"] for row in rows}
    out.print(", ".join(f"{_HEADERS[part]}: {n:,} queries" for part, n in counts.items()))
    return list(found.values())


def _difference(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['difference']:+.4f}"
    return f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
