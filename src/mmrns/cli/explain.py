"""`mmrns explain`: what speaks for a triple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunArgument, RunDatasetOption, RunDeviceOption, Side
from mmrns.cli.show import Text, called, out, print_json, print_rows
from mmrns.errors import UsageError

if TYPE_CHECKING:
    from mmrns.inspection.evidence import Explanation, Inverse, Statement
    from mmrns.inspection.evidence import Path as EvidencePath


@app.command(
    epilog="Example: mmrns explain runs/countries-TransE-mmrns-s0 --head Kenya --relation language --tail Swahili"
)
def explain(
    run: RunArgument,
    head: Annotated[str | None, typer.Option(help="Head entity; left out, the best new answer is explained.")] = None,
    relation: Annotated[str | None, typer.Option(help="Relation.")] = None,
    tail: Annotated[str | None, typer.Option(help="Tail entity; left out, the best new answer is explained.")] = None,
    side: Annotated[Side | None, typer.Option(help="The end that is asked for [default: tail].")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many of each kind of evidence.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Show what speaks for a triple: train triples, and what each view of the model adds to its score."""
    for option, name in (("--head", head), ("--relation", relation), ("--tail", tail)):
        if name is not None and not name.strip():
            raise UsageError(f"{option} is empty; say which one")
    if relation is None or (head is None and tail is None):
        raise UsageError("give --relation, and --head or --tail or both")

    from mmrns.runs.run import load_run

    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    found = opened.explain(head, relation, tail, side=None if side is None else side.value, top=top)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Explanation) -> None:
    names = found["names"]
    title = Text("  ".join(_triple(found, names).values()), "bold")
    split = f"in {found['known']}" if found["known"] else "in no split"
    rank = f"the {found['side']} has rank {found['rank']:,} of {found['candidates']:,}, score {found['score']:.4f}"
    title.append_text(Text(f"   {split}; {rank}", "not bold"))
    out.print(title, soft_wrap=True)
    several = len(found["parts"]) > 1
    _print_table(
        "what each view adds to the score, above the mean of the candidates",
        # Of a single view the mixture says nothing.
        [
            {**part} if several else {key: part[key] for key in ("part", "adds", "rank_without")}
            for part in found["parts"]
        ],
    )
    _print_table(
        "train triples without which the score would fall, to first order",
        [{**_triple(one, names), "change": one["change"]} for one in found["influence"]],
    )
    _print_table(
        "train triples of the same relation, with a similar entity in the place of the head or the tail",
        [
            {
                "entity": called(one["entity"], names.get(one["entity"])),
                "instead of": one["instead_of"],
                "similarity": one["similarity"],
                "by": one["by"],
            }
            for one in found["similar"]
        ],
    )
    _print_table(
        "train triples of the two entities whose relation implies this one",
        [{**_triple(one, names), **_counted(one)} for one in found["inverse"]],
    )
    _print_table("paths of two train triples", [_path(one, names) for one in found["paths"]])


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    out.print()
    out.print(Text(title if rows else f"{title}: none", "italic"), soft_wrap=True)
    if rows:
        print_rows(rows)


def _triple(one: Statement | Explanation, names: Mapping[str, str]) -> dict[str, str]:
    named = {"head": one["head"], "relation": one["relation"], "tail": one["tail"]}
    return {part: called(name, names.get(name)) for part, name in named.items()}


def _path(path: EvidencePath, names: Mapping[str, str]) -> dict[str, Any]:
    first, second = ("  ".join(called(name, names.get(name)) for name in triple) for triple in path["triples"])
    return {"first": first, "second": second, **_counted(path)}


def _counted(rule: Inverse | EvidencePath) -> dict[str, Any]:
    return {"confidence": rule["confidence"], "support": rule["support"]}
