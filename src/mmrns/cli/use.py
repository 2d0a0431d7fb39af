"""`mmrns evaluate` and `mmrns predict`: a finished run in use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.calibrate import measured
from mmrns.cli.options import (
    By,
    CandidatesOption,
    Device,
    Known,
    RunArgument,
    RunDatasetOption,
    RunDeviceOption,
    Split,
    TableOption,
)
from mmrns.cli.show import (
    Text,
    bar,
    called,
    out,
    print_json,
    print_metrics,
    print_rows,
    processes,
    refuse_table,
    say,
    with_intervals,
    without_empty,
    write_rows,
    write_table,
)
from mmrns.errors import UsageError
from mmrns.files import spreadsheet_safe
from mmrns.launch import launched

if TYPE_CHECKING:
    import polars as pl

    from mmrns.runs.run import Run
    from mmrns.training.world import World


@app.command(epilog="Example: mmrns evaluate runs/countries-TransE-mmrns-s0 --by relation")
def evaluate(
    run: RunArgument,
    split: Annotated[Split, typer.Option(help="Which split to rank.")] = Split.test,
    by: Annotated[By | None, typer.Option(help="Break the metrics down.")] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="SAMPLES", help="95% confidence intervals from this many samples; 0 = none.")
    ] = 0,
    candidates: CandidatesOption = None,
    negatives: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Classify instead: false triples, head TAB relation TAB tail, against the true ones of the split; or "
            "with a fourth column, 1 for true and -1 or 0 for false.",
        ),
    ] = None,
    valid_negatives: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The same for validation, where thresholds come from [default: made]."),
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Instead: how good the probabilities of a calibrated run are.")
    ] = False,
    file: TableOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Rank a split with a run's model and print the metrics; or classify triples, or judge probabilities."""
    ranks_only = {"--bootstrap": bootstrap, "--candidates": candidates, "--by": by}
    if negatives is not None and by is By.relation:
        ranks_only.pop("--by")
    other = "--negatives" if negatives is not None else "--calibration" if calibration else None
    if clashing := [name for name, value in ranks_only.items() if value and other]:
        raise UsageError(f"{clashing[0]} is of ranks, not of {other}; leave one of them out")
    if negatives is not None and calibration:
        raise UsageError("--calibration and --negatives are two things to measure; leave one of them out")
    if valid_negatives is not None and negatives is None:
        raise UsageError("--valid-negatives are what thresholds come from: give --negatives FILE to classify")
    if file is not None and negatives is None and by is None:
        raise UsageError("--out is of a table: give --by, or --negatives")
    refuse_table(file)
    with processes() as world:
        opened = _opened(run, dataset, device, world)
        if calibration:
            judged = opened.calibration(split.value)
            if world.first and as_json:
                print_json(judged)
            elif world.first:
                print_rows([measured(split.value, judged)])
            return
        if negatives is not None:
            classified = opened.classify(negatives, valid_negatives=valid_negatives, split=split.value)
            if world.first:
                _print_classified(classified, by, file, as_json)
            return
        graph = opened.dataset.graph
        with bar("ranking", 2 * len(graph.test if split is Split.test else graph.valid)) as advance:
            ranks = opened.ranks(split.value, advance, candidates=candidates)
    if world.first:
        found = opened.report(ranks, by=None if by is None else by.value, candidates=candidates, bootstrap=bootstrap)
        _print_report(found, file, as_json)


def _opened(run: Path, dataset: str | None, device: Device | None, world: World) -> Run:
    from mmrns.runs.run import load_run

    return load_run(run, dataset=dataset, device=None if device is None else device.value, world=world)


def _print_report(found: dict[str, Any] | list[dict[str, Any]], file: Path | None, as_json: bool) -> None:
    if file is not None and not isinstance(found, dict):
        write_rows(found, file)
    if as_json:
        print_json(found)
    elif isinstance(found, dict):
        print_metrics(found)
    elif file is None:
        print_rows(with_intervals(without_empty(found, "name")))


def _print_classified(found: dict[str, Any], by: By | None, file: Path | None, as_json: bool) -> None:
    if file is not None:
        write_rows(found["relations"], file)
    if as_json:
        print_json(found)
        return
    if file is None and by is By.relation:
        print_rows(without_empty(found["relations"], "name"))
        return
    keys = "triples", "positives", "accuracy", "precision", "recall", "f1", "roc_auc", "average_precision"
    parts = (found["split"] or "labelled", found), ("thresholds from valid", found["valid"])
    print_rows([{"triples of": name, **{key: part[key] for key in keys}} for name, part in parts])
    own = sum(row["own"] for row in found["relations"])
    out.print(
        f"{own} of {len(found['relations'])} relations have a threshold of their own, from "
        + ("made negatives" if found["valid"]["made"] else "the negatives given")
    )


