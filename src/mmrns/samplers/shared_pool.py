"""Negatives that all rows of a batch share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler, uniform_law
from mmrns.types import Batch, Negatives


class Shared(Sampler):
    """K uniform entities a step, with replacement, that every row is compared with, but for those true in train for it.

    Their vectors are looked up once for the whole batch, and a scorer whose comparison is a dot product compares in one
    matrix product: K negatives a row cost much less than K of each row's own. Rows of a batch are no longer
    independent.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.n_entities, self.index = negatives, len(graph.entities), graph.train_index

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        stream = generator(self.seed, "shared", step, device=device)
        # Ascending, which makes the searches for the true ones cheaper.
        ids = torch.randint(self.n_entities, (self.negatives,), generator=stream, device=device).sort().values
        return Negatives(ids=ids, mask=~self.index.batch_contains(batch, ids))

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """1: every candidate is as likely as any other."""
        assert negatives.mask is not None
        return torch.ones(len(negatives.mask), device=negatives.mask.device)

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"]:
        """Uniform over what counts."""
        return uniform_law(self.n_entities, self.index, batch, rows)
