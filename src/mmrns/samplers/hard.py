"""Hard negatives: those of a shared pool that the model scores high."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Sampler, even, scattered
from mmrns.samplers.gumbel import gumbel_noise, log_inclusion, top_k
from mmrns.samplers.pools import distinct
from mmrns.types import Batch, Negatives, OwnNegatives, PoolNegatives


class Hard(Sampler, name="hard"):
    """K of a pool of P entities by the step's own scores s, those true in train left out.

    The pool is uniform without replacement, one for all rows, so that its scores are one product for the bilinear
    scorers. By `choice` the K of a row are

        top         are the K highest
        softmax     are drawn without replacement from softmax(alpha s), by one Gumbel noise and its top K
        corrected   are drawn so, with importance weights: one over the probability of the draw (`log_inclusion`)

    `top` is dynamic negative sampling (Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative
    Item Sampling", SIGIR 2013) with a pool that rows share and K instead of one; `softmax` is the softer form, the
    self-adversarial weights as a draw. Both lean towards unknown true triples, which score high. `corrected` estimates
    the loss over all entities instead; it is the draw of `domain-range` from its pool alone.

    Cost of a draw: B P scores without gradient and searches of the train index.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, at most P.
        pool: P, at most every entity.
        choice: how they are chosen.
        alpha: inverse temperature of the objective's self-adversarial weights, and of the softmax.
    """

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
        pool: PositiveInt = 256,
        choice: Literal["top", "softmax", "corrected"] = "top",
        alpha: float = 1.0,
    ):
        size = min(pool, len(graph.entities))
        super().__init__(graph, features, spec, seed=seed, negatives=min(negatives, size))
        self.pool_size = size
        self.choice, self.alpha = choice, alpha

    def prepare(self, batch: Batch, model: Model, step: int) -> Int[Tensor, " P"]:
        """The pool, which the host draws."""
        return self._pool(step, batch.h.device)

    def foretold(self, batch: Batch, step: int) -> Int[Tensor, " P"]:
        """The pool."""
        return self._pool(step, batch.h.device)

    def _pool(self, step: int, device: torch.device) -> Int[Tensor, " P"]:
        pool = distinct(self.seed, "hard pool", step, n=self.n_entities, size=self.pool_size)
        return pool.to(device, non_blocking=True)

    @torch.no_grad()
    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        device = batch.h.device
        pool = self._pool(step, device) if batch.given is None else batch.given
        true = self.index.batch_contains(batch, pool)
        scores = model.score_against(lookup, PoolNegatives(pool))
        if self.choice == "top":
            logits = perturbed = scores.masked_fill(true, -torch.inf)
        else:
            logits = (self.alpha * scores).masked_fill(true, -torch.inf)
            stream = self.stream(step, "hard", device=device)
            perturbed = logits + gumbel_noise(logits.shape, stream, device)
        columns, left_out = top_k(perturbed, self.negatives)
        weight = -log_inclusion(logits.gather(1, columns), left_out) if self.choice == "corrected" else None
        return OwnNegatives(pool[columns], mask=~true.gather(1, columns), log_weight=weight, trace=(pool, logits))

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The softmax of the scores over the pool; for `top` uniform over the K highest, which are no draw."""
        pool, logits = negatives.trace
        if self.choice == "top":
            ids, counts = negatives.entities(len(batch))[rows], negatives.counts(len(batch))[rows]
            return scattered(ids, even(counts), self.n_entities)
        q = torch.softmax(logits[rows], dim=1).nan_to_num()
        return scattered(pool.expand(len(rows), -1), q, self.n_entities)
