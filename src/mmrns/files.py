"""The one way to disk: a file is written under a temporary name and renamed, so that its name never holds half of it,
and a folder has one writer at a time.

Also what is read back as it was written: JSON, JSON lines, safetensors. Loads neither torch nor polars before they are
needed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmrns.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl
    from pydantic import BaseModel
    from torch import Tensor

FRAME_WRITERS = {".csv": "write_csv", ".parquet": "write_parquet", ".json": "write_json"}
"""The formats of `write_frame` by the ending of a file's name, and the methods of a frame that write them."""

LOCK = ".mmrns.lock"
"""The file in a folder by which its writer holds it. It is no content: it may stay behind, and holds nothing then."""

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(-[0-9a-f]+)?\.tmp|\.tmp[A-Za-z0-9]{6}", re.DOTALL)
"""Our temporary names; the second is the one that safetensors once gave beside ours."""

_FLUSHED_ONE_BY_ONE = 64
"""Of more files, such as pictures, each of which takes milliseconds, everything that waits for the disk is flushed."""

_BLOCK = 2**24
"""Bytes of a tensor that are read at a time where not all of it is to be in memory."""

_open: set[str] = set()
"""The temporary names that this process is writing to: another with its number may have left one behind."""

_held: dict[Path, int] = {}
"""The locks that this process holds, and the thread that does."""


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Number, size and time of the last change of a file: what differs once it is another one or was written to.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def locked(folder: Path, *inner: str) -> Generator[None]:
    """The only writer of a folder, for as long as the context lasts; the folder is made where it is missing.

    The lock is the operating system's and ends with its process, however that ends. What killed writers have left
    under temporary names, in the folder and in its folders `inner`, is removed. A thread may take a lock again that it
    holds. Folders that are made and stay empty are removed at the end.

    Args:
        folder: what to write to.
        inner: its folders that are written to as well.

    Raises:
        DataError: another process or thread holds it, or it cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        with _exclusive(folder / LOCK, folder):
            for place in (folder, *(folder / name for name in inner)):
                _sweep(place)
            yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty but for a lock."""
    return all(path.name == LOCK for path in folder.iterdir())


def _named(folder: Path) -> Path:
    """A folder by its name, which `.` and `..` have in its parent only.

    Raises:
        DataError: it has none, being the root of all.
    """
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
        if not folder.name:
            raise DataError(folder, "exists already", "choose another name or remove it")
    return folder


def _lock_beside(target: Path) -> Path:
    """The lock of a folder that is being made."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def _exclusive(lock: Path, folder: Path) -> Generator[None]:
    """Hold a lock file, which says who holds it.

    Raises:
        DataError: it is held; `folder` is named as the place.
    """
    # Imported when something is written only: it takes as long as all of the command line.
    from filelock import FileLock, Timeout

    place, me = Path(os.path.realpath(lock)), threading.get_ident()
    if _held.get(place) == me:
        yield
        return
    file = FileLock(lock, timeout=0)
    try:
        file.acquire()
    except Timeout:
        raise DataError(folder, f"is being written by {_holder(lock)}", "wait for it, or choose another") from None
    except OSError as error:
        raise unwritable(folder, error) from error
    _held[place] = me
    try:
        with suppress(OSError):
            since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
            lock.write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}), encoding="utf-8")
        yield
    finally:
        del _held[place]
        with suppress(OSError):
            # While it is held: who waits for this very file finds it gone and makes another.
            lock.unlink()
        file.release()


def _holder(lock: Path) -> str:
    """Who holds a lock, as far as is known."""
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
        where = "" if found["host"] == platform.node() else f" on {found['host']}"
        return f"process {found['pid']}{where} since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"


def _sweep(folder: Path, name: str | None = None) -> None:
    """Remove what dead writers have left under temporary names: of one name, or of all. Only for who holds the lock."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if not found or name not in (None, found["name"]) or path.name in _open or _lives(found["pid"]):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _lives(pid: str | None) -> bool:
    """Whether another process with that number may still be writing."""
    if pid is None or int(pid) == os.getpid():
        return False
    if os.name == "nt":
        return False  # There, a file that is open cannot be removed.
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


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
    """What `path` is called while it is written: as no other writer calls it, in this process or on another machine."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to. It takes the name of `path` at the end; a failure leaves nothing.

    What was written is on the disk before it takes the name.

    Raises:
        DataError: it cannot be written.
    """
    with _writing(path) as temporary:
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        except OSError as error:
            named = path if error.filename is None else Path(os.fsdecode(error.filename))
            if named not in (path, temporary):
                raise  # Of something else that is read meanwhile.
            raise unwritable(path, error) from error


