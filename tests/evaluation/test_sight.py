"""Whether a model sees, by hand: parts of the queries, differences, relations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import Ranks
from mmrns.evaluation.sight import Altered, alterations, parts_of, sight, sight_by_relation

TRAIN = [("a", "r", "b"), ("a", "r", "c"), ("b", "r", "c"), ("c", "s", "a")]
TEST = [("b", "s", "a"), ("a", "r", "d"), ("c", "r", "b")]


@pytest.fixture
def graph() -> KnowledgeGraph:
    return Dataset.from_triples(TRAIN, test=TEST).graph


def ranks(graph: KnowledgeGraph, found: list[int]) -> Ranks:
    """Of the tails of the test triples, then of their heads."""
    rank, n = torch.tensor(found), 2 * len(graph.test)
    head = torch.arange(n) >= n // 2
    return Ranks(graph.test.repeat(2, 1), head, rank, rank, torch.full((n,), 4), torch.zeros(n, dtype=torch.bool))


def test_parts_are_by_the_answer_and_by_what_train_lacks(graph: KnowledgeGraph) -> None:
    parts = parts_of(ranks(graph, [1] * 6), graph)
    # Answers a, d, b and heads b, a, c, which are in 3, 0, 2 and 2, 3, 3 triples.
    assert {name: mine.tolist() for name, mine in parts.items()} == {
        "all": [True] * 6,
        "few": [False, False, True, True, False, False],
        "unseen": [False, True, False, False, True, False],
    }
    seen = Dataset.from_triples(TRAIN, test=[("a", "r", "b")]).graph
    assert [*parts_of(ranks(seen, [1, 1]), seen)] == ["all", "few"]


def test_differences_are_means_over_seeds_and_queries(graph: KnowledgeGraph) -> None:
    true = ranks(graph, [1, 2, 1, 2, 1, 4])
    tried = [(Altered("text", "shuffled", {"text": "shuffled"}, (0, 1)),
              [ranks(graph, [2, 2, 2, 4, 1, 4]), ranks(graph, [1, 1, 4, 2, 2, 4])])]  # fmt: skip
    rows = {(row["features"], row["part"]): row for row in sight(true, tried, graph, 200)}
    whole = rows["true", "all"]
    about = {"modality": None, "features": "true", "part": "all", "queries": 6, "seeds": 1}
    assert whole == about | dict.fromkeys(("deviation", "difference", "low", "high")) | {"mrr": pytest.approx(4.25 / 6)}
    found = rows["shuffled", "all"]
    mrr = [3.0 / 6, 3.5 / 6]
    assert (found["modality"], found["seeds"], found["queries"]) == ("text", 2, 6)
    assert found["mrr"] == pytest.approx(sum(mrr) / 2)
    assert found["deviation"] == pytest.approx((mrr[1] - mrr[0]) / 2**0.5)
    assert found["difference"] == pytest.approx(sum(mrr) / 2 - 4.25 / 6)
    assert found["low"] <= found["difference"] <= found["high"] <= 0
    few = rows["shuffled", "few"]
    assert (few["queries"], few["difference"]) == (2, pytest.approx(((0.5 + 0.25) / 2 + (0.25 + 0.5) / 2) / 2 - 0.75))
    assert rows["shuffled", "unseen"]["difference"] == pytest.approx((0.75 + 0.75) / 2 - 0.75)
    assert {row["low"] for row in sight(true, tried, graph, 0)} == {None}


def test_equal_ranks_differ_by_nothing(graph: KnowledgeGraph) -> None:
    true = ranks(graph, [1, 2, 1, 2, 1, 4])
    (row,) = [row for row in sight(true, [(Altered("text", "noise", {}, (0,)), [true])], graph, 50)
              if (row["features"], row["part"]) == ("noise", "all")]  # fmt: skip
    assert (row["difference"], row["low"], row["high"], row["deviation"]) == (0, 0, 0, None)


def test_relations_that_lose_most_come_first() -> None:
    test = [(str(i), name, str(i + 1)) for name in ("few", "more", "most") for i in range(3 if name == "few" else 5)]
    graph = Dataset.from_triples([("0", name, "1") for name in ("few", "more", "most")], test=test).graph
    true = ranks(graph, [1] * 26)
    relation = true.triples[:, 1]
    after = ranks(graph, torch.where(relation == graph.relations.id("most"), 4, 2).tolist())
    rows = sight_by_relation(true, [(Altered("text", "shuffled", {}, (0,)), [after])], graph)
    expected: list[dict[str, Any]] = [
        {"relation": name, "modality": "text", "features": "shuffled", "queries": 10, "mrr": 1.0, "difference": lost}
        for name, lost in (("most", -0.75), ("more", -0.5))
    ]
    assert rows == expected


def test_what_is_tried() -> None:
    found = alterations(["text", "image"], 3)
    assert [(one.modality, one.features, len(one.seeds)) for one in found if one.modality != "image"] == [
        *(("text", name, 3) for name in ("shuffled", "dropped 10 %", "dropped 30 %", "dropped 50 %", "noise")),
        ("text", "without", 1),
        ("all", "shuffled", 3),
        ("all", "without", 1),
    ]
    assert found[-1].how == {"text": 1.0, "image": 1.0}
    assert [one.features for one in alterations(["text"], 1, ["shuffled"])] == ["shuffled"]
