"""The penalty against a value and a gradient worked out by hand."""

from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.embedders import Embedder, FusedEmbedder
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.nn.scorers import BiQUE, ComplEx, DistMult
from mmrns.runs.build import build_model
from mmrns.runs.config import make_config
from mmrns.types import Batch, Views


@pytest.fixture
def model() -> Model:
    model = Model(DistMult(2, 1.0), 3, 2)
    with torch.no_grad():
        model.entity.weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0], [100.0, 100.0]]))
        model.relation.weight.copy_(torch.tensor([[-1.0, 1.0], [50.0, 0.0]]))
    return model


BATCH = Batch.of(torch.tensor([[0, 0, 1], [0, 0, 0]]), torch.tensor([False, True]))


def test_value_and_gradient(model: Model) -> None:
    # Cubes: e0 1 + 8, e1 27, r0 2; rows e0 + r0 + e1 = 38 and e0 + r0 + e0 = 20; their mean times 0.1.
    penalty = Regularizer(l3=0.1)(model, model.lookup(BATCH))
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(2.9)
    penalty.backward()
    assert model.entity.weight.grad is not None
    assert model.relation.weight.grad is not None
    # d |x|^3 = 3 x |x|: e0 occurs three times, e1 once, r0 twice; times 0.1 / 2.
    assert model.entity.weight.grad.flatten().tolist() == pytest.approx([0.45, -1.8, 0.0, 1.35, 0.0, 0.0])
    assert model.relation.weight.grad.flatten().tolist() == pytest.approx([-0.3, 0.3, 0.0, 0.0])


def test_squares(model: Model) -> None:
    # Squares: e0 5, e1 9, r0 2; rows 16 and 12.
    penalty = Regularizer(l2=1.0)(model, model.lookup(BATCH))
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(14.0)


def test_weight_zero_switches_it_off(model: Model) -> None:
    assert Regularizer()(model, model.lookup(BATCH)) == 0.0


def test_n3_is_l3_of_real_vectors_and_cubes_the_moduli_of_complex_ones(model: Model) -> None:
    penalties = [Regularizer(l3=0.1)(model, model.lookup(BATCH)), Regularizer(n3=0.1)(model, model.lookup(BATCH))]
    assert penalties[0].item() == pytest.approx(penalties[1].item())  # type: ignore[union-attr]
    complex_model = Model(ComplEx(1, 1.0), 3, 2)
    complex_model.load_state_dict(model.state_dict())
    penalty = Regularizer(n3=1.0)(complex_model, complex_model.lookup(BATCH))
    # |e0| = sqrt 5, |e1| = 3, |r0| = sqrt 2.
    rows = 5**1.5 + 27 + 2**1.5, 2 * 5**1.5 + 2**1.5
    assert penalty.item() == pytest.approx(sum(rows) / 2)  # type: ignore[union-attr]
    with torch.no_grad():
        complex_model.entity.weight.zero_()
    Regularizer(n3=1.0)(complex_model, complex_model.lookup(BATCH)).backward()  # type: ignore[union-attr]
    assert torch.isfinite(complex_model.entity.weight.grad).all()  # type: ignore[arg-type]


def test_n3_cubes_the_moduli_of_biquaternions() -> None:
    """Of an entity's d, and of a relation's 2d: what shifts and what turns are numbers of their own."""
    model = Model(BiQUE(1, 1.0), 2, 1)
    with torch.no_grad():
        model.entity.weight.copy_(torch.tensor([[2.0] + 7 * [0.0], [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0]]))
        model.relation.weight.copy_(torch.tensor([[1.0, 2.0] * 4 + [1.0, 2.0, 0.0, 0.0] * 2]))
    batch = Batch.of(torch.tensor([[0, 0, 1]]), False)
    penalty = Regularizer(n3=1.0)(model, model.lookup(batch))
    # The shift has six ones, the turn six twos: 2^3 + 5^3 + 6^1.5 + 24^1.5.
    assert penalty.item() == pytest.approx(8 + 125 + 6**1.5 + 24**1.5)  # type: ignore[union-attr]


