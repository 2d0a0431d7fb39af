"""`mmrns train`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import Device
from mmrns.cli.show import Text, err, out, print_metrics, say
from mmrns.launch import launched

if TYPE_CHECKING:
    from mmrns.training.callbacks import Callback, Training


@app.command(epilog="Example: mmrns train --dataset countries --scorer TransE --method mmrns --set training.steps=2000")
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; what it leaves out takes its default.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset name or folder.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Settings by name, which all else goes before: best (structure at its best), fast (good within "
            "minutes), multimodal (with all features of the dataset) or large (for very many entities).",
        ),
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Name of the scorer, e.g. TransE, ComplEx or RotatE.")] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", "--sampler", help="Name of the method, e.g. self-adversarial or mmrns."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Any configuration key; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder [default: runs/DATASET-SCORER-METHOD-sSEED].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out with its own configuration.")
    ] = False,
    device: Annotated[Device | None, typer.Option(help="Where to train.")] = None,
) -> None:
    """Train a model and its sampler, evaluate it and write a run folder."""
    from mmrns.runs.config import apply_settings, make_config
    from mmrns.runs.presets import with_preset
    from mmrns.runs.train import train as train_run
    from mmrns.runs.values import read_config, told_of

    named = {"data.dataset": dataset, "model.scorer": scorer, "method": method, "seed": seed, "device": device}
    given = {key: str(value) if isinstance(value, StrEnum) else value for key, value in named.items()}
    values = with_preset(preset, {} if config is None else read_config(config))
    values = apply_settings(values, {key: value for key, value in given.items() if value is not None})
    values = apply_settings(values, settings or [])
    if resume and folder is not None:
        written = folder  # The rest is the run's own.
    else:
        with told_of(config, values):
            written = folder or make_config(values).default_folder
    first = launched()[0] == 0
    with _training_progress() if first else nullcontext([]) as progress:
        run = train_run(values, out=written, resume=resume, callbacks=progress, progress=False)
    if not first:
        return
    results = run.results
    if "test" in results:
        print_metrics(results["test"], results["baseline"])
    else:
        out.print("validation split; the test split was not read (evaluation.test=false)")
        print_metrics(results["valid"])
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in results["seconds"].items())
    out.print(Text(f"selected at step {results['selected_step']:,}; {seconds}"))
    out.print(Text(f"run    {written}\ncurves {written / 'plots' / 'curves.png'}"), soft_wrap=True)


@contextmanager
def _training_progress() -> Generator[list[Callback]]:
    """A bar on a terminal, lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mmrns.training.callbacks import Callback
    from mmrns.training.lines import ProgressLines

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[mrr]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("training", total=None, loss="", mrr="", speed="", start=False)

        class ProgressBar(Callback):
            def on_start(self, training: Training) -> None:
                bar.start_task(task)
                bar.update(task, completed=training.progress.step, total=training.plan.steps)

            def on_progress(self, step: int, loss: float | None) -> None:
                fields: dict[str, Any] = {} if loss is None else {"loss": f"loss {loss:.4f}"}
                speed = bar.tasks[0].speed
                bar.update(task, completed=step, speed=f"{speed:.1f} steps/s" if speed else "", **fields)

            def on_validation(self, step: int, mrr: float) -> None:
                bar.update(task, mrr=f"valid MRR {mrr:.4f}")

            def on_ranking(self, what: str, queries: int) -> Callable[[int], None]:
                ranked = bar.add_task(f"ranking {what}", total=queries, loss="", mrr="", speed="")

                def done(n: int) -> None:
                    bar.advance(ranked, n)
                    if bar.tasks[bar.task_ids.index(ranked)].finished:
                        bar.remove_task(ranked)

                return done

            def on_note(self, message: str) -> None:
                bar.console.print(Text(message), soft_wrap=True)

        yield [ProgressBar()] if err.is_terminal else [ProgressBar(), ProgressLines(say)]
