"""`mmrns push`: a run for others, on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunArgument, RunDatasetOption
from mmrns.cli.show import say
from mmrns.files import refuse_taken


@app.command(
    epilog="Example: mmrns push runs/countries-TransE-mmrns-s0 someone/countries-transe --dry-run to-be-pushed"
)
def push(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; it is made where there is none.")],
    private: Annotated[
        bool, typer.Option("--private", help="A repository that is made is seen by its owner only.")
    ] = False,
    features: Annotated[
        bool, typer.Option("--features", help="With the features that the model or its sampler reads.")
    ] = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what would be sent to a new folder, and send nothing.")
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a run of mmrns",
    dataset: RunDatasetOption = None,
) -> None:
    """Send a run with a model card to the Hugging Face Hub, where hf://OWNER/NAME finds it."""
    from mmrns.runs.card import without_features
    from mmrns.runs.exports import features_read
    from mmrns.runs.hub import check_name
    from mmrns.runs.run import load_run

    check_name(name)
    if dry_run is not None:
        refuse_taken(dry_run)
    opened = load_run(run, dataset=dataset)
    reads = [] if features else features_read(opened.config, opened.dataset)
    if dry_run is not None:
        opened.export_repository(dry_run, name, features=features)
        say(f"what would be sent is in {dry_run}")
    else:
        url = opened.push(name, private=private, features=features, message=message)
        say(f"pushed to {url}; mmrns.load_run('hf://{name}') opens it")
    if reads:
        missing = without_features(reads, opened.model.entity.reads)
        say(f"{missing[0].lower()}{missing[1:]}; --features sends them")
