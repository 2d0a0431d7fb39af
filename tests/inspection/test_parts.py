"""What views add to a score, against sums by hand, where features are missing too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.inspection.parts import Part, candidates_of, parts_of, rank_among
from mmrns.nn.embedders import Embedder, FusedEmbedder, TableEmbedder
from mmrns.nn.mixtures import Mixture, Residual
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.types import AllNegatives, Batch


def model_of(dataset: Dataset, embedder: type[Embedder], mixture: type[Mixture] | None = None) -> Model:
    graph = dataset.graph
    with seeded(0, "model"):
        entities = embedder(graph, dataset.features, width=6, init_range=0.5)  # pyright: ignore
        given = None if mixture is None else mixture(entities.views)
        sizes = len(graph.entities), len(graph.relations)
        return Model(TransE(6, 0.5), *sizes, embedder=entities, mixture=given).eval()


def told(model: Model, dataset: Dataset, triple: tuple[str, str, str], head: bool) -> tuple[list[Part], Batch]:
    graph = dataset.graph
    ids = graph.entities.id(triple[0]), graph.relations.id(triple[1]), graph.entities.id(triple[2])
    batch = Batch.of(torch.tensor([ids]), head)
    with torch.no_grad():
        among = candidates_of(graph, batch)
        return parts_of(model, model.lookup(batch), model.entity.all(), among, int(batch.target[0])), batch


@pytest.mark.parametrize(("head", "tail"), [("e08", "e02"), ("e05", "e02"), ("e11", "e02"), ("e39", "e05")])
@pytest.mark.parametrize("side", [False, True])
def test_the_parts_are_those_of_the_mixture(toy: Dataset, head: str, tail: str, side: bool) -> None:
    model = model_of(toy, FusedEmbedder)
    found, batch = told(model, toy, (head, "part_of", tail), side)
    target, anchor = int(batch.target[0]), int(batch.anchor[0])
    with torch.no_grad():
        lookup, every = model.lookup(batch), model.entity.all()
        own = torch.cat(model.scores(lookup, AllNegatives(40, torch.device("cpu"))).by_view).T
        scores = model.score_all(batch)[0]
        gate = lookup.query.gate
    assert gate is not None
    among = candidates_of(toy.graph, batch)

    def mixture(without: int | None) -> list[float | None]:
        """The scores by hand; None where no view is left."""
        mixed: list[float | None] = []
        for e in range(40):
            views = [v for v in range(3) if v != without and every.present[anchor, v] and every.present[e, v]]
            total = sum(float(gate[0, v]) for v in views)
            mixed.append(sum(float(gate[0, v] * own[e, v]) for v in views) / total if views else None)
        return mixed

    have = [v for v in range(3) if every.present[anchor, v] and every.present[target, v]] or [0]
    alike = [
        e
        for e in range(40)
        if among[e] and ([v for v in range(3) if every.present[anchor, v] and every.present[e, v]] or [0]) == have
    ]
    # Together they are how far the score stands above the mean of those with the same views.
    expected = float(scores[target] - scores[alike].mean())
    assert sum(part["adds"] for part in found) == pytest.approx(expected, abs=1e-5)
    assert sum(part["weight"] for part in found) == pytest.approx(1)
    assert [part["part"] for part in found] == ["structure", "image", "text"]
    for v, part in enumerate(found):
        assert (part["own_score"] is None) == (part["own_rank"] is None) == (v not in have)
        if v not in have:
            assert part["adds"] == part["weight"] == 0
        else:
            assert part["own_score"] == pytest.approx(float(own[target, v]))
        without = mixture(v)
        known = [score for e, score in enumerate(without) if among[e] and score is not None]
        mean = sum(known) / len(known) if known else 0.0
        filled = [mean if score is None else score for score in without]
        better = sum(filled[e] > filled[target] + 1e-5 for e in range(40) if among[e])
        equal = sum(abs(filled[e] - filled[target]) <= 1e-5 for e in range(40) if among[e])
        assert part["rank_without"] == 1 + better + (equal - 1) // 2


@pytest.mark.parametrize(("head", "tail"), [("e08", "e02"), ("e05", "e02"), ("e11", "e02"), ("e39", "e05")])
@pytest.mark.parametrize("side", [False, True])
def test_the_parts_of_a_residual_mixture_are_its_terms(toy: Dataset, head: str, tail: str, side: bool) -> None:
    model = model_of(toy, FusedEmbedder, Residual)
    found, batch = told(model, toy, (head, "part_of", tail), side)
    target, anchor = int(batch.target[0]), int(batch.anchor[0])
    with torch.no_grad():
        lookup, every = model.lookup(batch), model.entity.all()
        own = torch.cat(model.scores(lookup, AllNegatives(40, torch.device("cpu"))).by_view).T
        scores = model.score_all(batch)[0]
        a, b = (half[0].tolist() for half in lookup.query.gate.chunk(2, 1))
    untrained = model.scorer.untrained_mean()
    among = candidates_of(toy.graph, batch)
    common = every.present[anchor] & every.present

    def term(view: int, e: int) -> float:
        value = float(own[e, view])
        if view == 0:
            return value if common[e, 0] else untrained
        return a[view - 1] * (value - b[view - 1]) if common[e, view] else 0.0

    alike = [e for e in range(40) if among[e] and torch.equal(common[e], common[target])]
    expected = float(scores[target] - scores[alike].mean())
    assert sum(part["adds"] for part in found) == pytest.approx(expected, abs=1e-5)
    for view, part in enumerate(found):
        others = [v for v in range(3) if v != view]
        if common[target, view]:
            mean = sum(term(view, e) for e in alike) / len(alike)
            assert part["adds"] == pytest.approx(term(view, target) - mean, abs=1e-5)
            assert part["weight"] == pytest.approx(1.0 if view == 0 else a[view - 1])
        else:
            assert part["adds"] == part["weight"] == 0
            assert part["own_score"] is None
        without = [
            sum(term(v, e) for v in others) + (untrained if view == 0 else 0.0) if common[e, others].any() else None
            for e in range(40)
        ]
        known = [score for e, score in enumerate(without) if among[e] and score is not None]
        mean = sum(known) / len(known) if known else 0.0
        filled = [mean if score is None else score for score in without]
        better = sum(filled[e] > filled[target] + 1e-5 for e in range(40) if among[e])
        equal = sum(abs(filled[e] - filled[target]) <= 1e-5 for e in range(40) if among[e])
        assert part["rank_without"] == 1 + better + (equal - 1) // 2


def test_a_single_view_is_all_there_is(toy: Dataset) -> None:
    model = model_of(toy, TableEmbedder)
    (part,), batch = told(model, toy, ("e08", "part_of", "e02"), False)
    with torch.no_grad():
        scores = model.score_all(batch)[0]
    among, target = candidates_of(toy.graph, batch), int(batch.target[0])
    assert part == {
        "part": "structure",
        "adds": pytest.approx(float(scores[target] - scores[among].mean()), abs=1e-5),
        "rank_without": (int(among.sum()) + 1) // 2,
        "weight": 1.0,
        "own_score": pytest.approx(float(scores[target])),
        "own_rank": rank_among(scores, among, target),
    }


def test_who_is_a_candidate(toy: Dataset) -> None:
    graph = toy.graph
    relation = next(r for r in range(len(graph.relations)) if not graph.reflexive_relations[r])
    triple = graph.train[graph.train[:, 1] == relation][0]
    batch = Batch.of(triple[None], False)
    among = candidates_of(graph, batch)
    h, r, t = triple.tolist()
    every = torch.cat([graph.train, graph.valid, graph.test])
    others = set(every[(every[:, 0] == h) & (every[:, 1] == r)][:, 2].tolist()) - {t}
    assert set((~among).nonzero().squeeze(1).tolist()) == others | {h}
    # Were there a triple of one entity, the anchor would be one.
    looped = replace(graph, valid=torch.tensor([[t, r, t]]))
    assert candidates_of(looped, batch)[h] or (h, r, h) in set(map(tuple, every.tolist()))


def test_ranks_are_means_rounded_down() -> None:
    scores, every = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0]), torch.ones(5, dtype=torch.bool)
    assert [rank_among(scores, every, e) for e in range(5)] == [1, 3, 3, 3, 5]
    assert rank_among(scores, torch.tensor([False, True, True, False, True]), 1) == 1
