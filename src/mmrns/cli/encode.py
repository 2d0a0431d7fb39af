"""`mmrns encode`: texts, pictures and numbers become features."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.options import Device
from mmrns.cli.show import Text, bar, err, print_json, print_rows
from mmrns.errors import DataError, UsageError
from mmrns.files import refuse_unwritable

if TYPE_CHECKING:
    from mmrns.prepare.encoders import Encoded

_SHOWN = 3


@app.command(epilog="Example: mmrns encode my-graph --text sentence-transformers/all-MiniLM-L6-v2 --image classical")
def encode(
    dataset: Annotated[str, typer.Argument(metavar="DIR", help="Dataset folder, or its name under $MMRNS_DATA.")],
    text: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|NAME", help="sentence-transformers model, by name or folder, or an encoder of texts by name."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|NAME",
            help="Vision model of the Hugging Face Hub, by name or folder, or an encoder of pictures by name, such as "
            "classical (colours and edges, without a model).",
        ),
    ] = None,
    numbers: Annotated[Path | None, typer.Option(metavar="FILE", help="Rows entity, attribute, value.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rows entity, text [default: name and description of entities.tsv]; who has none is encoded by name.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Pictures by entity name [default: the column image of entities.tsv, or DIR/images]."
        ),
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, metavar="L", help="Sentences per entity, at most.")] = 4,
    image_tokens: Annotated[int, typer.Option(min=1, metavar="L", help="Tokens per entity with a picture.")] = 24,
    number_tokens: Annotated[int, typer.Option(min=1, metavar="L", help="Numbers per entity, at most.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences or pictures encoded at a time.")] = 32,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace feature files that were made by other means.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Encode texts, pictures and numbers of a dataset into its features.

    An interrupted encoding goes on where it stopped; a later one encodes what is new or changed. An encoder of your own
    goes by the name that it is registered under, or by package.module:Class.
    """
    if text is None and image is None and numbers is None:
        raise UsageError("nothing to encode: give --text MODEL, --image MODEL, --image classical or --numbers FILE")
    if texts is not None and text is None:
        raise UsageError("--texts needs the model to encode them with: --text MODEL")
    if pictures is not None and image is None:
        raise UsageError("--pictures needs the model to encode them with: --image MODEL, or --image classical")

    from mmrns.data.folders import EMBEDDED, find_dataset
    from mmrns.prepare.encoders import encode_numbers, encode_pictures, encode_texts
    from mmrns.runs.build import build_device

    folder = find_dataset(dataset)
    if folder.resolve() in {path.resolve() for path in EMBEDDED.values()}:
        raise UsageError(f"{dataset!r} is embedded in the package and has its features; copy its folder to change them")
    refuse_unwritable(folder / "features", folder=True, option="the features")
    place = str(build_device(device.value))
    heavy: dict[str, Any] = {"batch_size": batch_size, "device": place, "overwrite": overwrite}
    found: list[Encoded] = []
    try:
        if text is not None:
            heavy["progress"] = partial(bar, "texts")
            found.append(encode_texts(folder, text, file=texts, tokens=text_tokens, **heavy))
        if image is not None:
            heavy["progress"] = partial(bar, "pictures")
            found.append(encode_pictures(folder, image, pictures=pictures, tokens=image_tokens, **heavy))
        if numbers is not None:
            found.append(encode_numbers(folder, numbers, tokens=number_tokens, overwrite=overwrite))
    except KeyboardInterrupt:
        err.print("mmrns: interrupted; the same command goes on from here")
        sys.exit(130)
    except OSError as error:
        raise DataError(
            folder, f"cannot be written ({error.strerror or error})", "make room or choose another folder"
        ) from error
    if as_json:
        print_json([_plain(one) for one in found])
        return
    for one in found:
        _print_notes(one)
    columns = ("modality", "entities", "encoded now", "tokens", "width")
    rows = [(one.name, one.entities, one.new, *one.shape) for one in found]
    print_rows([dict(zip(columns, row, strict=True)) for row in rows])


def _plain(found: Encoded) -> dict[str, Any]:
    return {
        "modality": found.name,
        "file": str(found.path),
        "entities": found.entities,
        "of": found.of,
        "new": found.new,
        "tokens": found.shape[0],
        "width": found.shape[1],
        "skipped": [asdict(one) for one in found.skipped],
        "unmatched": list(found.unmatched),
        "others": list(found.others),
        "changed": list(found.changed),
        "by": dict(found.by),
    }


def _print_notes(found: Encoded) -> None:
    notes = [_coverage(found)]
    if found.changed:
        notes.append(f"all is encoded anew, since this differs from before: {', '.join(found.changed)}")
    if found.skipped:
        first = "; ".join(f"{one.input} ({one.reason})" for one in found.skipped[:_SHOWN])
        what = "picture cannot be read and is" if len(found.skipped) == 1 else "pictures cannot be read and are"
        notes.append(f"{len(found.skipped):,} {what} left out, first: {first}")
    if found.unmatched:
        first = ", ".join(repr(name) for name in found.unmatched[:_SHOWN])
        what = "input is" if len(found.unmatched) == 1 else "inputs are"
        notes.append(f"{len(found.unmatched):,} {what} of no entity of the graph, first: {first}")
    if found.others:
        first = ", ".join(repr(name) for name in found.others[:_SHOWN])
        what = "file is no picture" if len(found.others) == 1 else "files are no pictures"
        notes.append(f"{len(found.others):,} other {what}, first: {first}")
    for note in notes:
        err.print(Text(f"{found.name}: {note}."), soft_wrap=True)


def _coverage(found: Encoded) -> str:
    """How many entities have what is encoded, and what stands for it where there is none."""
    what = {"text": "a description", "image": "a picture", "numeric": "a number"}[found.name]
    have = found.by.get("description", found.entities)
    said = f"{have:,} of {found.of:,} entities have {what}"
    named, by_id = found.by.get("name", 0), found.by.get("id", 0)
    if named:
        said += f", {named:,} are encoded by their name"
    if by_id:
        said += f", {by_id:,} by their id alone" if named else f", {by_id:,} are encoded by their id alone"
    return said
