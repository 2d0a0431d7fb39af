"""Filtered ranks of triples on both sides, under three tie policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.graph import TripleIndex
from mmrns.errors import MmrnsError
from mmrns.types import Batch


@runtime_checkable
class ScoresAll(Protocol):
    """Anything that scores every entity for the rows of a batch."""

    def score_all(self, batch: Batch) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in a tensor that the caller may overwrite."""
        ...


@dataclass(frozen=True)
class Ranks:
    """Ranks of n queries; a triple is two queries, one a side.

    With g candidates that score higher and e others that score the same, the optimistic rank is g + 1, the pessimistic
    g + e + 1 and the realistic their mean: the expectation under random order of ties.

    Attributes:
        triples: Int[n 3], the triple behind each query.
        head: Bool[n], True where the head was asked for.
        optimistic, pessimistic: Int[n], from 1.
        candidates: Int[n], how many entities took part, the true one included.
    """

    triples: Int[Tensor, "n 3"]
    head: Bool[Tensor, " n"]
    optimistic: Int[Tensor, " n"]
    pessimistic: Int[Tensor, " n"]
    candidates: Int[Tensor, " n"]

    @property
    def realistic(self) -> Float[Tensor, " n"]:
        """Mean of the optimistic and the pessimistic rank."""
        return (self.optimistic + self.pessimistic).to(torch.float64) / 2

    def __len__(self) -> int:
        return len(self.head)

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Ranks:
        """The ranks of some of the queries, by mask or by position."""
        return Ranks(*(x[rows] for x in (self.triples, self.head, self.optimistic, self.pessimistic, self.candidates)))


@torch.no_grad()
def rank(
    model: ScoresAll,
    triples: Int[Tensor, "n 3"],
    known: TripleIndex,
    *,
    memory_mb: int = 512,
    width: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Ranks:
    """Rank the true entity of both sides of each triple among all entities that are not otherwise known to be true.

    Each distinct (anchor, relation) is scored once. The true score is read from the same row as its competitors'.

    Args:
        model: scores every entity.
        triples: what to rank; rows are ranked as given, duplicates included.
        known: all true triples; the others of a query are filtered out.
        memory_mb: bound on the working memory, in MiB.
        width: reals that the model holds per (query, entity) pair while it scores.
        device: where the model is.
        progress: called with the number of queries done since the last call.

    Raises:
        MmrnsError: the model gave a score that is not finite.
    """
    rows = max(1, memory_mb * 2**20 // (4 * known.n_entities * (width + 3)))
    sides: list[Ranks] = []
    for head in (False, True):
        key = triples[:, 2 if head else 0] * known.n_relations + triples[:, 1]
        order = torch.argsort(key, stable=True)
        chunks: list[Ranks] = []
        for chunk in order.split(rows):
            chunks.append(_rank_chunk(model, triples[chunk], key[chunk], known, head, device))
            if progress is not None:
                progress(len(chunk))
        sides.append(_concatenate(chunks).where(torch.argsort(order)))
    return _concatenate(sides)


def _rank_chunk(
    model: ScoresAll,
    triples: Int[Tensor, "n 3"],
    key: Int[Tensor, " n"],
    known: TripleIndex,
    head: bool,
    device: torch.device | str,
) -> Ranks:
    if not len(triples):
        return _concatenate([])
    _, query = torch.unique_consecutive(key, return_inverse=True)
    first = torch.searchsorted(query, torch.arange(int(query[-1]) + 1))
    distinct = triples[first]
    batch = Batch.of(distinct, torch.full((len(first),), head))
    scores = model.score_all(batch.to(device))
    if not torch.isfinite(scores).all():
        raise MmrnsError("the model gives scores that are not finite; lower the learning rate and train again")
    target = triples[:, 0 if head else 2]
    query_here, target_here = query.to(device), target.to(device)
    true = scores[query_here, target_here][:, None]
    row, entity = known.targets(distinct[:, 2 if head else 0], distinct[:, 1], head)
    scores[row.to(device), entity.to(device)] = -torch.inf
    # Each query has a row of its own here, since triples that share one are rivals unless they are known.
    competitors = scores[query_here]
    competitors[torch.arange(len(triples), device=scores.device), target_here] = -torch.inf
    higher = (competitors > true).sum(1).cpu()
    equal = (competitors == true).sum(1).cpu()
    candidates = torch.isfinite(competitors).sum(1).cpu() + 1
    return Ranks(triples, torch.full((len(triples),), head), higher + 1, higher + equal + 1, candidates)


def _concatenate(parts: list[Ranks]) -> Ranks:
    if not parts:
        none = torch.empty(0, dtype=torch.int64)
        return Ranks(none.reshape(0, 3), none.bool(), none, none, none)
    return Ranks(
        torch.cat([p.triples for p in parts]),
        torch.cat([p.head for p in parts]),
        torch.cat([p.optimistic for p in parts]),
        torch.cat([p.pessimistic for p in parts]),
        torch.cat([p.candidates for p in parts]),
    )
