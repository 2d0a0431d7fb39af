from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.mixtures import loss_of_view
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.runs.notes import said_before
from mmrns.samplers.mans import first_rows, spread
from mmrns.training.trainer import Trainer
from mmrns.types import Batch, OwnNegatives

CPU = torch.device("cpu")


def _trainer(toy: Dataset, strategy: str, *, modalities: tuple[str, ...] = ("image", "text"), **more: Any) -> Trainer:
    values: dict[str, Any] = {
        "model": {"dim": 6, "modalities": list(modalities), "mixture": more.pop("mixture", "gated")},
        "sampler": {"name": "mans", "negatives": 7, "strategy": strategy, **more},
        "device": "cpu",
    }
    return build_trainer(make_config(values), toy)


def _drawn(trainer: Trainer, toy: Dataset, step: int = 0) -> tuple[Batch, OwnNegatives]:
    batch = Batch.of(toy.graph.train[:30], torch.arange(30) % 2 == 0)
    negatives = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, step)
    assert isinstance(negatives, OwnNegatives)
    return batch, negatives


@torch.no_grad()
def test_a_modal_negative_has_the_structure_of_the_true_entity(toy: Dataset) -> None:
    trainer = _trainer(toy, "modal")
    model = trainer.model
    batch, negatives = _drawn(trainer, toy)
    lookup, kept = model.lookup(batch), negatives.kept
    assert kept is not None
    assert not kept[..., 1:].any()
    found = model.score_against(lookup, negatives)
    present = {name: m.present for name, m in toy.features.items()}
    gates, every = torch.softmax(lookup.relation[:, 3 * 6 :], dim=1), model.entities(torch.arange(40)).vectors
    ordinary = 0
    for b in range(0, len(batch), 3):
        anchor, target = int(batch.anchor[b]), int(batch.target[b])
        for k, other in enumerate(negatives.ids[b].tolist()):
            common = [bool(p[anchor] & p[other]) for p in present.values()]
            modal = any(common)
            assert bool(kept[b, k, 0]) == modal
            ordinary += not modal
            # The structure of one entity, the modalities of another: a gated mean of distances.
            of_structure, seen, total, weight = target if modal else other, toy.graph.seen_entities, 0.0, 0.0
            there = [bool(seen[anchor] and seen[of_structure]), *common]
            for view in range(3):
                r = lookup.relation[b, view * 6 : (view + 1) * 6]
                a, x = every[anchor, view], every[other if view else of_structure, view]
                share = float(gates[b, view]) * there[view]
                total -= share * float(((a - r if batch.head[b] else a + r) - x).abs().sum())
                weight += share
            if weight:
                assert float(found[b, k]) == pytest.approx(total / weight, rel=1e-5)
    assert 0 < ordinary < kept[::3, :, 0].sum()


def test_a_loss_of_structure_alone_has_no_modal_negative(toy: Dataset) -> None:
    trainer = _trainer(toy, "modal", mixture="residual")
    batch, negatives = _drawn(trainer, toy)
    model, objective = trainer.model, trainer.objective
    lookup, kept = model.lookup(batch), negatives.kept
    assert kept is not None
    true, false = model.scores(lookup), model.scores(lookup, negatives)
    assert torch.equal(false.by_view[0][kept[..., 0]], true.by_view[0].expand(-1, 7)[kept[..., 0]])
    found = loss_of_view(0, negatives, objective, batch.weight, true, false)
    expected = torch.zeros(())
    for b in range(len(batch)):
        s_pos, s_neg = true.by_view[0][b, 0], false.by_view[0][b][~kept[b, :, 0] & false.common(0)[b]]
        loss = logsigmoid(objective.gamma + s_pos)
        loss = loss + (logsigmoid(-objective.gamma - s_neg).mean() if len(s_neg) else 0.0)
        expected = expected - loss / 2 * true.common(0)[b, 0]
    torch.testing.assert_close(found, expected / len(batch))