@contextmanager
def _writing(path: Path) -> Generator[Path]:
    """A temporary name for `path`, under which nothing is left at the end."""
    temporary = _temporary(path)
    _open.add(temporary.name)
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _open.discard(temporary.name)


def _flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a folder has."""
    if path.is_dir() and os.name == "nt":
        return  # Folders cannot be opened there.
    # Windows flushes only what is open for writing, and others open folders for reading only.
    file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def _flush_all(folder: Path) -> None:
    """Have the disk hold a folder with all that is in it."""
    paths = [*(path for path in folder.rglob("*") if not path.is_symlink()), folder]
    if len(paths) > _FLUSHED_ONE_BY_ONE and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        _flush(path)


def unwritable(path: Path, error: Exception) -> DataError:
    """The error of a file or folder that cannot be written."""
    code = _system_error(error)
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room or choose another place" if full else "choose another place"
    reason = error if code is None else os.strerror(code)
    return DataError(path, f"cannot be written ({reason})", remedy)


def _system_error(error: Exception) -> int | None:
    """The number of a system's error, which libraries in Rust tell in their text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"os error (\d+)|Os { code: (\d+)", str(error))
    return int(told[1] or told[2]) if told else None


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


@contextmanager
def replacing(*paths: Path) -> Generator[list[IO[bytes]]]:
    """Files open for writing under temporary names, which take their own names once all of them are written.

    Raises:
        DataError: one cannot be written.
    """
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
        DataError: it exists and is not empty, another process is making it, or it cannot be made.
    """
    target = _named(target)
    lock = _lock_beside(target)
    if os.path.lexists(lock):
        with _exclusive(lock, target):
            pass
    if os.path.lexists(target) and not (target.is_dir() and _holds_nothing(target)):
        raise DataError(target, "exists already", "choose another name or remove it")
    reason = _unwritable(target, folder=True)
    if reason:
        raise DataError(target, f"cannot be made ({reason})", "choose another place")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such links.

    Who writes `source` by renaming leaves what has the second name as it is.

    Raises:
        DataError: it cannot be written.
    """
    with replaced(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A folder to fill under a temporary name beside its own, which it takes at the end; a failure leaves nothing.

    Raises:
        DataError: `target` exists and is not an empty folder, another process is making it, or it cannot be made or
            written.
    """
    refuse_taken(target)
    target = _named(target)
    make_folder(target.parent)
    with _exclusive(_lock_beside(target), target):
        refuse_taken(target)  # It may have been made since.
        _sweep(target.parent, target.name)
        with _writing(target) as temporary:
            try:
                temporary.mkdir()
                yield temporary
                _flush_all(temporary)
                if target.is_dir():
                    (target / LOCK).unlink(missing_ok=True)
                temporary.replace(target)
                _flush(target.parent)
            except OSError as error:
                named = target if error.filename is None else Path(os.fsdecode(error.filename))
                if named != target and not named.is_relative_to(temporary):
                    raise  # Of something else that is read meanwhile.
                raise unwritable(target, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, as UTF-8."""
    with replacing(path) as (file,):
        file.write(text.encode())


def write_changed(path: Path, text: str) -> bool:
    """Write a text file where it is not there with that text already.

    Returns:
        Whether it was written.
    """
    try:
        if path.read_bytes() == text.encode("utf-8"):
            return False
    except OSError:
        pass
    write_text(path, text)
    return True


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


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV, Parquet or JSON, by the ending of the name.

    Raises:
        DataError: it cannot be written.
    """
    from polars.exceptions import PolarsError

    with replaced(path) as temporary:
        try:
            getattr(frame, FRAME_WRITERS[path.suffix])(temporary)
        except PolarsError as error:
            if _system_error(error) is None:
                raise
            raise unwritable(path, error) from error


def spreadsheet_safe(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose texts no spreadsheet takes for formulas: an apostrophe is put before what begins like one.

    What begins so is `=`, `+`, `-`, `@`, a tab or a carriage return.
    """
    import polars as pl
    from polars import selectors

    texts = selectors.string()
    formula = texts.str.contains(r"^[=+\-@\t\r]")
    return frame.with_columns(pl.when(~formula).then(texts).otherwise("'" + texts))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        DataError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    written = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # In a folder of its own: safetensors makes a file beside the one that it is asked for.
    with replaced(path) as temporary, _writing(path) as folder:
        folder.mkdir()
        temporary.touch()
        file = folder / path.name
        try:
            # None where there is none: with an empty mapping and no tensor it writes a file that it cannot read.
            save_file(written, file, dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise unwritable(path, error) from error
        # Only its owner can read it; files of ours follow the umask.
        file.chmod(temporary.stat().st_mode)
        file.replace(temporary)


@contextmanager
def tensor_on_disk(beside: Path, rows: Iterable[Tensor]) -> Generator[Tensor]:
    """A tensor that is put together in a temporary file and never is in memory as a whole; at the end it is gone.

    Args:
        beside: the file that it is written for.
        rows: parts of it, in order; at least one.

    Raises:
        DataError: it cannot be written.
    """
    import torch

    count, shape, dtype = 0, (), torch.float32
    with _writing(beside.with_name(f"{beside.name}.rows")) as temporary:
        try:
            with temporary.open("wb") as file:
                for part in rows:
                    file.write(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                    count, shape, dtype = count + len(part), part.shape[1:], part.dtype
        except OSError as error:
            raise unwritable(beside, error) from error
        values = torch.from_file(str(temporary), shared=True, size=count * math.prod(shape), dtype=dtype)
        yield values.view(count, *shape)


class StoredTensors(Mapping[str, "Tensor"]):
    """The tensors of a safetensors file, on the CPU; each is read when it is asked for, and may be read in blocks.

    Args:
        path: the file.

    Raises:
        DataError: missing or not readable.

    Attributes:
        metadata: of the file.
    """

    def __init__(self, path: Path):
        from safetensors import safe_open

        self.path = path
        with self._told():
            # As numpy has them blocks are copies, and as torch has them the file takes as much memory as it is long to
            # who counts what could be written to; but numpy lacks some types.
            self._file = safe_open(path, framework="np")
            self._names: list[str] = list(self._file.keys())
            kinds = {self._file.get_slice(name).get_dtype() for name in self._names}
            if any(kind.startswith(("BF", "F8", "F4", "E")) for kind in kinds):
                self._file = safe_open(path, framework="pt")
            self.metadata: dict[str, str] = self._file.metadata() or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with self._told():
            return _own_tensor(self._file.get_tensor(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._file.get_slice(name).get_shape())

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The rows of a tensor in order, as many at a time as take some megabytes; what has no rows as it is."""
        shape = self.shape(name)
        if 0 in (len(shape), math.prod(shape)):
            yield self[name]
            return
        # No number takes more bytes.
        size, held = max(1, _BLOCK // (8 * math.prod(shape[1:]))), self._file.get_slice(name)
        for first in range(0, shape[0], size):
            with self._told():
                found = _own_tensor(held[first : min(first + size, shape[0])])
            yield found

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Some rows of a tensor, in any order; of what is between them a block at a time is in memory.

        Args:
            name: of the tensor.
            ids: Int[n], the rows.

        Raises:
            DataError: it has fewer rows.
        """
        import torch

        order = torch.argsort(ids)
        ascending, first, found = ids[order], 0, None
        for block in self.blocks(name):
            found = block.new_empty(len(ids), *block.shape[1:]) if found is None else found
            begin, end = torch.searchsorted(ascending, torch.tensor([first, first + len(block)])).tolist()
            found[order[begin:end]] = block[ascending[begin:end] - first]
            first += len(block)
        if found is None or (len(ids) and int(ascending[-1]) >= first):
            raise DataError(self.path, f"has but {first:,} rows of {name!r}", "restore the file, or train again")
        return found

    @contextmanager
    def _told(self) -> Generator[None]:
        """What the library says of a file is told as of any other file."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, OSError) as error:
            raise DataError(self.path, f"is not a readable safetensors file ({error})", "train again") from error


def _own_tensor(values: Any) -> Tensor:
    """An array of numpy as a tensor, or a tensor that is mapped from a file as one that is in memory."""
    import torch

    return values.clone() if isinstance(values, torch.Tensor) else torch.from_numpy(values)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (on the CPU) and the metadata of a safetensors file.

    Raises:
        DataError: missing or not readable.
    """
    stored = StoredTensors(path)
    return dict(stored), stored.metadata


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spot_sha256_of(path: Path) -> str:
    """The SHA-256 digest of 64 blocks of 64 KiB, evenly spaced over a file from its first to its last byte.

    It tells another file of the same size, such as features encoded anew, in the time that 4 MiB take.
    """
    block, spots = 2**16, 64
    digest = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, os.fstat(file.fileno()).st_size - block)
        for i in range(spots):
            file.seek(last * i // (spots - 1))
            digest.update(file.read(block))
    return digest.hexdigest()
