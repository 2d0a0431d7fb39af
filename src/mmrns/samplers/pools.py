"""Pools of candidates: uniform ones, and those that another sampler feeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.rng import numpy_generator


def distinct(seed: int, *purpose: int | str, n: int, size: int) -> Int[Tensor, " size"]:
    """Distinct numbers below n, uniform, on the host; ascending, so that searches for them touch memory in order."""
    stream = numpy_generator(seed, *purpose)
    return torch.from_numpy(np.sort(stream.choice(n, size, replace=False, shuffle=False)))


@dataclass(frozen=True)
class FedPool:
    """P distinct entities: some of those that were fed, and some of all others.

    Attributes:
        ids: Int[P], ascending.
        fed: Int[F], all that was fed, ascending, with repeats.
        rates: Float[2], the share of the others that is in the pool, and the share of the fed.
    """

    ids: Int[Tensor, " P"]
    fed: Int[Tensor, " F"]
    rates: Float[Tensor, " 2"]

    def rate(self, entities: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The probability with which each entity is in the pool, given what was fed."""
        place = torch.searchsorted(self.fed, entities.contiguous()).clamp(max=len(self.fed) - 1)
        return self.rates[(self.fed[place] == entities).long()]


def fed_pool(fed: Int[Tensor, " F"], uniform: Int[Tensor, " P"], n_entities: int, stream: torch.Generator) -> FedPool:
    """Half of a pool from what was fed, or all of it if that is less; the rest uniform over all other entities.

    Given what was fed, the pool is a stratified sample: k of the n distinct fed entities and m = P - k of the E - n
    others, in either stratum each as likely. So sums over the pool, each entity divided by k / n or m / (E - n), are
    unbiased estimates of sums over all entities, whatever the law of what was fed, which need not be known. Half of the
    pool stays uniform, so that this holds. (Where too few others are among the uniform ones, the pool is filled up from
    the fed; k and m are what they turn out to be.)

    Nothing is read on the host: repeats are found by sorting.

    Args:
        fed: at least one id, in any order, with repeats.
        uniform: P distinct ids, uniform.
        n_entities: E.
        stream: of the choice, where the ids are.
    """
    size = len(uniform)
    # Even numbers are fed; of an entity that is both, the fed one comes first.
    marked = torch.cat([2 * fed, 2 * uniform + 1]).sort().values
    entity = marked // 2
    first = torch.ones_like(entity, dtype=torch.bool)
    first[1:] = entity[1:] != entity[:-1]
    is_fed, is_other = first & (marked % 2 == 0), first & (marked % 2 == 1)
    u = torch.rand(len(entity), generator=stream, device=entity.device)
    half = torch.where(is_fed, u, -1.0).topk(min(max(size // 2, 1), len(entity))).indices
    rank = u.scatter_add(0, half, torch.full_like(u[: len(half)], 2.0))
    rank = torch.where(is_fed, rank, torch.where(is_other, 1 + u, -1.0))
    chosen = rank.topk(size).indices
    k, n = is_fed[chosen].sum(), is_fed.sum()
    rates = torch.stack([(size - k) / (n_entities - n).clamp(min=1), k / n])
    # A stratum without anything in the pool is not asked about but by what is left out anyway.
    return FedPool(entity[chosen].sort().values, fed.sort().values, rates.clamp(min=1 / n_entities))
