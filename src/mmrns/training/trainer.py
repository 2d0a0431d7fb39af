"""The training step, the only one, and the loop around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.errors import MmrnsError
from mmrns.evaluation.hardness import average
from mmrns.nn.losses import Loss
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.samplers.base import Sampler
from mmrns.training.batches import Batches
from mmrns.training.optimizer import Optimizer
from mmrns.types import Batch, Negatives

Watch = Callable[[Batch, Negatives], None]
"""Looks on at the end of a step: at its batch and negatives, its gradients and the updated model."""


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside the tensors.

    Attributes:
        step: steps done.
        best_mrr, best_step: the best validation so far.
        stale: evaluations since then.
        train_seconds, evaluate_seconds: elapsed, earlier sittings included.
        stopped: True once early stopping has ended the training.
        loss_sum, loss_steps: of the log interval that is under way.
        hardness: what has been measured of it.
    """

    step: int = 0
    best_mrr: float = -1.0
    best_step: int = 0
    stale: int = 0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_steps: int = 0
    hardness: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """When things happen, in steps.

    Attributes:
        steps: the last step.
        log_every, evaluate_every, checkpoint_every: intervals; the last step ends each of them.
        patience: evaluations without improvement after which training stops; 0 = never.
    """

    steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    patience: int

    def due(self, interval: int, step: int) -> bool:
        """Whether an interval ends with this many steps done."""
        return step % interval == 0 or step == self.steps

    def closes_log(self, step: int) -> bool:
        """Whether the step that makes it this many is one of the last two of a log interval.

        With alternating sides one of the two replaces tails and the other heads; the last alone would be of the same
        side in every interval of even length.
        """
        return self.due(self.log_every, step) or self.due(self.log_every, step + 1)


@dataclass(frozen=True)
class Observer:
    """What the loop reports to; all of it belongs to the run, none to the step.

    Attributes:
        validate: the validation MRR of the present model.
        record: one line of metrics.
        save: write a checkpoint; True = of the best model so far.
        advance: called with the steps done and the latest loss, for a progress bar.
        interrupted: asked after each step whether to stop here.
        measure: the hardness of a step's negatives, asked for after the last two steps of each log interval; None =
            not measured.
    """

    validate: Callable[[], float]
    record: Callable[[dict[str, Any]], None]
    save: Callable[[bool], None]
    advance: Callable[[int, float | None], None]
    interrupted: Callable[[], bool]
    measure: Callable[[Batch, Negatives], dict[str, Any]] | None = None


def full(scores: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Scores in at least single precision: losses are sums of many."""
    return scores.float() if scores.dtype == torch.bfloat16 else scores


class Trainer:
    """Trains a model and its sampler together.

    Args:
        model: f_theta.
        sampler: q_phi.
        objective: the loss of the scores.
        regularizer: of the model.
        optimizer: over the parameter groups `model`, `tables` and `sampler`.
        batches: the stream of positives.
        device: where model and sampler are.
        autocast: draw and score with matrix products of bfloat16; scores are float32 all the same.
    """

    def __init__(
        self,
        model: Model,
        sampler: Sampler,
        objective: Loss,
        regularizer: Regularizer,
        optimizer: Optimizer,
        batches: Batches,
        device: torch.device,
        *,
        autocast: bool = False,
    ):
        self.model, self.sampler = model, sampler
        self.objective, self.regularizer = objective, regularizer
        self.optimizer, self.batches, self.device, self.autocast = optimizer, batches, device, autocast

    def step(self, step: int, watch: Watch | None = None) -> Float[Tensor, ""]:
        """One training step, counted from 0, and a look at it when asked. Returns the loss, still on the device."""
        model, sampler = self.model, self.sampler
        batch = self.batches.at(step).to(self.device)
        with self.precision(), model.reading(batch):
            negatives = sampler.draw(batch, model, step)  # x- ~ q_phi( . | anchor, r, step)
            s_pos = full(model.score(batch))  # f_theta(h, r, t)
            s_neg = full(model.score_against(batch, negatives))  # f_theta(h, r, x-)
            loss = (
                self.objective(s_pos, s_neg, negatives.mask, batch.weight, negatives.logp)
                + self.regularizer(model, batch)
                + sampler.loss(batch, negatives, s_pos, s_neg, model, step)
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step(step)
        model.constrain()
        if watch is not None:
            watch(batch, negatives)
        return loss.detach()

    def precision(self) -> AbstractContextManager[object]:
        """Inside, matrix products are of bfloat16 where that is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def fit(self, progress: Progress, plan: Plan, observer: Observer) -> None:
        """Step until the plan, early stopping or an interruption ends it; `progress` is kept up to date.

        Raises:
            MmrnsError: the loss is not finite; the last checkpoint is from before.
        """
        total = torch.tensor(progress.loss_sum, device=self.device)
        started = time.perf_counter()

        def watch(batch: Batch, negatives: Negatives) -> None:
            nonlocal started
            assert observer.measure is not None
            if self.device.type != "cpu":
                torch.accelerator.synchronize(self.device)
            since = time.perf_counter()
            progress.hardness.append(observer.measure(batch, negatives))
            # Measuring is no training time.
            started += time.perf_counter() - since

        while progress.step < plan.steps and not progress.stopped:
            watched = observer.measure is not None and plan.closes_log(progress.step + 1)
            total += self.step(progress.step, watch if watched else None)
            progress.step += 1
            progress.loss_steps += 1
            done = progress.step
            if done % self.batches.per_epoch == 0:
                self.sampler.end_epoch(done // self.batches.per_epoch - 1)
            observer.advance(done, None)
            log, evaluate = plan.due(plan.log_every, done), plan.due(plan.evaluate_every, done)
            stop = observer.interrupted()
            if not (log or evaluate or stop or plan.due(plan.checkpoint_every, done)):
                continue
            progress.loss_sum = float(total)
            mean = progress.loss_sum / progress.loss_steps
            if not math.isfinite(mean):
                raise MmrnsError(f"the loss is not finite at step {done}; lower training.lr")
            progress.train_seconds += time.perf_counter() - started
            observer.advance(done, mean)
            if log:
                row: dict[str, Any] = {"step": done, "loss": mean, "seconds": round(progress.train_seconds, 3)}
                if progress.hardness:
                    row["hardness"] = average(progress.hardness)
                observer.record(row)
                total.zero_()
                progress.loss_sum, progress.loss_steps, progress.hardness = 0.0, 0, []
            if evaluate:
                self._evaluate(progress, plan, observer)
            if stop or plan.due(plan.checkpoint_every, done) or progress.stopped:
                observer.save(False)
            if stop:
                return
            started = time.perf_counter()

    def _evaluate(self, progress: Progress, plan: Plan, observer: Observer) -> None:
        started = time.perf_counter()
        mrr = observer.validate()
        progress.evaluate_seconds += time.perf_counter() - started
        better = mrr > progress.best_mrr
        if better:
            progress.best_mrr, progress.best_step, progress.stale = mrr, progress.step, 0
        else:
            progress.stale += 1
            progress.stopped = bool(plan.patience) and progress.stale >= plan.patience
        observer.record({"step": progress.step, "valid_mrr": mrr, "seconds": round(progress.train_seconds, 3)})
        if better:
            observer.save(True)
