"""Uniform negatives, exactly filtered without rejection."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler
from mmrns.types import Batch, Negatives


class Uniform(Sampler):
    """x- uniform, with replacement, over the entities that are not true in train for (anchor, r).

    With m true ids of E, a number uniform on [0, E - m) is mapped to the entity of that rank among the others
    (`TripleIndex.nth_absent`): no rejection, no loop, the same cost for a hub as for a leaf. A row for which every
    entity is true counts no negative.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        filtered: leave the true ones out; otherwise draw from all entities.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        filtered: bool = True,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.filtered = negatives, filtered
        self.n_entities = len(graph.entities)
        self.index = graph.train_index

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        stream = generator(self.seed, "uniform", step, device=device)
        u = torch.rand(len(batch), self.negatives, dtype=torch.float64, generator=stream, device=device)
        if not self.filtered:
            return Negatives(
                ids=(u * self.n_entities).long(),
                logp=torch.full_like(u, -math.log(self.n_entities), dtype=torch.float32),
            )
        self.index = self.index.to(device)
        ids, free = self.index.batch_absent(batch, u)
        mask = (free > 0)[:, None].expand_as(ids)
        return Negatives(ids=ids, mask=mask, logp=-free.clamp(min=1).float().log()[:, None].expand_as(u))

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """1: every candidate is as likely as any other."""
        assert negatives.ids is not None
        return torch.ones(len(negatives.ids), device=negatives.ids.device)
