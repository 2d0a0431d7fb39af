"""Pools of candidates: uniform ones, and those that are half from another sampler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.index import TripleIndex
from mmrns.rng import numpy_generator
from mmrns.types import Batch


def distinct(seed: int, *purpose: int | str, n: int, size: int) -> Int[Tensor, " size"]:
    """Distinct numbers below n, uniform, on the host; ascending, so that searches for them touch memory in order."""
    stream = numpy_generator(seed, *purpose)
    return torch.from_numpy(np.sort(stream.choice(n, size, replace=False, shuffle=False)))


@dataclass(frozen=True)
class MixedPool:
    """P distinct entities: some of those that another sampler has drawn, and some of all others.

    Attributes:
        ids: Int[P], ascending.
        drawn: Int[F], all that the other sampler has drawn, ascending, with repeats.
        rates: Float[2], the share of the other entities that is in the pool, and the share of the drawn ones.
    """

    ids: Int[Tensor, " P"]
    drawn: Int[Tensor, " F"]
    rates: Float[Tensor, " 2"]

    def rate(self, entities: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The probability with which each entity is in the pool, given what was drawn."""
        place = torch.searchsorted(self.drawn, entities.contiguous()).clamp(max=len(self.drawn) - 1)
        return self.rates[(self.drawn[place] == entities).long()]


def mixed_pool(
    drawn: Int[Tensor, " F"], uniform: Int[Tensor, " P"], n_entities: int, stream: torch.Generator
) -> MixedPool:
    """Half of a pool from what another sampler has drawn, or all of it if that is less; the rest uniform over the
    others.

    Given what was drawn, the pool is a sample of two strata: k of the n distinct entities that were drawn, and
    m = P - k of the E - n others, each entity of a stratum as likely as any other. So sums over the pool, each entity
    divided by k / n or m / (E - n), are unbiased estimates of sums over all entities, whatever the distribution that
    the other sampler draws from, which need not be known. Half of the pool stays uniform, so that this holds. If too
    few others are among the uniform ones, the pool is filled up from what was drawn, and k and m are what they turn out
    to be.

    Nothing is read on the host: repeats are found by sorting.

    Args:
        drawn: at least one id, in any order, with repeats.
        uniform: P distinct ids, uniform.
        n_entities: E.
        stream: of the choice, where the ids are.
    """
    size = len(uniform)
    # Drawn entities get even numbers, uniform ones odd ones; of an entity that is both, the drawn one comes first.
    marked = torch.cat([2 * drawn, 2 * uniform + 1]).sort().values
    entity = marked // 2
    first = torch.ones_like(entity, dtype=torch.bool)
    first[1:] = entity[1:] != entity[:-1]
    is_drawn, is_other = first & (marked % 2 == 0), first & (marked % 2 == 1)
    u = torch.rand(len(entity), generator=stream, device=entity.device)
    half = torch.where(is_drawn, u, -1.0).topk(min(max(size // 2, 1), len(entity))).indices
    rank = u.scatter_add(0, half, torch.full_like(u[: len(half)], 2.0))
    rank = torch.where(is_drawn, rank, torch.where(is_other, 1 + u, -1.0))
    chosen = rank.topk(size).indices
    k, n = is_drawn[chosen].sum(), is_drawn.sum()
    rates = torch.stack([(size - k) / (n_entities - n).clamp(min=1), k / n])
    # A stratum without anything in the pool is only asked about by entities that are left out anyway.
    return MixedPool(entity[chosen].sort().values, drawn.sort().values, rates.clamp(min=1 / n_entities))


def in_pools(
    entities: Int[Tensor, "G M"], of: Int[Tensor, " G"], pools: Int[Tensor, "N P"], n_entities: int
) -> Bool[Tensor, "G M"]:
    """Whether each entity is in a pool, the same one for a row.

    Args:
        entities: to ask about.
        of: which of the pools each row is asked about.
        pools: in any order.
        n_entities: E.
    """
    # Entities have other numbers in every pool.
    codes = (pools + n_entities * torch.arange(len(pools), device=pools.device)[:, None]).flatten().sort().values
    wanted = torch.add(entities, of[:, None], alpha=n_entities)
    return codes[torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)] == wanted


def true_in_pool(index: TripleIndex, batch: Batch, pool: Int[Tensor, " P"]) -> Bool[Tensor, "B P"]:
    """Which entities of a pool are true for each row, by way of all that are: no search, and nothing is kept."""
    rows, entities = index.batch_targets(batch, batch.n_true)
    # Who is not in the pool has the column after its last.
    numbers = torch.arange(len(pool), device=pool.device)
    column = pool.new_full((index.n_entities,), len(pool)).index_copy_(0, pool, numbers)
    true = torch.zeros(len(batch), len(pool) + 1, dtype=torch.bool, device=pool.device)
    # A value of the device: writing a Python number would copy it there, for which the host waits.
    return true.index_put_((rows, column.index_select(0, entities)), true.new_ones(()))[:, :-1]


@dataclass(frozen=True)
class PoolAnswers:
    """Which queries of train the entities of a pool answer: far fewer than all that is true for a batch.

    Attributes:
        pool: Int[P], where the index lies.
        rows, keys: see `TripleIndex.answered`.
    """

    pool: Int[Tensor, " P"]
    rows: Int[Tensor, " n"]
    keys: Int[Tensor, " n"]

    @classmethod
    def of_each(cls, index: TripleIndex, pools: Int[Tensor, "N P"], degrees: Int[Tensor, " E"]) -> list[PoolAnswers]:
        """The answers of N pools, in one pass.

        Args:
            index: of train.
            pools: P entities each, on the host.
            degrees: `TripleIndex.degrees`, on the host, so that nobody has to ask a device how many answers there are.
        """
        sizes: list[int] = degrees[pools].sum(1).tolist()
        pools = pools.to(index.device, non_blocking=True)
        rows, keys = index.answered(pools, sum(sizes))
        return [cls(*parts) for parts in zip(pools, rows.split(sizes), keys.split(sizes), strict=True)]

    def among(self, index: TripleIndex, batch: Batch) -> Bool[Tensor, "B P"]:
        """Which entities of the pool are true for each row."""
        keys, n = index.query_keys(batch), len(batch)
        if not n:
            return keys.new_zeros((0, len(self.pool)), dtype=torch.bool)
        # The first of the rows with a query stands for all of them.
        ordered, order = keys.sort(stable=True)
        at = torch.searchsorted(ordered, self.keys).clamp(max=n - 1)
        # One row more takes what is asked by none.
        at = torch.where(ordered[at] == self.keys, order[at], n)
        true = torch.zeros(n + 1, len(self.pool), dtype=torch.bool, device=keys.device)
        # A value of the device: writing a Python number would copy it there, for which the host waits.
        true.index_put_((at, self.rows), true.new_ones(()))
        return true.index_select(0, order[torch.searchsorted(ordered, keys)])
