"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import Ranks, rank
from mmrns.evaluation.report import (
    adjusted_mean_rank_index,
    breakdown,
    intervals,
    metrics,
    policies,
    relation_categories,
    report,
    shortcomings,
)
from mmrns.types import Batch

NONE = torch.empty(0, 3, dtype=torch.int64)


def ranks_of(
    optimistic: list[int],
    pessimistic: list[int] | None = None,
    candidates: list[int] | None = None,
    triples: list[list[int]] | None = None,
    head: list[bool] | None = None,
    outside: list[bool] | None = None,
) -> Ranks:
    n = len(optimistic)
    return Ranks(
        torch.tensor(triples or [[0, 0, 1]] * n, dtype=torch.int64).reshape(-1, 3),
        torch.tensor(head or [False] * n, dtype=torch.bool),
        torch.tensor(optimistic, dtype=torch.int64),
        torch.tensor(pessimistic or optimistic, dtype=torch.int64),
        torch.tensor(candidates or [20] * n, dtype=torch.int64),
        torch.tensor(outside or [False] * n, dtype=torch.bool),
    )


def graph_of(train: list[tuple[int, int, int]], entities: int, relations: int) -> KnowledgeGraph:
    names = Vocabulary([f"e{i:02d}" for i in range(entities)]), Vocabulary([f"r{i}" for i in range(relations)])
    return KnowledgeGraph(*names, torch.tensor(train, dtype=torch.int64), NONE, NONE)


class Random:
    """Scores that have nothing to do with the triples."""

    def __init__(self, n_entities: int):
        self.n_entities, self.generator = n_entities, torch.Generator().manual_seed(0)

    def score_all(self, batch: Batch, memory_mb: float | int) -> torch.Tensor:
        return torch.rand(len(batch), self.n_entities, generator=self.generator)


def test_metrics_worked_out_by_hand() -> None:
    found = metrics(torch.tensor([1.0, 1.5, 3.0, 3.5, 10.0, 11.0]))
    assert found["mrr"] == pytest.approx((1 + 2 / 3 + 1 / 3 + 2 / 7 + 1 / 10 + 1 / 11) / 6)
    assert found["hits@1"] == pytest.approx(1 / 6)
    assert found["hits@3"] == pytest.approx(3 / 6)
    assert found["hits@10"] == pytest.approx(5 / 6)
    assert found["mr"] == pytest.approx(30 / 6)
    assert list(found) == ["mrr", "hits@1", "hits@3", "hits@10", "mr"]
    assert metrics(torch.tensor([2, 4])) == {"mrr": 0.375, "hits@1": 0.0, "hits@3": 0.5, "hits@10": 1.0, "mr": 3.0}


def test_amri_worked_out_by_hand() -> None:
    # Candidates 11 and 21: expected ranks 6 and 11, mean 8.5; realistic ranks 2 and 4.5, mean 3.25.
    ranks = ranks_of([1, 4], [3, 5], [11, 21])
    assert adjusted_mean_rank_index(ranks) == pytest.approx(1 - 2.25 / 7.5)
    assert adjusted_mean_rank_index(ranks_of([1, 1])) == 1.0
    assert adjusted_mean_rank_index(ranks_of([20, 20])) == pytest.approx(-1.0)
    # All tied: the realistic rank is the expected one.
    assert adjusted_mean_rank_index(ranks_of([1, 1], [20, 20])) == pytest.approx(0.0)
    assert adjusted_mean_rank_index(ranks_of([1], candidates=[1])) == 1.0


def test_amri_of_random_scores_is_about_zero() -> None:
    g = torch.Generator().manual_seed(1)
    triples = torch.stack([torch.randint(n, (3000,), generator=g) for n in (50, 3, 50)], dim=1)
    graph = KnowledgeGraph(
        Vocabulary([f"e{i:02d}" for i in range(50)]), Vocabulary(["a", "b", "c"]), triples[:100], NONE, NONE
    )
    ranks = rank(Random(50), triples, graph.known_index)
    # The rank of one of c candidates has standard deviation c / sqrt(12); the index's is that over the mean of c / 2.
    deviation = 50 / math.sqrt(12) / math.sqrt(len(ranks)) / 24.5
    assert abs(adjusted_mean_rank_index(ranks)) < 4.5 * deviation
    assert deviation < 0.01


