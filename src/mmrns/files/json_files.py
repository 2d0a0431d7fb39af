"""JSON and JSON lines, held against what they should be where they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrns.errors import DataError
from mmrns.files.replacing import unwritable, write_text

if TYPE_CHECKING:
    from pydantic import BaseModel


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, as `json_text` gives it."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What a JSON file holds; values that JSON lacks (NaN) are refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(
    path: Path, shape: type[BaseModel] | None = None, remedy: str = "finish the run with --resume, or train again"
) -> Any:
    """Read a JSON file of a run, and hold it against what it should be.

    Args:
        path: the file.
        shape: what it should be.
        remedy: what to do where it is not.

    Raises:
        DataError: missing or malformed, or of another shape.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy) from error
    reason = misfit(value, shape)
    if reason is not None:
        raise DataError(path, f"is not what a run writes there ({reason})", remedy)
    return value


def misfit(value: Any, shape: type[BaseModel] | None) -> str | None:
    """In which respect a value that was read is not what a schema says; None where it is."""
    from pydantic import ValidationError

    try:
        if shape is not None:
            shape.model_validate(value)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            return "it is nested too deep"
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg'].lower()}"
    return None


class JsonLines:
    """A file of one JSON object a line, which grows.

    Args:
        path: the file; made where it is missing.
        length: bytes of it to keep; what lies beyond was written after the checkpoint and will be written again.
        sha256: of the bytes to keep; None = whatever they are.

    Raises:
        DataError: it is shorter, or what is to be kept has another digest; it cannot be written.
    """

    def __init__(self, path: Path, length: int = 0, sha256: str | None = None):
        self.path = path
        try:
            with path.open("ab+") as file:
                file.seek(0)
                kept = file.read(length)
                self._digest, self.length = hashlib.sha256(kept), len(kept)
                if self.length < length or sha256 not in (None, self.sha256):
                    message = f"does not begin with the {length:,} bytes that were there at the checkpoint"
                    raise DataError(path, message, "restore it, or remove it to go on without the rows so far")
                file.truncate(length)
        except OSError as error:
            raise unwritable(path, error) from error

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, which is `length` bytes."""
        return self._digest.hexdigest()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            DataError: it cannot be written.
        """
        line = f"{json.dumps(dict(row), allow_nan=False)}\n".encode()
        try:
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._digest.update(line)
        self.length += len(line)


def read_json_lines(path: Path, shape: type[BaseModel] | None = None) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, held against what they should be; none where there is no file.

    Raises:
        DataError: unreadable, or a line that is no object or of another shape.
    """
    try:
        # Line feeds alone end lines: JSON may hold other line ends.
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", "restore it, or train again") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines if lines != [b""] else [], 1):
        try:
            row: Any = json.loads(line)
            reason = misfit(row, shape) if isinstance(row, dict) else "no JSON object"
        except (ValueError, RecursionError):
            row, reason = None, "no JSON"
        if reason is not None:
            raise DataError(path, f"is not what a run writes there ({reason})", "delete the line", number)
        rows.append(row)
    return rows
