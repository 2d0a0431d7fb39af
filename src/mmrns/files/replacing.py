"""A file is written under a temporary name and renamed, so that its name never holds half of it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from mmrns.errors import DataError

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(-[0-9a-f]+)?\.tmp|\.tmp[A-Za-z0-9]{6}", re.DOTALL)
"""Our temporary names; the second is the one that safetensors once gave beside ours."""

_FLUSHED_ONE_BY_ONE = 64
"""Of more files, such as pictures, each of which takes milliseconds, everything that waits for the disk is flushed."""

being_written: set[str] = set()
"""The temporary names that this process is writing to: another with its number may have left one behind."""


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to. It takes the name of `path` at the end; a failure leaves nothing.

    What was written is on the disk before it takes the name.

    Raises:
        DataError: it cannot be written.
    """
    with under_temporary_name(path) as temporary:
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        except OSError as error:
            named = path if error.filename is None else Path(os.fsdecode(error.filename))
            if named not in (path, temporary):
                raise  # Of something else that is read meanwhile.
            raise unwritable(path, error) from error


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


def temporary_name(path: Path) -> Path:
    """What `path` is called while it is written: as no other writer calls it, in this process or on another machine."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def under_temporary_name(path: Path) -> Generator[Path]:
    """A temporary name for `path`, under which nothing is left at the end."""
    temporary = temporary_name(path)
    being_written.add(temporary.name)
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        being_written.discard(temporary.name)


def flush(path: Path) -> None:
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


def flush_all(folder: Path) -> None:
    """Have the disk hold a folder with all that is in it."""
    paths = [*(path for path in folder.rglob("*") if not path.is_symlink()), folder]
    if len(paths) > _FLUSHED_ONE_BY_ONE and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        flush(path)


def unwritable(path: Path, error: Exception) -> DataError:
    """The error of a file or folder that cannot be written."""
    code = system_error(error)
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room or choose another place" if full else "choose another place"
    reason = error if code is None else os.strerror(code)
    return DataError(path, f"cannot be written ({reason})", remedy)


def system_error(error: Exception) -> int | None:
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
