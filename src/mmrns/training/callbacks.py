"""Callbacks: what is told of a training while it goes on, and may end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.hardness import average, measure
from mmrns.nn.model import Model
from mmrns.registry import Named, Registry
from mmrns.samplers.base import Sampler
from mmrns.training.progress import Plan, Progress
from mmrns.types import Batch, Negatives


@dataclass(frozen=True)
class Training:
    """What a callback may look at: everything of a training that is under way.

    Attributes:
        model, sampler: as they are; a callback does not change them.
        graph: what is trained on.
        plan, progress: when things happen, and how far it is.
    """

    model: Model
    sampler: Sampler
    graph: KnowledgeGraph
    plan: Plan
    progress: Progress


class Callback(Named):
    """Is told what happens in a training. Every method does nothing unless it is overridden.

    To add one, subclass it and hand an object to `mmrns.train(callbacks=[...])`, or give it a `name` and list that in
    `training.callbacks`; then it is made without arguments.
    """

    registry: ClassVar[Registry[Callback]] = Registry("callback", "mmrns.training.callbacks")

    def on_note(self, message: str) -> None:
        """Something is worth saying once."""

    def on_start(self, training: Training) -> None:
        """The first step of this sitting is about to be taken."""

    def watches(self, step: int) -> bool:
        """Whether to be shown a step, counted from 1, by `on_step`."""
        return False

    def on_step(self, batch: Batch, negatives: Negatives) -> None:
        """A step that is watched has been taken: the model is updated, and its gradients are still there."""

    def on_progress(self, step: int, loss: float | None) -> None:
        """So many steps are done; at intervals with the mean loss since the last one that was told."""

    def on_row(self, row: dict[str, Any]) -> None:
        """A row of metrics is about to be recorded; it may grow.

        It has `step`, `seconds`, and either `valid_mrr` or the losses (`Progress.mean_losses`).
        """

    def on_validation(self, step: int, mrr: float) -> None:
        """The validation MRR after so many steps."""

    def on_ranking(self, what: str, queries: int) -> Callable[[int], None] | None:
        """So many queries of a split are about to be ranked; what is returned is told of those that are done."""
        return None

    def should_stop(self) -> bool:
        """Whether to stop after this step. Asked after every step; the training can be continued later."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs of the callback, as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


class CallbackList(Callback):
    """Several callbacks, told in order.

    Args:
        callbacks: the callbacks.
    """

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = list(callbacks)

    def on_note(self, message: str) -> None:
        for callback in self.callbacks:
            callback.on_note(message)

    def on_start(self, training: Training) -> None:
        for callback in self.callbacks:
            callback.on_start(training)

    def watches(self, step: int) -> bool:
        self._watching = [callback for callback in self.callbacks if callback.watches(step)]
        return bool(self._watching)

    def on_step(self, batch: Batch, negatives: Negatives) -> None:
        for callback in self._watching:
            callback.on_step(batch, negatives)

    def on_progress(self, step: int, loss: float | None) -> None:
        for callback in self.callbacks:
            callback.on_progress(step, loss)

    def on_row(self, row: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_row(row)

    def on_validation(self, step: int, mrr: float) -> None:
        for callback in self.callbacks:
            callback.on_validation(step, mrr)

    def on_ranking(self, what: str, queries: int) -> Callable[[int], None] | None:
        told = [tell for callback in self.callbacks if (tell := callback.on_ranking(what, queries)) is not None]

        def tell_all(done: int) -> None:
            for tell in told:
                tell(done)

        return tell_all if told else None

    def should_stop(self) -> bool:
        # Every one is asked, so that none of them waits for its turn.
        return any([callback.should_stop() for callback in self.callbacks])  # noqa: C419

    def state_dict(self) -> dict[str, Any]:
        states = ((str(i), callback.state_dict()) for i, callback in enumerate(self.callbacks))
        return {key: state for key, state in states if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for i, callback in enumerate(self.callbacks):
            if str(i) in state:
                callback.load_state_dict(state[str(i)])


class Hardness(Callback, name="hardness"):
    """Adds to each row with a loss how hard the negatives of the last two steps were (`mmrns.evaluation.hardness`)."""

    def __init__(self) -> None:
        self.training: Training | None = None
        self.measured: list[dict[str, Any]] = []

    def on_start(self, training: Training) -> None:
        self.training = training

    def watches(self, step: int) -> bool:
        assert self.training is not None
        return self.training.plan.ends_log(step)

    def on_step(self, batch: Batch, negatives: Negatives) -> None:
        assert self.training is not None
        t = self.training
        if batch.h.device.type != "cpu":
            torch.accelerator.synchronize(batch.h.device)
        self.measured.append(measure(t.model, t.sampler, batch, negatives, t.graph.train_index, t.graph.valid_index))

    def on_row(self, row: dict[str, Any]) -> None:
        if "loss" in row and self.measured:
            row["hardness"] = average(self.measured)
            self.measured = []

    def state_dict(self) -> dict[str, Any]:
        return {"measured": self.measured} if self.measured else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.measured = list(state["measured"])
