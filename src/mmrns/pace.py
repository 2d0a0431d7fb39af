"""When to say how far something is where no terminal shows it, and how long it takes, in words."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST, EVERY = 5.0, 60.0
"""Seconds until something is said for the first time, and from then on."""


class Pace:
    """Says when the next line is due: after five seconds, then every minute.

    Args:
        clock: seconds that only grow.

    Attributes:
        lines: how many were due so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.begun, self.lines = clock, clock(), 0
        self._next = self.begun + FIRST

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.begun

    def due(self) -> bool:
        """Whether a line is due; the next one then is in a minute."""
        now = self.clock()
        if now < self._next:
            return False
        self._next = now + EVERY
        self.lines += 1
        return True


def duration(seconds: float) -> str:
    """Seconds in words that are read at a glance.

    >>> duration(0.25), duration(44.6), duration(100.0), duration(6000.0), duration(360_000.0)
    ('0.2 s', '45 s', '2 min', '1.7 h', '4.2 days')
    """
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.1f} days"
