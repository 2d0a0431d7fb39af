"""What a draw of hard negatives chooses from: a pool, and entities from the relation's domain or range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from mmrns.samplers.gumbel import exponential_, log_inclusion, top_k
from mmrns.samplers.pools import MixedPool, PoolAnswers, distinct, in_pools, mixed_pool
from mmrns.types import Batch, Negatives, OwnNegatives, PoolNegatives

_DRAWN = 4
"""Negatives that the sampler of half of the pool draws for each row."""

_MOST_HELD = 2**24
"""Numbers up to which what all relations of the graph draw from is held; beyond it each step has that of its own."""

_AHEAD, _AHEAD_ON_DEVICE, _MOST_AHEAD = 10, 50, 2**23
"""Steps for which is drawn at once, whose many small operations they share, on the host and on a device that waits for
each to be launched; and numbers that this may hold."""


@dataclass(frozen=True)
class Held:
    """What the steps of a block have in common: a pool, and M entities of each of G domains and ranges.

    Attributes:
        pool: Int[P], ascending.
        answers: of the pool, on the host; None where another sampler has had a part in it, and on a device, to which
            fewer operations are worth more than fewer searches.
        typed: Int[G M].
        unusable: Bool[G M], typed entities that are in the pool, too, or past the end of a small domain or range.
        log_density: Float[G P+M], ln pi, the logarithm of the probability with which each came to be a candidate.
        per_density: Float[G P+M], 1 / pi.
    """

    pool: Int[Tensor, " P"]
    answers: PoolAnswers | None
    typed: Int[Tensor, "G M"]
    unusable: Bool[Tensor, "G M"]
    log_density: Float[Tensor, "G PM"]
    per_density: Float[Tensor, "G PM"]


@dataclass(frozen=True)
class Lists:
    """Whose entities a block draws from beside its pool: of some relations those of their ranges, domains, or both.

    Attributes:
        block: its number.
        relations: Int[R], distinct ones.
        heads: the sides, True for the domains: G = R times their number.
    """

    block: int
    relations: Int[Tensor, " R"]
    heads: tuple[bool, ...]

    @staticmethod
    def of(block: int, batch: Batch) -> Lists:
        """Those that the rows of a batch draw from."""
        return Lists(block, batch.relations, tuple(head for head, _ in batch.sides))

    def __len__(self) -> int:
        return len(self.relations) * len(self.heads)


@dataclass(frozen=True)
class Candidates:
    """What the rows of a batch may draw: one pool for all, then M entities from the domain or range of each row's
    relation, on the side that the row replaces. C = P + M columns.

    Attributes:
        held: the pool and the G domains and ranges, and how likely each entity came to be there.
        group: Int[B], which of the G each row draws from.
        excluded: Bool[B C], what a row must not draw: what is true in train for it, what is in the pool already, and
            places past the end of a small domain or range.
        listed: N, the relations whose lists `typed` has, of one side after those of the other: all of the graph, or
            those of the batch.
    """

    held: Held
    group: Int[Tensor, " B"]
    excluded: Bool[Tensor, "B C"]
    listed: int

    @property
    def pool(self) -> Int[Tensor, " P"]:
        """The pool."""
        return self.held.pool

    @property
    def typed(self) -> Int[Tensor, "G M"]:
        """Entities of each domain and range."""
        return self.held.typed

    @cached_property
    def log_density(self) -> Float[Tensor, "B C"]:
        """The logarithm of pi, the probability with which an entity is a candidate of a row."""
        return self.held.log_density.index_select(0, self.group)

    @cached_property
    def per_density(self) -> Float[Tensor, "B C"]:
        """1 / pi, and 0 of what is excluded."""
        return torch.where(self.excluded, 0.0, self.held.per_density.index_select(0, self.group))

    def of_relations(self, relations: Int[Tensor, " R"]) -> Int[Tensor, "R S M"]:
        """`typed` by relation and side, of some relations of the graph or of all that are listed."""
        if not self.typed.shape[1]:
            return self.typed.new_empty(len(relations), 1, 0)
        lists = self.typed.view(-1, self.listed, self.typed.shape[1]).transpose(0, 1)
        return lists if len(relations) == self.listed else lists.index_select(0, relations)

    def by_row(self) -> Candidates:
        """The same with a list for each row: their shapes are those of every batch of the size."""
        held, group = self.held, self.group
        of_rows = (x.index_select(0, group) for x in (held.typed, held.unusable, held.log_density, held.per_density))
        return Candidates(
            Held(held.pool, None, *of_rows), torch.arange(len(group), device=group.device), self.excluded, 0
        )

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
        hardness: Float[B C], alpha s(e).
        weight: Float[B C], what each weighs beside that; 0 of what is excluded.
        perturbed: Float[B C], logits and their noise.
        positions: Int[B K], the columns drawn.
        of_pool: what another sampler drew for the pool; None where none does.
        more: what a subclass adds.
    """

    candidates: Candidates
    hardness: Float[Tensor, "B C"]
    weight: Float[Tensor, "B C"]
    perturbed: Float[Tensor, "B C"]
    positions: Int[Tensor, "B K"]
    of_pool: Negatives | None = None
    more: Any = None

    @cached_property
    def logits(self) -> Float[Tensor, "B C"]:
        """Those of the first draw; of excluded candidates -inf."""
        return self.hardness + self.weight.log()


