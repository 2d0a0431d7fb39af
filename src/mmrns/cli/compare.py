"""`mmrns compare`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.show import Text, bar, err, out, print_rows, say
from mmrns.errors import MmrnsError, UsageError

SHOWN = (
    *("method", "valid MRR", "test MRR", "Hits@1", "Hits@10", "published MRR"),
    *("difference", "standing", "seeds", "trials", "seconds"),
)
"""Columns of the table on the terminal, where entries differ in them; the report has all."""


class Rule(StrEnum):
    """By what trials are ended early."""

    median = "median"
    halving = "halving"


@app.command(epilog="Example: mmrns compare --dataset countries --scorers TransE --methods self-adversarial,sans,mmrns")
def compare(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.yaml]", help="A comparison written down, instead of the options.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset name or folder.")] = None,
    scorers: Annotated[str | None, typer.Option(help="Scorers, separated by commas.")] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", "--samplers", help="Methods, separated by commas.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each: seeds 0 to N - 1 [default: 3].")] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, help="Trials of each on validation, to choose its settings [default: 0].")
    ] = None,
    prune: Annotated[
        Rule | None,
        typer.Option(help="End trials early that promise little, by this rule of Optuna's [default: none]."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="YAML file of what trials may try: key to a list of values or a range.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="A setting of every training; repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the results [default: runs/compare-DATASET, or beside STUDY]."),
    ] = None,
) -> None:
    """Train scorers with methods on one footing, several seeds each; a table, a report, plots. Resumable."""
    from mmrns.files import locked, write_changed
    from mmrns.runs.config import apply_settings
    from mmrns.runs.values import read_config
    from mmrns.studies.compare import compare
    from mmrns.studies.comparison import Comparison
    from mmrns.studies.recipe import FILE as RECIPE
    from mmrns.studies.recipe import recipe
    from mmrns.studies.report import REFERENCE, ranked_split, standing_told, table, write_summary

    if study is not None:
        given = (dataset, scorers, methods, seeds, trials, prune, space, settings)
        if any(value is not None for value in given):
            raise UsageError("give either STUDY.yaml or --dataset, --scorers, --methods and the like")
        comparison = Comparison.read(study)
        folder = folder or study.with_suffix("")
    else:
        if dataset is None or scorers is None or methods is None:
            raise UsageError("a comparison needs --dataset, --scorers and --methods, or STUDY.yaml")
        comparison = Comparison.of(
            dataset,
            _names(scorers),
            _names(methods),
            seeds=seeds or 3,
            trials=trials or 0,
            space=None if space is None else read_config(space),
            settings=apply_settings({}, settings or []),
            prune=None if prune is None else prune.value,
        )
        folder = folder or Path("runs") / f"compare-{Path(dataset).resolve().name}"

    # Until the report is written the folder has no other writer.
    with locked(folder):
        with bar("training", comparison.trainings) as advance:

            def done(record: Mapping[str, Any]) -> None:
                advance(1)

            records = compare(comparison, folder, jobs=jobs, progress=not err.is_terminal, done=done, note=say)
        plots = write_summary(records, folder, comparison)
        best = recipe(records, comparison, folder)
        if best is not None:
            write_changed(folder / RECIPE, best)
    cells = table(records, comparison)
    # Room is short: what is the same for all, or nobody has, says nothing.
    alike = [key for key in ("seeds", "trials") if len({row[key] for row in cells if row[key]}) == 1]
    empty = [key for key in ("difference", "standing") if not any(row[key] for row in cells)]
    shown = [key for key in SHOWN if key in cells[0] and key not in (*alike, *empty)]
    print_rows([{key: row[key].replace("± ", "±") for key in shown} for row in cells])
    if "difference" not in empty:
        split = {"test": "test", "valid": "validation"}[ranked_split(records)]
        out.print(
            f"difference: of the {split} MRR from {comparison.reference or REFERENCE}, by seed, with 95 % interval"
        )
    if told := standing_told(records):
        out.print(f"{told[0].lower()}{told[1:].removesuffix('.')}")
    out.print(Text(f"report {folder / 'report.md'}\nplots  {', '.join(map(str, plots))}"), soft_wrap=True)
    if best is None:
        raise MmrnsError(f"{folder}: every training failed; the report says how")
    out.print(Text(f"best   mmrns train {folder / RECIPE}  # by validation"), soft_wrap=True)


def _names(listed: str) -> list[str]:
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise UsageError(f"{listed!r} names something twice")
    return names
