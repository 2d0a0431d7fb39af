"""Mixtures of the views' scores, and the losses of single views, against sums by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import strategies as st
from torch import Tensor

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.embedders import FusedEmbedder
from mmrns.nn.lookup import Scores
from mmrns.nn.losses import CrossEntropyLoss, KvsAllLoss, Loss, SelfAdversarialLoss, SoftplusLoss
from mmrns.nn.mixtures import RSME, Cross, Gated, Joint, MeanProbability, Mixture, Residual, loss_of_view
from mmrns.nn.model import Model
from mmrns.nn.scorers import DistMult, Scorer
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import Batch, OwnNegatives, PoolNegatives

VIEWS = ("structure", "image", "text")
# Two rows of three candidates; the second anchor has no image.
SCORES = (
    torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]),
    torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]),
)
OWN = torch.tensor([[True, True, True], [True, False, True]])
POOL = torch.tensor([[True, True, True], [True, True, False], [False, False, True]])


def test_gated_by_hand() -> None:
    gated = Gated(VIEWS)
    assert gated.relation_width == 3
    gate = gated.gate(torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0)]] * 2))
    torch.testing.assert_close(gate, torch.tensor([[1 / 8, 2 / 8, 5 / 8]] * 2))
    expected = [[(1 + 20 - 5) / 8, (2 + 40) / 3, -3.0], [(4 - 20) / 6, 5.0, -6.0]]
    torch.testing.assert_close(gated(SCORES, gate, OWN, POOL), torch.tensor(expected))
    # The text is in common with no one who has no text: then structure counts.
    alone = gated(SCORES, gate, torch.tensor([[False, False, True]] * 2), POOL)
    assert alone[:, 1].tolist() == [2.0, 5.0]


def test_mean_probability_by_hand() -> None:
    mixture = MeanProbability(VIEWS)
    assert mixture.relation_width == 0
    odds = (torch.tensor([[1.0, 3.0], [1.0, 1.0]]), torch.tensor([[4.0, 0.25], [9.0, 9.0]]), torch.ones(2, 2))
    scores, gate = [x.log() for x in odds], mixture.gate(torch.zeros(2, 0))
    own = torch.tensor([[True, True, False], [False, True, True]])
    candidates = torch.tensor([[True, True, True], [True, False, False]])
    # 1/2 and 4/5; 3/4 alone. 9/10 and 1/2; of nothing in common the first, 1/2.
    p = torch.tensor([[0.65, 0.75], [0.7, 0.5]])
    torch.testing.assert_close(mixture(scores, gate, own, candidates).sigmoid(), p)
    weights = [[[0.5, 0.5, 0], [1, 0, 0]], [[0, 0.5, 0.5], [1, 0, 0]]]
    assert mixture.weights(gate, own, candidates).tolist() == weights
    # Odds of which single precision knows no probability.
    for far in (200.0, -200.0):
        given = [torch.tensor([[far]]), torch.tensor([[far + 1]])]
        mixed = MeanProbability(VIEWS[:2])(given, gate[:1], own[:1, :2], candidates[:1, :2])
        assert far < float(mixed) < far + 1


def residual_of(scorer: Scorer | None = None, **options: Any) -> Residual:
    made = Residual(VIEWS, scale=0.2, **options)
    made.start(scorer or DistMult(4, 0.5))
    with torch.no_grad():
        made.log_c.copy_(torch.tensor([math.log(3.0), math.log(0.5)]))
        made.untrained.fill_(-7.0)
    return made


def test_residual_by_hand() -> None:
    residual = residual_of()
    assert residual.relation_width == 4
    # Of image and text: sigma(ln 3) = 3 / 4 and sigma(0) = 1 / 2, and b 8 and -9.
    gate = residual.gate(torch.tensor([[math.log(3.0), 0.0, 15.0, -2.0]] * 2))
    a, b = (0.2 * 0.75 * 3, 0.2 * 0.5 * 0.5), (8.0, -9.0)
    torch.testing.assert_close(gate, torch.tensor([[*a, *b]] * 2))
    expected = [
        [1 + a[0] * (10 - 8) + a[1] * (-1 + 9), 2 + a[0] * (20 - 8), -7 + a[1] * (-3 + 9)],
        [4 + a[1] * (-4 + 9), 5.0, -7 + a[1] * (-6 + 9)],
    ]
    torch.testing.assert_close(residual(SCORES, gate, OWN, POOL), torch.tensor(expected))
    weights = [[[1, *a], [1, a[0], 0], [0, 0, a[1]]], [[1, 0, a[1]], [1, 0, 0], [0, 0, a[1]]]]
    torch.testing.assert_close(residual.weights(gate, OWN, POOL), torch.tensor(weights))


def test_what_starts_residual_weighs_structure_most() -> None:
    residual = Residual(VIEWS)
    gate = residual.gate(torch.zeros(1, 4))
    assert gate.tolist() == [[pytest.approx(0.1), pytest.approx(0.1), 0.0, 0.0]]
    scorer = Scorer.registry.get("TransE")(200, 0.05)
    residual.start(scorer)
    # The mean of |u + v - w| is 13/16 of the range of each.
    assert residual.gate(torch.zeros(1, 4))[0, 2:].tolist() == pytest.approx([-200 * 0.05 * 13 / 16] * 2, rel=0.02)
    assert abs(DistMult(200, 0.05).untrained_mean()) < 1e-4


def test_structure_is_the_base_wherever_it_stands() -> None:
    order = [1, 0, 2]
    other = Residual([VIEWS[v] for v in order], scale=0.2)
    other.load_state_dict(residual_of().state_dict())
    gate = other.gate(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    given = [SCORES[v] for v in order], gate, OWN[:, order], POOL[:, order]
    torch.testing.assert_close(other(*given), residual_of()(SCORES, gate, OWN, POOL))
    torch.testing.assert_close(other.weights(*given[1:])[..., order], residual_of().weights(gate, OWN, POOL))
    assert Residual(("image", "text")).base == 0


WEIGHING = [name for name in Mixture.registry.names() if "weights" in vars(Mixture.registry.get(name))]


@pytest.mark.parametrize("name", WEIGHING)
@drawn_from(seed=st.integers(0, 10**6), views=st.integers(2, 4), pooled=st.booleans())
def test_the_weights_are_what_scores_count(name: str, seed: int, views: int, pooled: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    mixture = Mixture.registry.get(name)(("structure", "a", "b", "c")[:views]).double()
    mixture.start(DistMult(4, 0.5))
    scores = [torch.randn(3, 5, generator=g, dtype=torch.float64).requires_grad_() for _ in range(views)]
    gate = mixture.gate(torch.randn(3, mixture.relation_width, generator=g, dtype=torch.float64))
    own = torch.rand(3, views, generator=g) < 0.7
    candidates = torch.rand(*([5] if pooled else [3, 5]), views, generator=g) < 0.7
    mixed = mixture(scores, gate, own, candidates)
    weights = mixture.weights(gate, own, candidates)
    assert weights.shape == (3, 5, views)
    gradients = torch.stack(torch.autograd.grad(mixed.sum(), scores), dim=-1)
    if not mixture.separate:
        torch.testing.assert_close(gradients, weights.detach())
    else:
        # No sum: but what counts is the same, and whoever rises raises the score.
        assert torch.equal(gradients > 0, weights > 0)
        assert not gradients[weights == 0].any()
    # Nothing that both entities lack makes a difference, whatever its number.
    lacking = ~(own[:, None] & candidates)
    if name == "residual":
        assert not weights[lacking].any()
        changed = [s.detach().masked_fill(lacking[..., v], 1e30) for v, s in enumerate(scores)]
        torch.testing.assert_close(mixture(changed, gate, own, candidates), mixed)


def true_and_false(g: torch.Generator) -> tuple[Scores, Scores, Tensor]:
    """Scores of four rows and five candidates in three views, who has which, and the rows' weights."""

    def scores(k: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(4, k, generator=g, dtype=torch.float64).requires_grad_() for _ in VIEWS)

    own, target = torch.rand(4, 3, generator=g) < 0.8, torch.rand(4, 1, 3, generator=g) < 0.8
    others = torch.rand(4, 5, 3, generator=g) < 0.7
    true, false = scores(1), scores(5)
    weight = torch.rand(4, generator=g, dtype=torch.float64)
    return Scores(true, own, target, true[0]), Scores(false, own, others, false[0]), weight