def test_policies() -> None:
    found = policies(ranks_of([1, 2], [2, 10]))
    assert found["optimistic"]["mr"] == 1.5
    assert found["realistic"]["mr"] == 3.75
    assert found["pessimistic"]["mr"] == 6.0
    assert "amri" in found["realistic"]
    assert "amri" not in found["optimistic"]
    assert "amri" not in found["pessimistic"]
    assert policies(ranks_of([])) == {}


def test_report() -> None:
    graph = graph_of([(0, 0, 1), (1, 0, 2)], entities=4, relations=1)
    triples = [[0, 0, 1], [0, 0, 3], [2, 0, 0], [0, 0, 1], [0, 0, 3], [2, 0, 0]]
    head = [False] * 3 + [True] * 3
    outside = [False] * 5 + [True]
    ranks = ranks_of([1, 2, 3, 4, 1, 2], [1, 2, 4, 4, 1, 3], triples=triples, head=head, outside=outside)
    found = report(ranks, graph)
    assert found["queries"] == 6
    assert found["ties"] == 2
    assert found["outside"] == 1
    assert found["both"]["optimistic"]["mr"] == pytest.approx(13 / 6)
    assert found["tail"]["optimistic"]["mr"] == pytest.approx(2.0)
    assert found["head"]["optimistic"]["mr"] == pytest.approx(7 / 3)
    # Entity 3 is in no train triple, so that the second triple of either side does not count.
    assert found["seen"]["optimistic"]["mr"] == pytest.approx((1 + 3 + 4 + 2) / 4)
    assert found["seen"]["realistic"]["mr"] == pytest.approx((1 + 3.5 + 4 + 2.5) / 4)
    assert found["unseen"]["optimistic"]["mr"] == pytest.approx((2 + 1) / 2)
    assert [(row["unseen"], row["side"], row["queries"]) for row in found["cold_start"]] == [
        ("target", "tail", 1),
        ("anchor", "head", 1),
    ]
    assert set(found) == {"both", "head", "tail", "seen", "unseen", "cold_start", "queries", "ties", "outside"}


def test_report_of_nothing() -> None:
    found = report(ranks_of([]), graph_of([(0, 0, 1)], 2, 1))
    sides = {key: {} for key in ("both", "head", "tail", "seen", "unseen")}
    assert found == {**sides, "cold_start": [], "queries": 0, "ties": 0, "outside": 0}


def naive_intervals(ranks: Ranks, samples: int) -> dict[str, list[float]]:
    """By a loop over samples and triples, with another generator."""
    g = torch.Generator().manual_seed(99)
    of_triple: dict[tuple[int, ...], list[float]] = {}
    for triple, value in zip(ranks.triples.tolist(), ranks.realistic.tolist(), strict=True):
        of_triple.setdefault(tuple(triple), []).append(value)
    groups = list(of_triple.values())
    drawn = [
        metrics(torch.tensor([v for u in torch.randint(len(groups), (len(groups),), generator=g) for v in groups[u]]))
        for _ in range(samples)
    ]
    found = {name: sorted(sample[name] for sample in drawn) for name in drawn[0]}
    return {name: [v[int(0.025 * samples)], v[int(0.975 * samples)]] for name, v in found.items()}


def test_intervals_agree_with_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    n = 60
    triples = torch.stack([torch.arange(n), torch.zeros(n).long(), torch.arange(n) + 1], dim=1)
    # Both sides of each triple, and the first five triples twice.
    triples = torch.cat([triples, triples[:5], triples]).tolist()
    values = (torch.rand(len(triples), generator=g) ** 3 * 30).long() + 1
    ranks = ranks_of(values.tolist(), triples=triples, candidates=[50] * len(triples))
    found, expected = intervals(ranks, 4000), naive_intervals(ranks, 2000)
    assert list(found) == list(metrics(ranks.realistic)) == list(expected)
    for name, (low, high) in found.items():
        width = expected[name][1] - expected[name][0]
        assert low < metrics(ranks.realistic)[name] < high
        assert [low, high] == pytest.approx(expected[name], abs=0.12 * width), name


