"""Choices and options that commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


class Side(StrEnum):
    """Which side of a triple to replace."""

    head = "head"
    tail = "tail"


class By(StrEnum):
    """How to break metrics down."""

    relation = "relation"
    category = "category"
    side = "side"
    unseen = "unseen"


class Known(StrEnum):
    """What to do with triples that the dataset holds already."""

    flag = "flag"
    drop = "drop"
    keep = "keep"


RunArgument = Annotated[Path, typer.Argument(help="Run folder, or hf://OWNER/NAME of the Hugging Face Hub.")]

CandidatesOption = Annotated[
    str | None,
    typer.Option(
        "--candidates",
        metavar="train|FILE",
        help="Only entities that fill that side of the relation in train, or in a file: relation TAB side TAB entity.",
    ),
]

TableOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write .csv, .parquet or .json.")]

RunDatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME|DIR", help="Where the run's dataset is now [default: where it was]."),
]
RunDeviceOption = Annotated[
    Device | None, typer.Option("--device", help="Where to compute [default: as trained, if that is there].")
]
