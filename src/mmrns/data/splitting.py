"""Splitting triples into train, valid and test so that train gives nothing of the held-out rows away."""

from __future__ import annotations

from collections.abc import Callable
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

TENTH = 0.1
"""The share that valid and test have unless one says otherwise."""


@dataclass(frozen=True)
class Splits:
    """Three sets of triples, each a frame head, relation, tail in the order of the source.

    `fewer` says that valid and test have fewer rows than the tenth that is usual, since more cannot be held out.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    fewer: bool = False

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """The frames by name."""
        return {split: getattr(self, split) for split in SPLITS}


def split_triples(
    triples: pl.DataFrame,
    *,
    valid: Amount | None = None,
    test: Amount | None = None,
    seed: int = 0,
    leakage_free: bool = True,
) -> Splits:
    """Split the distinct triples.

    Leakage-free means that the triples that join the same two entities, in either direction and by whatever relation,
    stay together, so that none of them in train gives another away, and that every entity and relation occurs in train.
    Such groups of triples come in random order. A group stays in train if an entity or a relation is first met in it,
    which is the greedy cover in that order; of the others as many are held out as are asked for.

    Args:
        triples: columns head, relation, tail.
        valid, test: how many rows, or which share; None is a tenth, and a row at least. Where neither is given and two
            tenths cannot be held out, valid and test share what can.
        seed: of the random order.
        leakage_free: False draws rows uniformly instead.

    Raises:
        UsageError: that many rows cannot be held out.
    """
    triples = triples.unique(maintain_order=True)
    usual = max(1, rows_of(TENTH, len(triples)))
    counts = [usual if amount is None else rows_of(amount, len(triples)) for amount in (test, valid)]
    free = valid is None and test is None
    label = hold_out(triples, counts, seed, "split", leakage_free, fewer=free)
    train, valid_rows, test_rows = (triples.filter(pl.Series(label == i)) for i in (0, 2, 1))
    return Splits(train, valid_rows, test_rows, free and len(valid_rows) + len(test_rows) < sum(counts))


def rows_of(amount: Amount, total: int) -> int:
    """How many rows an amount is, of so many."""
    return amount if isinstance(amount, int) else round(amount * total)


def _hold_out_fewer(most: int) -> str:
    random = "draw rows whatever train then lacks (`mmrns data split --random`)"
    return f"hold out at most {most:,} for valid and test together, or {random}" if most > 1 else random


def hold_out(
    triples: pl.DataFrame,
    counts: list[int],
    seed: int,
    purpose: str,
    leakage_free: bool,
    *,
    fewer: bool = False,
    remedy: Callable[[int], str] = _hold_out_fewer,
) -> npt.NDArray[np.int8]:
    """Label each row of distinct triples: i + 1 for the `counts[i]` rows of the i-th held-out set, 0 for the rest.

    Args:
        triples: columns head, relation, tail.
        counts: how many rows of each set.
        seed, purpose: of the random order.
        leakage_free: see `split_triples`.
        fewer: where so many cannot be held out, hold out as many as can, shared out alike.
        remedy: what to do otherwise, told how many can.

    Raises:
        UsageError: so many rows cannot be held out; with `fewer`, not one for each set.
    """
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
    possible, asked = int(size[order[np.flatnonzero(free[:-1])]].sum()), sum(counts)
    if possible < asked:
        counts = [possible * count // asked for count in counts]
        if not fewer or not all(counts):
            raise UsageError(
                f"only {possible:,} of {len(triples):,} rows can be held out without leaving an entity or a relation "
                f"out of train, not {asked:,}; {remedy(possible)}"
            )
    for i, count in enumerate(counts):
        there = np.flatnonzero(free[:-1])
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