def test_the_two_queries_of_a_triple_are_resampled_together() -> None:
    # Each triple has one query at rank 1 and one at rank 2, so that no resample changes the mean.
    n = 40
    triples = [[i, 0, i + 1] for i in range(n)] * 2
    together = intervals(ranks_of([1] * n + [2] * n, triples=triples), 200)
    assert together["mrr"] == pytest.approx([0.75, 0.75])
    alone = [[i, 0, i + 1] for i in range(2 * n)]
    low, high = intervals(ranks_of([1] * n + [2] * n, triples=alone), 200)["mrr"]
    assert low < 0.73 < 0.77 < high


def test_intervals_are_those_of_the_seed_whatever_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ranks_of(list(range(1, 31)), triples=[[i, 0, 0] for i in range(30)], candidates=[50] * 30)
    found = intervals(ranks, 100)
    assert intervals(ranks, 100) == found
    assert intervals(ranks, 100, seed=1) != found
    narrow = intervals(ranks, 100, level=0.5)
    assert found["mr"][0] < narrow["mr"][0] < narrow["mr"][1] < found["mr"][1]
    monkeypatch.setattr("mmrns.evaluation.report.DRAWS", 70)
    assert intervals(ranks, 100) == found


def test_reports_hold_intervals_where_asked(toy: Dataset) -> None:
    graph = toy.graph
    ranks = rank(Random(40), graph.test, graph.known_index)
    plain, found = report(ranks, graph), report(ranks, graph, bootstrap=50)
    for side in ("both", "head", "tail", "seen", "unseen"):
        interval = found[side]["realistic"].pop("interval")
        for name, (low, high) in interval.items():
            assert low <= found[side]["realistic"][name] <= high
    for row in found["cold_start"]:
        low, high = row.pop("interval")["mrr"]
        assert low <= row["mrr"] <= high
    assert found == plain
    rows = breakdown(ranks, graph, "side", bootstrap=50)
    assert [row.pop("interval") for row in rows] == [
        intervals(ranks.where(ranks.head == (row["side"] == "head")), 50) for row in rows
    ]
    assert rows == breakdown(ranks, graph, "side")
    assert report(ranks_of([]), graph, bootstrap=50)["both"] == {}


CATEGORIES = {
    "1-1": [(0, 1), (2, 3), (4, 5)],
    "1-n": [(0, t) for t in range(1, 5)],
    "n-1": [(h, 0) for h in range(1, 5)],
    "n-n": [(h, t) for h in range(3) for t in range(3, 6)],
    # Tails a head: 3 / 2 = 1.5, which is many; heads a tail: 1.
    "1-n at the limit": [(0, 1), (0, 2), (3, 4)],
    # Tails a head: 4 / 3, which is not.
    "1-1 below the limit": [(0, 1), (0, 2), (3, 4), (5, 6)],
}


@pytest.mark.parametrize("copies", [1, 3])
def test_categories_of_a_graph_made_by_hand(copies: int) -> None:
    train = [(h, r, t) for r, pairs in enumerate(CATEGORIES.values()) for h, t in pairs] * copies
    graph = graph_of(train, entities=7, relations=len(CATEGORIES) + 1)
    # Of a relation that train lacks nobody knows.
    assert relation_categories(graph) == [name[:3] for name in CATEGORIES] + ["unseen"]


