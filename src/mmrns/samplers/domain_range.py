"""Hard negatives from a pool and from the relation's domain or range, weighed by how they were drawn."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from pydantic import NonNegativeInt, PositiveInt

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Inner
from mmrns.samplers.mmrns.proposal import Candidates, CandidateSampler
from mmrns.types import Batch, Negatives


class DomainRange(CandidateSampler, name="domain-range"):
    """Hard negatives from a shared pool and from the relation's domain or range, with exact importance weights.

    It is the sampler `mmrns` without its attention: no parameter, no modality. With pi(e) the probability that e is a
    candidate (`CandidateSampler`) and s(e) the model's own score, the proposal is

        q(e) ~ exp(alpha s(e)) / pi(e)

    K negatives are drawn from it without replacement, by one Gumbel noise and its top K (the Plackett-Luce
    distribution). Candidates that are true in train are left out. The importance weight of a draw is one over pi(e)
    times the probability of being among the K (`log_inclusion`), so that the loss estimates the self-adversarial
    softmax over all entities.

    Cost of a draw: B (P + M) scores without gradient, for a pool of P entities and M of each row's domain or range.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives, pool, domain_range, hold: see `CandidateSampler`.
        pool_sampler: a sampler whose draws fill half of the pool.
        alpha: inverse temperature of the objective's self-adversarial weights.
    """

    undivided = ""

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        pool: PositiveInt = 1024,
        domain_range: NonNegativeInt = 1024,
        hold: PositiveInt = 1,
        pool_sampler: Inner | None = None,
        alpha: float = 1.0,
    ):
        sizes = {"negatives": negatives, "pool": pool, "domain_range": domain_range, "hold": hold}
        super().__init__(graph, features, spec, seed=seed, **sizes)
        self.alpha = alpha
        self.fill_pool_with(pool_sampler)

    def kind(self, step: int) -> Hashable | None:
        """All steps are alike, but where another sampler draws for the pool."""
        return "any" if self.pool_sampler is None else None

    def prepare(self, batch: Batch, model: Model, step: int) -> Candidates:
        """The candidates, which are drawn for several steps at once."""
        return self.unfiltered(batch, step).by_row()

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        of_pool, batch = self.for_the_pool(lookup, model, step), lookup.batch
        given: Candidates | None = batch.given
        candidates = self.candidates(batch, step, of_pool) if given is None else self.filtered(batch, given)
        with torch.no_grad():
            hardness = self.alpha * self.scores(lookup, model, candidates)
        return self.drawn(candidates, hardness, candidates.per_density, step, of_pool)
