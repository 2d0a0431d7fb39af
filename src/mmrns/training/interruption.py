"""Asking a training to stop after its step, by Ctrl-C or another signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from mmrns.training.callbacks import Callback


class Interruption(Callback):
    """Within its context, the first Ctrl-C, or signal to end or hang up, asks to stop after the step; a second one does
    what it did before. Signals that are ignored, as under nohup, stay so. Threads other than the main one get none.

    Args:
        on_asked: is called when a signal asks.

    Attributes:
        number: the signal that asked.
    """

    def __init__(self, on_asked: Callable[[], None] = lambda: None):
        self.asked, self.number, self.on_asked = threading.Event(), int(signal.SIGINT), on_asked
        self.before: dict[int, Any] = {}

    def should_stop(self) -> bool:
        return self.asked.is_set()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows lacks the last.
                # None: set by what is not Python, which knows better.
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _ask(self, number: int, frame: object) -> None:
        self.__exit__()
        self.number = number
        self.asked.set()
        self.on_asked()
