"""`mmrns data ...`: datasets."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from mmrns.cli.app import app
from mmrns.cli.show import out, print_json, print_rows

data_app = typer.Typer(help="List and describe datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


@data_app.command("list", epilog="Example: mmrns data list")
def data_list(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The datasets that a name finds: embedded ones and the folders under $MMRNS_DATA."""
    from mmrns.data.datasets import EMBEDDED, dataset_folders

    rows = [
        {"name": name, "where": "embedded" if name in EMBEDDED else str(folder)}
        for name, folder in dataset_folders().items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)


@data_app.command("describe", epilog="Example: mmrns data describe countries")
def data_describe(
    dataset: Annotated[str, typer.Argument(help="Dataset name or folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Counts, coverage of the modalities, and what to know before training."""
    from mmrns.data.datasets import describe, load_dataset

    found = describe(load_dataset(dataset))
    if as_json:
        print_json(found)
        return
    out.print(Text(f"{found['name']}  ({found['folder']})"), soft_wrap=True)
    out.print(f"{found['entities']:,} entities, {found['relations']:,} relations")
    print_rows([{"split": split, **row} for split, row in found["triples"].items()])
    if found["features"]:
        print_rows([{"modality": name, **row} for name, row in found["features"].items()])
    else:
        out.print("no features")
    for note in found["notes"]:
        out.print(Text(f"note: {note}"), soft_wrap=True)
