"""The command line. Heavy imports happen inside the commands, so that `--help` is immediate."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmrns.errors import MmrnsError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from mmrns.runs.run import Reporter

app = typer.Typer(
    name="mmrns",
    help="Complete multimodal knowledge graphs, trained with relation-enhanced negative sampling.",
    epilog="Start with: mmrns train --dataset countries",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List and describe datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Split(StrEnum):
    """Which split to rank."""

    test = "test"
    valid = "valid"


class By(StrEnum):
    """How to break metrics down."""

    relation = "relation"
    category = "category"
    side = "side"


class Known(StrEnum):
    """What to do with triples that the dataset holds already."""

    flag = "flag"
    drop = "drop"
    keep = "keep"


def main() -> NoReturn:
    """Run the command line; errors that a user can mend are one line, without a traceback unless `--debug`."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments, standalone_mode=True)
    except MmrnsError as error:
        if debug:
            traceback.print_exc()
        err.print(Text(f"mmrns: {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(0)


def _version(asked: bool) -> None:
    if asked:
        from mmrns import __version__

        sys.stdout.write(f"mmrns {__version__}\n")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command(
    epilog="Example: mmrns train --dataset countries --scorer TransE --sampler mmrns --set training.steps=2000"
)
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; what it leaves out takes its default.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset name or folder.")] = None,
    scorer: Annotated[str | None, typer.Option(help="TransE, DistMult or RotatE.")] = None,
    sampler: Annotated[str | None, typer.Option(help="uniform, self-adversarial, bernoulli or mmrns.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Any configuration key; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder [default: runs/DATASET-SCORER-SAMPLER-sSEED].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out with its own configuration.")
    ] = False,
    device: Annotated[Device | None, typer.Option(help="Where to train.")] = None,
) -> None:
    """Train a model and its sampler, evaluate it and write a run folder."""
    from mmrns.runs.run import train as train_run

    named = {"data.dataset": dataset, "model.scorer": scorer, "sampler.name": sampler, "seed": seed, "device": device}
    given = [f"{key}={json.dumps(str(value) if isinstance(value, StrEnum) else value)}" for key, value in named.items()]
    given = [setting for setting, value in zip(given, named.values(), strict=True) if value is not None]
    with _training_progress() as reporter:
        run = train_run(config, out=folder, settings=[*given, *(settings or [])], resume=resume, reporter=reporter)
    results = run.results
    if "test" in results:
        _print_metrics(results["test"], results["baseline"])
    else:
        out.print("validation split; the test split was not read (evaluation.test=false)")
        _print_metrics(results["valid"])
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in results["seconds"].items())
    out.print(Text(f"selected at step {results['selected_step']:,}; {seconds}"))
    out.print(Text(f"run    {run.folder}\ncurves {run.folder / 'plots' / 'curves.png'}"), soft_wrap=True)


CandidatesOption = Annotated[
    str | None,
    typer.Option(
        "--candidates",
        metavar="train|FILE",
        help="Only entities that fill that side of the relation in train, or in a file: relation TAB side TAB entity.",
    ),
]


@app.command(epilog="Example: mmrns evaluate runs/countries-TransE-mmrns-s0 --by relation")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    split: Annotated[Split, typer.Option(help="Which split to rank.")] = Split.test,
    by: Annotated[By | None, typer.Option(help="Break the metrics down.")] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="SAMPLES", help="95% confidence intervals from this many samples; 0 = none.")
    ] = 0,
    candidates: CandidatesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank a split with a run's model and print the metrics."""
    from mmrns.evaluation.report import breakdown, report
    from mmrns.runs.run import Run

    opened = Run(run)
    graph = opened.dataset.graph
    with _bar("ranking", 2 * len(graph.test if split is Split.test else graph.valid)) as advance:
        ranks = opened.ranks(split.value, advance, candidates=candidates)
    if by is not None:
        rows = breakdown(ranks, graph, by.value, bootstrap)
        if as_json:
            _print_json(rows)
        else:
            _print_rows(_with_intervals(rows))
        return
    found = report(ranks, graph, bootstrap)
    if as_json:
        _print_json(found)
    else:
        _print_metrics(found)


