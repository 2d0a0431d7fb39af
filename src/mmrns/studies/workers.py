"""Processes that train for a comparison. They end with the process that began them, whatever ends that."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

import torch

from mmrns.runs.train import Interrupted
from mmrns.training.callbacks import Callback

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_asked: list[Event] = []
"""In a worker: what is set when it is to stop."""


def _context() -> BaseContext:
    """How workers are started: with nothing of this process, whose threads a fork would lose."""
    return multiprocessing.get_context("spawn")


class Workers:
    """A pool of processes, each with its own model.

    Leaving the context by an error asks those that are at work to stop, and waits for their checkpoints.

    Args:
        jobs: how many.
        threads: of each.
    """

    def __init__(self, jobs: int, threads: int):
        context = _context()
        self._stop = context.Event()
        self._others = {process.pid for process in multiprocessing.active_children()}
        self._pool = ProcessPoolExecutor(jobs, context, _begin, (threads, self._stop))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.stop()
        try:
            if kind is KeyboardInterrupt:
                raise KeyboardInterrupt
            self._pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            # Asked for the second time: without their checkpoints, of which the last ones are on the disk.
            for process in multiprocessing.active_children():
                if process.pid not in self._others:
                    process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            raise

    def stop(self) -> None:
        """Ask those that are at work to stop after their step."""
        self._stop.set()

    def run(self, task: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Have a worker do something, and wait for it.

        Raises:
            Interrupted: they were asked to stop.
            BrokenProcessPool: a worker was killed.
        """
        if self._stop.is_set():  # The pool may take nothing more.
            raise Interrupted("stopped")
        return self._pool.submit(_unless_asked, task, argument).result()


def callbacks() -> list[Callback]:
    """What a training of a worker needs to be stopped; nothing elsewhere."""
    return [_Asked(event) for event in _asked]


class _Asked(Callback):
    def __init__(self, event: Event):
        self.event = event

    def should_stop(self) -> bool:
        return self.event.is_set()


def _begin(threads: int, stop: Event) -> None:
    torch.set_num_threads(threads)
    _asked.append(stop)
    # Ctrl-C reaches every process of a terminal; the parent passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)


def _unless_asked(task: Callable[[Any], Any], argument: Any) -> Any:
    if any(event.is_set() for event in _asked):
        raise Interrupted("stopped")
    return task(argument)
