"""The calibration of a run as it is kept: `calibration.json`, numbers and names alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError
from mmrns.evaluation.calibration import Calibration, Curve
from mmrns.files import read_json, write_json
from mmrns.runs.digests import model_digest
from mmrns.runs.record import Kept

CALIBRATION = "calibration.json"
"""The file in a run folder."""
REMEDY = "calibrate anew: mmrns calibrate RUN"
"""What to do about a calibration that is not fit."""


class First(Kept):
    """Of the first answers: their mean probability, and the share that is true."""

    probability: FiniteFloat
    true: FiniteFloat


class Bin(Kept):
    """Answers by their probability."""

    start: FiniteFloat = Field(alias="from")
    end: FiniteFloat = Field(alias="to")
    count: NonNegativeInt
    probability: FiniteFloat | None
    true: FiniteFloat | None


class Measured(Kept):
    """See `measured`."""

    ece: FiniteFloat
    brier: FiniteFloat
    answers: PositiveInt
    first: First
    bins: list[Bin]


class KeptCurve(Kept):
    """The temperature and the curve of a relation, or under None of all together."""

    relation: str | None
    temperature: FiniteFloat = Field(gt=0)
    log_share: list[FiniteFloat] = Field(default_factory=list[float])
    probability: list[FiniteFloat] = Field(default_factory=list[float])
    slope: FiniteFloat = 0.0
    intercept: FiniteFloat = 0.0


class CalibrationFile(Kept):
    """`calibration.json`."""

    method: Literal["isotonic", "platt"]
    model_sha256: str | None
    queries: PositiveInt
    true: PositiveInt
    before: Measured
    after: Measured
    curves: list[KeptCurve]


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and what is told of it.

    Attributes:
        calibration: what makes probabilities.
        about: plain values: `split` and how many `queries` and `true` answers it was made of; `relations`, how many
            have a curve of their own; `method`; and how good probabilities are `before` and `after`, see `measured`:
            after a calibration that did not see the queries in question.
    """

    calibration: Calibration
    about: dict[str, Any]

    def write(self, folder: Path, relations: Vocabulary) -> None:
        """Write `calibration.json` to a run folder."""
        values = {**self.about, "model_sha256": model_digest(folder), "curves": curves(self.calibration, relations)}
        write_json(folder / CALIBRATION, values)

    @classmethod
    def read(cls, folder: Path, relations: Vocabulary) -> Calibrated | None:
        """The calibration of a run folder; None where there is none.

        Raises:
            DataError: it is malformed, or was made of another model.
        """
        path = folder / CALIBRATION
        if not path.exists():
            return None
        found = read_json(path, CalibrationFile, REMEDY)
        own, its = model_digest(folder), found["model_sha256"]
        if None not in (own, its) and own != its:
            raise DataError(path, "is of another model than the run's, by its SHA-256", REMEDY)
        about = {key: value for key, value in found.items() if key not in ("curves", "model_sha256")}
        return cls(_calibration(path, found, relations), about)


def curves(calibration: Calibration, relations: Vocabulary) -> list[dict[str, Any]]:
    """The temperatures and curves of a calibration with the names of their relations; None is all together."""
    own = (calibration.group > 0).nonzero().flatten().tolist()
    names: dict[int, str] = {int(calibration.group[place]): relations[place] for place in own}
    rows: list[dict[str, Any]] = []
    for g, (temperature, curve) in enumerate(zip(calibration.temperature.tolist(), calibration.curves, strict=True)):
        row: dict[str, Any] = {"relation": names.get(g), "temperature": temperature}
        if calibration.method == "platt":
            rows.append(row | {"slope": curve.x[0], "intercept": curve.y[0]})
        else:
            rows.append(row | {"log_share": list(curve.x), "probability": list(curve.y)})
    return rows


def _calibration(path: Path, found: Mapping[str, Any], relations: Vocabulary) -> Calibration:
    rows: list[dict[str, Any]] = found["curves"]
    if not rows or rows[0]["relation"] is not None:
        raise DataError(path, "has no curve of all relations together, which comes first", REMEDY)
    for row in rows if found["method"] == "isotonic" else []:
        x, y = row.get("log_share", []), row.get("probability", [])
        if not x or len(x) != len(y) or x != sorted(x) or y != sorted(y) or not 0 <= y[0] <= y[-1] <= 1:
            who = "all relations together" if row["relation"] is None else repr(row["relation"])
            raise DataError(path, f"the curve of {who} is no probability that never falls", REMEDY)
    group = torch.zeros(len(relations), dtype=torch.int64)
    # A relation that the dataset no longer has needs no curve.
    places = relations.find(pl.Series([row["relation"] for row in rows[1:]], dtype=pl.String))
    numbers = torch.arange(1, len(rows))
    group[places[places >= 0]] = numbers[places >= 0]
    pairs = [
        (row["log_share"], row["probability"])
        if found["method"] == "isotonic"
        else ([row["slope"]], [row["intercept"]])
        for row in rows
    ]
    temperature = torch.tensor([row["temperature"] for row in rows], dtype=torch.float64)
    return Calibration(found["method"], group, temperature, tuple(Curve(tuple(x), tuple(y)) for x, y in pairs))
