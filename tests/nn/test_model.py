"""The model: tables and a scorer."""

from __future__ import annotations

import pytest
import torch

from mmrns.nn.embedders import TableEmbedder
from mmrns.nn.losses import SelfAdversarialLoss
from mmrns.nn.model import Model, ModelSpec
from mmrns.nn.scorers import DistMult, RotatE, TransE, TuckER
from mmrns.types import Batch, OwnNegatives, PoolNegatives, Views


def test_model_sizes_and_spec() -> None:
    model = Model(RotatE(3, 0.5), 7, 2)
    assert model.spec == ModelSpec(dim=3, entity_width=6, relation_width=3, query_width=6)
    assert (model.n_entities, model.n_relations) == (7, 2)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "entity.weight": (7, 6),
        "relation.weight": (2, 3),
    }
    assert all(p.abs().max() <= 0.5 for p in model.parameters())


def test_the_scorers_parameters_are_the_models() -> None:
    model = Model(TuckER(3, 0.5, relation_dim=2), 7, 4)
    assert model.spec == ModelSpec(dim=3, entity_width=3, relation_width=2, query_width=3)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "scorer.core": (3, 2, 3),
        "entity.weight": (7, 3),
        "relation.weight": (4, 2),
    }
    other = Model(TuckER(3, 0.5, relation_dim=2), 7, 4)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.score_all(BATCH), model.score_all(BATCH))


def known_model() -> Model:
    """DistMult over numbers, so that a score is the product of three of them."""
    model = Model(DistMult(1, 1.0), 4, 2)
    with torch.no_grad():
        model.entity.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [5.0]]))
        model.relation.weight.copy_(torch.tensor([[1.0], [10.0]]))
    return model


BATCH = Batch.of(torch.tensor([[3, 1, 0], [1, 0, 2], [2, 1, 1]]), torch.tensor([True, False, False]))


def test_rows_come_in_the_order_of_the_batch() -> None:
    model = known_model()
    # Tail side first: (1, 0, 2), (2, 1, 1), then the head side's (3, 1, 0), whose anchor is entity 0.
    assert model.lookup(BATCH).query.vectors[0].tolist() == [[2.0], [30.0], [10.0]]
    assert model.score(model.lookup(BATCH)).tolist() == [6.0, 60.0, 50.0]
    assert model.score_all(BATCH).tolist() == [
        [2.0, 4.0, 6.0, 10.0],
        [30.0, 60.0, 90.0, 150.0],
        [10.0, 20.0, 30.0, 50.0],
    ]
    ids = torch.tensor([[0, 3], [1, 1], [3, 2]])
    assert model.score_against(model.lookup(BATCH), OwnNegatives(ids)).tolist() == [
        [2.0, 10.0],
        [60.0, 60.0],
        [50.0, 30.0],
    ]
    assert model.score_against(model.lookup(BATCH), PoolNegatives(torch.tensor([3]))).tolist() == [
        [10.0],
        [150.0],
        [50.0],
    ]
    given = Views(torch.tensor([[[[7.0]]], [[[0.5]]], [[[-1.0]]]]), torch.ones(3, 1, 1, dtype=torch.bool))
    found = model.score_against(model.lookup(BATCH), OwnNegatives(ids[:, :1], given))
    assert found.tolist() == [[14.0], [15.0], [-10.0]]


def test_gradients_reach_only_the_vectors_of_the_batch() -> None:
    model = known_model()
    batch = Batch.of(torch.tensor([[0, 0, 1]]), torch.tensor([False]))
    (
        model.score(model.lookup(batch)).sum()
        + model.score_against(model.lookup(batch), OwnNegatives(torch.tensor([[3]]))).sum()
    ).backward()
    assert model.entity.weight.grad is not None
    assert model.relation.weight.grad is not None
    assert model.entity.weight.grad.flatten().tolist() == [7.0, 1.0, 0.0, 1.0]
    assert model.relation.weight.grad.flatten().tolist() == [7.0, 0.0]


@pytest.mark.parametrize("head", [False, True])
def test_batch_with_one_empty_side(head: bool) -> None:
    model = Model(TransE(3, 1.0), 4, 2)
    batch = Batch.of(torch.tensor([[0, 0, 1], [2, 1, 1]]), torch.full((2,), head))
    h, t = (model.entities(ids).vectors[:, 0] for ids in (batch.h, batch.t))
    expected = -(h + model.relations(batch.r) - t).abs().sum(1)
    torch.testing.assert_close(model.score(model.lookup(batch)), expected)


def test_constrain_changes_nothing_for_the_present_scorers() -> None:
    model = known_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.constrain()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_scores_by_view_of_a_single_view_are_the_scores() -> None:
    model = known_model()
    lookup = model.lookup(BATCH)
    negatives = OwnNegatives(torch.tensor([[0, 3], [1, 1], [3, 2]]))
    true, false = model.scores(lookup), model.scores(lookup, negatives)
    (own,), (of_negatives,) = true.by_view, false.by_view
    assert torch.equal(of_negatives, model.score_against(lookup, negatives))
    assert torch.equal(own.squeeze(1), model.score(lookup))
    assert true.common(0).tolist() == [[True]] * 3
    assert false.common(0).tolist() == [[True, True]] * 3
    objective, weight = SelfAdversarialLoss(gamma=0.0, alpha=0.0), torch.tensor([1.0, 2.0, 3.0])
    whole = objective(own.squeeze(1), of_negatives, None, weight, None)
    assert torch.equal(model.loss(negatives, objective, weight, true, false), whole)
    assert model.mixture is None


def test_an_anchor_may_see_the_relation_and_an_embedder_may_bring_a_loss() -> None:
    class Doubled(TableEmbedder):
        def anchor(self, views: Views, relation: torch.Tensor) -> Views:
            return views.with_vectors(views.vectors * (relation[:, None] > 5).float())

        def loss(self, lookup, negatives, objective, true, false):
            return false.by_view[0].sum() + true.by_view[0].sum()

    model = known_model()
    embedder = Doubled.of(4, 1, 1.0)
    embedder.load_state_dict(model.entity.state_dict())
    other = Model(DistMult(1, 1.0), 4, 2, embedder=embedder)
    other.relation.load_state_dict(model.relation.state_dict())
    lookup = other.lookup(BATCH)
    # Relation 0 has the vector 1, so that its anchor vanishes; relation 1 has 10.
    assert other.score(lookup).tolist() == [0.0, 60.0, 50.0]
    negatives = OwnNegatives(torch.tensor([[0], [1], [3]]))
    given = other.scores(lookup), other.scores(lookup, negatives)
    objective = SelfAdversarialLoss(gamma=0.0, alpha=0.0)
    assert other.entity.loss(lookup, negatives, objective, *given).item() == 2 * 110.0
