"""What a comparison has recorded: one file of JSON lines, one object for each finished training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from mmrns.errors import DataError
from mmrns.files import JsonLines, misfit
from mmrns.runs.record import Kept

FILE = "records.jsonl"
"""Name of the file in the folder of a comparison."""


class _Metrics(Kept):
    mrr: FiniteFloat
    hits_at_1: FiniteFloat = Field(alias="hits@1")
    hits_at_3: FiniteFloat = Field(alias="hits@3")
    hits_at_10: FiniteFloat = Field(alias="hits@10")


class _Policies(Kept):
    realistic: _Metrics


_NONE = _Policies(realistic=_Metrics.model_validate(dict.fromkeys(("mrr", "hits@1", "hits@3", "hits@10"), 0.0)))
"""Stands in for metrics that may be left out, but not be null."""

_Point = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]


class _Training(Kept):
    """What each record holds."""

    name: str
    label: str
    scorer: str
    sampler: str
    settings: dict[str, Any]
    seed: int


class _Failed(_Training):
    """What the record of a training that failed holds: the reason, and no metric."""

    valid_mrr: None
    failed: str


class _Pruned(_Training):
    """What the record of a trial that was ended early holds: after how many steps, and its validations until there."""

    valid_mrr: FiniteFloat
    pruned: int
    curve: list[_Point]


class _Record(_Training):
    """What the record of another holds; where test was not read, the metrics of validation instead."""

    valid_mrr: FiniteFloat
    selected_step: int
    seconds: dict[str, FiniteFloat]
    commit: str | None
    test: _Policies = _NONE
    valid: _Policies = _NONE
    baseline: _Policies | None = None
    curve: list[_Point] = Field(default_factory=list[_Point])


class Records:
    """The records of a comparison by name, such as `mmrns-trial-0` or `mmrns-seed-2`.

    A record is appended as one line once its training is done, so that whoever is killed loses at most what was being
    trained. A last line that was cut off is dropped.

    Args:
        folder: of the comparison.
        note: told of a line that is dropped.

    Raises:
        DataError: another line is no record.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda line: None):
        self.path = folder / FILE
        whole, rest = _parts(self.path)
        self._records = _by_name(self.path, whole)
        if rest:
            note(f"{self.path}: the last line was cut off and is dropped; its training is repeated.")
        self._lines = JsonLines(self.path, len(whole))

    def get(self, name: str) -> dict[str, Any] | None:
        """The record of a name; None where there is none yet."""
        return self._records.get(name)

    def add(self, record: Mapping[str, Any]) -> None:
        """Record a finished training."""
        self._lines.write(record)
        self._records[record["name"]] = dict(record)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a comparison in the order in which they came, without changing the file.

    Raises:
        DataError: a line other than a cut off last one is no record.
    """
    path = folder / FILE
    return [*_by_name(path, _parts(path)[0]).values()]


def _parts(path: Path) -> tuple[bytes, bytes]:
    """What was written to the end, and what is left of a line that was not: every line ends in a line break."""
    try:
        content = path.read_bytes() if os.path.lexists(path) else b""
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", "restore it, or choose another") from error
    whole, end, rest = content.rpartition(b"\n")
    return whole + end, rest


def _by_name(path: Path, whole: bytes) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(whole.removesuffix(b"\n").split(b"\n") if whole else [], 1):
        try:
            record = json.loads(line)
            kinds = {"failed": _Failed, "pruned": _Pruned}
            kind = next((kinds[key] for key in kinds if isinstance(record, dict) and key in record), _Record)
            reason = misfit(record, kind)
        except (ValueError, RecursionError) as error:
            record, reason = {}, str(error)
        if reason is not None:
            remedy = "remove the line to train it again"
            raise DataError(path, f"is no record of a training ({reason})", remedy, number)
        found[record["name"]] = record
    return found
