"""Hard negatives: those of a shared pool that the model scores high."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler
from mmrns.samplers.gumbel import gumbel_noise, log_inclusion
from mmrns.samplers.pools import distinct
from mmrns.types import Batch, Negatives


class Hard(Sampler):
    """K of a pool of P entities by the step's own scores s, those true in train left out.

    The pool is uniform without replacement, one for all rows, so that its scores are one product for the bilinear
    scorers. By `choice` the K of a row are

        top         the K highest
        softmax     drawn without replacement from softmax(alpha s), by one Gumbel noise and its top K
        corrected   drawn so, and the weights of the loss divided by the probability of the draw (`log_inclusion`)

    `top` is dynamic negative sampling (Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative
    Item Sampling", SIGIR 2013) with a pool that rows share and K instead of one; `softmax` is the softer form, the
    self-adversarial weights as a draw. Both lean towards unknown true triples, which score high. `corrected` estimates
    the loss over all entities instead; it is the draw of `mmrns` from its pool alone.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row; at most P.
        pool: P; at most every entity.
        choice: how they are chosen.
        alpha: inverse temperature of the objective's self-adversarial weights, and of the softmax.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        pool: PositiveInt = 256,
        choice: Literal["top", "softmax", "corrected"] = "top",
        alpha: float = 1.0,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.n_entities, self.index = len(graph.entities), graph.train_index
        self.pool_size = min(pool, self.n_entities)
        self.negatives = min(negatives, self.pool_size)
        self.choice, self.alpha = choice, alpha

    @torch.no_grad()
    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        pool = distinct(self.seed, "hard pool", step, n=self.n_entities, size=self.pool_size)
        pool = pool.to(device, non_blocking=True)
        true = self.index.batch_contains(batch, pool)
        scores = model.score_against(batch, Negatives(ids=pool))
        if self.choice == "top":
            logits = perturbed = scores.masked_fill(true, -torch.inf)
        else:
            logits = (self.alpha * scores).masked_fill(true, -torch.inf)
            stream = generator(self.seed, "hard", step, device=device)
            perturbed = logits + gumbel_noise(logits.shape, stream, device)
        columns = perturbed.topk(self.negatives, dim=1).indices
        logp = log_inclusion(logits, perturbed, columns) if self.choice == "corrected" else None
        return Negatives(ids=pool[columns], mask=~true.gather(1, columns), logp=logp, trace=logits)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """Of the first draw, relative to what the row may draw from the pool; of `top`, the K relative to that."""
        logits = negatives.trace
        some = torch.isfinite(logits).sum(1)
        if self.choice == "top":
            return torch.where(some > 0, (self.negatives / some).clamp(max=1), torch.nan)
        return 1 / (some * torch.softmax(logits, dim=1).square().sum(1))
