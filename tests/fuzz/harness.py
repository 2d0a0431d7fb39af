"""One input after the other: a valid folder with some of its files changed is read, and what became of it is judged.

Whatever a reader is given, it returns, or raises an `MmrnsError`, in one line; and it leaves no file behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from fuzz.mutations import mutate
from mmrns.errors import MmrnsError, Note

SECONDS = 20
"""After so many a reader is taken to hang."""


@dataclass(frozen=True)
class Target:
    """A reader and valid inputs of it.

    Attributes:
        name: what is read.
        inputs: folders, each as the content of its files by name.
        read: reads the folder of one input.
        fixed: names of files that are left as they are.
        output: a file or folder within that reading makes; a failure must leave nothing there.
        refusals: what else than an `MmrnsError` a reader says that it raises.
    """

    name: str
    inputs: tuple[Mapping[str, bytes], ...]
    read: Callable[[Path], object]
    fixed: frozenset[str] = frozenset()
    output: str | None = None
    refusals: tuple[type[Exception], ...] = ()


@dataclass
class Count:
    """What became of the inputs of a target.

    Attributes:
        inputs, read, refused: how many; of `read` the reader returned.
        seconds: of the processor, in all.
        slowest: those of the slowest input.
        faults: of each fault its first input and how often it came.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, number: int, verdict: str, detail: str = "") -> None:
        """Count an input: `read`, `refused`, or the name of a fault."""
        self.inputs += 1
        if verdict in ("read", "refused"):
            setattr(self, verdict, getattr(self, verdict) + 1)
        else:
            fault = self.faults.setdefault(verdict, {"first": number, "times": 0, "detail": detail})
            fault["times"] += 1


class Hangs(BaseException):
    """A reader has not come back in time."""


def changed(target: Target, seed: int, number: int) -> tuple[Mapping[str, bytes], dict[str, bytes | None]]:
    """One of the target's valid folders, and the files of it that are others: None for a file that is another thing."""
    random = Random(f"{target.name} {seed} {number}")
    valid = random.choice(target.inputs)
    names = [name for name in valid if name not in target.fixed]
    files: dict[str, bytes | None] = {}
    for name in random.sample(names, min(len(names), 1 if random.random() < 0.8 else 2)):
        if random.random() < 0.02:
            files[name] = None
            continue
        kind = name.rpartition(".")[2]
        others = [other[n] for other in target.inputs for n in other if n.rpartition(".")[2] == kind]
        files[name] = mutate(valid[name], kind, random, others)
    return valid, files


class Place:
    """A folder in which inputs of a target are laid out, with as little writing as possible."""

    def __init__(self, target: Target, folder: Path):
        self.target, self.folder = target, folder
        self._valid: Mapping[str, bytes] | None = None
        self._other: set[str] = set()

    def lay(self, valid: Mapping[str, bytes], files: Mapping[str, bytes | None], number: int) -> None:
        """Make the folder hold an input and nothing else."""
        if self._valid is not valid:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._valid, self._other = valid, set(valid)
        for name in self._other | set(files):
            self._remove(name)
            path = self.folder / name
            content = files.get(name, valid[name])
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(content)
            elif number % 3 == 0:
                path.mkdir()
            elif number % 3 == 1:
                path.symlink_to(path.name)
            # Else it is missing.
        self._other = set(files)

    def _remove(self, name: str) -> None:
        # Never written in place: it may be mapped still.
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def left(self) -> set[str]:
        """What lies in the folder."""
        found: set[str] = set()
        for root, folders, files in os.walk(self.folder):
            found |= {os.path.relpath(os.path.join(root, name), self.folder) for name in [*folders, *files]}
        return found

    def reset(self) -> None:
        """Forget what is laid out; the next input is laid out anew."""
        self._valid = None


def fuzz(
    target: Target,
    folder: Path,
    numbers: Iterator[int],
    seed: int = 0,
    told: Callable[[int], None] = lambda number: None,
) -> Count:
    """Read the inputs of these numbers, in a folder of the target's own, after the valid ones.

    Raises:
        AssertionError: a valid input is not read.
    """
    count, place = Count(), Place(target, folder / target.name / "input")
    for valid in target.inputs:
        # Also so that what is imported on the way is, whose half an interruption would leave behind.
        place.lay(valid, {}, 0)
        verdict = judge(target, place.folder, seconds=10 * SECONDS)
        assert verdict == ("read", ""), (target.name, *verdict)
        place.reset()
    for number in numbers:
        told(number)
        valid, files = changed(target, seed, number)
        place.lay(valid, files, number)
        before = place.left()
        started = time.process_time()
        verdict, detail = judge(target, place.folder)
        took = time.process_time() - started
        after = place.left()
        made = target.output
        new = {name for name in after - before if made is None or Path(name).parts[0] != made}
        if verdict == "refused" and after - before:
            verdict, detail = "leaves files after a refusal", f"{sorted(after - before)}: {detail}"
        elif verdict == "read" and new:
            verdict, detail = "leaves files", str(sorted(new))
        elif before - after:
            verdict, detail = "removes files", str(sorted(before - after))
        if before != after:
            place.reset()
        count.add(number, verdict, detail)
        count.seconds += took
        count.slowest = max(count.slowest, took)
    return count


def judge(target: Target, folder: Path, seconds: float | None = None) -> tuple[str, str]:
    """`read`, `refused`, or the name of a fault; and its traceback, or the message of the refusal."""
    with warnings.catch_warnings(record=True) as said, _in_time(SECONDS if seconds is None else seconds):
        warnings.simplefilter("always")
        try:
            target.read(folder)
            verdict, detail = "read", ""
        except (MmrnsError, *target.refusals) as error:
            verdict, detail = "refused", str(error)
            if len(detail.splitlines()) != 1:
                return f"{type(error).__name__} of several lines in {_place_of(error)}", repr(detail)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # Panics of Rust are BaseExceptions.
            place = _place_of(error)
            return f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error))[-3000:]
    for warning in said:
        text = str(warning.message)
        if not issubclass(warning.category, Note):
            return (
                f"{warning.category.__name__}: {text.splitlines()[0][:60]}",
                f"{warning.filename}:{warning.lineno}: {text}",
            )
        if len(text.splitlines()) != 1:
            return "Note of several lines", repr(text)
    return verdict, detail


def _place_of(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}mmrns{os.sep}" in f.filename]
    if not frames:
        return "?"
    return f"{frames[-1].filename.rpartition('mmrns' + os.sep)[2]} {frames[-1].name}"


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> NoReturn:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def summary(counts: Mapping[str, Count]) -> dict[str, Any]:
    """The counts of all targets, and their sums, as plain values."""
    targets = {
        name: {
            "inputs": c.inputs,
            "read": c.read,
            "refused": c.refused,
            "per_second": round(c.inputs / c.seconds) if c.seconds else None,
            "slowest": round(c.slowest, 3),
            "faults": c.faults,
        }
        for name, c in counts.items()
    }
    kinds = Counter({kind: f["times"] for c in counts.values() for kind, f in c.faults.items()})
    return {
        "inputs": sum(c.inputs for c in counts.values()),
        "read": sum(c.read for c in counts.values()),
        "refused": sum(c.refused for c in counts.values()),
        "faults": sum(kinds.values()),
        "targets": targets,
    }
