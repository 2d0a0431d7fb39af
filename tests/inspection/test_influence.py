"""First-order influence against formulas by hand, and over every scorer and loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.inspection.influence import DAMPING, influence
from mmrns.nn.embedders import FusedEmbedder
from mmrns.nn.losses import Loss
from mmrns.nn.model import Model
from mmrns.nn.scorers import DistMult, Scorer
from mmrns.rng import seeded

CPU = torch.device("cpu")


def model_of(dataset: Dataset, scorer: str = "DistMult", *, reciprocal: bool = False) -> Model:
    graph = dataset.graph
    with seeded(0, "model"):
        return Model(
            Scorer.registry.get(scorer)(4, 0.5), len(graph.entities), len(graph.relations), reciprocal=reciprocal
        ).eval()


def loss_of(name: str = "self-adversarial") -> Loss:
    return Loss.registry.get(name)(gamma=1.0, alpha=0.5)


def test_the_formula_by_hand(toy: Dataset) -> None:
    graph, model = toy.graph, model_of(toy)
    h, r, t = graph.test[0].tolist()
    near, change = influence(model, graph, (h, r, t), False, loss_of(), CPU)
    entities, relations = model.entity.all().vectors[:, 0].double(), model.relation.weight.double()
    expected = torch.zeros(len(near), dtype=torch.float64)
    for entity, other in ((h, t), (t, h)):
        rows: list[Tensor] = []
        for x, relation, y in near.tolist():
            score = (entities[x] * relations[relation] * entities[y]).sum()
            # Both sides: twice the half of the logistic loss.
            slope = -torch.sigmoid(-1.0 - score)
            row = torch.zeros(4, dtype=torch.float64)
            row = row + (slope * relations[relation] * entities[y] if x == entity else 0)
            rows.append(row + (slope * relations[relation] * entities[x] if y == entity else 0))
        own = torch.stack(rows)
        fisher = own.T @ own
        fisher = fisher + DAMPING * fisher.diagonal().mean() * torch.eye(4)
        expected += own @ torch.linalg.inv(fisher) @ (relations[r] * entities[other])
    torch.testing.assert_close(change, expected.detach(), rtol=1e-4, atol=1e-6)
    ends = near[:, [0, 2]]
    assert ((ends == h) | (ends == t)).any(1).all()
    shared = ((graph.train[:, [0, 2]] == h) | (graph.train[:, [0, 2]] == t)).any(1)
    assert len(near) == len(graph.train[shared].unique(dim=0))


def test_a_triple_holds_itself_up(toy: Dataset) -> None:
    graph, model = toy.graph, model_of(toy)
    for triple in graph.train[:5]:
        near, change = influence(model, graph, tuple(triple.tolist()), True, loss_of(), CPU)
        (own,) = change[(near == triple).all(1)].tolist()
        assert own < 0


@pytest.mark.parametrize("loss", Loss.registry.names())
@pytest.mark.parametrize("reciprocal", [False, True])
def test_every_loss(toy: Dataset, loss: str, reciprocal: bool) -> None:
    model = model_of(toy, reciprocal=reciprocal)
    _, change = influence(model, toy.graph, tuple(toy.graph.test[0].tolist()), True, loss_of(loss), CPU)
    assert torch.isfinite(change).all()
    assert (change < 0).any()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("scorer", Scorer.registry.names())
def test_every_scorer(toy: Dataset, scorer: str) -> None:
    triple = tuple(toy.graph.test[0].tolist())
    found = [influence(model_of(toy, scorer), toy.graph, triple, head, loss_of(), CPU) for head in (False, True)]
    assert torch.isfinite(found[0][1]).all()
    assert (found[0][1] < 0).any()
    # The sides of one formula are the same score.
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


def test_a_loop_counts_at_both_ends(toy: Dataset) -> None:
    h, r, _ = toy.graph.train[0].tolist()
    near, change = influence(model_of(toy), toy.graph, (h, r, h), False, loss_of(), CPU)
    assert (near[:, [0, 2]] == h).any(1).all()
    assert torch.isfinite(change).all()


def test_nobody_near_and_no_vectors_of_their_own(toy: Dataset) -> None:
    graph, stranger = toy.graph, toy.graph.entities.id("e39")
    near, change = influence(model_of(toy), graph, (stranger, 0, stranger), False, loss_of(), CPU)
    assert len(near) == len(change) == 0

    embedder = FusedEmbedder(graph, toy.features, width=4, init_range=0.5)
    embedder.views = ("own", *embedder.views[1:])
    model = Model(DistMult(4, 0.5), len(graph.entities), len(graph.relations), embedder=embedder).eval()
    near, change = influence(model, graph, tuple(graph.test[0].tolist()), False, loss_of(), CPU)
    assert len(near) == len(change) == 0
