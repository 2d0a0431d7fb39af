"""A folder has one writer at a time, who holds a lock of the operating system."""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mmrns.errors import DataError
from mmrns.files.replacing import TEMPORARY, being_written, make_folder, unwritable

LOCK = ".mmrns.lock"
"""The file in a folder by which its writer holds it. It is no content: it may stay behind, and holds nothing then."""

_held: dict[Path, int] = {}
"""The locks that this process holds, and the thread that does."""


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
        with exclusive(folder / LOCK, folder):
            for place in (folder, *(folder / name for name in inner)):
                sweep(place)
            yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def exclusive(lock: Path, folder: Path) -> Generator[None]:
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


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what dead writers have left under temporary names: of one name, or of all. Only for who holds the lock."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if not found or name not in (None, found["name"]) or path.name in being_written or _lives(found["pid"]):
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
