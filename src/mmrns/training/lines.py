"""How far a training is, in lines: for logs, and for Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mmrns.pace import Pace, duration
from mmrns.training.callbacks import Callback, Training


def to_standard_error(line: str) -> None:
    """Write a line where it is not mixed with what a program answers."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class ProgressLines(Callback):
    """Says how far a training is: after five seconds with an estimate for the whole of it, then every minute.

    A line holds the steps done, the mean loss and the validation MRR as last told, the speed and how long the rest
    takes: the steps at the mean speed of this sitting, and ranking at that of the last one, once there was one. Early
    stopping is not foreseen.

    Args:
        say: is given each line.
        name: what each line begins with.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        say: Callable[[str], None] = to_standard_error,
        *,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.say, self.name, self.clock = say, name, clock
        self.training: Training | None = None
        self.loss: float | None = None
        self.mrr: float | None = None
        self.per_query: float | None = None
        self.ranking = 0.0

    def on_start(self, training: Training) -> None:
        self.training, self.first, self.pace = training, training.progress.step, Pace(self.clock)
        self.ranking = 0.0

    def on_progress(self, step: int, loss: float | None) -> None:
        self.loss = self.loss if loss is None else loss
        if self.pace.due():
            self.tell(self.line(step))

    def on_validation(self, step: int, mrr: float) -> None:
        self.mrr = mrr

    def on_ranking(self, what: str, queries: int) -> Callable[[int], None] | None:
        if self.training is None:
            return None
        begun, done = self.clock(), 0

        def told(n: int) -> None:
            nonlocal done
            done += n
            spent = self.clock() - begun
            self.per_query = spent / max(1, done)
            if done >= queries:
                self.ranking += spent
            elif self.pace.due():
                left = duration(self.per_query * (queries - done))
                self.tell(f"ranking {what}: {done:,} of {queries:,} queries, about {left} left")

        return told

    def tell(self, line: str) -> None:
        """Say a line."""
        self.say(f"{self.name}: {line}" if self.name else line)

    def line(self, step: int) -> str:
        """How far it is after so many steps."""
        assert self.training is not None, "it has begun"
        plan, elapsed = self.training.plan, self.pace.elapsed
        per_step = max(elapsed - self.ranking, 1e-9) / max(1, step - self.first)
        left = (plan.steps - step) * per_step
        if self.per_query is not None:
            left += self.per_query * self._queries(step)
        parts = [f"step {step:,} of {plan.steps:,}"]
        parts += [] if self.loss is None else [f"loss {self.loss:.4f}"]
        parts += [] if self.mrr is None else [f"valid MRR {self.mrr:.4f}"]
        parts.append(speed(1 / per_step))
        # The first line tells the whole, of which a part is over.
        told = f"{duration(elapsed + left)} in all" if self.pace.lines == 1 else f"{duration(left)} left"
        besides = ", besides ranking" if self.per_query is None else ""
        return f"{', '.join(parts)}, about {told}{besides}"

    def _queries(self, step: int) -> int:
        """The queries that are still to be ranked: those of each validation to come, and of both splits at the end."""
        assert self.training is not None, "it has begun"
        plan, graph = self.training.plan, self.training.graph
        validations = sum(plan.due(plan.evaluate_every, at) for at in range(step + 1, plan.steps + 1))
        return 2 * ((validations + 1) * len(graph.valid) + len(graph.test))


class HeldLines(ProgressLines):
    """The same, with the notes of the training before its first line: what is over in five seconds says nothing."""

    def __init__(self, say: Callable[[str], None] = to_standard_error, *, clock: Callable[[], float] = time.monotonic):
        super().__init__(say, clock=clock)
        self.notes: list[str] = []

    def on_note(self, message: str) -> None:
        self.notes.append(message)

    def tell(self, line: str) -> None:
        for note in self.notes:
            super().tell(note)
        self.notes = []
        super().tell(line)


def speed(per_second: float) -> str:
    """Steps a second, or seconds a step.

    >>> speed(84.2), speed(2.34), speed(0.4)
    ('84 steps/s', '2.3 steps/s', '2.5 s a step')
    """
    if per_second < 1:
        return f"{1 / per_second:.1f} s a step"
    return f"{per_second:.0f} steps/s" if per_second >= 10 else f"{per_second:.1f} steps/s"
