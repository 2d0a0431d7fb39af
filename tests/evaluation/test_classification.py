"""Triple classification against searches over every threshold, and what corruptions are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset
from mmrns.data.index import TripleIndex
from mmrns.errors import UsageError
from mmrns.evaluation.classification import Thresholds, by_relation, classified, corruptions, fit_thresholds


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3), st.booleans()), min_size=2, max_size=25))
def test_no_threshold_is_better(rows: list[tuple[int, int, bool]]) -> None:
    r, scores, true = (torch.tensor(column) for column in zip(*rows, strict=True))
    scores = scores.float()
    if len({y for _, _, y in rows}) == 1:
        with pytest.raises(UsageError, match="of true and of false triples"):
            fit_thresholds(scores, true, r, 3)
        return
    found = fit_thresholds(scores, true, r, 3)
    tried = torch.arange(-4, 4.5, 0.5)
    for relation in range(3):
        mine = r == relation
        assert bool(found.own[relation]) == (len(true[mine].unique()) == 2)
        if not found.own[relation]:
            mine = torch.ones_like(mine)
        right = [
            int(((scores[mine] >= t) == true[mine]).sum())
            for t in [*tried.tolist(), float(found.by_relation[relation])]
        ]
        assert right[-1] == max(right)


def test_thresholds_lie_between_scores() -> None:
    r = torch.tensor([0, 0, 0, 0, 1])
    scores = torch.tensor([1.0, 2.0, 4.0, 6.0, 9.0])
    found = fit_thresholds(scores, torch.tensor([False, False, True, True, True]), r, 3)
    assert found.by_relation.tolist() == [3.0, 3.0, 3.0]
    assert found.own.tolist() == [True, False, False]
    # Where nothing is gained by any, the lowest: everything is true; or everything false.
    scores, r = torch.tensor([1.0, 2.0]), torch.tensor([0, 0])
    assert fit_thresholds(scores, torch.tensor([True, False]), r, 1).by_relation.tolist() == [1.0]


def test_metrics_by_hand() -> None:
    thresholds = Thresholds(torch.tensor([0.0, 10.0]).double(), torch.tensor([True, False]))
    r = torch.tensor([0, 0, 0, 1, 1])
    scores, true = torch.tensor([1.0, 2.0, -1.0, 11.0, 8.0]), torch.tensor([True, False, True, True, False])
    # Taken for true: 1, 2 and 11, of which 2 are; margins 1+, 2-, -1+, 1+, -2-.
    found = classified(scores, true, r, thresholds)
    assert found["triples"] == 5
    assert found["positives"] == 3
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    # Pairs of a true and a false one: of 2 (above all) 0 of 3, of -2 all 3.
    assert found["roc_auc"] == pytest.approx(3 / 6)
    rows = by_relation(scores, true, r, thresholds, ["a", "b"])
    assert [(row["relation"], row["triples"], row["threshold"], row["own"]) for row in rows] == [
        ("a", 3, 0.0, True),
        ("b", 2, 10.0, False),
    ]
    assert rows[1]["accuracy"] == rows[1]["roc_auc"] == 1
    only = classified(scores[:1] - 9, true[:1], r[:1], thresholds)
    assert only["roc_auc"] is None
    assert (only["precision"], only["f1"]) == (0, 0)


def test_corruptions_are_false_and_of_the_right_kind(toy: Dataset) -> None:
    graph = toy.graph
    known = TripleIndex(torch.cat([graph.train, graph.valid]), len(graph.entities), len(graph.relations))
    triples = graph.valid.repeat(20, 1)
    made = corruptions(triples, graph, known)
    assert len(made) == len(triples)
    assert not known.contains(*made.T).any()
    assert ((made != triples).sum(1) == 1).all()
    assert (made[:, 1] == triples[:, 1]).all()
    replaced_head = (made[:, 0] != triples[:, 0]).double().mean()
    assert 0.4 < replaced_head < 0.6
    likes = graph.relations.id("likes")
    for place, head in ((0, True), (2, False)):
        new = made[(made[:, 1] == likes) & (made[:, place] != triples[:, place])]
        assert len(new)
        assert graph.domain_range.holds(new[:, place], new[:, 1], head).all()
    assert torch.equal(made, corruptions(triples, graph, known))
    assert not torch.equal(made, corruptions(triples, graph, known, seed=1))


def test_where_every_entity_is_true_there_is_no_corruption(toy: Dataset) -> None:
    graph, n = toy.graph, len(toy.graph.entities)
    full = torch.cartesian_prod(torch.arange(n), torch.tensor([0]), torch.arange(n))
    known = TripleIndex(full, n, len(graph.relations))
    assert not len(corruptions(full[:7], graph, known))
