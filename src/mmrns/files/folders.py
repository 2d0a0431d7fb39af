"""Folders that are made whole or not at all, and what can be found out before long work."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmrns.errors import DataError, UsageError
from mmrns.files.locks import LOCK, exclusive, sweep
from mmrns.files.replacing import flush, flush_all, make_folder, temporary_name, under_temporary_name, unwritable


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
    with exclusive(_lock_beside(target), target):
        refuse_taken(target)  # It may have been made since.
        sweep(target.parent, target.name)
        with under_temporary_name(target) as temporary:
            try:
                temporary.mkdir()
                yield temporary
                flush_all(temporary)
                if target.is_dir():
                    (target / LOCK).unlink(missing_ok=True)
                temporary.replace(target)
                flush(target.parent)
            except OSError as error:
                named = target if error.filename is None else Path(os.fsdecode(error.filename))
                if named != target and not named.is_relative_to(temporary):
                    raise  # Of something else that is read meanwhile.
                raise unwritable(target, error) from error


def refuse_taken(target: Path) -> None:
    """Find out before long work whether `new_folder` can make a folder.

    Raises:
        DataError: it exists and is not empty, another process is making it, or it cannot be made.
    """
    target = _named(target)
    lock = _lock_beside(target)
    if os.path.lexists(lock):
        with exclusive(lock, target):
            pass
    if os.path.lexists(target) and not (target.is_dir() and _holds_nothing(target)):
        raise DataError(target, "exists already", "choose another name or remove it")
    reason = _unwritable(target, folder=True)
    if reason:
        raise DataError(target, f"cannot be made ({reason})", "choose another place")


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
            names.append(temporary_name(path).name)
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
