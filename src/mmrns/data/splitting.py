"""Splitting triples into train, valid and test so that train gives nothing of the held-out rows away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrns.data.folders import SPLITS
from mmrns.data.names import COLUMNS
from mmrns.errors import UsageError
from mmrns.rng import numpy_generator

Amount = int | float
"""How many rows: an integer counts them, a float below 1 is a share of all distinct ones."""


@dataclass(frozen=True)
class Splits:
    """Three sets of triples, each a frame head, relation, tail in the order of the source."""

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """The frames by name."""
        return {split: getattr(self, split) for split in SPLITS}


def split_triples(
    triples: pl.DataFrame, *, valid: Amount = 0.1, test: Amount = 0.1, seed: int = 0, leakage_free: bool = True
) -> Splits:
    """Split the distinct triples.

    Leakage-free means that the triples that join the same two entities, in either direction and by whatever relation,
    stay together, so that none of them in train gives another away, and that every entity and relation occurs in train.
    Such groups of triples come in random order. A group stays in train if an entity or a relation is first met in it,
    which is the greedy cover in that order; of the others as many are held out as are asked for.

    Args:
        triples: columns head, relation, tail.
        valid, test: how many rows, or which share.
        seed: of the random order.
        leakage_free: False draws rows uniformly instead.

    Raises:
        UsageError: that many rows cannot be held out.
    """
    triples = triples.unique(maintain_order=True)
    counts = [rows_of(test, len(triples)), rows_of(valid, len(triples))]
    label = hold_out(triples, counts, seed, "split", leakage_free)
    return Splits(*(triples.filter(pl.Series(label == i)) for i in (0, 2, 1)))


def rows_of(amount: Amount, total: int) -> int:
    """How many rows an amount is, of so many."""
    return amount if isinstance(amount, int) else round(amount * total)


def hold_out(
    triples: pl.DataFrame, counts: list[int], seed: int, purpose: str, leakage_free: bool
) -> npt.NDArray[np.int8]:
    """Label each row of distinct triples: i + 1 for the `counts[i]` rows of the i-th held-out set, 0 for the rest."""
    random = numpy_generator(seed, purpose)
    label = np.zeros(len(triples), np.int8)
    if not leakage_free:
        if sum(counts) >= len(triples):
            raise UsageError(f"{sum(counts):,} of {len(triples):,} rows leave nothing to train on; hold out fewer")
        order = random.permutation(len(triples))
        label[order] = np.repeat([*range(1, len(counts) + 1), 0], [*counts, len(triples) - sum(counts)])
        return label

    entity = pl.Enum(pl.concat([triples["head"], triples["tail"].alias("head")]).unique().sort())
    relation = pl.Enum(triples["relation"].unique().sort())
    kinds = dict(zip(COLUMNS, (entity, relation, entity), strict=True))
    h, r, t = (triples[c].cast(kind).to_physical().cast(pl.Int64).to_numpy() for c, kind in kinds.items())
    pair = np.minimum(h, t) * len(entity.categories) + np.maximum(h, t)
    unit, size = np.unique(pair, return_inverse=True, return_counts=True)[1:]
    order = random.permutation(len(size))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    met = np.full((2, max(len(entity.categories), len(relation.categories))), len(size))
    for kind, code in ((0, h), (0, t), (1, r)):
        np.minimum.at(met[kind], code, place[unit])
    free = np.ones(len(size) + 1, np.bool_)
    free[met] = False
    chosen = np.zeros(len(size), np.int8)  # By place.
    for i, count in enumerate(counts):
        there = np.flatnonzero(free[:-1])
        if size[order[there]].sum() < count:
            possible = size[order[np.flatnonzero(free[:-1] | (chosen > 0))]].sum()
            raise UsageError(
                f"only {possible:,} of {len(triples):,} rows can be held out without leaving an entity or a relation "
                f"out of train, not {sum(counts):,}; hold out fewer, or split at random"
            )
        taken = there[_take(size[order[there]], count)]
        free[taken] = False
        chosen[taken] = i + 1
    return chosen[place[unit]]


def _take(sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Places of units, in order, whose sizes add up to `count`, or to less where the sizes do not allow it."""
    whole = int(np.searchsorted(sizes.cumsum(), count, side="right"))
    rest = count - int(sizes[:whole].sum())
    taken = [np.arange(whole)]
    for size in np.unique(sizes[whole:])[::-1]:
        fitting = np.flatnonzero(sizes[whole:] == size)[: rest // size] + whole
        rest -= int(size) * len(fitting)
        taken.append(fitting)
    return np.concatenate(taken)
