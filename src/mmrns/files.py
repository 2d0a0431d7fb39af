"""The one way to disk: a file is written under a temporary name and renamed, so that its name never holds half of it.

Also what is read back as it was written: JSON, JSON lines, safetensors. Loads neither torch nor polars before they are
needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmrns.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

FRAME_WRITERS = {".csv": "write_csv", ".parquet": "write_parquet", ".json": "write_json"}
"""The formats of `write_frame` by the ending of a file's name, and the methods of a frame that write them."""


def refuse_unwritable(path: Path, *, folder: bool = False, option: str = "--out") -> None:
    """Find out before long work whether its result can be written.

    Args:
        path: a file, which may be there already, in a folder that is; or a folder, whose parents may be missing.
        folder: which of the two.
        option: how the user gave it.

    Raises:
        UsageError: it cannot.
    """
    reason = _unwritable(path, folder)
    if reason:
        raise UsageError(f"{option} {path}: {reason}; choose another place")


def _unwritable(path: Path, folder: bool) -> str | None:
    """Why nothing can be written there; None where it probably can."""
    above, missing = path, list[Path]()
    try:
        while not os.path.lexists(above):
            # Says what `lexists` keeps to itself: a file among the parents, a name too long, a folder that is closed.
            with suppress(FileNotFoundError):
                above.lstat()
            missing.append(above)
            above = above.parent
        # A name that is too long is said only of a folder that is there. A file has a longer one while it is written.
        names = [part.name for part in missing]
        if not folder and path.name not in ("", ".."):
            names.append(_temporary(path).name)
        for name in names:
            with suppress(FileNotFoundError):
                (above if above.is_dir() else above.parent).joinpath(name).lstat()
    except NotADirectoryError:
        return f"{str(next(part for part in path.parents if os.path.lexists(part)))!r} is a file"
    except (OSError, ValueError) as error:
        return f"cannot be written ({getattr(error, 'strerror', None) or error})"
    if not folder and len(missing) > 1:
        return f"no folder {str(path.parent)!r}"
    if not missing and folder and not path.is_dir():
        return "is a file" if path.exists() else "is a link to nothing"
    if not folder and path.is_dir():
        return "is a folder"
    into = above if missing or folder else above.parent
    return None if os.access(into, os.W_OK | os.X_OK) else f"{str(into)!r} may not be written to"


def _temporary(path: Path) -> Path:
    """What `path` is called while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to. It takes the name of `path` at the end; a failure leaves nothing."""
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(*paths: Path) -> Generator[list[IO[bytes]]]:
    """Files open for writing under temporary names, which take their own names once all of them are written."""
    with ExitStack() as stack:
        temporary = [stack.enter_context(replaced(path)) for path in paths]
        files: list[IO[bytes]] = []
        try:
            for path in temporary:
                files.append(path.open("wb"))
            yield files
            for file in files:
                file.close()
        finally:
            for file in files:
                # Closing writes what is buffered, and on a full disk fails as the write before it has.
                with suppress(OSError):
                    file.close()


def refuse_taken(target: Path) -> None:
    """Find out before long work whether `new_folder` can make a folder.

    Raises:
        DataError: it exists and is not empty, or cannot be made.
    """
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(target, "exists already", "choose another name or remove it")
    reason = _unwritable(target, folder=True)
    if reason:
        raise DataError(target, f"cannot be made ({reason})", "choose another place")


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A folder to fill under a temporary name beside its own, which it takes at the end; a failure leaves nothing.

    Raises:
        DataError: `target` exists and is not an empty folder, or cannot be made or written.
    """
    refuse_taken(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        temporary.mkdir()
    except OSError as error:
        raise DataError(target, f"cannot be made ({error.strerror or error})", "choose another place") from error
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise DataError(target, reason, "make room or choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, as UTF-8."""
    with replacing(path) as (file,):
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; values that JSON lacks (NaN) are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        DataError: missing or malformed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", "finish the run with --resume, or train again") from error


class JsonLines:
    """A file of one JSON object a line, which grows.

    Args:
        path: the file; made where it is missing.
        length: bytes of it to keep; what lies beyond was written after the checkpoint and will be written again.
    """

    def __init__(self, path: Path, length: int = 0):
        self.path = path
        path.touch()
        os.truncate(path, min(length, path.stat().st_size))

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row), allow_nan=False) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV, Parquet or JSON, by the ending of the name."""
    with replaced(path) as temporary:
        getattr(frame, FRAME_WRITERS[path.suffix])(temporary)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    written = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replaced(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        # None where there is none: with an empty mapping and no tensor safetensors writes a file that it cannot read.
        save_file(written, temporary, dict(metadata) if metadata else None)
        # safetensors makes a file of its own that only its owner can read; files of ours follow the umask.
        temporary.chmod(mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (on the CPU) and the metadata of a safetensors file.

    Raises:
        DataError: missing or not readable.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(path, f"is not a readable safetensors file ({error})", "train again") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
