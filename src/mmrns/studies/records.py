"""What a comparison has recorded: one file of JSON lines, one object for each finished training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmrns.errors import DataError
from mmrns.files import JsonLines

FILE = "records.jsonl"
"""Name of the file in the folder of a comparison."""


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
    content = path.read_bytes() if path.exists() else b""
    whole, end, rest = content.rpartition(b"\n")
    return whole + end, rest


def _by_name(path: Path, whole: bytes) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            found[record["name"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(path, "is no record of a training", "remove the line to train it again", number) from error
    return found
