"""Filtered ranks of triples on both sides, under three tie policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.index import TripleIndex
from mmrns.errors import Diverged
from mmrns.evaluation.candidates import Candidates
from mmrns.nn.kernels import comparisons
from mmrns.nn.rows import Shares
from mmrns.types import Batch

SCORES = 2**25
"""So many bytes of scores a processor works on at a time. It is enough for a matrix product to run at its full rate; a
device waits less for the host the more it is given at a time."""


@runtime_checkable
class ScoresAll(Protocol):
    """Whatever scores every entity for the rows of a batch: a model, or a baseline."""

    def score_all(self, batch: Batch, memory_mb: float | int) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in a tensor that the caller may overwrite.

        Args:
            batch: the rows.
            memory_mb: at most so many MiB are held beside the scores.
        """
        ...


@runtime_checkable
class ScoresPart(Protocol):
    """Whatever scores some of the entities, of which other processes have the rest.

    Attributes:
        world: what sums up, and finds the largest, over the processes.
    """

    world: Shares

    @property
    def parted(self) -> Mapping[str, nn.Parameter]:
        """The parameters whose rows are these entities."""
        ...

    def score_part(self, batch: Batch, memory_mb: float | int) -> Float[Tensor, "B n"]:
        """As `ScoresAll.score_all`, of the entities that are here."""
        ...

    def part_ids(self) -> Int[Tensor, " n"]:
        """These entities, in the order of the columns."""
        ...

    def part_columns(self, ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The column of each entity; -1 of one that is elsewhere."""
        ...


@dataclass(frozen=True)
class Ranks:
    """The ranks of n queries. A triple is two queries, one for each side.

    With g candidates that score higher and e others that score the same, the optimistic rank is g + 1, the pessimistic
    g + e + 1 and the realistic their mean: the expectation under random order of ties.

    Attributes:
        triples: Int[n 3], the triple behind each query.
        head: Bool[n], True where the head was asked for.
        optimistic, pessimistic: Int[n], from 1.
        candidates: Int[n], how many entities took part, the true one included.
        outside: Bool[n], True where the true one took part although it is not among the candidates that it was to be
            ranked among.
    """

    triples: Int[Tensor, "n 3"]
    head: Bool[Tensor, " n"]
    optimistic: Int[Tensor, " n"]
    pessimistic: Int[Tensor, " n"]
    candidates: Int[Tensor, " n"]
    outside: Bool[Tensor, " n"]

    @property
    def realistic(self) -> Float[Tensor, " n"]:
        """Mean of the optimistic and the pessimistic rank."""
        return (self.optimistic + self.pessimistic).to(torch.float64) / 2

    def __len__(self) -> int:
        return len(self.head)

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Ranks:
        """The ranks of some of the queries, by mask or by position."""
        return Ranks(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[Ranks]) -> Ranks:
        """All queries of at least one part."""
        return Ranks(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Ranks)))


@torch.no_grad()
def rank(
    model: ScoresAll,
    triples: Int[Tensor, "n 3"],
    known: TripleIndex,
    *,
    candidates: Candidates | None = None,
    memory_mb: float | int = 512,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Ranks:
    """Rank the true entity of both sides of each triple among all entities that are not otherwise known to be true.

    Each distinct (anchor, relation) is scored once a side. The true score is read from its competitors' row.

    Args:
        model: scores every entity; where it scores a part of them (`ScoresPart`), all processes rank the same triples.
        triples: what to rank; rows are ranked as given, duplicates included.
        known: all true triples; the others of a query are filtered out.
        candidates: what to rank among; a true entity outside them takes part all the same. None = every entity.
        memory_mb: bound on the working memory, in MiB: one half for the scores and their copies, `12 E` bytes a query,
            whose number it decides (one at least), the other for the model, which decides how many entities it compares
            them with at a time.
        device: where the model is.
        progress: called with the number of queries done since the last call.

    Raises:
        Diverged: the model gave a score that is not finite.
    """
    if not len(triples):
        none = torch.empty(0, dtype=torch.int64)
        return Ranks(triples, none.bool(), none, none, none, none.bool())
    # The scores, a copy where triples share a query, what they compare to.
    held = memory_mb * 2**19 / 3
    size = int(max(1, (min(held, SCORES) if torch.device(device).type == "cpu" else held) // (4 * known.n_entities)))
    counted = partial(_counted, model, known, known.to(device), candidates, size, memory_mb / 2, torch.device(device))
    sides: list[Ranks] = []
    for head in (False, True):
        # Sorted by relation, so that a chunk holds few of them.
        key = triples[:, 1] * known.n_entities + triples[:, 2 if head else 0]
        order = torch.argsort(key, stable=True)
        _, sharing = torch.unique_consecutive(key[order], return_counts=True)
        chunks: list[_Counts] = []
        for chunk in order.split([int(part.sum()) for part in sharing.split(size)]):
            chunks.append(counted(triples[chunk], key[chunk], head))
            if progress is not None:
                progress(len(chunk))
        sides.append(_ranks(chunks, triples[order], head).where(torch.argsort(order)))
    return Ranks.concatenate(sides)


def refuse_not_finite(scores: Float[Tensor, "*n"]) -> None:
    """NaN compares with nothing, so that it would rank anywhere.

    Raises:
        Diverged: a score is NaN or infinite.
    """
    # In one pass: what is no number is the lowest and the highest.
    if scores.numel() and not torch.stack(torch.aminmax(scores)).isfinite().all():
        raise Diverged("the model gives scores that are not finite; lower the learning rate and train again")


@dataclass(frozen=True)
class _Counts:
    """What the scores of n queries say, where they were made: nothing waits for them before all chunks are under way.

    Attributes:
        higher, at_least: Int[n], how many candidates score higher than the true entity, and how many at least as high.
        itself: Int[n], 1 where the true entity is one of the latter.
        left: Int[n], how many entities are not otherwise known to be true.
        outside: Bool[n], see `Ranks`.
        extremes: Float[2], the lowest and the highest score.
    """

    higher: Int[Tensor, " n"]
    at_least: Int[Tensor, " n"]
    itself: Int[Tensor, " n"]
    left: Int[Tensor, " n"]
    outside: Bool[Tensor, " n"]
    extremes: Float[Tensor, "2"]


def _counted(
    model: ScoresAll,
    known: TripleIndex,
    known_there: TripleIndex,
    candidates: Candidates | None,
    size: int,
    memory_mb: float | int,
    device: torch.device,
    triples: Int[Tensor, "n 3"],
    key: Int[Tensor, " n"],
    head: bool,
) -> _Counts:
    """Of triples of one side, sorted by the key of their query; the scores of at most `size` queries are held.

    The device works on a copy of the index, `known_there`; how much there is to look up is known on the host.
    """
    _, query, sharing = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    batch = known.placed(Batch.of(triples[sharing.cumsum(0) - sharing], torch.full((len(sharing),), head)))
    mask = None if candidates is None else candidates.mask(batch.relations, head).to(device, non_blocking=True)
    query, target = (x.to(device, non_blocking=True) for x in (query, triples[:, 0 if head else 2]))
    batch = batch.to(device)
    part = model if isinstance(model, ScoresPart) else None
    scores = model.score_all(batch, memory_mb) if part is None else part.score_part(batch, memory_mb)
    extremes = torch.stack(torch.aminmax(scores)) if scores.numel() else scores.new_zeros(2)
    column = target if part is None else part.part_columns(target)
    true = _at(scores, query, column, 0.0)
    if part is not None:
        true = part.world.sum(true)
        # What is no number is taken for infinite, which a maximum does not pass over.
        lowest, highest = part.world.max((extremes * extremes.new_tensor([-1, 1])).nan_to_num(nan=torch.inf))
        extremes = torch.stack([-lowest, highest])

    row, entity = known_there.batch_targets(batch, batch.n_true)
    outside = torch.zeros_like(query, dtype=torch.bool)
    left = torch.full((len(batch),), known.n_entities, device=device)
    taken = torch.ones_like(row)
    if mask is not None:
        relation = batch.relation_index
        left = mask.sum(1).index_select(0, relation)
        outside = ~mask[relation[query], target]
        own = mask if part is None else mask.index_select(1, part.part_ids())
        scores.masked_fill_(~own.index_select(0, relation), -torch.inf)
        taken = mask[relation[row], entity].long()
    left = left.index_add(0, row, taken, alpha=-1)
    if part is not None:
        entity = part.part_columns(entity)
        row, entity = row[entity >= 0], entity[entity >= 0]
    scores.index_put_((row, entity), scores.new_full((), -torch.inf))

    # Triples that share a query are rivals unless they are known, and a triple is no rival of itself.
    itself = torch.isfinite(_at(scores, query, column, -torch.inf)).long()
    higher, at_least = _count(scores, query, true, size)
    if part is not None:
        # As numbers that hold every count exactly.
        higher, at_least, itself = part.world.sum(torch.stack([higher, at_least, itself]).double()).long()
    return _Counts(higher, at_least, itself, left.index_select(0, query), outside, extremes)


def _at(
    scores: Float[Tensor, "Q E"], query: Int[Tensor, " n"], column: Int[Tensor, " n"], elsewhere: float
) -> Float[Tensor, " n"]:
    """Some scores; a column of -1 is another process's, and has a number that says nothing."""
    if not scores.shape[1]:
        return scores.new_full(column.shape, elsewhere)
    return scores[query, column.clamp(min=0)].masked_fill(column < 0, elsewhere)


def _ranks(chunks: Sequence[_Counts], triples: Int[Tensor, "n 3"], head: bool) -> Ranks:
    """The ranks of one side, of which the chunks are parts."""
    refuse_not_finite(torch.cat([chunk.extremes for chunk in chunks]))

    def column(name: str) -> Tensor:
        return torch.cat([getattr(chunk, name) for chunk in chunks]).cpu()

    itself, outside = column("itself"), column("outside")
    optimistic, pessimistic = column("higher") + 1, column("at_least") - itself + 1
    rivals = column("left") - itself
    return Ranks(triples, torch.full_like(outside, head), optimistic, pessimistic, rivals + 1, outside)


def _count(
    scores: Float[Tensor, "Q E"], query: Int[Tensor, " n"], true: Float[Tensor, " n"], size: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """For each true score, how many scores of its query are higher, and how many are at least as high."""
    if (found := comparisons.counted(scores, query, true)) is not None:
        return found
    # Ones of a float type are written and added several times as fast as booleans; 2^24 of them are exact in 32 bits.
    ones = torch.float32 if scores.shape[1] <= 2**24 else torch.bool
    counts: list[Tensor] = []
    for part in torch.arange(len(query), device=query.device).split(size):
        mine = scores if len(query) == len(scores) else scores[query[part]]
        passed = torch.empty_like(mine, dtype=ones)
        compared = (compare(mine, true[part, None], out=passed).sum(1) for compare in (torch.gt, torch.ge))
        counts.append(torch.stack(list(compared)))
    higher, at_least = torch.cat(counts, dim=1).long()
    return higher, at_least
