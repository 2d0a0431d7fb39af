"""`mmrns inspect`: the negatives that are drawn for a triple, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunArgument, RunDatasetOption, RunDeviceOption, Side
from mmrns.cli.show import Text, bar, err, out, print_json, print_rows
from mmrns.errors import UsageError
from mmrns.files import refuse_unwritable

if TYPE_CHECKING:
    from mmrns.inspection.draws import Drawn, Inspection, Query


@app.command(
    epilog="Example: mmrns inspect runs/countries-TransE-mmrns-s0 --head France --relation borders --tail Germany"
    " --against language --out france.html"
)
def inspect(
    run: RunArgument,
    head: Annotated[str, typer.Option(help="Head entity.")],
    relation: Annotated[str, typer.Option(help="Relation.")],
    tail: Annotated[str, typer.Option(help="Tail entity.")],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="RELATION", help="Beside it, a triple of the same head (or tail) and this relation."),
    ] = None,
    side: Annotated[Side | None, typer.Option(help="Replace this side only.")] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further method, untrained, beside the run's own; repeatable."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="How often to draw, for each side.")] = 50,
    top: Annotated[int, typer.Option(min=1, help="Negatives to list, the most probable first.")] = 10,
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE.html", help="Write a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Show the negatives that samplers draw for a triple with a run's model, and why."""
    if file is not None and file.suffix != ".html":
        raise UsageError(f"--out {file}: the page is HTML; name it {file.with_suffix('.html').name}")
    if file is not None:
        refuse_unwritable(file)

    from mmrns.runs.run import load_run

    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    others = [name for name in dict.fromkeys(sampler or ()) if name != opened.config.method]
    with bar("drawing", steps * (2 if side is None else 1) * (1 + len(others))) as advance:
        found = opened.inspect(
            head,
            relation,
            tail,
            against=against or (),
            side=None if side is None else side.value,
            samplers=others,
            steps=steps,
            top=top,
            progress=advance,
        )
    if file is not None:
        from mmrns.inspection.page import write_page

        write_page(found, opened.dataset.folder, file)
        err.print(Text(f"page in {file}"), soft_wrap=True)
    if as_json:
        print_json(found)
    elif file is None:
        _print(found)


def _print(found: Inspection) -> None:
    for query in found["queries"]:
        names = _names(found, query)
        ends = {end: "?" if end == query["side"] else names[query[end]] for end in ("head", "tail")}
        true = names[query[query["side"]]]
        split = f"in {query['split']}" if query["split"] else "in no split"
        title = Text(f"{ends['head']}  {query['relation']}  {ends['tail']}", style="bold")
        title.append_text(Text(f"   {true} ({split}) has rank {query['rank']:,} of {found['entities']:,}", "not bold"))
        out.print(title, soft_wrap=True)
        for drawn in query["samplers"]:
            out.print()
            out.print(Text(f"{drawn['method']}: {'; '.join(summary(drawn, found))}"), soft_wrap=True)
            if drawn["negatives"]:
                print_rows(_rows(drawn, names))
        out.print()


def _names(found: Inspection, query: Query) -> dict[str, str]:
    """What to call each entity: by its name where no other one that is shown has it, else by its id."""
    shown = {query["head"], query["tail"], *(n["entity"] for drawn in query["samplers"] for n in drawn["negatives"])}
    names = {entity: found["names"].get(entity, entity) for entity in shown}
    count = Counter(names.values())
    return {entity: name if count[name] == 1 else entity for entity, name in names.items()}


def _rows(drawn: Drawn, names: Mapping[str, str]) -> list[dict[str, Any]]:
    terms = list(drawn["negatives"][0]["similarities"])
    return [
        {
            "negative": names[n["entity"]],
            "probability": n["probability"],
            "drawn": n["drawn"],
            "score": n["score"],
            "rank": n["rank"],
            **{term: n["similarities"][term] for term in terms},
            **({"pmi": n["pmi"]} if drawn["weights"] else {}),
            "known": n["known"] or "",
        }
        for n in drawn["negatives"]
    ]


def summary(drawn: Drawn, found: Inspection) -> list[str]:
    """What there is to say of a sampler's draws, in phrases."""
    from mmrns.inspection.page import probability

    trained = {True: "trained", False: "not trained", None: "nothing to train"}[drawn["trained"]]
    if not drawn["draws"]:
        return [trained, drawn["why_not"]]
    phrases = [
        trained,
        f"{drawn['draws']:,} draws in {found['steps']:,} steps, of {drawn['distinct']:,} entities",
        f"half of them have rank {drawn['median_rank']:,} or better",
        *(f"{share:.2%} are true in {split}" for split, share in drawn["known"].items() if share),
        probability(drawn, found),
    ]
    return [*phrases, *([drawn["why_not"]] if drawn["why_not"] else [])]