@pytest.mark.parametrize("by", ["relation", "category", "side"])
def test_breakdown_sums_to_the_whole(toy: Dataset, by: Literal["relation", "category", "side"]) -> None:
    graph = toy.graph
    ranks = rank(Random(40), graph.test, graph.known_index)
    rows = breakdown(ranks, graph, by)
    counts = [row["queries"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(ranks) == 2 * len(graph.test)
    whole = metrics(ranks.realistic)
    assert len(rows) > 1
    for name, value in whole.items():
        assert sum(row[name] * row["queries"] for row in rows) / len(ranks) == pytest.approx(value)
    labels = {row[by] for row in rows}
    assert len(labels) == len(rows)
    expected = {
        "relation": {graph.relations[r] for r in graph.test[:, 1].tolist()},
        "category": {relation_categories(graph)[r] for r in graph.test[:, 1].tolist()},
        "side": {"head", "tail"},
    }
    assert labels == expected[by]


def test_breakdown_by_relation_and_side_worked_out_by_hand() -> None:
    graph = graph_of([(0, 0, 1), (0, 1, 1)], entities=2, relations=2)
    ranks = ranks_of([1, 2, 4], [1, 2, 6], triples=[[0, 0, 1], [0, 1, 1], [0, 1, 1]], head=[False, False, True])
    by_relation = breakdown(ranks, graph, "relation")
    assert [(row["relation"], row["queries"], row["mr"]) for row in by_relation] == [("r1", 2, 3.5), ("r0", 1, 1.0)]
    by_side = breakdown(ranks, graph, "side")
    assert [(row["side"], row["queries"], row["mr"]) for row in by_side] == [("tail", 2, 1.5), ("head", 1, 5.0)]
    assert breakdown(ranks_of([]), graph, "side") == []


def test_breakdown_by_what_is_unseen_worked_out_by_hand() -> None:
    # Entities 3 and 4 have no triple in train, and neither has relation 1.
    graph = graph_of([(0, 0, 1), (1, 0, 2), (0, 0, 2)], entities=5, relations=2)
    triples = [[0, 0, 1], [3, 0, 1], [3, 0, 1], [3, 0, 4], [0, 1, 2], [3, 1, 2]]
    ranks = ranks_of([1, 2, 4, 3, 1, 1], triples=triples, head=[False, True, False, False, False, True])
    rows = breakdown(ranks, graph, "unseen")
    assert [(row["unseen"], row["side"], row["mr"]) for row in rows] == [
        ("nothing", "tail", 1.0),
        ("anchor", "tail", 4.0),
        ("both", "tail", 3.0),
        ("relation", "tail", 1.0),
        ("target", "head", 2.0),
        ("relation", "head", 1.0),
    ]
    by = {(row["unseen"], row["side"]): row for row in rows}
    # Heads of relation 0: twice 0, once 1, never 2; three triples by three entities make 1 for 3 and 4. That 0 is head
    # of 1 is known, so that it is left out: 1 and 4 are level.
    assert by["target", "head"]["frequency_mrr"] == pytest.approx(1 / 2)
    # Of four candidates a random one has rank 2.5.
    assert by["target", "head"]["frequency_amri"] == pytest.approx(1 - 1 / 1.5)
    # Tails: 1 once, 2 twice, 3 and 4 as often as the mean; 1 is level with the two.
    assert by["anchor", "tail"]["frequency_mrr"] == pytest.approx(1 / 3)
    assert by["target", "head"]["amri"] == pytest.approx(1 - 1 / 9.5)
    assert breakdown(ranks_of([]), graph, "unseen") == []


def test_the_baseline_of_unseen_queries_ranks_among_the_same_candidates(toy: Dataset) -> None:
    graph, among = toy.graph, Candidates.of_train(toy.graph)
    unseen = graph.test[~graph.seen_triples(graph.test)]
    expected = rank(RelationFrequency(graph), unseen, graph.known_index, candidates=among)
    found = report(rank(Random(40), graph.test, graph.known_index, candidates=among), graph, candidates=among)
    assert len(found["cold_start"]) == 2
    for row in found["cold_start"]:
        part = expected.where(expected.head == (row["side"] == "head"))
        assert row["frequency_mrr"] == metrics(part.realistic)["mrr"]


@pytest.mark.parametrize(
    ("mrr", "amri", "lines"),
    [
        (0.6, 0.1, []),
        (0.26, 0.1, ["ranks below relation frequency: MRR 0.26 against 0.57 where the tail is asked for."]),
        (
            0.26,
            -0.94,
            [
                "ranks below relation frequency: MRR 0.26 against 0.57 where the tail is asked for.",
                "ranks worse than chance: AMRI -0.94 where the tail is asked for.",
            ],
        ),
        (0.6, -0.94, ["ranks worse than chance: AMRI -0.94 where the tail is asked for."]),
    ],
)
def test_shortcomings_are_told_in_a_line_each(mrr: float, amri: float, lines: list[str]) -> None:
    row = {"unseen": "anchor", "side": "tail", "queries": 30, "mrr": mrr, "amri": amri, "frequency_mrr": 0.57}
    few, other = row | {"queries": 9, "mrr": 0.0, "amri": -1.0}, row | {"unseen": "relation", "mrr": 0.0}
    found = shortcomings({"cold_start": [row, few, other]})
    assert found == [f"On entities without train triples the model {line}" for line in lines]
    both = shortcomings({"cold_start": [row | {"mrr": 0.1}, row | {"unseen": "target", "side": "head", "mrr": 0.01}]})
    assert "0.1 against 0.57 where the tail is asked for; 0.01 against 0.57 as the head asked for." in both[0]
