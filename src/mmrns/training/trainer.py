"""The training step, the only one, and the loop around it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmrns.data.features import Modality
from mmrns.errors import Diverged, UsageError, note
from mmrns.nn.blocks import in_blocks, rows_of_block
from mmrns.nn.embedders import Embedder, on_host
from mmrns.nn.lookup import Lookup, Scores
from mmrns.nn.losses import Loss
from mmrns.nn.model import Model
from mmrns.nn.numerics import summed
from mmrns.nn.regularizers import Regularizer
from mmrns.samplers.base import Sampler
from mmrns.training.batches import Batches, Upcoming
from mmrns.training.callbacks import Callback, Training
from mmrns.training.capture import Capture, CudaGraphs, Descent, Recorder
from mmrns.training.hosted import Foretold
from mmrns.training.optimizer import Optimizer, sparse_tables
from mmrns.training.progress import Plan, Progress
from mmrns.training.world import ALONE, Ended, World
from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives, Views

_REALS = 8
"""Reals that a loss and its gradient hold for each score, the score among them."""
_REALS_IN_BLOCKS = 3
"""Those of a view where losses are made block by block: its scores, their gradient, and what either is made from."""
_REALS_OF_VIEW = 4
"""Those of a further loss, of the scores of one view, which are counted with what a comparison holds."""


class Losses(NamedTuple):
    """The loss of some rows in its two parts; training descends their sum.

    Attributes:
        model: the objective of the scores, and what the mixture and the embedder add.
        sampler: the sampler's own term; the number 0 in a step where it has none.
    """

    model: Float[Tensor, ""]
    sampler: Float[Tensor, ""] | float


class LossSums:
    """The losses of the steps of a log interval, added up on the device.

    Args:
        progress: what was added up in an earlier sitting.
        device: where the losses are.
    """

    def __init__(self, progress: Progress, device: torch.device):
        self.total = torch.tensor(progress.loss_sum, device=device)
        self.sampler = torch.tensor(progress.sampler_loss_sum, device=device)
        self.steps, self.sampler_steps = progress.loss_steps, progress.sampler_loss_steps

    def add(self, loss: Float[Tensor, ""], sampler: Float[Tensor, ""] | float) -> None:
        """Add the loss of a step, of which `sampler` is the sampler's own term."""
        self.total += loss.detach()
        self.steps += 1
        if isinstance(sampler, Tensor):
            self.sampler += sampler.detach()
            self.sampler_steps += 1

    def keep(self, progress: Progress) -> None:
        """Write the sums down, which waits for the device."""
        progress.loss_sum, progress.loss_steps = float(self.total), self.steps
        progress.sampler_loss_sum, progress.sampler_loss_steps = float(self.sampler), self.sampler_steps

    def clear(self) -> None:
        """Begin anew."""
        self.total.zero_()
        self.sampler.zero_()
        self.steps = self.sampler_steps = 0


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
        memory_mb: bound on what the comparison of a batch with every entity holds, in MiB; beyond it the rows are taken
            in parts, of one at least, each compared again in the backward pass.
        unseen_negatives: count entities as negatives that no train triple has and the model knows by their features
            alone.
        world: the processes that train together, each of which has some of the entities (`ShardedModel`).

    Raises:
        UsageError: the loss takes no importance weights, and the sampler gives its negatives unequal ones; or the loss
            needs every entity, and the sampler gives some; or the sampler needs modalities, and the model reads none.

    Attributes:
        known_by_features: Bool[E], True for entities that no train triple has and that the model knows by other views
            than their structure.
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
        memory_mb: float | int = math.inf,
        unseen_negatives: bool = False,
        world: World = ALONE,
    ):
        self.model, self.sampler = model, sampler
        self.objective, self.regularizer = objective, regularizer
        self.optimizer, self.batches, self.device, self.autocast = optimizer, batches, device, autocast
        self.memory_mb, self.upcoming, self.world = memory_mb, Upcoming(batches, device), world
        self.foretold = self._foretold()
        own = {id(parameter) for parameter in model.parted.values()}
        parameters = (parameter for group in optimizer.groups for parameter in group["params"])
        self.alike = [parameter for parameter in parameters if id(parameter) not in own]
        self.known_by_features = self._known_by_features()
        left_out = not unseen_negatives and bool(self.known_by_features.any())
        self.counted = ~self.known_by_features.to(device) if left_out else None
        sampler.foresee(batches.at)
        model.entity.compared_whole(sampler.every)
        self._refuse_unfit()
        self.capture: Capture | None = None

    def _foretold(self) -> Foretold | None:
        """What brings rows of tables on the host to the device a step ahead; None where there are none.

        Of several processes each one asks for rows when it knows which of them it has. An embedder with a loss of its
        own may look up others than those of the batch and its negatives.
        """
        embedder = self.model.entity
        tables, more = on_host(embedder), type(embedder).loss is not Embedder.loss
        if not tables or more or self.device.type == "cpu" or self.world.size > 1:
            return None
        return Foretold(tables, self.sampler, self.batch, self.device)

    def record(self, wanted: bool | Literal["auto"] = True, recorder: Recorder | None = None) -> None:
        """Have the steps from here on recorded, and what was recorded replayed, to the same numbers (`Capture`).

        Args:
            wanted: `auto` does so on a CUDA device, and where a step cannot be recorded it says so and goes on without;
                False leaves all steps as they are.
            recorder: what records; CUDA graphs by default.

        Raises:
            UsageError: `wanted` is True, and the steps cannot be recorded.
        """

        def refused(why: str) -> None:
            if wanted is True:
                raise UsageError(f"training.capture=true: {why}", "training.capture")
            note(f"steps are not recorded (training.capture): {why}")

        self.capture = None
        there = recorder is not None or self.device.type == "cuda"
        if not wanted or (wanted == "auto" and not there):
            return
        if why := self._unrecordable() if there else f"that takes a CUDA device, and this is {self.device.type}":
            refused(why)
            return
        parameters = [parameter for group in self.optimizer.groups for parameter in group["params"]]
        parts = self.model, self.objective, self.sampler
        self.capture = Capture(self.descend, parts, parameters, recorder or CudaGraphs(self.upcoming.settle), refused)

    def _unrecordable(self) -> str:
        """Why no step can be replayed for another one; "" where it can."""
        if self.world.size > 1:
            return "how much each of several processes has of a batch differs from step to step"
        if sparse_tables(self.model):
            return "training.sparse: gradients have other rows in each step"
        if self.batches.sides == "bernoulli" and self.model.scorer.varies and not self.model.reciprocal:
            return "training.sides=bernoulli: how much is dropped of each side differs from step to step"
        if apart := sorted(self._gathered_by_the_host()):
            return f"data.features_mb: the host gathers rows of {', '.join(apart)}"
        if self.rows_at_once < self.batches.size:
            return "training.memory_mb: the rows of a batch are compared with every entity in parts"
        if self.sampler.kind(0) is None:
            name = Sampler.registry.name_of(type(self.sampler))
            return f"what the sampler {name} asks the host for differs from step to step"
        return ""

    def _gathered_by_the_host(self) -> set[str]:
        """Names of the modalities that are too large for the device."""
        found: set[str] = set()
        for part in (*self.model.modules(), *self.sampler.modules()):
            read: Any = getattr(part, "modalities", None)
            if isinstance(read, dict):
                own = cast("dict[str, Modality]", read)
                found |= {name for name, it in own.items() if it.values.device.type != self.device.type}
        return found

    @torch.no_grad()
    def _known_by_features(self) -> Bool[Tensor, " E"]:
        found = ~self.batches.graph.seen_entities
        for ids in found.nonzero().squeeze(1).split(4096):
            found[ids] = self.model.by_features(ids.to(self.device)).cpu()
        return found

    def _counted(self, lookup: Lookup, negatives: Negatives) -> Negatives:
        """Negatives of which those do not count that the model knows by their features alone.

        Without a triple in train they are never true there: that is all the model would learn of their features.
        """
        if self.counted is None:
            return negatives
        # Once, if somebody has moved the model since.
        self.counted = counts = self.counted.to(lookup.relation.device)
        if self.objective.needs_all:
            # The mask of such a loss tells what is true: who does not count is no candidate at all.
            log_weight = counts.to(lookup.relation.dtype).log()
            return replace(negatives, log_weight=log_weight.expand(len(lookup.batch), -1))
        if isinstance(negatives, OwnNegatives | PoolNegatives):
            counts = counts[negatives.ids]
        mask = counts.expand(len(lookup.batch), -1) if negatives.mask is None else negatives.mask & counts
        return replace(negatives, mask=mask)

    def _refuse_unfit(self) -> None:
        self.sampler.refuse_unfit(self.model)
        loss = Loss.registry.name_of(type(self.objective))
        if self.objective.needs_all and not self.sampler.every:
            raise UsageError(f"objective.loss={loss} needs every entity as a candidate; use --method k-vs-all")
        if self.objective.takes_weights or not self._weighs_unequally():
            return
        losses = {name: Loss.registry.get(name) for name in Loss.registry.names()}
        others = ", ".join(name for name, cls in losses.items() if cls.takes_weights)
        raise UsageError(
            f"objective.loss={loss} takes no importance weights, and the sampler "
            f"{Sampler.registry.name_of(type(self.sampler))} gives its negatives unequal ones; choose another loss "
            f"({others}), or a sampler that draws without, as uniform does; some have sampler.corrected=false"
        )

    @torch.no_grad()
    def _weighs_unequally(self) -> bool:
        """Whether some row's negatives have unequal importance weights, in draws of a few rows of each side."""
        for step in range(min(2, self.batches.per_epoch)):
            batch = self.batches.split(step, 64)[0].to(self.device)
            drawn = self.sampler.draw(self.model.lookup(batch), self.model, step)
            if drawn.log_weight is None:
                continue
            counts = drawn.counts(len(batch))
            highest = drawn.log_weight.masked_fill(~counts, -torch.inf).amax(1)
            lowest = drawn.log_weight.masked_fill(~counts, torch.inf).amin(1)
            if (highest - lowest > 1e-4).any():
                return True
        return False

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        return self.upcoming.at(step).to(self.device)

    @contextmanager
    def at_hand(self, step: int) -> Generator[Batch]:
        """The batch of a step; inside, the device has what is foretold of the step's rows of tables on the host."""
        if self.foretold is None:
            yield self.batch(step)
            return
        try:
            yield self.foretold.begin(step)
        finally:
            self.foretold.end()

    def step(
        self,
        step: int,
        on_step: Callable[[Batch, Negatives], None] | None = None,
        sums: LossSums | None = None,
    ) -> Float[Tensor, ""]:
        """One training step.

        Args:
            step: counted from 0.
            on_step: is told of the step at its end, when gradients are still there and the model is updated; of the
                last part of the rows where they are compared in parts.
            sums: what the loss is added to.

        Returns:
            The loss, still on the device.
        """
        # Whoever looks on is shown what was drawn, which what is replayed does not tell.
        descend = self.descend if self.capture is None or on_step is not None else self.capture
        with self.at_hand(step) as batch:
            descent = descend(batch, step)
        self.optimizer.step(step)
        self.model.constrain()
        if sums is not None:
            sums.add(descent.loss, descent.sampler)
        if on_step is not None:
            on_step(descent.rows, descent.negatives)
        return descent.loss

    def descend(self, batch: Batch, step: int) -> Descent:
        """The forward and the backward pass of a step."""
        model = self.model
        model.begin(step)
        with self.precision():
            lookup = model.lookup(batch)  # the batch's own vectors, once
            compared, negatives, rows = self.compared(lookup, step)  # with x- ~ q_phi( . | anchor, r, step)
            loss = summed(compared.model, compared.sampler, self.regularizer(model, lookup))
        self.optimizer.zero_grad()
        self.world.backward(loss, self.alike)
        own = compared.sampler
        return Descent(loss.detach(), own.detach() if isinstance(own, Tensor) else own, rows, negatives)

    def compare(self, lookup: Lookup, step: int, views: Views | None = None) -> tuple[Losses, Negatives]:
        """The loss of some rows against the negatives that are drawn for them, and these.

        Args:
            lookup: the rows.
            step: from 0.
            views: of every entity, where they are at hand.
        """
        model, sampler = self.model, self.sampler
        seen = lookup if sampler.every else model.exact(lookup)
        negatives = sampler.draw(seen, model, step)  # x- ~ q_phi( . | anchor, r, step)
        negatives = self._counted(lookup, negatives)
        if views is not None and isinstance(negatives, AllNegatives):
            negatives = replace(negatives, views=views)
        true = model.scores(lookup)  # f_theta(h, r, t), and that of each view
        shown = model.shown(negatives)
        false = model.scores(lookup, shown)  # f_theta(h, r, x-)
        with self.world.rows():
            of_model = self._of_scores(lookup.batch.weight, shown, true, false, again=views is not None)
            of_model = summed(of_model, model.entity.loss(lookup, shown, self.objective, true, false))
        losses = Losses(of_model, 0.0)
        if sampler.has_loss:
            s_pos, s_neg = true.mixed.squeeze(1), false.mixed
            losses = Losses(of_model, sampler.loss(lookup, negatives, s_pos, s_neg, model, step))
        return losses, negatives

    def _of_scores(
        self, weight: Float[Tensor, " B"], negatives: Negatives, true: Scores, false: Scores, *, again: bool
    ) -> Float[Tensor, ""]:
        """The loss of the scores; of those of every entity block by block, unless it is made again when descending."""
        if again or not self._by_blocks(len(weight)) or not isinstance(negatives, AllNegatives):
            return self.model.loss(negatives, self.objective, weight, true, false)
        n_rows = rows_of_block(self.model.n_entities, self.device)
        n, total = len(true.by_row), weight.sum()

        def of_block(rows: slice, numbers: Sequence[Tensor]) -> Tensor:
            parts = true.of(rows, numbers[:n]), false.of(rows, numbers[n:])
            found = self.model.loss(negatives[rows], self.objective, weight[rows], *parts)
            return found * (weight[rows].sum() / total)

        trained = [p for part in (self.objective, self.model.mixture) if part for p in part.parameters()]
        return in_blocks(of_block, n_rows, [*true.by_row, *false.by_row], trained)

    def compared(self, lookup: Lookup, step: int) -> tuple[Losses, Negatives, Batch]:
        """`compare` of a batch, whole, or in parts where every entity is a negative and that would take too much.

        The parts are rows, whose loss is weighed by their share of the batch's weight; each is compared again in the
        backward pass.

        Returns:
            The loss; the negatives and the rows that they are for, of the whole batch or of its last part.
        """
        batch, size = lookup.batch, self.rows_at_once
        if size >= len(batch):
            return *self.compare(lookup, step), batch
        everyone, start, of_model, of_sampler = self.model.entity.all(), 0, list[Tensor](), list[Tensor]()
        part, negatives = batch, Negatives()
        for part in (rows.to(self.device) for rows in self.batches.split(step, size)):
            of_part = lookup.part(part, slice(start, start := start + len(part)))
            given = self.compare, of_part, step, everyone
            losses, negatives = checkpoint(*given, use_reentrant=False, preserve_rng_state=False)
            share = part.weight.sum() / batch.weight.sum()
            of_model.append(losses.model * share)
            of_sampler += [losses.sampler * share] if isinstance(losses.sampler, Tensor) else []
        own = torch.stack(of_sampler).sum() if of_sampler else 0.0
        return Losses(torch.stack(of_model).sum(), own), negatives, part

    @property
    def rows_at_once(self) -> int:
        """How many rows may be compared with every entity at once.

        A loss that is made block by block holds little but scores and their gradients; that of parts of a batch is not.
        """
        if not self.sampler.every:
            return sys.maxsize
        model, size = self.model, self.batches.size
        if self._by_blocks(size) and model.mixes_scores:
            of_view = _REALS_IN_BLOCKS + 3 * model.scorer.pair_width(self.device)
            whole = self._rows_within(len(model.views) * of_view + 3 * model.entity.reals_per_pair)
            if whole >= size:
                return whole
        return self._rows_within(_REALS + _REALS_OF_VIEW * model.n_view_losses + 3 * model.reals_per_pair)

    def _rows_within(self, reals: int) -> int:
        """How many rows `memory_mb` is enough for, by the reals of each pair of a row and an entity."""
        per_row = self.model.n_entities * reals * self.model.relation.weight.element_size()
        return int(max(1, min(self.memory_mb * 2**20 / per_row, sys.maxsize)))

    def _by_blocks(self, rows: int) -> bool:
        """Whether the loss of so many rows and every entity is made block by block."""
        return self.world.size == 1 and rows > rows_of_block(self.model.n_entities, self.device)

    def precision(self) -> AbstractContextManager[object]:
        """Inside, matrix products are of bfloat16 where that is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def fit(
        self,
        progress: Progress,
        plan: Plan,
        *,
        validate: Callable[[], float],
        save: Callable[[bool], None],
        callback: Callback | None = None,
    ) -> None:
        """Step until the plan, early stopping or an interruption ends it; `progress` is kept up to date.

        Args:
            progress: how far it is.
            plan: when things happen.
            validate: the validation MRR of the present model.
            save: writes a checkpoint; True = it is also the best model so far. What is saved is finite.
            callback: is told what happens.

        Raises:
            Diverged: the loss or a score is not finite; the last checkpoint is from before.
        """
        told = callback or Callback()
        told.on_start(Training(self.model, self.sampler, self.batches.graph, plan, progress))
        sums = LossSums(progress, self.device)
        started = time.perf_counter()

        def on_step(batch: Batch, negatives: Negatives) -> None:
            nonlocal started
            since = time.perf_counter()
            told.on_step(batch, negatives)
            # Looking on is no training time.
            started += time.perf_counter() - since

        while progress.step < plan.steps and not progress.stopped:
            try:
                self.step(progress.step, on_step if told.watches(progress.step + 1) else None, sums)
            except Exception as error:
                # What draws and sorts fails in ways of its own on numbers that are not finite.
                if isinstance(error, Ended) or self._finite():
                    raise
                raise _diverged("the model", progress.step + 1) from error
            progress.step += 1
            done = progress.step
            if done % self.batches.per_epoch == 0:
                self.sampler.end_epoch(done // self.batches.per_epoch - 1)
            told.on_progress(done, None)
            log, evaluate = plan.due(plan.log_every, done), plan.due(plan.evaluate_every, done)
            stop = self.world.any(told.should_stop())
            if not (log or evaluate or stop or plan.due(plan.checkpoint_every, done)):
                continue
            sums.keep(progress)
            mean = progress.mean_losses()["loss"]
            if not math.isfinite(mean):
                raise _diverged("the loss", done)
            progress.train_seconds += time.perf_counter() - started
            told.on_progress(done, mean)
            if log:
                told.on_row({"step": done, **progress.mean_losses(), "seconds": round(progress.train_seconds, 3)})
                sums.clear()
                sums.keep(progress)
            keep = stop or plan.due(plan.checkpoint_every, done)
            if (evaluate or keep) and self.world.any(not self._finite()):
                # The loss is of the parameters before the step.
                raise _diverged("the model", done)
            better = evaluate and self._evaluate(progress, plan, validate, told)
            if better or keep or progress.stopped:
                save(better)
            if stop:
                return
            started = time.perf_counter()

    def _finite(self) -> bool:
        """Whether all that is trained here is finite."""
        parameters = [*self.model.parameters(), *self.sampler.parameters()]
        return all(bool(torch.isfinite(parameter).all()) for parameter in parameters)

    def _evaluate(
        self,
        progress: Progress,
        plan: Plan,
        validate: Callable[[], float],
        told: Callback,
    ) -> bool:
        """Validate, and say whether the model is the best so far."""
        started = time.perf_counter()
        try:
            mrr = validate()
        except Diverged as error:
            raise _diverged("the model", progress.step) from error
        progress.evaluate_seconds += time.perf_counter() - started
        better = mrr > progress.best_mrr
        if better:
            progress.best_mrr, progress.best_step, progress.stale = mrr, progress.step, 0
        else:
            progress.stale += 1
            progress.stopped = bool(plan.patience) and progress.stale >= plan.patience
        told.on_validation(progress.step, mrr)
        told.on_row({"step": progress.step, "valid_mrr": mrr, "seconds": round(progress.train_seconds, 3)})
        return better


def _diverged(what: str, step: int) -> Diverged:
    return Diverged(f"{what} is not finite at step {step}; lower training.lr")
