"""Negatives that the user supplies, mixed with those of another sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import SlotIndex
from mmrns.data.negatives import read_negatives
from mmrns.errors import UsageError
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Inner, Sampler
from mmrns.types import Batch, Negatives

if TYPE_CHECKING:
    from mmrns.training.trainer import Trainer


class File(Sampler):
    """For a positive with negatives in a file, `share` of its K from there, uniform with replacement; the rest, and all
    K of the other positives, from another sampler.

    The table is read by `read_negatives`. A row of a batch has the negatives that replace the side that it replaces.

    What the other sampler draws keeps its weight. Where that is divided by a law (`logp`), the file's negatives, which
    have none, weigh as much as the row's average:  -logp = ln mean_k e^-logp_k.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K.
        path: of the table.
        share: of K, rounded, at least one, where there are negatives in the table.
        other: the other sampler.

    Raises:
        UsageError: no `path`.
        DataError: the file is not fit.
    """

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
        super().__init__(graph, features, spec, seed=seed)
        if path is None:
            raise UsageError("the sampler `file` reads its negatives from a table; name it by sampler.path=FILE")
        self.own, self.other = max(1, int(share * negatives + 0.5)), other(negatives=negatives)
        self.sizes = len(graph.entities), len(graph.relations)
        positive, negative = read_negatives(Path(path), graph)
        positives, slot = torch.unique(self._code(*positive.unbind(1)), return_inverse=True)
        head = positive[:, 0] != negative[:, 0]
        replaced = torch.where(head, negative[:, 0], negative[:, 2])
        # Functions of the file: read again rather than stored.
        self.register_buffer("positives", positives, persistent=False)
        self.index = SlotIndex.listed(slot, head, replaced, len(graph.entities))

    def _code(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        n_entities, n_relations = self.sizes
        return (h * n_relations + r) * n_entities + t

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        inner = self.other.draw(batch, model, step)
        assert inner.ids is not None
        ids = inner.ids.expand(len(batch), -1)
        stream = generator(self.seed, "file", step, device=device)
        u = torch.rand(len(batch), min(self.own, ids.shape[1]), dtype=torch.float64, generator=stream, device=device)
        code = self._code(batch.h, batch.r, batch.t)
        slot = torch.searchsorted(self.positives, code).clamp(max=len(self.positives) - 1)
        parts = [self.index.draw(slot[rows], head, u[rows]) for head, rows in batch.sides]
        own, size = torch.cat([own for own, _ in parts]), torch.cat([size for _, size in parts])
        has = (self.positives[slot] == code) & (size > 0)
        column = torch.arange(ids.shape[1], device=device)
        replaced = has[:, None] & (column < own.shape[1])
        ids = torch.where(replaced, torch.cat([own, ids[:, own.shape[1] :]], dim=1), ids)
        mask = None if inner.mask is None else inner.mask | replaced
        emb = None if inner.emb is None else torch.where(replaced[..., None], model.entities(ids), inner.emb)
        logp = (
            None if inner.logp is None else torch.where(replaced, average(inner.logp, inner.mask)[:, None], inner.logp)
        )
        return Negatives(ids=ids, emb=emb, mask=mask, logp=logp, trace=(inner, replaced))

    def loss(
        self,
        batch: Batch,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The other sampler's, of what is left of its own."""
        inner, replaced = negatives.trace
        mask = ~replaced if inner.mask is None else inner.mask & ~replaced
        return self.other.loss(batch, replace(inner, mask=mask), s_pos, s_neg, model, step)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"] | None:
        """The other sampler's."""
        return self.other.effective_sample_size(negatives.trace[0])

    def notes(self, batch: Batch) -> list[str]:
        """How many triples have negatives of their own, and what the other sampler has to say."""
        return [f"{len(self.positives):,} triples have negatives of their own.", *self.other.notes(batch)]

    def pretrain(self, trainer: Trainer) -> None:
        """The other sampler's."""
        self.other.pretrain(trainer)

    def end_epoch(self, epoch: int) -> None:
        """The other sampler's."""
        self.other.end_epoch(epoch)


def average(logp: Float[Tensor, "B K"], mask: Tensor | None) -> Float[Tensor, " B"]:
    """`-ln mean_k e^-logp_k` over the negatives of each row that count; 0 where none does."""
    counts = torch.ones_like(logp, dtype=torch.bool) if mask is None else mask
    total = (-logp).masked_fill(~counts, -torch.inf).logsumexp(1)
    return torch.where(counts.any(1), counts.sum(1).log() - total, 0.0)
