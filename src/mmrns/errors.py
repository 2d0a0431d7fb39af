"""What the user is told when something is not fit: one line that names the place and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class MmrnsError(Exception):
    """Base of every error that a user can mend: one line, whatever the names and reasons in it hold.

    Args:
        text: what is wrong and what to do about it; line ends become blanks. Nothing where somebody else says it.

    Attributes:
        rank: the process that it has ended, of several that train together; None where it is the same for all of them,
            of which the first one says it.
    """

    exit_code = 1
    rank: int | None = None

    def __init__(self, text: str = ""):
        super().__init__(one_line(text))


class DataError(MmrnsError):
    """A file, a dataset or a run is not fit.

    Args:
        where: the file or folder at fault.
        message: what is wrong with it.
        remedy: what to do about it.
        line: 1-based line number within the file, where there is one.
    """

    def __init__(self, where: Path | str, message: str, remedy: str, line: int | None = None):
        self.where, self.line, self.message, self.remedy = Path(where), line, message, remedy
        place = f"{where}:{line}" if line is not None else f"{where}"
        super().__init__(f"{place}: {message}; {remedy}")

    def __reduce__(self) -> tuple[type[DataError], tuple[Path, str, str, int | None]]:
        # An exception is unpickled from its message alone, which would end a pool of processes instead of telling it.
        return type(self), (self.where, self.message, self.remedy, self.line)


class UsageError(MmrnsError):
    """An option, a configuration key or a name that does not exist or does not fit.

    Args:
        message: what, and the remedy.
        key: the configuration key at fault, dotted, where there is one.
    """

    exit_code = 2

    def __init__(self, message: str, key: str | None = None):
        super().__init__(message)
        self.key = key


class Diverged(MmrnsError):
    """A training came to a loss, or a model to scores, that are not finite."""


class OutOfMemory(MmrnsError):
    """More memory was asked for than the machine, a limit, or a GPU has left."""


_LACKS_MEMORY = re.compile(r"(out of|not enough|can.?(no)?t allocate) memory|bad_alloc", re.IGNORECASE)
_ASKED_FOR = re.compile(r"allocate:? ([\d.]+ ?\w+)")


@contextmanager
def memory_told() -> Generator[None]:
    """Inside, memory that cannot be had is told in one line with a remedy, whoever has asked for it.

    >>> with memory_told():
    ...     raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes.")
    Traceback (most recent call last):
    mmrns.errors.OutOfMemory: out of memory, where 800 bytes more were needed; have more processes part the entities ...

    Raises:
        OutOfMemory: in place of what Python, torch or the system says of it.
    """
    try:
        yield
    except Exception as error:  # Each who asks for memory says in an error of its own that there is none.
        if isinstance(error, OutOfMemory) or (cause := _lack_of_memory(error)) is None:
            raise
        found = _ASKED_FOR.search(str(cause))
        asked = f", where {_amount(found[1])} more were needed" if found else ""
        raise OutOfMemory(
            f"out of memory{asked}; have more processes part the entities among them (torchrun --nproc-per-node N -m "
            "mmrns ...), or lower model.dim, training.batch_size or training.memory_mb"
        ) from error


def _lack_of_memory(error: BaseException | None) -> BaseException | None:
    """What says of an error, or of what has caused it, that it is a lack of memory; None where nothing does."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        told = not isinstance(error, MmrnsError) and _LACKS_MEMORY.search(str(error))
        if isinstance(error, MemoryError) or number == errno.ENOMEM or told:
            return error
        error = error.__cause__
    return None


def _amount(text: str) -> str:
    """An amount of memory that was told in bytes, in MiB where it is one or more."""
    number, _, unit = text.partition(" ")
    large = unit == "bytes" and float(number) >= 2**20
    return f"{float(number) / 2**20:,.0f} MiB" if large else text


class Note(UserWarning):
    """What was done with something that is not as it should be, but could be used.

    The command line prints it as one line on standard error.
    """


_HEARD: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def note(message: str) -> None:
    """Say once in one line what the user should know; in Python it is a warning of the category `Note`."""
    heard = _HEARD.get()
    if heard is None:
        warnings.warn(one_line(message), Note, stacklevel=3)
    else:
        heard.append(one_line(message))


@contextmanager
def notes_heard() -> Generator[list[str]]:
    """Inside, notes of this thread go to the list that is given, and to nobody else.

    Warnings are the process's own; this is for who answers several users at a time.

    >>> with notes_heard() as notes:
    ...     note("taken for a header")
    >>> notes
    ['taken for a header']
    """
    heard: list[str] = []
    before = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(before)


def one_line(text: str) -> str:
    """A text with a blank for each line end of any kind.

    >>> one_line("is no number\\n  (line 3)")
    'is no number (line 3)'
    """
    return _BREAKS.sub(" ", text).strip()


def nearest(name: str, known: Iterable[str], limit: int = 1) -> str:
    """A hint such as `; did you mean 'TransE'?`, or nothing when no known name is close.

    >>> nearest("transe", ["TransE", "RotatE"])
    "; did you mean 'TransE'?"
    """
    close = close_names(name, known, limit)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def close_names(name: str, known: Iterable[str], limit: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like a name, in whatever case: at most `limit`, the closest first.

    Args:
        name: what was given.
        known: what there is.
        limit: how many at most.
        cutoff: how much is the same at least, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    originals = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), originals, n=limit, cutoff=cutoff)
    return [originals[candidate] for candidate in close]


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of a few known ones; it offers the nearest and lists them all.

    >>> str(unknown("scorer", "transe", ["TransE", "RotatE"]))
    "unknown scorer 'transe'; did you mean 'TransE'? known: TransE, RotatE"
    """
    names = list(known)
    return UsageError(f"unknown {kind} {name!r}{nearest(name, names) or ';'} known: {', '.join(names) or 'none'}")
