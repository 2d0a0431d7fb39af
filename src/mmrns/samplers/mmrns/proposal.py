"""What a draw of hard negatives chooses from: a pool, and entities from the relation's domain or range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import random_bits
from mmrns.samplers.base import Inner, Sampler, scattered
from mmrns.samplers.gumbel import gumbel_noise
from mmrns.samplers.pools import distinct, mixed_pool, place_in, true_in_pool
from mmrns.types import Batch, Negatives, Views

_DRAWN = 4
"""Negatives that the sampler of half of the pool draws for each row."""


@dataclass(frozen=True)
class Candidates:
    """What the rows of a batch may draw: one pool for all, then M entities from the domain or range of each row's
    relation, on the side that the row replaces. C = P + M columns.

    Attributes:
        pool: Int[P].
        typed: Int[G M], entities of each domain or range of the batch.
        group: Int[B], which of the G each row draws from.
        excluded: Bool[B C], what a row must not draw: what is true in train for it, what is in the pool already, and
            places past the end of a small domain or range.
        log_density: Float[B C], ln pi, the logarithm of the probability with which an entity is a candidate.
    """

    pool: Int[Tensor, " P"]
    typed: Int[Tensor, "G M"]
    group: Int[Tensor, " B"]
    excluded: Bool[Tensor, "B C"]
    log_density: Float[Tensor, "B C"]

    def ids(self, columns: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The entities in some columns of each row."""
        n = len(self.pool)
        pool = self.pool[columns.clamp(max=n - 1)]
        if not self.typed.shape[1]:
            return pool
        return torch.where(columns < n, pool, self.typed[self.group[:, None], (columns - n).clamp(min=0)])


@dataclass(frozen=True)
class Trace:
    """What a draw from candidates leaves behind.

    Attributes:
        candidates: what was drawn from.
        logits: Float[B C] of the first draw, excluded candidates at -inf.
        positions: Int[B K], the columns drawn.
        of_pool: what another sampler drew for the pool; None where none does.
        more: what a subclass adds.
    """

    candidates: Candidates
    logits: Float[Tensor, "B C"]
    positions: Int[Tensor, "B K"]
    of_pool: Negatives | None = None
    more: Any = None


