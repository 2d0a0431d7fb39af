"""`mmrns evaluate` and `mmrns predict`: a finished run in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrns.cli.app import app
from mmrns.cli.options import By, CandidatesOption, Known, Split
from mmrns.cli.show import Text, bar, err, out, print_json, print_metrics, print_rows, with_intervals
from mmrns.errors import UsageError
from mmrns.files import FRAME_WRITERS, refuse_unwritable, write_frame

if TYPE_CHECKING:
    import polars as pl


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
    from mmrns.runs.run import load_run

    opened = load_run(run)
    graph = opened.dataset.graph
    with bar("ranking", 2 * len(graph.test if split is Split.test else graph.valid)) as advance:
        ranks = opened.ranks(split.value, advance, candidates=candidates)
    if by is not None:
        rows = breakdown(ranks, graph, by.value, bootstrap)
        if as_json:
            print_json(rows)
        else:
            print_rows(with_intervals(rows))
        return
    found = report(ranks, graph, bootstrap)
    if as_json:
        print_json(found)
    else:
        print_metrics(found)


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
    from mmrns.runs.run import load_run

    if queries is not None and (head or relation or tail):
        raise UsageError("give either --queries or --head/--relation/--tail")
    if file is not None and file.suffix not in FRAME_WRITERS:
        raise UsageError(f"--out {file}: write one of {', '.join(FRAME_WRITERS)}")
    if file is not None:
        refuse_unwritable(file)
    opened = load_run(run)
    frame = opened.predict(head, relation, tail, queries=queries, top=top, known=known.value, candidates=candidates)
    if file is not None:
        try:
            write_frame(frame, file)
        except OSError as error:
            raise UsageError(f"--out {file}: {error.strerror or error}") from error
        err.print(Text(f"{len(frame):,} predictions in {file}"), soft_wrap=True)
    if as_json:
        print_json(frame.to_dicts())
    elif file is None:
        _print_predictions(frame)


def _print_predictions(frame: pl.DataFrame) -> None:
    for (head, relation, tail), part in _queries(frame):
        out.print(Text(f"{head}  {relation}  {tail}", style="bold"), soft_wrap=True)
        answers = part["tail"] if tail == "?" else part["head"]
        rows = [
            {"rank": rank, "entity": entity, "score": score, "known": known}
            for rank, entity, score, known in zip(part["rank"], answers, part["score"], part["known"], strict=True)
        ]
        print_rows(rows)


def _queries(frame: pl.DataFrame) -> Iterator[tuple[tuple[str, str, str], pl.DataFrame]]:
    starts = [i for i, rank in enumerate(frame["rank"]) if rank == 1]
    for start, end in zip(starts, [*starts[1:], len(frame)], strict=True):
        part = frame[start:end]
        head, relation, tail = part["head"][0], part["relation"][0], part["tail"][0]
        asks_tail = part["tail"].n_unique() > 1 or part["head"].n_unique() == 1
        yield ((head, relation, "?") if asks_tail else ("?", relation, tail)), part