@app.command(epilog="Example: mmrns predict runs/countries-TransE-mmrns-s0 --head country/France --relation borders")
def predict(
    run: RunArgument,
    head: Annotated[str | None, typer.Option(help="Head entity; leave out what you ask for.")] = None,
    relation: Annotated[str | None, typer.Option(help="Relation.")] = None,
    tail: Annotated[str | None, typer.Option(help="Tail entity.")] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|-", help="Queries: rows head TAB relation TAB tail, ? or nothing for what is asked for."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers per query.")] = 10,
    known: Annotated[
        Known, typer.Option(help="Known triples: flag them, drop them, or keep them unmarked.")
    ] = Known.flag,
    candidates: CandidatesOption = None,
    new_entity: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Entities that the run was not trained with, by their text, pictures or numbers: JSON, or a folder of "
            "one; may be repeated.",
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=MODEL", help="What encodes them [default: what made the dataset's features, as recorded]."
        ),
    ] = None,
    file: TableOption = None,
    safe_csv: Annotated[
        bool, typer.Option("--safe-csv", help="In CSV, an apostrophe before names that a spreadsheet would compute.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Complete triples: the best entities, or relations, for the part that is left out."""
    if queries is not None and not (head is None and relation is None and tail is None):
        raise UsageError("give either --queries or --head, --relation and --tail")
    for option, name in (("--head", head), ("--relation", relation), ("--tail", tail)):
        if name is not None and not name.strip():
            raise UsageError(f"{option} is empty; leave it out to ask for it")
    if safe_csv and (file is None or file.suffix != ".csv"):
        raise UsageError("--safe-csv is of a table: give --out FILE.csv")
    if encoder and not new_entity:
        raise UsageError("--encoder is of new entities: give --new-entity FILE")
    refuse_table(file)
    if launched()[1] > 1 and str(queries) == "-":
        raise UsageError("--queries -: several processes cannot read one standard input; give a file")
    with processes() as world:
        opened = _opened(run, dataset, device, world)
        if new_entity:
            opened = _with_entities(opened, new_entity, encoder or [])
        asked = opened.queries([(head, relation, tail)] if queries is None else queries)
        frame = opened.answers(asked, top=top, known=known.value, candidates=candidates)
    if not world.first:
        return
    if file is not None:
        write_table(spreadsheet_safe(frame) if safe_csv else frame, file)
        say(f"{len(frame):,} predictions in {file}")
    if as_json:
        print_json(frame.to_dicts())
    elif file is None:
        _print_answers(opened.named(asked), frame)


def _with_entities(run: Run, paths: list[Path], encoders: list[str]) -> Run:
    """The run with the entities that some files describe."""
    from mmrns.prepare.encoders import encode_entities, read_described

    given = [entity for path in paths for entity in read_described(path)]
    named: dict[str, str] = {name: model for name, _, model in (one.partition("=") for one in encoders)}
    modalities = run.modalities
    for name, model in named.items():
        if name not in modalities or not model:
            read = ", ".join(modalities) or "none"
            raise UsageError(f"--encoder {name}: give MODALITY=MODEL, of a modality that the model reads ({read})")
    tokens = encode_entities(given, modalities, encoders=named, device=str(run.device))
    return run.with_entities(tokens, {one.id: one.name for one in given})


def _print_answers(queries: pl.DataFrame, frame: pl.DataFrame) -> None:
    parts = frame.partition_by("query", as_dict=True)
    for number, query in enumerate(queries.iter_rows(named=True), start=1):
        named = [(query[part], query[f"{part}_name"]) for part in ("head", "relation", "tail")]
        out.print(Text("  ".join(called(*names) for names in named), "bold"), soft_wrap=True)
        part = parts.get((number,), frame.clear())
        asked = next(part for part in ("head", "relation", "tail") if query[part] is None)
        names = part[f"{asked}_name"]
        shown = {
            "rank": part["rank"],
            "relation" if asked == "relation" else "entity": part[asked],
            # Names that say no more than the ids are not told.
            **({} if (names.is_null() | (names == part[asked])).all() else {"name": names}),
            "score": part["score"],
            **({"probability": part["probability"]} if "probability" in part.columns else {}),
            "known": part["known"],
            # Where all is as it should be there is nothing to tell.
            **({} if part["seen"].all() else {"seen": part["seen"]}),
        }
        print_rows([dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)])
