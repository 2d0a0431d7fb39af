"""Uniform negatives, exactly filtered without rejection."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import ModelSpec
from mmrns.rng import below
from mmrns.samplers.base import Recipe, Sampler, even
from mmrns.types import Batch, Negatives, OwnNegatives


class Uniform(Sampler, name="uniform"):
    """x- uniform, with replacement, over the entities that are not true in train for (anchor, r).

    With m true ids of E, a whole number uniform on [0, E - m) is mapped to the entity of that rank among the others
    (`TripleIndex.nth_absent`): no rejection, no loop, the same cost for a hub as for a leaf. A row for which every
    entity is true counts no negative.

    Cost of a draw: B K random numbers and as many searches of the train index.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        filtered: leave the true ones out; otherwise draw from all entities.
    """

    recipe = Recipe(alpha=0.0)
    alike = True
    undivided = ""

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
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.filtered = filtered

    def draw_blind(self, batch: Batch, step: int) -> OwnNegatives:
        bits = self.random_bits(step, "uniform", rows=len(batch), device=batch.h.device)
        if not self.filtered:
            same = torch.full_like(bits, math.log(self.n_entities), dtype=torch.float32)
            return OwnNegatives(below(bits, self.n_entities), log_weight=same)
        ids, free = self.index.batch_absent(batch, bits)
        mask = (free > 0)[:, None].expand_as(ids)
        return OwnNegatives(ids, mask=mask, log_weight=free.clamp(min=1).float().log()[:, None].expand_as(ids))

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """Uniform over what may be drawn."""
        absent = self.absent(batch, rows)
        return even(absent if self.filtered else torch.ones_like(absent))
