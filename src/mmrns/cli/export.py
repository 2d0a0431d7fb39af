"""`mmrns export` and `mmrns neighbours`: what a run has learned, for other programs and other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmrns.cli.app import app
from mmrns.cli.options import CandidatesOption, Known, RunArgument, RunDatasetOption, RunDeviceOption, Side, TableOption
from mmrns.cli.show import Text, bar, called, out, print_json, print_rows, refuse_table, say, without_empty, write_table
from mmrns.errors import UsageError
from mmrns.files import refuse_taken


@app.command(
    epilog="Example: mmrns export runs/countries-TransE-mmrns-s0 --entities vectors.parquet --bundle carried. "
    "The dataset itself goes to other programs by `mmrns data convert`."
)
def export(
    run: RunArgument,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder: the run with the data that it needs, for any machine."),
    ] = None,
    entities: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Vectors of entities with names: .parquet, .tsv (with FILE_metadata.tsv, for TensorBoard's projector) "
            "or .safetensors.",
        ),
    ] = None,
    relations: Annotated[Path | None, typer.Option(metavar="FILE", help="The same of relations.")] = None,
    view: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of several views of an entity write this one, e.g. structure.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answers in bulk: .parquet, or .nt (N-Triples, without scores)."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|-",
            help="What to answer, as of predict [default: every entity and relation that occur together].",
        ),
    ] = None,
    side: Annotated[Side, typer.Option(help="What those ask for.")] = Side.tail,
    top: Annotated[int, typer.Option(min=1, help="Answers per query.")] = 10,
    known: Annotated[
        Known, typer.Option(help="Known triples: leave them out (drop), flag them, or keep them unmarked.")
    ] = Known.drop,
    candidates: CandidatesOption = None,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Write a run's vectors, its predictions in bulk, or all of it to be carried elsewhere."""
    from mmrns.runs.exports import PREDICTIONS, VECTORS, suffix_of
    from mmrns.runs.run import load_run

    if bundle is None and entities is None and relations is None and predictions is None:
        raise UsageError("say what to export: --bundle, --entities, --relations or --predictions")
    if queries is not None and predictions is None:
        raise UsageError("--queries are answered in a file: give --predictions FILE")
    # Before long work.
    for path, known_suffixes in ((entities, VECTORS), (relations, VECTORS), (predictions, PREDICTIONS)):
        if path is not None:
            suffix_of(path, known_suffixes)
    if bundle is not None:
        refuse_taken(bundle)
    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    if bundle is not None:
        opened.export_bundle(bundle)
        say(f"bundle in {bundle}")
    if entities is not None:
        say("entities in " + ", ".join(map(str, opened.export_embeddings(entities, view=view))))
    if relations is not None:
        say("relations in " + ", ".join(map(str, opened.export_embeddings(relations, "relations"))))
    if predictions is not None:
        asked = opened.every_query(side.value) if queries is None else opened.queries(queries)
        with bar("answering", len(asked)) as advance:
            n = opened.export_predictions(
                predictions, asked, top=top, known=known.value, candidates=candidates, progress=advance
            )
        say(f"{n:,} predictions of {len(asked):,} queries in {predictions}")


@app.command(epilog="Example: mmrns neighbours runs/countries-TransE-mmrns-s0 France --by image")
def neighbours(
    run: RunArgument,
    entity: Annotated[str, typer.Argument(help="Entity: its id, or its name.")],
    by: Annotated[
        str, typer.Option(metavar="NAME", help="structure (the model's vectors), or a modality, e.g. text or image.")
    ] = "structure",
    top: Annotated[int, typer.Option(min=1, help="Entities to list.")] = 10,
    file: TableOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """List the entities most similar to one, by structure or by a modality."""
    from mmrns.runs.run import load_run

    refuse_table(file)
    opened = load_run(run, dataset=dataset, device=None if device is None else device.value)
    frame = opened.neighbours(entity, by=by, top=top)
    if file is not None:
        write_table(frame, file)
        say(f"{len(frame):,} neighbours in {file}")
    if as_json:
        print_json(frame.to_dicts())
    elif file is None:
        out.print(Text(f"most like {called(*opened.entity(entity))} by {by}", "bold"), soft_wrap=True)
        shown = frame.drop("similarity") if by in frame.columns else frame
        print_rows(without_empty(shown.to_dicts(), "name"))
