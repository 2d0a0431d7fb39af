"""What tokens were made of, in words or parts of pictures: `features/NAME.tokens.jsonl` beside a feature file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.tables import read_lines
from mmrns.errors import DataError

Box = tuple[float, float, float, float]
"""A part of a picture: its left, upper, right and lower edge, as shares of the picture's width and height."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Patches:
    """The cells of a grid over a picture, in reading order: a token each, so that they stand for rows x columns tokens.

    Attributes:
        picture: its path within the dataset folder; None where it lies elsewhere.
        rows, columns: of the grid.
        box: the part of the upright picture that the grid covers, since some models look at the middle alone; None
            where that is not known.
    """

    picture: str | None
    rows: int
    columns: int
    box: Box | None = WHOLE

    @property
    def tokens(self) -> int:
        """How many tokens the cells are."""
        return self.rows * self.columns


Origin = str | Patches
"""What one token was made of, in words; or what rows x columns tokens were."""


def origins_path(features: Path) -> Path:
    """The file of what the tokens of a feature file were made of.

    >>> origins_path(Path("features/text.safetensors")).as_posix()
    'features/text.tokens.jsonl'
    """
    return features.with_suffix(".tokens.jsonl")


def origins_line(origins: Sequence[Origin]) -> str:
    """The line of a row: a JSON list with what its present tokens were made of, in their order.

    >>> origins_line(["Kenya", Patches("images/ke.png", 4, 6)])
    '["Kenya", {"picture": "images/ke.png", "rows": 4, "columns": 6, "box": [0.0, 0.0, 1.0, 1.0]}]'
    """
    found: list[Any] = []
    for one in origins:
        if isinstance(one, str):
            found.append(one)
        else:
            box = None if one.box is None else [round(edge, 6) for edge in one.box]
            found.append({"picture": one.picture, "rows": one.rows, "columns": one.columns, "box": box})
    return json.dumps(found, ensure_ascii=False)


def read_origins(path: Path, rows: int) -> pl.Series | None:
    """The lines of a file of origins, to be parsed one by one; None where there is no such file.

    Raises:
        DataError: it has not a line for each row of the feature file.
    """
    if not path.exists():
        return None
    lines = read_lines(path)
    if len(lines) != rows:
        message = f"{len(lines):,} lines where the feature file has {rows:,} rows"
        raise DataError(path, message, "encode again, or remove it", min(len(lines), rows) + 1)
    return lines


def parse_origins(path: Path, lines: pl.Series, row: int, present: int) -> list[Origin]:
    """What the tokens of a row were made of; nothing where that is not what its present tokens are.

    Args:
        path: the file, for messages.
        lines: from `read_origins`.
        row: which line, from 0.
        present: how many tokens the row has.

    Raises:
        DataError: the line is malformed.
    """
    try:
        read: Any = json.loads(lines[row])
        origins = [one if isinstance(one, str) else _patches(one) for one in read]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        wanted = "a list of texts and of grids over pictures is expected"
        raise DataError(path, f"{wanted} ({error})", "encode again, or remove it", row + 1) from error
    tokens = sum(1 if isinstance(one, str) else one.tokens for one in origins)
    return origins if tokens == present else []


def _patches(read: Any) -> Patches:
    picture, rows, columns, box = (read[key] for key in ("picture", "rows", "columns", "box"))
    if not (isinstance(picture, str | None) and type(rows) is type(columns) is int and min(rows, columns) > 0):
        raise ValueError("no picture with rows and columns")
    if box is not None:
        left, upper, right, lower = map(float, box)
        if not (left <= right and upper <= lower):
            raise ValueError("no box")
        box = (left, upper, right, lower)
    return Patches(picture, rows, columns, box)
