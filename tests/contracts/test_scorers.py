"""What holds for every registered scorer."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from live_memory import LiveMemory
from mmrns.nn.kernels import comparisons
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.types import AllNegatives, Batch, OwnNegatives, PoolNegatives, Projected

Options = dict[str, Any]
E, R, DIM = 11, 4, 6
NAMES = Scorer.registry.names()
# Options whose formula is another one, beside the defaults of every scorer.
VARIANTS: list[tuple[str, Options]] = [
    ("TransE", {"p": 2}),
    ("TuckER", {"relation_dim": 4}),
    ("TuckER", {"anchor_dropout": 0.3, "matrix_dropout": 0.4, "query_dropout": 0.5}),
]
EVERY = pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), *VARIANTS])
EVERYONE = AllNegatives(E, torch.device("cpu"))
SIDES = pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])


def build(name: str, options: Options) -> Scorer:
    return Scorer.registry.get(name)(dim=DIM, init_range=0.5, **options)


def model_of(name: str, options: Options) -> Model:
    torch.manual_seed(0)
    return Model(build(name, options), E, R).double()


def batch_of(head: bool) -> Batch:
    triples = torch.tensor([[0, 0, 1], [1, 3, 0], [2, 1, 2], [10, 2, 3], [0, 0, 10], [0, 0, 1]])
    return Batch.of(triples, torch.full((len(triples),), head))


def both_sides() -> Batch:
    triples = torch.randint(4, (9, 3), generator=torch.Generator().manual_seed(1))
    return Batch.of(triples, torch.arange(9) % 3 == 0)


@EVERY
@torch.no_grad()
def test_a_pool_takes_as_many_reals_a_pair_as_is_said(
    name: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "form_on", lambda device: "torch")
    scorer, n = build(name, options), 64
    query = scorer.query(torch.randn(n, scorer.entity_width), torch.randn(n, scorer.relation_width), False)
    pool = torch.randn(n, scorer.entity_width)
    with LiveMemory() as memory:
        scorer.compare(query, pool)
    a_pair = memory.peak / 4 / n**2
    # Beside the score and its negative; vectors that no pair has for itself are few.
    assert scorer.pair_width("cpu") / 2 <= a_pair <= scorer.pair_width("cpu") + 3


@EVERY
@pytest.mark.parametrize("batch", [batch_of(False), batch_of(True), both_sides()], ids=["tail", "head", "both"])
@torch.no_grad()
def test_the_score_is_the_same_however_it_is_asked_for(name: str, options: Options, batch: Batch) -> None:
    model = model_of(name, options)
    every = model.score_all(batch)
    assert every.shape == (len(batch), E)
    ids = torch.randint(E, (len(batch), 5), generator=torch.Generator().manual_seed(2))
    ids[:, 2] = batch.target
    pool = torch.tensor([7, 0, 10, 7])
    one_by_one = torch.stack([score_one(model, batch, i, e) for i in range(len(batch)) for e in range(E)])
    expected = one_by_one.view(len(batch), E)
    asked = {
        "all": (every, expected),
        "true": (model.score(model.lookup(batch)), expected.gather(1, batch.target[:, None]).squeeze(1)),
        "ids": (model.score_against(model.lookup(batch), OwnNegatives(ids)), expected.gather(1, ids)),
        "ids and vectors": (
            model.score_against(model.lookup(batch), OwnNegatives(ids * 0, model.entities(ids))),
            expected.gather(1, ids),
        ),
        "pool": (model.score_against(model.lookup(batch), PoolNegatives(pool)), expected[:, pool]),
    }
    for how, (found, wanted) in asked.items():
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, msg=lambda m, how=how: f"{how}: {m}")
    assert expected.std() > 0


def score_one(model: Model, batch: Batch, row: int, entity: int) -> Tensor:
    """f of one triple, straight from the scorer."""
    head = bool(batch.head[row])
    anchor, r = model.entities(batch.anchor[[row]]).vectors[:, 0], model.relations(batch.r[[row]])
    candidate = model.entities(torch.tensor([[entity]])).vectors[:, :, 0]
    return model.scorer.compare(model.scorer.query(anchor, r, head), candidate)[0, 0]


@EVERY
@torch.no_grad()
def test_both_sides_ask_for_the_same_triple(name: str, options: Options) -> None:
    model = model_of(name, options)
    triples = torch.tensor(list(itertools.product(range(4), range(R), range(4))))
    batches = [Batch.of(triples, torch.full((len(triples),), head)) for head in (False, True)]
    sides = [model.score(model.lookup(batch)) for batch in batches]
    torch.testing.assert_close(*sides, rtol=1e-12, atol=1e-12)


@SIDES
@pytest.mark.parametrize("pooled", [False, True], ids=["rows", "pool"])
@EVERY
def test_gradients(name: str, options: Options, pooled: bool, head: bool) -> None:
    torch.manual_seed(3)
    scorer = build(name, options).double()
    parameters = tuple(scorer.parameters())
    g = torch.Generator().manual_seed(3)

    def vectors(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    anchor, relation = vectors(3, scorer.entity_width), vectors(3, scorer.relation_width)
    candidates = vectors(4, scorer.entity_width) if pooled else vectors(3, 4, scorer.entity_width)

    def scores(anchor: Tensor, relation: Tensor, candidates: Tensor, *_: Tensor) -> Tensor:
        return scorer.compare(scorer.query(anchor, relation, head), candidates)

    # The scorer's parameters are varied in place.
    inputs = (anchor, relation, candidates, *parameters)
    assert torch.autograd.gradcheck(scores, inputs)
    gradients = torch.autograd.grad(scores(*inputs).sum(), inputs)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@EVERY
@pytest.mark.parametrize("n_queries", [2, 40])
def test_projected_candidates_have_the_scores_and_gradients_of_their_vectors(
    name: str, options: Options, n_queries: int
) -> None:
    """Whether a product goes through the map, as it does for few queries, or not."""
    scorer = build(name, options).double()
    g = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=g)

    width = scorer.entity_width
    projected = Projected(drawn(E, 5), drawn(width, 5), drawn(width))
    assert projected.spares(2) and not projected.spares(40) if width < E else projected.spares(40)
    parts = [x.requires_grad_() for x in (projected.inner, projected.weight, projected.bias)]
    query = scorer.query(drawn(n_queries, width), drawn(n_queries, scorer.relation_width), False).detach()
    parts.append(query.requires_grad_())
    found, expected = scorer.compare_projected(query, projected), scorer.compare(query, projected.vectors)
    torch.testing.assert_close(found, expected)
    outer = drawn(n_queries, E)
    for one, other in zip(*(torch.autograd.grad((x * outer).sum(), parts) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@SIDES
@EVERY
def test_gradients_are_finite_where_a_candidate_equals_the_query(name: str, options: Options, head: bool) -> None:
    scorer = build(name, options)
    anchor = torch.zeros(1, scorer.entity_width, requires_grad=True)
    relation = torch.zeros(1, scorer.relation_width, requires_grad=True)
    for shape in ((1, 2, scorer.entity_width), (2, scorer.entity_width)):
        candidates = torch.zeros(shape, requires_grad=True)
        score = scorer.compare(scorer.query(anchor, relation, head), candidates)
        assert score.tolist() == [[0.0, 0.0]]
        for gradient in torch.autograd.grad(score.sum(), (anchor, relation, candidates)):
            assert torch.isfinite(gradient).all()


@EVERY
def test_widths(name: str, options: Options) -> None:
    scorer, model = build(name, options), model_of(name, options)
    assert scorer.dim == DIM
    assert model.entities(torch.tensor([[0, 1]])).vectors.shape == (1, 2, 1, scorer.entity_width)
    assert model.relations(torch.tensor([0])).shape == (1, scorer.relation_width)
    spec = (model.spec.dim, model.spec.entity_width, model.spec.relation_width)
    assert spec == (DIM, scorer.entity_width, scorer.relation_width)
    for head in (False, True):
        query = scorer.query(torch.zeros(2, scorer.entity_width), torch.zeros(2, scorer.relation_width), head)
        assert len(query) == 2
        assert scorer.compare(query, torch.zeros(2, 3, scorer.entity_width)).shape == (2, 3)
        assert scorer.compare(query, torch.zeros(5, scorer.entity_width)).shape == (2, 5)
        assert scorer.compare(query[:0], torch.zeros(0, 3, scorer.entity_width)).shape == (0, 3)
        assert scorer.compare(query[:0], torch.zeros(5, scorer.entity_width)).shape == (0, 5)


@EVERY
@torch.no_grad()
def test_the_score_is_the_same_in_single_precision(name: str, options: Options) -> None:
    # Vectors longer than most: a formula that multiplies squares out must not lose what tells candidates apart.
    exact = model_of(name, options)
    for table in (exact.entity, exact.relation):
        table.weight *= 4
    rough = copy.deepcopy(exact).float()
    ids = torch.arange(E).expand(9, E)
    for negatives in (EVERYONE, OwnNegatives(ids)):
        expected = exact.score_against(exact.lookup(both_sides()), negatives)
        found = rough.score_against(rough.lookup(both_sides()), negatives).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@EVERY
def test_every_parameter_is_the_models(name: str, options: Options) -> None:
    model = model_of(name, options)
    scorers = {f"scorer.{key}" for key, _ in build(name, options).named_parameters()}
    assert set(model.state_dict()) == {"entity.weight", "relation.weight"} | scorers
    model.score_against(model.lookup(both_sides()), EVERYONE).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@EVERY
@torch.no_grad()
def test_scores_outside_of_a_step_know_nothing_of_it(name: str, options: Options) -> None:
    """What a step leaves out, or takes from its batch, is in that step alone, and the same whenever it is taken."""
    model, batch = model_of(name, options), both_sides()

    def scores() -> Tensor:
        return model.score_against(model.lookup(batch), EVERYONE)

    outside, inside = scores(), list[Tensor]()
    for step in (3, 4, 3):
        model.begin(step)
        lookup = model.lookup(batch)
        inside.append(model.score_against(lookup, EVERYONE))
        assert torch.equal(model.score_against(model.exact(lookup), EVERYONE), outside)
        assert torch.equal(model.score_all(batch), outside)
        model.constrain()
        assert torch.equal(scores(), outside)
    assert torch.equal(inside[0], inside[2])
    assert torch.equal(inside[0], outside) != model.scorer.varies
    assert torch.equal(inside[0], inside[1]) != model.scorer.varies


@EVERY
@torch.no_grad()
def test_relabelling_entities_permutes_scores(name: str, options: Options) -> None:
    model, relabelled = model_of(name, options), model_of(name, options)
    new = torch.randperm(E, generator=torch.Generator().manual_seed(4))
    relabelled.entity.weight[new] = model.entity.weight
    batch = both_sides()
    triples = torch.stack([new[batch.h], batch.r, new[batch.t]], dim=1)
    other = Batch.of(triples, batch.head)
    torch.testing.assert_close(relabelled.score_all(other)[:, new], model.score_all(batch), rtol=1e-12, atol=1e-12)


@EVERY
@torch.no_grad()
def test_distances_are_never_positive(name: str, options: Options) -> None:
    scores = model_of(name, options).score_all(both_sides())
    assert (scores <= 0).all() == Scorer.registry.get(name).distance


def test_every_scorer_has_values_worked_out_by_hand() -> None:
    path = Path(__file__).parents[1] / "nn" / "test_scorers.py"
    spec = importlib.util.spec_from_file_location("scorer_values", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in NAMES:
        assert module.TABLE.get(name), (
            f"the scorer {name!r} has no value worked out by hand; give it an entry in TABLE of "
            "tests/nn/test_scorers.py: its options, the vectors of h, r and t, and f(h, r, t)"
        )
    assert set(module.TABLE) <= set(NAMES)
