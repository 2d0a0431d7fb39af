"""The answers that calibration learns of, against loops over all of them."""

from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.index import TripleIndex
from mmrns.errors import Diverged
from mmrns.evaluation import answers as module
from mmrns.evaluation.answers import ScoredAnswers, scored_answers
from mmrns.types import Batch


class Table:
    """Scores (side, relation, anchor, entity) that were drawn once."""

    def __init__(self, relations: int, entities: int):
        self.scores = torch.randn(2, relations, entities, entities, generator=torch.Generator().manual_seed(0))

    def score_all(self, batch: Batch, memory_mb: float | int) -> torch.Tensor:
        return self.scores[batch.head.long(), batch.r, batch.anchor].clone()


def found_and_expected(toy: Dataset) -> tuple[Table, ScoredAnswers, dict[tuple[int, int, int], dict[int, bool]]]:
    """The answers of validation, and by a loop whether each entity that is an answer to a query is true."""
    graph = toy.graph
    table = Table(len(graph.relations), len(graph.entities))
    found = scored_answers(table, graph.valid, graph.train_index, graph.reflexive_relations)
    train, valid = ({tuple(row) for row in part.tolist()} for part in (graph.train, graph.valid))
    expected: dict[tuple[int, int, int], dict[int, bool]] = {}
    for head in (0, 1):
        for r, anchor in sorted({(r, t if head else h) for h, r, t in valid - train}):
            triples = {e: (e, r, anchor) if head else (anchor, r, e) for e in range(len(graph.entities))}
            left = {e: triple for e, triple in triples.items() if triple not in train}
            if not graph.reflexive_relations[r]:
                left.pop(anchor, None)
            expected[head, r, anchor] = {e: triple in valid for e, triple in left.items()}
    return table, found, expected


def test_of_few_entities_every_answer_is_there(toy: Dataset) -> None:
    table, found, expected = found_and_expected(toy)
    assert len(found.query.unique()) == len(expected)
    assert (found.weight == 1).all()
    for number, ((head, r, anchor), answers) in enumerate(expected.items()):
        mine = found.query == number
        assert (found.relation[mine] == r).all()
        scores = {float(table.scores[head, r, anchor, e]): true for e, true in answers.items()}
        assert dict(zip(found.score[mine].tolist(), found.true[mine].tolist(), strict=True)) == scores
        assert found.score[mine].tolist() == sorted(scores, reverse=True)
        assert found.rank[mine].tolist() == list(range(1, len(scores) + 1))


def test_of_many_a_sample_stands_for_the_others(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED", 3)
    monkeypatch.setattr(module, "DRAWN", 8)
    table, found, expected = found_and_expected(toy)
    for number, ((head, r, anchor), answers) in enumerate(expected.items()):
        mine = found.query == number
        # The first three are there, and whatever is true; all together stand for every answer.
        assert found.rank[mine].unique().tolist() == [0, 1, 2, 3]
        assert int(found.true[mine].sum()) == sum(answers.values())
        assert float(found.weight[mine].sum()) == pytest.approx(len(answers), abs=1e-4)
        assert (found.weight[mine][found.true[mine]] == 1).all()
        scores = sorted((float(table.scores[head, r, anchor, e]) for e in answers), reverse=True)
        assert found.score[mine][found.rank[mine] > 0].tolist() == scores[:3]


def test_no_more_queries_than_are_asked_for(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES", 5)
    _, found, _ = found_and_expected(toy)
    assert len(found.query.unique()) == 5


def test_known_triples_make_no_query_and_scores_are_finite(toy: Dataset) -> None:
    graph = toy.graph
    table = Table(len(graph.relations), len(graph.entities))
    known = TripleIndex(torch.cat([graph.train, graph.valid]), len(graph.entities), len(graph.relations))
    assert not len(scored_answers(table, graph.valid, known, graph.reflexive_relations))
    table.scores[0] = torch.nan
    with pytest.raises(Diverged):
        scored_answers(table, graph.valid, graph.train_index, graph.reflexive_relations)
