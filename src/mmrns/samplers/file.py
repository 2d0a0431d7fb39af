"""Negatives that the user supplies, mixed with those of another sampler."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import DomainRangeIndex
from mmrns.data.negatives import read_negatives
from mmrns.errors import UsageError
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import random_bits
from mmrns.samplers.base import Inner, Sampler, even
from mmrns.types import Batch, Negatives, OwnNegatives


@dataclass(frozen=True)
class Trace:
    """What a draw leaves behind.

    Attributes:
        inner: what the other sampler drew.
        place: Int[B], the place of each row's triple among those of the file.
        replaced: Bool[B K], the negatives that are from the file.
    """

    inner: Negatives
    place: Int[Tensor, " B"]
    replaced: Bool[Tensor, "B K"]


class File(Sampler, name="file"):
    """For a positive with negatives in a file, `share` of its K from there, uniform with replacement; the rest, and all
    K of the other positives, from another sampler.

    The other sampler draws as if it were alone, K or as many as it has. Then columns at random, the same in all rows,
    are replaced by the file's negatives.

    The table is read by `read_negatives`. A row of a batch has the negatives that replace the side that it replaces.

    What the other sampler draws keeps its importance weights. How often the file's negatives should be expected is not
    known, so each of them weighs as much as the row's draws on average:  log_weight = ln mean_k e^log_weight_k.

    Cost of a draw: that of the other sampler, and two searches a row.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        path: of the table.
        share: of what the other sampler draws, rounded, at least one, where there are negatives in the table.
        other: the other sampler.

    Raises:
        UsageError: no `path`.
        DataError: the file is not fit.
    """

    undivided = ""

    positives: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        path: str | None = None,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        other: Inner,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        if path is None:
            raise UsageError("the sampler `file` reads its negatives from a table; name it by sampler.path=FILE")
        self.share, self.other = share, other(negatives=negatives)
        positive, negative = read_negatives(Path(path), graph)
        positives, place = torch.unique(self._code(*positive.unbind(1)), return_inverse=True)
        head = positive[:, 0] != negative[:, 0]
        target = torch.where(head, negative[:, 0], negative[:, 2])
        # Functions of the file: read again rather than stored.
        self.register_buffer("positives", positives, persistent=False)
        self.listed = DomainRangeIndex.listed(place, head, target, len(graph.entities))

    def _code(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return (h * self.n_relations + r) * self.n_entities + t

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        device = batch.h.device
        inner = self.other.draw(lookup, model, step)
        ids = inner.entities(len(batch))
        stream = self.stream(step, "file", device=device)
        # Of those that there are: a small pool or batch gives fewer than K.
        own = max(1, int(self.share * ids.shape[1] + 0.5))
        bits = random_bits(len(batch), own, stream=stream, device=device)
        code = self._code(batch.h, batch.r, batch.t)
        place = torch.searchsorted(self.positives, code).clamp(max=len(self.positives) - 1)
        own, size = self.listed.draw(place, batch.head, bits)
        has = (self.positives[place] == code) & (size > 0)
        # Columns at random: a list that all rows share may be in order.
        columns = torch.randperm(ids.shape[1], generator=stream, device=device)[: own.shape[1]]
        taken = torch.zeros_like(ids[0], dtype=torch.bool).index_fill(0, columns, True)
        replaced = has[:, None] & taken
        ids = torch.where(replaced, ids.index_copy(1, columns, own), ids)
        mask = None if inner.mask is None else inner.mask | replaced
        views = through = None
        if isinstance(inner, OwnNegatives) and inner.views is not None:
            drawn = model.entities(ids)
            views = drawn.with_vectors(torch.where(replaced[..., None, None], drawn.vectors, inner.views.vectors))
        if isinstance(inner, OwnNegatives) and inner.through is not None:
            through = inner.through.masked_fill(replaced, 0.0)
        weight = inner.log_weight
        if weight is not None:
            weight = torch.where(replaced, average(weight, inner.mask)[:, None], weight)
        return OwnNegatives(ids, views, through, mask=mask, log_weight=weight, trace=Trace(inner, place, replaced))

    def kind(self, step: int) -> Hashable | None:
        """The other sampler's."""
        return self.other.kind(step)

    def prepare(self, batch: Batch, model: Model, step: int) -> Any:
        """The other sampler's."""
        return self.other.prepare(batch, model, step)

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The other sampler's, of what is left of its own."""
        trace: Trace = negatives.trace
        mask = ~trace.replaced if trace.inner.mask is None else trace.inner.mask & ~trace.replaced
        return self.other.loss(lookup, replace(trace.inner, mask=mask), s_pos, s_neg, model, step)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"] | None:
        """The other sampler's and a uniform one over the row's own list, in proportion to how many each has drawn."""
        trace: Trace = negatives.trace
        inner = self.other.proposal(batch, trace.inner, rows)
        if inner is None:
            return None
        own = torch.zeros_like(inner)
        own[self.listed.members(trace.place[rows], batch.head[rows])] = 1.0
        drawn = trace.replaced[rows].sum(1, keepdim=True)
        left = (negatives.counts(len(batch))[rows] & ~trace.replaced[rows]).sum(1, keepdim=True)
        return (drawn * even(own) + left * inner) / (drawn + left).clamp(min=1)

    @property
    def reads(self) -> tuple[str, ...]:
        """The other sampler's."""
        return self.other.reads

    def notes(self, batch: Batch) -> list[str]:
        """How many triples have negatives of their own, and what the other sampler has to say."""
        return [f"{len(self.positives):,} triples have negatives of their own.", *self.other.notes(batch)]

    def foresee(self, batches: Callable[[int], Batch]) -> None:
        """The other sampler's."""
        self.other.foresee(batches)

    def pretrain(self, batches: Callable[[int], Batch]) -> None:
        """The other sampler's."""
        self.other.pretrain(batches)

    def end_epoch(self, epoch: int) -> None:
        """The other sampler's."""
        self.other.end_epoch(epoch)


def average(log_weight: Float[Tensor, "B K"], mask: Tensor | None) -> Float[Tensor, " B"]:
    """`ln mean_k e^log_weight_k` over the negatives of each row that count; 0 where none does."""
    counts = torch.ones_like(log_weight, dtype=torch.bool) if mask is None else mask
    total = log_weight.masked_fill(~counts, -torch.inf).logsumexp(1)
    return torch.where(counts.any(1), total - counts.sum(1).log(), 0.0)
