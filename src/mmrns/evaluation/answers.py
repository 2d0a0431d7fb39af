"""The answers that a model scores for the queries of some triples, and which of them are true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.index import TripleIndex
from mmrns.evaluation.ranking import SCORES, ScoresAll, refuse_not_finite
from mmrns.rng import below, generator, random_bits
from mmrns.types import Batch

LISTED = 100
"""The best answers of a query, each of which is kept."""
DRAWN = 50
"""Of the others so many are drawn, and stand for all of them."""
QUERIES = 20_000
"""Queries at most: of so many a relation with 1 % of the triples has 200, and they take some 100 MiB."""


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers of queries with their scores: the best of each query, what is true, and a sample of the others.

    An answer is any entity that does not make a known triple, as in filtered ranking.

    Attributes:
        query: Int[n], the number of the query that each answers, ascending.
        relation: Int[n], the query's relation.
        score: Float[n].
        true: Bool[n], whether the triple is one of those that the queries were made of.
        rank: Int[n], its place among the answers of its query, from 1; 0 where it is not among the best `LISTED`.
        weight: Float[n], how many answers it stands for.
    """

    query: Int[Tensor, " n"]
    relation: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    true: Bool[Tensor, " n"]
    rank: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.query)

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> ScoredAnswers:
        """Some of the answers, by mask or by position; of a query that is taken, all should be."""
        return ScoredAnswers(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def together(parts: Sequence[ScoredAnswers]) -> ScoredAnswers:
        """The answers of at least one part, by query."""
        every = [torch.cat([getattr(part, f.name) for part in parts]) for f in fields(ScoredAnswers)]
        order = torch.argsort(every[0], stable=True)
        return ScoredAnswers(*(column[order] for column in every))


@torch.no_grad()
def scored_answers(
    model: ScoresAll,
    triples: Int[Tensor, "n 3"],
    known: TripleIndex,
    reflexive: Bool[Tensor, " R"],
    *,
    seed: int = 0,
    memory_mb: float | int = 512,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda n: None,
) -> ScoredAnswers:
    """Score the answers of both queries of each triple, (h, r, ?) and (?, r, t); each distinct query once.

    Args:
        model: scores every entity.
        triples: what is true. A triple that is known already makes no query.
        known: what is no answer, since it was true before.
        reflexive: relations that may hold between an entity and itself; of others the anchor is no answer.
        seed: of what is drawn.
        memory_mb: bound on the working memory, in MiB; see `rank`.
        device: where the model is.
        progress: told of the queries done.

    Raises:
        Diverged: a score is not finite.
    """
    n_entities, n_relations = known.n_entities, known.n_relations
    triples = torch.unique(triples[~known.contains(*triples.unbind(1))], dim=0)
    truth = TripleIndex(triples, n_entities, n_relations)
    anchor, relation, head = truth.queries()
    stream = generator(seed, "answers")
    chosen = torch.randperm(len(anchor), generator=stream)[:QUERIES].sort().values
    # Memory as in ranking, and the places of the best against those that are drawn.
    size = int(max(1, min(memory_mb * 2**19 / 3, SCORES) // (4 * n_entities + LISTED * DRAWN)))
    none = torch.empty(0, dtype=torch.int64)
    found = [ScoredAnswers(none, none, none.float(), none.bool(), none, none.float())]
    begun = 0
    for side in (False, True):
        mine = chosen[head[chosen] == side]
        # By relation, so that a chunk holds few of them.
        mine = mine[torch.argsort(relation[mine], stable=True)]
        for part in mine.split(size):
            a, r = anchor[part], relation[part]
            batch = Batch.of(torch.stack([a, r, a], dim=1), side)
            scores = model.score_all(batch.to(device), memory_mb)
            refuse_not_finite(scores)
            drop_known(scores, batch, known)
            drop_anchors(scores, batch, reflexive)
            bits = random_bits(len(part), min(DRAWN, n_entities), stream=stream, device="cpu")
            found.append(_of_batch(scores, batch, truth, below(bits, n_entities), begun))
            begun += len(part)
            progress(len(part))
    return ScoredAnswers.together(found)


def drop_known(scores: Float[Tensor, "B E"], batch: Batch, known: TripleIndex) -> None:
    """Set the scores of what makes a known triple to -inf, in place."""
    row, entity = (place.to(scores.device) for place in known.batch_targets(batch))
    scores[row, entity] = -torch.inf


def drop_anchors(scores: Float[Tensor, "B E"], batch: Batch, reflexive: Bool[Tensor, " R"]) -> None:
    """Set the scores of each query's own anchor to -inf, in place, unless its relation is a reflexive one."""
    rows = (~reflexive[batch.r]).nonzero().squeeze(1)
    scores[rows.to(scores.device), batch.anchor[rows].to(scores.device)] = -torch.inf


def _of_batch(
    scores: Float[Tensor, "B E"], batch: Batch, truth: TripleIndex, drawn: Int[Tensor, "B K"], begun: int
) -> ScoredAnswers:
    """The answers of a batch of queries, which are numbered from `begun`."""
    value, place = (x.cpu() for x in scores.topk(min(LISTED, scores.shape[1]), dim=1))
    possible = (scores > -torch.inf).sum(1).cpu()
    listed = value > -torch.inf
    rows = torch.arange(len(batch))

    def score(row: Int[Tensor, " m"], entity: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        return scores[row.to(scores.device), entity.to(scores.device)].cpu()

    # What is true and not among the best.
    true_row, true_entity = truth.batch_targets(batch)
    true_score = score(true_row, true_entity)
    left = (true_score > -torch.inf) & ~(place[true_row] == true_entity[:, None]).any(1)
    true_row, true_entity, true_score = true_row[left], true_entity[left], true_score[left]
    # Of the others a sample with replacement; what was counted already is no other.
    row = rows[:, None].expand(drawn.shape).flatten()
    entity = drawn.flatten()
    other = ~(drawn[:, :, None] == place[:, None, :]).any(2) & ~truth.batch_contains(batch, drawn)
    drawn_score = score(row, entity)
    other = other.flatten() & (drawn_score > -torch.inf)
    others = possible - listed.sum(1) - torch.bincount(true_row, minlength=len(batch))
    row, drawn_score = row[other], drawn_score[other]
    share = others / torch.bincount(row, minlength=len(batch)).clamp(min=1)

    best = rows[:, None].expand(place.shape)[listed]
    rank = torch.arange(1, place.shape[1] + 1).expand(place.shape)[listed]
    query = torch.cat([best, true_row, row])
    return ScoredAnswers(
        query + begun,
        batch.r[query],
        torch.cat([value[listed], true_score, drawn_score]).float(),
        torch.cat(
            [truth.batch_contains(batch, place)[listed], torch.ones_like(true_row).bool(), torch.zeros_like(row).bool()]
        ),
        torch.cat([rank, torch.zeros(len(true_row) + len(row), dtype=torch.int64)]),
        torch.cat([torch.ones(len(best) + len(true_row)), share[row]]).float(),
    )