def test_of_several_views_only_the_structural_one_is_penalised(toy: Dataset) -> None:
    """Moduli of the structural vectors: no features, no logits of the mixture, no flags."""
    config = {"model": {"scorer": "ComplEx", "dim": 3, "modalities": ["image", "text"]}, "device": "cpu"}
    model = build_model(make_config(config), toy)
    batch = Batch.of(toy.graph.train[:7], torch.arange(7) % 2 == 0)
    penalty = Regularizer(n3=1.0)(model, model.lookup(batch))
    assert isinstance(penalty, torch.Tensor)
    embedder = model.entity
    assert isinstance(embedder, FusedEmbedder)

    def cubes(vectors: torch.Tensor) -> torch.Tensor:
        return (vectors.unflatten(-1, (2, 3)).square().sum(-2) ** 1.5).sum()

    entities = embedder.structure.weight
    expected = cubes(entities[batch.h]) + cubes(entities[batch.t]) + cubes(model.relation.weight[batch.r, :6])
    torch.testing.assert_close(penalty, expected / 7)
    penalty.backward()
    assert not any(p.grad is not None and p.grad.any() for p in embedder.pools.parameters())
    assert model.relation.weight.grad is not None
    assert not model.relation.weight.grad[:, 6:].any()


@pytest.mark.parametrize("choice", [{"mixture": "joint"}, {"mixture": "rsme"}, {"embedder": "adamf"}])
def test_vectors_joined_before_they_are_scored_are_penalised_as_they_are_scored(
    toy: Dataset, choice: dict[str, str]
) -> None:
    own = {"scorer": "ComplEx", "dim": 3, "modalities": ["image", "text"], "reciprocal": True, **choice}
    model = build_model(make_config({"model": own, "device": "cpu"}), toy)
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(len(p)))
    batch = Batch.of(toy.graph.train[:7], False)
    lookup = model.lookup(batch)
    anchor, relation, target = model.factors(lookup)
    if choice != {"mixture": "rsme"}:
        # Their product is the score.
        score = model.scorer.compare(model.scorer.query(anchor, relation, False), target[:, None])
        torch.testing.assert_close(score.squeeze(1), model.score(lookup))
    else:
        views = model.entity(batch.h)
        shares = torch.tensor([0.3, 0.35, 0.35]) * views.present
        joint = torch.einsum("bv,bvw->bw", shares / shares.sum(-1, keepdim=True), views.vectors)
        torch.testing.assert_close(anchor, joint)
    cubes = sum((v.unflatten(-1, (2, 3)).square().sum(-2) ** 1.5).sum() for v in (anchor, relation, target))
    penalty = Regularizer(n3=1.0)(model, lookup)
    torch.testing.assert_close(penalty, cubes / 7)


class _Halves(Embedder):
    """Two views of which none is structural."""

    views = ("left", "right")

    def __init__(self, n: int, width: int):
        super().__init__(n)
        self.weight = torch.nn.Parameter(torch.randn(n, 2, width))

    def forward(self, ids: torch.Tensor) -> Views:
        return Views(self.weight[ids], torch.ones(*ids.shape, 2, dtype=torch.bool))

    def all(self) -> Views:
        return self(torch.arange(self.n_entities))


def test_of_several_views_without_structure_a_penalty_is_refused() -> None:
    model = Model(DistMult(2, 1.0), 3, 2, embedder=_Halves(3, 2))
    lookup = model.lookup(BATCH)
    assert Regularizer()(model, lookup) == 0.0
    with pytest.raises(UsageError, match="there are left, right; leave them at 0"):
        Regularizer(n3=0.1)(model, lookup)


def test_where_a_head_is_asked_for_the_inverse_is_penalised() -> None:
    model = Model(DistMult(1, 1.0), 2, 2, reciprocal=True)
    with torch.no_grad():
        model.entity.weight.copy_(torch.tensor([[1.0], [2.0]]))
        # r0, r1, their inverses.
        model.relation.weight.copy_(torch.tensor([[3.0], [5.0], [7.0], [11.0]]))
    batch = Batch.of(torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]]), torch.tensor([False, True, True]))
    penalty = Regularizer(l2=1.0)(model, model.lookup(batch))
    assert isinstance(penalty, torch.Tensor)
    # Squares of entities are 1 + 4 a row; of relations 9, 49 and 121.
    assert penalty.item() == pytest.approx((3 * 5 + 9 + 49 + 121) / 3)
    penalty.backward()
    assert model.relation.weight.grad is not None
    assert model.relation.weight.grad.flatten().tolist() == pytest.approx([2.0, 0.0, 14 / 3, 22 / 3])
