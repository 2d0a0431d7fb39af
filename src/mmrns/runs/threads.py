"""How many threads a training takes: as many as are fastest, by real steps of it.

Where other work is under way, threads wait for each other: on a busy machine of two cores a step took 0.05 s with one
thread and 1.4 s with two. So the number is measured before the run begins, and recorded. It may change the last bits of
the result, so that a run that goes on takes the recorded one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from statistics import median

import torch

from mmrns.data.datasets import Dataset
from mmrns.pace import duration
from mmrns.runs.build import Parts, build_device, build_trainer
from mmrns.runs.config import Config

FEWEST = 50
"""Steps of a training that is worth the measuring."""
_ROUNDS = 3
"""How often each number is timed."""
_LEAST = 0.25
"""Seconds that are timed together where steps are short: a step alone may be lucky on a busy machine."""
_SECONDS = 3.0
"""After so long no further round is begun."""
_WORSE, _EQUAL = 1.5, 1.05
"""Times the fastest: more threads than these are slower still; fewer threads are as good."""


@contextmanager
def threads_restored() -> Generator[None]:
    """Afterwards torch has as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(config: Config, dataset: Dataset, parts: Parts, recorded: int | None = None) -> dict[int, float]:
    """Set torch's number of threads: the one that is configured, else the recorded one, else the fastest.

    Args:
        config: of the training.
        dataset: its dataset.
        parts: objects that are at hand.
        recorded: of the run that goes on.

    Returns:
        Seconds of a step by number, where they were measured.
    """
    measured = {} if recorded or config.threads != "auto" else measure(config, dataset, parts)
    chosen = fastest(measured) if measured else recorded if config.threads == "auto" else config.threads
    if chosen:
        torch.set_num_threads(chosen)
    return measured


def measure(config: Config, dataset: Dataset, parts: Parts | None = None) -> dict[int, float]:
    """Seconds of a step by number of threads: 1, 2, 4, ... up to torch's own number.

    The steps are those of a trainer that is built for them and let go, so that the training itself begins as it would
    have without: all that is random is a function of the seed and the step.

    Args:
        config: of the training.
        dataset: its dataset.
        parts: objects that are at hand; they are copied.

    Returns:
        Nothing where there is nothing to choose or it is not worth the measuring: one thread, an accelerator, a
        training of less than `FEWEST` steps, formulas that are compiled first, or objects that cannot be copied.
    """
    most = torch.get_num_threads()
    few = most == 1 or config.training.steps < FEWEST
    if few or config.training.compile or build_device(config.device).type != "cpu":
        return {}
    try:
        copies = _copied(parts or Parts(), dataset)
    except Exception:  # Whatever somebody's own object raises.
        return {}
    trainer, done = build_trainer(config, dataset, copies), 0

    def step() -> None:
        nonlocal done
        trainer.step(done)
        done += 1

    with threads_restored():
        return time_threads(step, candidates(most), steps=config.training.steps // FEWEST)


def candidates(most: int) -> list[int]:
    """Powers of two, and the most.

    >>> candidates(6), candidates(8), candidates(1)
    ([1, 2, 4, 6], [1, 2, 4, 8], [1])
    """
    return [n for n in (2**i for i in range(most.bit_length())) if n < most] + [most]


def time_threads(
    step: Callable[[], None],
    numbers: list[int],
    *,
    steps: int = 1,
    use: Callable[[int], None] = torch.set_num_threads,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Seconds of a step with each number of threads, ascending, until more are much slower.

    The numbers take turns, so that other work on the machine is met by all, and the median of the turns counts.

    Args:
        step: takes a step.
        numbers: of threads.
        steps: that are timed together at most, counted in pairs of one of each side.
        use: sets a number.
        clock: seconds that only grow.
    """
    begun = clock()
    times: dict[int, list[float]] = {}
    for turn in range(_ROUNDS):
        if turn and clock() - begun > _SECONDS:
            break
        for n in numbers if not turn else [*times]:
            use(n)
            if not turn:
                step()  # Threads are started, and kernels compiled, once.
            since, pairs = clock(), 0
            while not pairs or (pairs < steps and clock() - since < _LEAST):
                step()
                step()
                pairs += 1
            times.setdefault(n, []).append((clock() - since) / (2 * pairs))
            if not turn and times[n][0] > _WORSE * min(first for first, *_ in times.values()):
                break
    return {n: median(found) for n, found in times.items()}


def fastest(seconds: Mapping[int, float]) -> int:
    """The fewest threads that are as good as the fastest."""
    best = min(seconds.values())
    return min(n for n, found in seconds.items() if found <= _EQUAL * best)


def told(device: str, threads: int, seconds: Mapping[int, float], steps: int) -> str:
    """What a training runs on, in a sentence: the number of threads, why, and how long its steps will take.

    >>> told("cpu", 1, {1: 0.01, 2: 1.38}, 800)
    'Training on cpu with 1 thread (a step takes 10 ms with 1, 1.4 s with 2): about 8.0 s for 800 steps.'
    >>> told("cpu", 4, {}, 800)
    'Training on cpu with 4 threads.'
    """
    line = f"Training on {device} with {threads} thread{'s' if threads > 1 else ''}"
    if not seconds:
        return f"{line}."
    each = ", ".join(f"{_short(found)} with {n}" for n, found in seconds.items())
    whole = duration(steps * seconds[threads])
    return f"{line} (a step takes {each}): about {whole} for {steps:,} steps."


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2g} s"


def _copied(parts: Parts, dataset: Dataset) -> Parts:
    """Copies of the objects, which share the dataset."""
    shared = [dataset.graph, dataset.features, *dataset.features.values()]
    memo = {id(one): one for one in shared}
    names = ("scorer", "embedder", "mixture", "sampler", "objective")
    return replace(parts, **{name: deepcopy(getattr(parts, name), memo) for name in names})
