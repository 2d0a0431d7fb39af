"""Every entity as a negative: 1-vs-all and K-vs-all training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Sampler, uniform_law
from mmrns.types import Batch, Negatives


class All(Sampler):
    """Nothing is drawn: each row is compared with all entities that are not true in train for (anchor, r).

    A step costs B x E scores with gradients, in one product for the bilinear scorers.

    Args:
        graph, features, spec, seed: see `Sampler`.
    """

    def __init__(self, graph: KnowledgeGraph, features: Features, spec: ModelSpec, *, seed: int = 0):
        super().__init__(graph, features, spec, seed=seed)
        self.n_entities, self.index = len(graph.entities), graph.train_index

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        mask = torch.ones(len(batch), self.n_entities, dtype=torch.bool, device=device)
        mask[self.index.batch_targets(batch, batch.n_true)] = False
        return Negatives(mask=mask)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """1: every candidate is as likely as any other."""
        assert negatives.mask is not None
        return torch.ones(len(negatives.mask), device=negatives.mask.device)

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"]:
        """Uniform over what is compared with: nothing is drawn."""
        return uniform_law(self.n_entities, self.index, batch, rows)