@pytest.mark.parametrize("objective", [SoftplusLoss(gamma=1.5, alpha=0.0), CrossEntropyLoss(gamma=0.0, alpha=0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_a_view_by_hand(objective: Loss, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    true, false, weight = true_and_false(g)
    counts = torch.rand(4, 5, generator=g) < 0.8
    negatives = OwnNegatives(torch.zeros(4, 5, dtype=torch.long), mask=counts)
    for view in range(3):
        total = 0.0
        for b in range(4):
            if not (true.anchors[b, view] and true.candidates[b, 0, view]):
                continue
            s_pos = true.by_view[view][b, 0].item()
            s_neg = [
                false.by_view[view][b, k].item() for k in range(5) if counts[b, k] and false.candidates[b, k, view]
            ]
            if isinstance(objective, SoftplusLoss):
                terms = [math.log1p(math.exp(-1.5 - s_pos)), *(math.log1p(math.exp(1.5 + s)) for s in s_neg)]
                row = sum(terms) / len(terms)
            else:
                row = -s_pos + math.log(math.exp(s_pos) + sum(map(math.exp, s_neg)))
            total += float(weight[b]) * row
        found = loss_of_view(view, negatives, objective, weight, true, false)
        assert found.item() == pytest.approx(total / float(weight.sum()))


@pytest.mark.parametrize("seed", range(5))
def test_of_every_entity_those_that_lack_the_view_are_neither_true_nor_false(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    true, false, weight = true_and_false(g)
    answers = torch.rand(4, 5, generator=g) < 0.4
    negatives = OwnNegatives(torch.zeros(4, 5, dtype=torch.long), mask=~answers)
    for view in range(3):
        total = 0.0
        for b in range(4):
            having = [k for k in range(5) if false.anchors[b, view] and false.candidates[b, k, view]]
            scores = {k: false.by_view[view][b, k].item() for k in having}
            right = [scores[k] for k in having if answers[b, k]]
            if right:
                row = math.log(sum(map(math.exp, scores.values()))) - sum(right) / len(right)
                total += float(weight[b]) * row
        found = loss_of_view(view, negatives, KvsAllLoss(gamma=0.0, alpha=0.0), weight, true, false)
        assert found.item() == pytest.approx(total / float(weight.sum()))


@pytest.mark.parametrize("name", Loss.registry.names())
def test_who_lacks_a_view_has_no_gradient_of_its_loss(name: str) -> None:
    true, false, weight = true_and_false(torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, False, True, True, True]] * 4)
    objective = Loss.registry.get(name)(gamma=1.0, alpha=1.0)
    found = loss_of_view(
        1, OwnNegatives(torch.zeros(4, 5, dtype=torch.long), mask=mask), objective, weight, true, false
    )
    given = [*true.by_view, *false.by_view]
    gradients = torch.autograd.grad(found, given, allow_unused=True)
    assert all(gradient is None or view == 1 for gradient, view in zip(gradients, [0, 1, 2] * 2, strict=True))
    of_false = gradients[4]
    assert of_false is not None
    assert torch.isfinite(of_false).all()
    lacking = ~false.common(1)
    assert 0 < lacking.sum() < 20
    assert not of_false[lacking].any()
    assert of_false.any()


def test_the_losses_of_the_views_are_weighed() -> None:
    true, false, weight = true_and_false(torch.Generator().manual_seed(2))
    negatives = OwnNegatives(torch.zeros(4, 5, dtype=torch.long))
    objective = SelfAdversarialLoss(gamma=1.0, alpha=0.5)
    given = negatives, objective, weight, true, false
    own = [loss_of_view(view, *given).item() for view in range(3)]
    for structure, view, n in ((0.5, 0.05, 3), (0.0, 0.3, 2), (2.0, 0.0, 1), (0.0, 0.0, 0)):
        mixture = residual_of(structure_loss=structure, view_loss=view)
        assert float(torch.as_tensor(mixture.loss(*given)).detach()) == pytest.approx(
            structure * own[0] + view * (own[1] + own[2])
        )
        assert mixture.n_losses == n
    assert float(torch.as_tensor(MeanProbability(VIEWS).loss(*given)).detach()) == pytest.approx(sum(own))
    assert MeanProbability(VIEWS).n_losses == 3
    assert Gated(VIEWS).loss(*given) == 0.0
    assert Gated(VIEWS).n_losses == 0


def config_of(**model: Any) -> dict[str, Any]:
    values = {"scorer": "DistMult", "dim": 8, "modalities": ["image", "text"], **model}
    return {"model": values, "method": "self-adversarial", "sampler": {"negatives": 8}, "device": "cpu"}


def test_the_step_descends_the_losses_of_the_views(toy: Dataset) -> None:
    bare, trainer = (
        build_trainer(make_config(config_of(mixture="residual", structure_loss=w, view_loss=w / 2)), toy)
        for w in (0.0, 0.5)
    )
    lookup = trainer.model.lookup(trainer.batch(0))
    found, negatives = trainer.compare(lookup, 0)
    alone, _ = bare.compare(bare.model.lookup(bare.batch(0)), 0)
    true, false = trainer.model.scores(lookup), trainer.model.scores(lookup, negatives)
    own = [
        loss_of_view(view, negatives, trainer.objective, lookup.batch.weight, true, false).item() for view in range(3)
    ]
    assert all(value > 0 for value in own)
    assert found.model.item() == pytest.approx(alone.model.item() + 0.5 * own[0] + 0.25 * (own[1] + own[2]))


@pytest.mark.parametrize("name", ["pRotatE", "TuckER"])
def test_views_that_are_models_of_their_own(toy: Dataset, name: str) -> None:
    """Each has parameters of the formula for itself, and no loss but its own."""
    trainer = build_trainer(make_config(config_of(mixture="mean-probability", scorer=name)), toy)
    model = trainer.model
    assert [type(scorer) for scorer in model.scorers] == [type(model.scorer)] * 3
    parameters = [parameter for scorer in model.scorers for parameter in scorer.parameters()]
    assert len({id(parameter) for parameter in parameters}) == 3
    if name == "TuckER":
        assert not any(torch.equal(scorer.core, model.scorer.core) for scorer in model.twins)
    lookup = model.lookup(trainer.batch(0))
    found, negatives = trainer.compare(lookup, 0)
    true, false = model.scores(lookup), model.scores(lookup, negatives)
    given = negatives, trainer.objective, lookup.batch.weight, true, false
    assert found.model.item() == pytest.approx(sum(loss_of_view(view, *given).item() for view in range(3)))
    # Which view a parameter has a part in.
    for view, scorer in enumerate(model.scorers):
        of_others = sum(loss_of_view(other, *given) for other in range(3) if other != view)
        gradients = torch.autograd.grad(of_others, [*scorer.parameters()], allow_unused=True, retain_graph=True)
        assert gradients == (None,) * len(gradients)


@pytest.mark.parametrize("mixture", Mixture.registry.names())
@pytest.mark.parametrize("method", ["self-adversarial", "1-vs-all", "mmrns"])
def test_each_view_is_compared_once_a_step(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, mixture: str, method: str
) -> None:
    values = config_of(mixture=mixture) | {"method": method, "sampler": {}}
    trainer = build_trainer(make_config(values), toy)
    trainer.sampler.draw(trainer.model.lookup(trainer.batch(0)), trainer.model, 0)
    counted: list[int] = []
    scores = trainer.model.scores
    monkeypatch.setattr(trainer.model, "scores", lambda *given: counted.append(len(given)) or scores(*given))
    drawn: list[int] = []
    draw = trainer.sampler.draw
    monkeypatch.setattr(trainer.sampler, "draw", lambda *given: (draw(*given), drawn.append(len(counted)))[0])
    trainer.step(0)
    # Of the true entities and of the negatives.
    assert counted[drawn[0] :] == [1, 2]


LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39
TRIPLES = torch.tensor([[0, 1, 2], [LACKS_IMAGE, 0, 3], [4, 2, LACKS_BOTH], [UNSEEN, 1, 0], [LACKS_BOTH, 1, 7]])


def far_from_its_start(toy: Dataset, **model: Any) -> Model:
    made = build_model(make_config(config_of(**model)), toy).double()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.7)
    return made


def vectors_by_hand(model: Model) -> list[dict[str, Tensor]]:
    """The vectors of the views that each entity has."""
    every = model.entity.all()
    return [
        {name: vector for name, vector, has in zip(model.views, vectors, flags.tolist(), strict=True) if has}
        for vectors, flags in zip(every.vectors, every.present, strict=True)
    ]


def score_by_hand(scorer: Scorer, anchor: Tensor, relation: Tensor, candidate: Tensor, head: bool) -> Tensor:
    return scorer.compare(scorer.query(anchor[None], relation[None], head), candidate[None])[0, 0]


@pytest.mark.parametrize("scorer", ["TransE", "RotatE", "PairRE", "ComplEx", "BiQUE"])
@pytest.mark.parametrize("head", [False, True])
@torch.no_grad()
def test_joint_by_hand(toy: Dataset, scorer: str, head: bool) -> None:
    model = far_from_its_start(toy, scorer=scorer, mixture="joint", dim=4)
    assert isinstance(model.mixture, Joint)
    width, vectors = model.scorer.relation_width, vectors_by_hand(model)
    assert model.relation.weight.shape[1] == width + 1

    def joint(e: int, r: int) -> Tensor:
        temperature = 1 / (1 + math.exp(-float(model.relation.weight[r, -1])))
        found = [(math.exp(float(v.tanh() @ model.mixture.attention) / temperature), v) for v in vectors[e].values()]
        return sum(w * v for w, v in found) / sum(w for w, _ in found)

    batch = Batch.of(TRIPLES, head)
    lookup, found = model.lookup(batch), model.score_all(batch)
    for row, (h, r, t) in enumerate(TRIPLES.tolist()):
        anchor, relation = joint(t if head else h, r), model.relation.weight[r, :width]
        for e in range(40):
            expected = score_by_hand(model.scorer, anchor, relation, joint(e, r), head)
            torch.testing.assert_close(found[row, e], expected)
    ids = torch.randint(40, (5, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.score_against(lookup, OwnNegatives(ids)), found.gather(1, ids))
    torch.testing.assert_close(model.score_against(lookup, PoolNegatives(ids[0])), found[:, ids[0]])
    # Of products the weights are what the views' scores count.
    every = model.entity.all()
    shares, by_view = model.shares(lookup.query, every), torch.stack(model.by_view(lookup.query, every), dim=-1)
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(found))
    if model.scorer.linear:
        torch.testing.assert_close((shares * by_view).sum(-1), found)


@pytest.mark.parametrize("scorer", ["TransE", "RotatE", "ComplEx", "BiQUE", "TuckER"])
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("head", [False, True])
@torch.no_grad()
def test_cross_by_hand(toy: Dataset, scorer: str, sums: bool, head: bool) -> None:
    model = far_from_its_start(toy, scorer=scorer, mixture="cross", dim=4, sums=sums)
    assert isinstance(model.mixture, Cross)
    assert model.relation.weight.shape[1] == model.scorer.relation_width
    vectors = vectors_by_hand(model)
    batch = Batch.of(TRIPLES, head)
    lookup, found = model.lookup(batch), model.score_all(batch)
    for row, (h, r, t) in enumerate(TRIPLES.tolist()):
        own, relation = vectors[t if head else h], model.relation.weight[r]
        for e in range(40):
            pairs = [
                score_by_hand(model.scorer, u, relation, v, head) for u in own.values() for v in vectors[e].values()
            ]
            expected = 9 * sum(pairs) / len(pairs)
            if sums:
                whole = [torch.stack(list(views.values())).sum(0) for views in (own, vectors[e])]
                expected = expected + score_by_hand(model.scorer, whole[0], relation, whole[1], head)
            torch.testing.assert_close(found[row, e], expected)
    every = model.entity.all()
    shares, by_view = model.shares(lookup.query, every), torch.stack(model.by_view(lookup.query, every), dim=-1)
    if not sums:
        torch.testing.assert_close((shares * by_view).sum(-1), found)


@pytest.mark.parametrize("scorer", ["TransE", "ComplEx"])
@pytest.mark.parametrize("head", [False, True])
@torch.no_grad()
def test_rsme_by_hand(toy: Dataset, scorer: str, head: bool) -> None:
    model = far_from_its_start(toy, scorer=scorer, mixture="rsme", dim=4, share=0.6, balance=0.8)
    assert isinstance(model.mixture, RSME)
    width, vectors = model.scorer.relation_width, vectors_by_hand(model)

    def whole(e: int) -> Tensor:
        weights = {name: 0.4 if name == "structure" else 0.3 for name in vectors[e]}
        return sum(weights[name] * v for name, v in vectors[e].items()) / sum(weights.values())

    batch = Batch.of(TRIPLES, head)
    found = model.score_all(batch)
    for row, (h, r, t) in enumerate(TRIPLES.tolist()):
        anchor, relation = t if head else h, model.relation.weight[r, :width]
        gate = 1 / (1 + math.exp(-float(model.relation.weight[r, -1])))
        for e in range(40):
            common = (set(vectors[anchor]) & set(vectors[e])) - {"structure"}
            cosines = [torch.cosine_similarity(vectors[anchor][m], vectors[e][m], dim=0) for m in common]
            cosine = sum(cosines) / len(cosines) if cosines else 0.0
            own = score_by_hand(model.scorer, whole(anchor), relation, whole(e), head)
            torch.testing.assert_close(found[row, e], 0.8 * own + 0.2 * gate * cosine)


def test_joint_starts_as_the_mean_of_what_an_entity_has(toy: Dataset) -> None:
    model = build_model(make_config(config_of(mixture="joint")), toy)
    lookup, every = model.lookup(Batch.of(TRIPLES, False)), model.entity.all()
    expected = every.present / every.present.sum(-1, keepdim=True)
    torch.testing.assert_close(model.shares(lookup.query, every), expected.expand(5, -1, -1))


def test_a_mixture_without_weights_says_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="defines no `weights`"):
        Mixture(VIEWS).weights(torch.zeros(2, 0), OWN, POOL)


RECORDED = {
    ("ComplEx", "k-vs-all"): (10.463570594787598, 5.8113322257995605),
    ("TransE", "self-adversarial"): (0.8969599604606628, 0.7545308470726013),
    ("RotatE", "1-vs-all"): (3.7570226192474365, 3.2707741260528564),
}


@pytest.mark.parametrize(("scorer", "method"), RECORDED)
def test_gated_is_what_it_was_before_there_were_others(toy: Dataset, scorer: str, method: str) -> None:
    values: dict[str, Any] = {
        "model": {"scorer": scorer, "dim": 6, "modalities": ["image", "text"]},
        "method": method,
        "objective": {"n3": 0.01},
        "training": {"batch_size": 64, "lr": 0.02},
        "device": "cpu",
    }
    trainer = build_trainer(make_config(values), toy)
    losses = [float(trainer.step(step)) for step in range(12)]
    assert (losses[0], losses[-1]) == pytest.approx(RECORDED[scorer, method], rel=1e-4)


def test_the_configuration_has_its_options(toy: Dataset) -> None:
    assert make_config({}).model.mixture == "gated"
    found = make_config(config_of(mixture="residual", scale=0.5)).model.model_extra
    of_embedder = {"structure_dropout": 0.0, "modality_dropout": 0.0, "hidden": None, "concatenate": False}
    assert found == {**of_embedder, "scale": 0.5, "structure_loss": 0.5, "view_loss": 0.05}
    model = build_model(make_config(config_of(mixture="residual", scale=0.5)), toy)
    assert isinstance(model.mixture, Residual)
    assert model.mixture.scale == 0.5
    for values, message in (
        (config_of(scale=0.5), "unknown configuration key 'model.scale'"),
        (config_of(mixture="residual", scale=0), "model.scale: input should be greater than 0"),
        (config_of(mixture="residul"), "unknown mixture 'residul'; did you mean 'residual'"),
        (config_of(mixture="residual", modalities=[]), "the embedder table has a single view"),
    ):
        with pytest.raises(UsageError, match=message):
            make_config(values)


class OneView(mmrns.Embedder):
    """The only view is of the text."""

    views = ("text",)

    def __init__(self, graph: Any, features: Any, *, width: int, init_range: float, sparse: bool = False):
        super().__init__(len(graph.entities))
        self.weight = torch.nn.Parameter(torch.rand(self.n_entities, 1, width))

    def forward(self, ids: Tensor) -> mmrns.Views:
        return mmrns.Views(self.weight[ids], torch.ones(*ids.shape, 1, dtype=torch.bool))


def test_a_mixture_of_a_single_view_is_refused(toy: Dataset) -> None:
    with pytest.raises(UsageError, match="has a single view, so that there is nothing to mix"):
        build_model(make_config(config_of(embedder=OneView, mixture="residual", modalities=[])), toy)
    embedder = FusedEmbedder(toy.graph, toy.features, width=8, init_range=0.5)
    for mixture, chosen in ((Residual(("structure", "text")), embedder), (Gated(("structure",)), None)):
        with pytest.raises(UsageError, match=r"the mixture \w+ is of the views structure"):
            Model(DistMult(8, 0.5), 40, 5, embedder=chosen, mixture=mixture)


class Level(Mixture):
    """Structure and the others by a fixed share."""

    def __init__(self, views: Any, *, share: float = 0.25):
        super().__init__(views)
        self.share = share

    def weights(self, gate: Tensor, own: Tensor, candidates: Tensor) -> Tensor:
        fixed = torch.tensor([1.0] + [self.share] * (len(self.views) - 1))
        return fixed.to(gate.dtype) * (own[:, None] & candidates)


def test_a_mixture_of_ones_own_by_class_and_object(toy: Dataset) -> None:
    kept: dict[str, Any] = {"scorer": "DistMult", "modalities": ["text"], "dim": 6, "steps": 4, "device": "cpu"}
    by_class = mmrns.train(dataset=toy, mixture=Level, settings={"model.share": 0.5}, **kept)
    assert isinstance(by_class.model.mixture, Level)
    # It takes no numbers of the relation.
    assert by_class.model.relation.weight.shape[1] == 2 * 6
    given = Level(("structure", "text"), share=0.5)
    by_object = mmrns.train(dataset=toy, mixture=given, **kept)
    assert by_object.model.mixture is given
    assert by_object.config.model.model_extra == by_class.config.model.model_extra
    assert by_object.results["test"] == by_class.results["test"]


def told_by_posters() -> Dataset:
    """Films of four genres, which their posters tell; a film's other triples say nothing of its genre."""
    g = torch.Generator().manual_seed(0)
    genre = torch.arange(80) % 4
    posters = torch.eye(4)[genre] + 0.1 * torch.randn(80, 4, generator=g)
    films = {f"film{i:02d}": posters[i : i + 1].numpy() for i in range(80)}
    genres = {f"genre{i}": torch.eye(4)[i : i + 1].numpy() for i in range(4)}
    told = [(f"film{i:02d}", "genre", f"genre{genre[i]}") for i in range(80)]
    shown = torch.randint(20, (80, 2), generator=g).tolist()
    elsewhere = [(f"film{i:02d}", "shown_in", f"town{town:02d}") for i in range(80) for town in set(shown[i])]
    train = [*told[:40], *elsewhere]
    features = {"image": films | genres}
    return Dataset.from_triples(train, valid=told[40:60], test=told[60:], features=features, name="posters")


def test_residual_uses_features_that_carry_the_signal() -> None:
    dataset = told_by_posters()
    settings = {
        "training.evaluate_every": 50,
        "training.lr": 0.05,
        "training.batch_size": 64,
        "model.reciprocal": True,
        "objective.n3": 0.1,
        "threads": 1,
    }
    found: dict[str, mmrns.Run] = {}
    for name, given in (("structure", {}), ("residual", {"modalities": ["image"], "mixture": Residual})):
        own = {"model.view_loss": 0.5} if given else {}
        kept = {"scorer": "DistMult", "method": "1-vs-all", "dim": 16, "steps": 100, "device": "cpu"}
        found[name] = mmrns.train(dataset=dataset, settings=settings | own, **kept, **given)
    mrr = {name: run.results["test"]["both"]["realistic"]["mrr"] for name, run in found.items()}
    assert mrr["residual"] > 0.55
    assert mrr["structure"] < 0.35
    # The poster speaks for the genre of a film whose genre train lacks.
    adds = []
    for film in (60, 65, 70, 75):
        parts = found["residual"].explain(f"film{film}", "genre", f"genre{film % 4}")["parts"]
        assert [part["part"] for part in parts] == ["structure", "image"]
        adds.append(parts[1]["adds"])
    assert sum(adds) > 0
    assert sum(one > 0 for one in adds) >= 3


def test_a_run_of_residual_is_stored_exported_and_predicts_the_same(toy: Dataset, tmp_path: Path) -> None:
    config = config_of(mixture="residual", scale=0.4) | {"method": "1-vs-all", "sampler": {}}
    config["training"] = {"steps": 12, "evaluate_every": 6, "log_every": 6, "lr": 0.05, "batch_size": 64}
    config["data"] = {"dataset": str(toy.folder)}
    run = mmrns.train(config, out=tmp_path / "run", progress=False, plots=False)
    run.export_bundle(tmp_path / "bundle")
    query = {"head": "e08", "relation": "likes"}
    expected = run.predict(**query)
    for folder in ("run", "bundle"):
        again = mmrns.load_run(tmp_path / folder)
        assert isinstance(again.model.mixture, Residual)
        assert again.model.mixture.scale == 0.4
        assert again.predict(**query).equals(expected)
    assert "scale: 0.4" in (tmp_path / "run" / "config.yaml").read_text()
    # The loss in the log is of the mixed scores and of the views.
    logged = run.history.filter(run.history["loss"].is_not_null())["loss"].to_list()
    config["model"] |= {"structure_loss": 0.0, "view_loss": 0.0}
    bare = mmrns.train(config, progress=False).history
    assert all(a > b for a, b in zip(logged, bare.filter(bare["loss"].is_not_null())["loss"].to_list(), strict=True))
