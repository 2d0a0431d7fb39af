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
    new_entities: Amount = 0,
) -> Splits:
    """Split the distinct triples.

    Leakage-free means that the triples that join the same two entities, in either direction and by whatever relation,
    stay together, so that none of them in train gives another away, and that every entity and relation occurs in train.
    Such groups of triples come in random order. A group stays in train if an entity or a relation is first met in it,
    which is the greedy cover in that order; of the others as many are held out as are asked for.

    Args:
        triples: columns head, relation, tail.
        valid, test: how many rows, or which share, of those without a new entity; None is a tenth, and a row at least.
            Where neither is given and two tenths cannot be held out, valid and test share what can.
        seed: of the random order.
        leakage_free: False draws rows, and new entities, uniformly instead.
        new_entities: how many entities, or which share of them, are held back from train with all their triples, to be
            ranked without having been trained; see `hold_back`.

    Raises:
        UsageError: that many rows or entities cannot be held out.
    """
    triples = triples.unique(maintain_order=True)
    label = hold_back(triples, new_entities, seed, leakage_free)
    rest = label == 0
    n = int(rest.sum())
    usual = max(1, rows_of(TENTH, n))
    counts = [usual if amount is None else rows_of(amount, n) for amount in (test, valid)]
    free = valid is None and test is None
    held = hold_out(triples.filter(pl.Series(rest)), counts, seed, "split", leakage_free, fewer=free)
    label[rest] = held
    train, valid_rows, test_rows = (triples.filter(pl.Series(label == i)) for i in (0, 2, 1))
    return Splits(train, valid_rows, test_rows, free and int((held > 0).sum()) < sum(counts))


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

    h, r, t, n_entities, n_relations = _coded(triples)
    pair = np.minimum(h, t) * n_entities + np.maximum(h, t)
    unit, size = np.unique(pair, return_inverse=True, return_counts=True)[1:]
    order = random.permutation(len(size))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    met = np.full((2, max(n_entities, n_relations)), len(size))
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


def hold_back(triples: pl.DataFrame, amount: Amount, seed: int, leakage_free: bool) -> npt.NDArray[np.int8]:
    """Choose entities that train is not to know, and label each row: 1 for test, 2 for valid, 0 where it has none.

    Entities come in random order; the first is for test, the next for valid, and so on. A triple that has one of test
    goes there, whatever its other entity is, so that no new entity of test is met in validation but as the other end of
    a triple that is not there either. Leakage-free, an entity is passed over if another entity or a relation would be
    left without a triple in train.

    Args:
        triples: distinct, columns head, relation, tail.
        amount: how many entities, or which share of all.
        seed: of the order.
        leakage_free: False passes over none.

    Raises:
        UsageError: so many entities cannot be held back.
    """
    label = np.zeros(len(triples), np.int8)
    if not amount or triples.is_empty():
        return label
    h, r, t, n_entities, n_relations = _coded(triples)
    wanted = rows_of(amount, n_entities)
    end = np.concatenate([h, t[h != t]])
    row = np.concatenate([np.arange(len(h)), np.flatnonzero(h != t)])
    by_entity = np.argsort(end, kind="stable")
    rows_of_entity = np.split(row[by_entity], np.bincount(end, minlength=n_entities).cumsum()[:-1])
    left = np.bincount(end, minlength=n_entities), np.bincount(r, minlength=n_relations)
    chosen = np.zeros(n_entities, np.int8)
    n = 0
    for entity in numpy_generator(seed, "new entities").permutation(n_entities):
        if n == wanted:
            break
        rows = rows_of_entity[entity]
        rows = rows[label[rows] == 0]
        other = np.where(h[rows] == entity, t[rows], h[rows])
        # A triple between an entity and itself takes nothing from another.
        taken = [np.unique(code, return_counts=True) for code in (other[other != entity], r[rows])]
        parts = list(zip(left, taken, strict=True))
        if leakage_free and any((of[codes] <= counts).any() for of, (codes, counts) in parts):
            continue
        for of, (codes, counts) in parts:
            of[codes] -= counts
        chosen[entity] = 1 + n % 2
        label[rows] = chosen[entity]
        n += 1
    if n < wanted:
        raise UsageError(
            f"only {n:,} of {n_entities:,} entities can be held back without leaving another entity or a relation out "
            f"of train, not {wanted:,}; hold back fewer, or split at random"
        )
    if (label > 0).all():
        raise UsageError(f"without {wanted:,} of {n_entities:,} entities nothing is left to train on; hold back fewer")
    ends = np.stack([chosen[h], chosen[t]])
    return np.where((ends == 1).any(0), 1, ends.max(0)).astype(np.int8)


def _coded(
    triples: pl.DataFrame,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], int, int]:
    """The three columns as numbers, and how many entities and relations there are."""
    entity = pl.Enum(pl.concat([triples["head"], triples["tail"].alias("head")]).unique().sort())
    relation = pl.Enum(triples["relation"].unique().sort())
    kinds = dict(zip(COLUMNS, (entity, relation, entity), strict=True))
    h, r, t = (triples[c].cast(kind).to_physical().cast(pl.Int64).to_numpy() for c, kind in kinds.items())
    return h, r, t, len(entity.categories), len(relation.categories)


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