@torch.no_grad()
def test_adaptive_takes_whom_the_model_takes_formixed_up(toy: Dataset) -> None:
    trainer = _trainer(toy, "adaptive", modalities=("text",))
    model = trainer.model
    batch, negatives = _drawn(trainer, toy)
    query, every, kept = model.lookup(batch).query, model.entities(torch.arange(40)), negatives.kept
    assert kept is not None

    def distance(b: int, view: int, entity: int, of: int) -> float:
        return float((query.vectors[view][b] - every.vectors[entity, of]).abs().sum())

    for b in range(len(batch)):
        for k, entity in enumerate(negatives.ids[b].tolist()):
            pairs = [(i, j) for i in range(2) for j in range(2) if query.present[b, i] and every.present[entity, j]]
            own = [-distance(b, i, entity, j) for i, j in pairs if i == j]
            across = [-distance(b, i, entity, j) for i, j in pairs if i != j]
            mixed_up = bool(own and across) and sum(across) / len(across) > sum(own) / len(own)
            modal = (1, 1) in pairs
            assert bool(kept[b, k, 0]) == (mixed_up and modal)
    assert 0.2 < kept[..., 0].float().mean() < 0.8
    # In the reference as many negatives are modal, in the rows that come first.
    _, prefix = _drawn(_trainer(toy, "adaptive", modalities=("text",), row_select="prefix"), toy)
    assert prefix.kept is not None
    rows = prefix.kept[..., 0].any(1)
    assert rows.sum() > 3
    assert not rows[int(rows.sum()) + 4 :].any()


def test_two_stages(toy: Dataset) -> None:
    trainer = _trainer(toy, "two-stage", first_steps=3)
    shares = [_drawn(trainer, toy, step)[1].kept.float().mean() for step in (0, 2, 3, 9)]  # pyright: ignore[reportOptionalMemberAccess]
    assert shares[0] > 0.2
    assert shares[1] > 0.2
    assert shares[2:] == [0.0, 0.0]


@given(st.integers(0, 20), st.integers(1, 70), st.integers(0, 20))
def test_a_share_is_rounded_down_and_evenlyspread(rows: int, k: int, twentieths: int) -> None:
    modal = spread(twentieths / 20, rows, k, CPU)
    assert modal.shape == (rows, k)
    assert int(modal.sum()) == rows * k * twentieths // 20
    before = modal.flatten().cumsum(0)
    wanted = torch.arange(1, rows * k + 1) * twentieths / 20
    assert ((before - wanted).abs() <= 1).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**30))
def test_the_first_rows_are_as_many(rows: int, k: int, seed: int) -> None:
    modal = torch.rand(rows, k, generator=torch.Generator().manual_seed(seed)) < 0.5
    first = first_rows(modal)
    n = int(modal.sum()) // k
    assert first[:n].all()
    assert not first[n:].any()


@pytest.mark.parametrize("model", [{}, {"scorer": "ComplEx", "reciprocal": True}], ids=["TransE", "ComplEx"])
def test_a_model_without_modalities_is_refused(toy: Dataset, model: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        build_trainer(make_config({"model": {"dim": 6, **model}, "method": "mans", "device": "cpu"}), toy)
    assert str(caught.value) == (
        "the sampler mans replaces an entity's modalities beside its structure, and the views of the model are "
        "structure; give it modalities of the dataset, as model.modalities=[image,text], or take another sampler"
    )


@pytest.mark.parametrize("method", ["mans", "dhns"])
@pytest.mark.parametrize("mixture", ["joint", "rsme", "cross"])
def test_a_mixture_that_asks_one_question_of_all_views_is_refused(toy: Dataset, method: str, mixture: str) -> None:
    model = {"dim": 6, "modalities": ["text"], "mixture": mixture, "sums": True}
    if mixture != "cross":
        del model["sums"]
    with pytest.raises(UsageError, match=f"^the sampler {method} asks each view by itself, and the mixture "):
        build_trainer(make_config({"model": model, "method": method, "device": "cpu"}), toy)


def test_a_training_says_what_is_replaced(toy: Dataset) -> None:
    config = make_config({"model": {"dim": 6, "modalities": ["text"]}, "method": "mans", "device": "cpu"})
    told = [*said_before(config, toy, build_trainer(config, toy), {})]
    assert "The scores read structure and text; the sampler mans replaces text." in told


@pytest.mark.parametrize("outer", [{"name": "domain-range", "pool_sampler": "mans"}, {"name": "mmrns", "pool": 9}])
def test_it_draws_for_no_other_sampler(outer: dict[str, Any]) -> None:
    if "pool_sampler" not in outer:
        outer = outer | {"pool_sampler": {"name": "mans", "share": 0.5}}
    with pytest.raises(UsageError, match=r"sampler.pool_sampler.name: mans cannot draw for another sampler"):
        make_config({"sampler": outer})