class CandidateSampler(Sampler):
    """A sampler that chooses among candidates: a pool of P entities that all rows share, uniform without replacement,
    and up to M entities from the domain (heads) or range (tails) of each row's relation in train, by systematic
    sampling.

    pi(e) is the probability with which e is a candidate. It is known exactly:

        pi(e) = P / E                                       outside of the relation's domain or range S
              = 1 - (1 - P / E) (1 - min(M, |S|) / |S|)     inside

    Both samples are held for a block of steps, of one unless something has to be read of them, which changes nothing of
    pi. They are functions of (seed, block).
    Another sampler, the `pool_sampler`, may fill half of the pool; P / E is then what `mixed_pool` says, and a block is
    one step.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, at most P.
        pool: P, at most every entity.
        domain_range: entities from the domains of all relations together, and as many from their ranges: M is
            domain_range divided by the number of relations, at least one. 0, or a pool of all, leaves them out.
        hold: steps of a block.
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
        hold: PositiveInt,
    ):
        size = min(pool, len(graph.entities))
        super().__init__(graph, features, spec, seed=seed, negatives=min(negatives, size))
        self.pool_size, self.hold = size, hold
        # A pool of every entity leaves nothing to be listed.
        self.typed = max(1, domain_range // self.n_relations) if domain_range and size < len(graph.entities) else 0
        self.domain_range = graph.domain_range
        self.pool_sampler: Sampler | None = None
        # On the host, so that nobody has to ask a device how much there is of a pool.
        self._degrees, self._occurrences = self.index.degrees(), self.domain_range.occurrences()
        self._held: dict[int, Held] = {}
        self._batches: Callable[[int], Batch] | None = None

    def forget(self) -> None:
        self._held = {}

    def fill_pool_with(self, sampler: Inner | None) -> None:
        """Build the sampler of half of the pool, at the end of a constructor: its random numbers come last."""
        self.pool_sampler = None if sampler is None else sampler(negatives=_DRAWN)

    def block(self, step: int) -> int:
        """The block that a step belongs to."""
        return step // self.hold if self.pool_sampler is None else step

    @property
    def holds(self) -> bool:
        """Whether what all relations of the graph draw from is held for several steps."""
        several = self.hold > 1 and self.pool_sampler is None
        return several and 2 * self.n_relations * (self.pool_size + self.typed) <= _MOST_HELD

    def pool(self, block: int) -> Int[Tensor, " P"]:
        """The uniform pool of a block: P distinct ids, ascending."""
        return distinct(self.seed, "pool", block, n=self.n_entities, size=self.pool_size)

    def noise(self, shape: torch.Size, step: int, device: torch.device) -> Float[Tensor, "B C"]:
        """The noise of a step, exponential: -ln of it is Gumbel noise."""
        stream = self.stream(step, "gumbel", 0, device=device)
        return exponential_(torch.rand(shape, generator=stream, device=device))

    @torch.no_grad()
    def drawn(
        self,
        candidates: Candidates,
        hardness: Float[Tensor, "B C"],
        weight: Float[Tensor, "B C"],
        step: int,
        of_pool: Negatives | None,
        more: Any = None,
    ) -> OwnNegatives:
        """K of each row's candidates, drawn without replacement from `q(e) ~ weight(e) exp(hardness(e))`.

        One Gumbel noise and its top K, the Plackett-Luce distribution. The importance weight of a draw is `weight` over
        the probability of being among the K (`log_inclusion`).

        Args:
            step: decides the noise.
            candidates, hardness, weight, of_pool, more: see `Trace`.
        """
        noise = self.noise(hardness.shape, step, hardness.device)
        # The weight and the Gumbel noise are added by one logarithm, which is -inf where something is excluded.
        perturbed = hardness + (weight / noise).log_()
        positions, left_out = top_k(perturbed, self.negatives)
        # Draws of rows that have too few candidates do not count, but what weighs nothing has to stay a number.
        log_weight = weight.gather(1, positions).clamp_(min=torch.finfo(weight.dtype).tiny).log_()
        log_weight = log_weight - log_inclusion(hardness.gather(1, positions) + log_weight, left_out)
        trace = Trace(candidates, hardness, weight, perturbed, positions, of_pool, more)
        mask = ~candidates.excluded.gather(1, positions)
        return OwnNegatives(candidates.ids(positions), mask=mask, log_weight=log_weight, trace=trace)

    def candidates(self, batch: Batch, step: int, of_pool: Negatives | None = None) -> Candidates:
        """The candidates of a batch; `of_pool` is what another sampler has drawn for its pool."""
        return self.filtered(batch, self.unfiltered(batch, step, of_pool))

    def unfiltered(self, batch: Batch, step: int, of_pool: Negatives | None = None) -> Candidates:
        """The candidates of a batch, of which nothing is excluded yet: `excluded` has no columns."""
        if self.holds:
            relations, place, both = self.n_relations, batch.r, True
        else:
            relations, place, both = len(batch.relations), batch.relation_index, len(batch.sides) == 2
        drawn = None if of_pool is None else of_pool.entities(len(batch)).flatten()
        held = self.held(batch, step, drawn)
        group = place + relations * batch.head if both else place
        if not self.typed:
            group = torch.zeros_like(group)
        return Candidates(held, group, batch.weight.new_empty((len(batch), 0), dtype=torch.bool), relations)

    def filtered(self, batch: Batch, candidates: Candidates) -> Candidates:
        """The same candidates, of which is said what each row must not draw."""
        held = candidates.held
        if held.answers is not None:
            excluded = held.answers.among(self.index, batch)
        else:
            excluded = self.index.batch_contains(batch, held.pool)
        if self.typed:
            typed, unusable = (x.index_select(0, candidates.group) for x in (held.typed, held.unusable))
            excluded = torch.cat([excluded, self.index.batch_contains(batch, typed) | unusable], dim=1)
        return replace(candidates, excluded=excluded)

    def held(self, batch: Batch, step: int, drawn: Int[Tensor, " F"] | None = None) -> Held:
        """What a batch draws from in a step; `drawn` is what another sampler has drawn for its pool.

        That of a training's own batches is drawn for some steps at once, as far as they are known.
        """
        block = self.block(step)
        if self.holds:
            if block not in self._held:
                everyone = torch.arange(self.n_relations, device=self.index.device)
                self._held = self._latest(block) | {block: self._draw_held([Lists(block, everyone, (False, True))])[0]}
            return self._held[block]
        if drawn is not None or self._batches is None or batch.step != step:
            return self._draw_held([Lists.of(block, batch)], drawn)[0]
        if step not in self._held:
            lists = [Lists.of(self.block(s), self._batches(s)) for s in self._steps_ahead(batch, step)]
            self._held = self._latest(step) | dict(enumerate(self._draw_held(lists), step))
        return self._held[step]

    def _latest(self, number: int) -> dict[int, Held]:
        """What the step or block before holds, which is asked for again where candidates are foretold."""
        return {before: held for before, held in self._held.items() if before == number - 1}

    def _steps_ahead(self, batch: Batch, step: int) -> range:
        """The step and those after it for which is drawn at once."""
        each = len(Lists.of(0, batch)) * (self.pool_size + self.typed)
        ahead = _AHEAD if self.index.device.type == "cpu" else _AHEAD_ON_DEVICE
        return range(step, step + max(1, min(ahead, _MOST_AHEAD // each)))

    def _draw_held(self, lists: Sequence[Lists], drawn: Int[Tensor, " F"] | None = None) -> list[Held]:
        """What some blocks hold, in one pass over all; one block where another sampler has drawn for its pool."""
        pools, device = torch.stack([self.pool(each.block) for each in lists]), self.index.device
        answers: Sequence[PoolAnswers | None] = [None] * len(lists)
        mixed = occurrences = None
        if drawn is None:
            occurrences = int(self._occurrences[pools].sum())
            if device.type == "cpu":
                answers = PoolAnswers.of_each(self.index, pools, self._degrees)
            pools = pools.to(device, non_blocking=True)
        else:
            # The names of the random streams are older than the names of what they are for; they decide the numbers.
            stream = self.stream(lists[0].block, "fed pool", device=device)
            mixed = mixed_pool(drawn, pools[0].to(device, non_blocking=True), self.n_entities, stream)
            pools = mixed.ids[None]
        share = pools.new_full((self.pool_size,), self.pool_size / self.n_entities, dtype=torch.float32)
        if mixed is not None:
            share = mixed.rate(mixed.ids)
        if self.typed:
            parts = self._draw_typed(lists, pools, share, mixed, occurrences)
        else:
            none, log = pools.new_empty(1, 0), share.log()[None]
            parts = [(none, none.bool(), log, (-log).exp())] * len(lists)
        return [Held(pool, of_it, *part) for pool, of_it, part in zip(pools, answers, parts, strict=True)]

    def _draw_typed(
        self,
        lists: Sequence[Lists],
        pools: Int[Tensor, "N P"],
        share: Float[Tensor, " P"],
        mixed: MixedPool | None,
        occurrences: int | None,
    ) -> list[tuple[Tensor, ...]]:
        """Of each block `typed`, `unusable`, `log_density` and `per_density`.

        Args:
            lists: of N blocks.
            pools: theirs.
            share: the probability with which each entity of a pool is in it.
            mixed: the pool, where another sampler has had a part in it.
            occurrences: of the pools' entities in domains and ranges, where they are counted.
        """
        device, sides = pools.device, [(i, head) for i, each in enumerate(lists) for head in each.heads]
        # Those of all relations, so that a relation has the same one whoever else is there.
        streams = [self.stream(lists[i].block, "fillers", int(head), device=device) for i, head in sides]
        starts = torch.cat([random_bits(self.n_relations, stream=s, device=device) for s in streams])
        relations = torch.cat([lists[i].relations for i, _ in sides]).to(device, non_blocking=True)
        numbers = torch.tensor([(k, i, head) for k, (i, head) in enumerate(sides)])
        numbers = numbers.repeat_interleave(torch.tensor([len(lists[i].relations) for i, _ in sides]), dim=0)
        of_side, of_list, side = numbers.T.to(device, non_blocking=True)
        starts = starts.index_select(0, torch.add(relations, of_side, alpha=self.n_relations))
        side = side.bool()
        typed, there, rate = self.domain_range.sample(relations, side, starts, self.typed)
        inside = self.domain_range.contains(pools, relations, side, occurrences, of_list)
        # In the domain or range, an entity is a candidate unless both the pool and the sample miss it:
        # 1 - (1 - share) (1 - rate), written so that small ones keep their digits.
        rate = rate[:, None]
        density = torch.where(inside, share + rate * (1 - share), share)
        of_typed = share[:1].expand_as(typed) if mixed is None else mixed.rate(typed)
        log_density = torch.cat([density, of_typed + rate * (1 - of_typed)], dim=1).log()
        unusable = ~there | in_pools(typed, of_list, pools, self.n_entities)
        split = [x.split([len(each) for each in lists]) for x in (typed, unusable, log_density, (-log_density).exp())]
        return list(zip(*split, strict=True))

    def foretold(self, batch: Batch, step: int) -> Int[Tensor, " n"] | None:
        """The pool and the samples of the rows' domains and ranges; None where another sampler draws for the pool."""
        if self.pool_sampler is not None:
            return None
        candidates = self.unfiltered(batch, step)
        return torch.cat([candidates.pool, candidates.typed.index_select(0, candidates.group).flatten()])

    def for_the_pool(self, lookup: Lookup, model: Model, step: int) -> Negatives | None:
        """What another sampler draws for the pool."""
        return None if self.pool_sampler is None else self.pool_sampler.draw(lookup, model, step)

    def scores(self, lookup: Lookup, model: Model, candidates: Candidates) -> Float[Tensor, "B C"]:
        """The model's scores of all candidates."""
        found = model.score_against(lookup, PoolNegatives(candidates.pool))
        if not self.typed:
            return found
        own = candidates.typed.index_select(0, candidates.group)
        return torch.cat([found, model.score_against(lookup, OwnNegatives(own))], dim=1)

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

    @property
    def reads(self) -> tuple[str, ...]:
        """Those of the sampler of the pool."""
        return () if self.pool_sampler is None else self.pool_sampler.reads

    def notes(self, batch: Batch) -> list[str]:
        return [] if self.pool_sampler is None else self.pool_sampler.notes(batch)

    def foresee(self, batches: Callable[[int], Batch]) -> None:
        self._batches = batches
        if self.pool_sampler is not None:
            self.pool_sampler.foresee(batches)

    def pretrain(self, batches: Callable[[int], Batch]) -> None:
        """That of the sampler of the pool."""
        if self.pool_sampler is not None:
            self.pool_sampler.pretrain(batches)

    def end_epoch(self, epoch: int) -> None:
        """That of the sampler of the pool."""
        if self.pool_sampler is not None:
            self.pool_sampler.end_epoch(epoch)