class CandidateSampler(Sampler):
    """A sampler that chooses among candidates: a pool of P entities that all rows share, uniform without replacement,
    and up to M entities from the domain (heads) or range (tails) of each row's relation in train, by systematic
    sampling.

    pi(e) is the probability with which e is a candidate. It is known exactly:

        pi(e) = P / E                                       outside of the relation's domain or range S
              = 1 - (1 - P / E) (1 - min(M, |S|) / |S|)     inside

    Another sampler, the `pool_sampler`, may fill half of the pool; P / E is then what `mixed_pool` says.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, at most P.
        pool: P, at most every entity.
        domain_range: entities from all domains and ranges of a batch together, as many from each of the G: M is
            domain_range // G, at least one. 0 leaves them out.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int,
        negatives: PositiveInt,
        pool: PositiveInt,
        domain_range: NonNegativeInt,
    ):
        size = min(pool, len(graph.entities))
        super().__init__(graph, features, spec, seed=seed, negatives=min(negatives, size))
        self.pool_size, self.typed = size, domain_range
        self.domain_range = graph.domain_range
        self.pool_sampler: Sampler | None = None

    def fill_pool_with(self, sampler: Inner | None) -> None:
        """Build the sampler of half of the pool, at the end of a constructor: its random numbers come last."""
        self.pool_sampler = None if sampler is None else sampler(negatives=_DRAWN)

    def pool(self, step: int) -> Int[Tensor, " P"]:
        """The uniform pool of a step: P distinct ids, ascending."""
        return distinct(self.seed, "pool", step, n=self.n_entities, size=self.pool_size)

    def noise(self, shape: torch.Size, step: int, device: torch.device) -> Float[Tensor, "B C"]:
        """The Gumbel noise of a step."""
        return gumbel_noise(shape, self.stream(step, "gumbel", 0, device=device), device)

    def candidates(self, batch: Batch, step: int, of_pool: Negatives | None = None) -> Candidates:
        """The candidates of a batch; `of_pool` is what another sampler has drawn for its pool."""
        # The names of the random streams are older than the names of what they are for; they decide the numbers.
        pool = self.pool(step).to(batch.h.device, non_blocking=True)
        mixed = None
        if of_pool is not None:
            stream = self.stream(step, "fed pool", device=pool.device)
            mixed = mixed_pool(of_pool.entities(len(batch)).flatten(), pool, self.n_entities, stream)
            pool = mixed.ids
        excluded = true_in_pool(self.index, batch, pool)
        share = pool.new_full(pool.shape, len(pool) / self.n_entities, dtype=torch.float32)
        if mixed is not None:
            share = mixed.rate(pool)
        if not self.typed:
            density = share.log().expand(excluded.shape)
            return Candidates(pool, pool.new_empty(0, 0), torch.zeros_like(batch.r), excluded, density)
        width = max(1, self.typed // (len(batch.relations) * sum(rows.stop > rows.start for _, rows in batch.sides)))
        sampled, inside, group = [], [], []
        for head, rows in batch.sides:
            if rows.start == rows.stop:
                continue
            group.append(batch.relation_index[rows] + len(sampled) * len(batch.relations))
            stream = self.stream(step, "fillers", int(head), device=pool.device)
            start = random_bits(len(batch.relations), stream=stream, device=pool.device)
            sampled.append(self.domain_range.sample(batch.relations, head, start, width))
            inside.append(self.domain_range.contains(pool, batch.relations, head))
        of_row = torch.cat(group)
        typed, there, rate = (torch.cat(parts) for parts in zip(*sampled, strict=True))
        # In the domain or range, an entity is a candidate unless both the pool and the sample miss it:
        # 1 - (1 - share) (1 - rate), written so that small ones keep their digits.
        rate = rate[:, None]
        density = torch.where(torch.cat(inside), share + rate * (1 - share), share)
        of_typed = share[:1].expand_as(typed) if mixed is None else mixed.rate(typed)
        density = torch.cat([density, of_typed + rate * (1 - of_typed)], dim=1).log()
        usable = there & (place_in(pool, typed) == len(pool))
        known = self.index.batch_contains(batch, typed.index_select(0, of_row))
        excluded = torch.cat([excluded, known | ~usable.index_select(0, of_row)], dim=1)
        return Candidates(pool, typed, of_row, excluded, density.index_select(0, of_row))

    def for_the_pool(self, lookup: Lookup, model: Model, step: int) -> Negatives | None:
        """What another sampler draws for the pool."""
        return None if self.pool_sampler is None else self.pool_sampler.draw(lookup, model, step)

    def scores(self, lookup: Lookup, model: Model, candidates: Candidates) -> tuple[Float[Tensor, "B C"], Views, Views]:
        """The model's scores of all candidates, and the vectors of the pool and of the typed candidates [G M]."""
        pool, typed = model.entities(candidates.pool), model.entities(candidates.typed)
        found = model.compare(lookup.query, pool)
        if self.typed:
            width = candidates.typed.shape[1]
            place = candidates.group[:, None] * width + torch.arange(width, device=found.device)
            found = torch.cat([found, model.compare_rows(lookup.query, typed.flatten(), place)], dim=1)
        return found, pool, typed

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The loss of the sampler of the pool, on its own draws."""
        of_pool = negatives.trace.of_pool
        if self.pool_sampler is None or of_pool is None:
            return 0.0
        with torch.no_grad():
            s_pool = model.score_against(lookup, of_pool)
        return self.pool_sampler.loss(lookup, of_pool, s_pos, s_pool, model, step)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The softmax of the logits over the candidates of the step."""
        trace: Trace = negatives.trace
        logits = trace.logits[rows].detach()
        columns = torch.arange(logits.shape[1], device=logits.device).expand(len(batch), -1)
        q = torch.softmax(logits, dim=1).nan_to_num()
        return scattered(trace.candidates.ids(columns)[rows], q, self.n_entities)

    def notes(self, batch: Batch) -> list[str]:
        return [] if self.pool_sampler is None else self.pool_sampler.notes(batch)

    def pretrain(self, batches: Callable[[int], Batch]) -> None:
        """That of the sampler of the pool."""
        if self.pool_sampler is not None:
            self.pool_sampler.pretrain(batches)

    def end_epoch(self, epoch: int) -> None:
        """That of the sampler of the pool."""
        if self.pool_sampler is not None:
            self.pool_sampler.end_epoch(epoch)
