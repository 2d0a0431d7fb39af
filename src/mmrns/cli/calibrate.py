"""`mmrns calibrate`: how probable a run's answers are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunDatasetOption, RunDeviceOption
from mmrns.cli.show import Text, bar, out, print_json, print_rows


class Method(StrEnum):
    """How scores become probabilities."""

    isotonic = "isotonic"
    platt = "platt"


@app.command(epilog="Example: mmrns calibrate runs/countries-TransE-mmrns-s0")
def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    method: Annotated[
        Method, typer.Option(help="The curve: isotonic follows whatever validation says, platt is logistic.")
    ] = Method.isotonic,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Learn on validation how probable a run's answers are; predictions have a probability from then on."""
    from mmrns.runs.run import load_run

    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    with bar("scoring", 2 * len(opened.dataset.graph.valid)) as advance:
        found = opened.calibrate(method.value, advance)
    if as_json:
        print_json(found)
        return
    print_rows([measured(name, found[key]) for name, key in (("before", "before"), (found["method"], "after"))])
    out.print(
        f"{found['queries']:,} validation queries, {found['true']:,} true answers; "
        f"{found['relations']} relations have a curve of their own"
    )
    place = run / "calibration.json", run / "plots" / "reliability.png"
    out.print(Text(f"calibration {place[0]}\npicture     {place[1]}"), soft_wrap=True)


def measured(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """How good probabilities are, as a row of a table."""
    return {
        "probabilities": name,
        "ece": found["ece"],
        "brier": found["brier"],
        "first: probability": found["first"]["probability"],
        "first: true": found["first"]["true"],
        "answers": found["answers"],
    }