@app.command(epilog="Example: mmrns predict runs/countries-TransE-mmrns-s0 --head country/France --relation borders")
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    head: Annotated[str | None, typer.Option(help="Head entity; leave out to ask for it.")] = None,
    relation: Annotated[str | None, typer.Option(help="Relation.")] = None,
    tail: Annotated[str | None, typer.Option(help="Tail entity; leave out to ask for it.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="File of queries: head TAB relation TAB tail, ? for what is asked.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers per query.")] = 10,
    known: Annotated[
        Known, typer.Option(help="Known triples: flag them, drop them, or keep them unmarked.")
    ] = Known.flag,
    candidates: CandidatesOption = None,
    file: Annotated[Path | None, typer.Option("--out", help="Write .csv, .parquet or .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Complete triples: the best entities for the missing side."""
    from mmrns.runs.run import Run

    if queries is not None and (head or relation or tail):
        raise UsageError("give either --queries or --head/--relation/--tail")
    if file is not None and file.suffix not in WRITERS:
        raise UsageError(f"--out {file}: write one of {', '.join(WRITERS)}")
    opened = Run(run)
    frame = opened.predict(head, relation, tail, queries=queries, top=top, known=known.value, candidates=candidates)
    if file is not None:
        _write_frame(frame, file)
        err.print(Text(f"{len(frame):,} predictions in {file}"), soft_wrap=True)
    if as_json:
        _print_json(frame.to_dicts())
    elif file is None:
        _print_predictions(frame)


@data_app.command("list", epilog="Example: mmrns data list")
def data_list(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The datasets that a name finds: embedded ones and the folders under $MMRNS_DATA."""
    from mmrns.data.datasets import EMBEDDED, dataset_folders

    rows = [
        {"name": name, "where": "embedded" if name in EMBEDDED else str(folder)}
        for name, folder in dataset_folders().items()
    ]
    if as_json:
        _print_json(rows)
    else:
        _print_rows(rows)


@data_app.command("describe", epilog="Example: mmrns data describe countries")
def data_describe(
    dataset: Annotated[str, typer.Argument(help="Dataset name or folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Counts, coverage of the modalities, and what to know before training."""
    from mmrns.data.datasets import describe, load_dataset

    found = describe(load_dataset(dataset))
    if as_json:
        _print_json(found)
        return
    out.print(Text(f"{found['name']}  ({found['folder']})"), soft_wrap=True)
    out.print(f"{found['entities']:,} entities, {found['relations']:,} relations")
    _print_rows([{"split": split, **row} for split, row in found["triples"].items()])
    if found["features"]:
        _print_rows([{"modality": name, **row} for name, row in found["features"].items()])
    else:
        out.print("no features")
    for note in found["notes"]:
        out.print(Text(f"note: {note}"), soft_wrap=True)


WRITERS = {".csv": "write_csv", ".parquet": "write_parquet", ".json": "write_json"}


def _write_frame(frame: pl.DataFrame, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        getattr(frame, WRITERS[path.suffix])(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror or error}") from error


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _print_rows(rows: list[dict[str, Any]]) -> None:
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


def _print_metrics(split: dict[str, Any], baseline: dict[str, Any] | None = None) -> None:
    names = ["mrr", "hits@1", "hits@3", "hits@10", "mr", "amri"]

    def row(label: str, policy: str, found: dict[str, Any]) -> dict[str, Any]:
        return {"ranking": label, "ties": policy} | {name: found.get(name) for name in [*names, "interval"]}

    rows = [row("model", policy, found) for policy, found in split["both"].items()]
    for side in ("head", "tail", "seen"):
        if split[side]:
            rows.append(row(f"model, {side}", "realistic", split[side]["realistic"]))
    if baseline:
        rows.append(row("relation frequency", "realistic", baseline["realistic"]))
    _print_rows(_with_intervals(rows))
    out.print(f"{split['queries']:,} queries, {split['ties']:,} of them tied with another candidate")
    if split.get("outside"):
        out.print(f"{split['outside']:,} true answers are not among the candidates; they took part all the same")


def _with_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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


def _print_predictions(frame: pl.DataFrame) -> None:
    for (head, relation, tail), part in _queries(frame):
        out.print(Text(f"{head}  {relation}  {tail}", style="bold"), soft_wrap=True)
        answers = part["tail"] if tail == "?" else part["head"]
        rows = [
            {"rank": rank, "entity": entity, "score": score, "known": known}
            for rank, entity, score, known in zip(part["rank"], answers, part["score"], part["known"], strict=True)
        ]
        _print_rows(rows)


def _queries(frame: pl.DataFrame) -> Iterator[tuple[tuple[str, str, str], pl.DataFrame]]:
    starts = [i for i, rank in enumerate(frame["rank"]) if rank == 1]
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        part = frame[start:end]
        head, relation, tail = part["head"][0], part["relation"][0], part["tail"][0]
        asks_tail = part["tail"].n_unique() > 1 or part["head"].n_unique() == 1
        yield ((head, relation, "?") if asks_tail else ("?", relation, tail)), part


@contextmanager
def _bar(label: str, total: int) -> Generator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(label, total=total)

        def advance(n: int) -> None:
            bar.advance(task, n)

        yield advance


@contextmanager
def _training_progress() -> Generator[Reporter]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mmrns.runs.run import Reporter

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

        def start(done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, completed=done, total=total)

        def advance(done: int, loss: float | None) -> None:
            fields: dict[str, Any] = {} if loss is None else {"loss": f"loss {loss:.4f}"}
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, speed=f"{speed:.1f} steps/s" if speed else "", **fields)

        def evaluated(step: int, mrr: float) -> None:
            bar.update(task, mrr=f"valid MRR {mrr:.4f}")

        def ranking(what: str, queries: int) -> Callable[[int], None]:
            ranked = bar.add_task(f"ranking {what}", total=queries, loss="", mrr="", speed="")

            def done(n: int) -> None:
                bar.advance(ranked, n)
                if bar.tasks[bar.task_ids.index(ranked)].finished:
                    bar.remove_task(ranked)

            return done

        def note(message: str) -> None:
            bar.console.print(Text(message), soft_wrap=True)

        yield Reporter(note, start, advance, evaluated, ranking)
