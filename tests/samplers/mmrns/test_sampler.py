from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.errors import UsageError
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.samplers.domain_range import DomainRange
from mmrns.samplers.gumbel import log_inclusion
from mmrns.samplers.mmrns.proposal import Trace
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.samplers.mmrns.similarity import GuidedSimilarity
from mmrns.types import Batch, OwnNegatives

DIM = 6


def _build(toy: Dataset, features: Features | None = None, **options: object) -> tuple[Model, Mmrns]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        chosen = toy.features if features is None else features
        settings = {
            "negatives": 4,
            "pool": 30,
            "domain_range": 20,
            "discount": 0.25,
            "width": 8,
            "gate_width": 9,
        } | options
        return model, Mmrns(toy.graph, chosen, model.spec, **settings)  # type: ignore[arg-type]


def _batch(toy: Dataset, n: int = 24) -> Batch:
    return Batch.of(toy.graph.train[:n], torch.arange(n) % 2 == 0)


def test_attention_is_trained_in_two_steps_of_each_refresh(toy: Dataset) -> None:
    model, sampler = _build(toy, refresh=5)
    batch = _batch(toy)
    trained: list[bool] = []
    for step in range(10):
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert isinstance(negatives, OwnNegatives)
        s_neg = model.score_against(model.lookup(batch), negatives)
        loss = sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, step)
        trained.append(isinstance(loss, Tensor) and loss.requires_grad)
        assert (negatives.views is not None) == trained[-1]
    assert trained == [True, True, False, False, False] * 2


def test_the_samplers_loss_does_not_reach_the_model(toy: Dataset) -> None:
    for modalities in (["text", "image"], []):
        model, sampler = _build(toy, modalities=modalities)
        batch = _batch(toy)
        negatives = sampler.draw(model.lookup(batch), model, 0)
        s_neg = model.score_against(model.lookup(batch), negatives)
        loss = sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
        assert isinstance(loss, Tensor)
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_other_positives_answer_the_same_query(toy: Dataset) -> None:
    _, sampler = _build(toy)
    batch = Batch.of(toy.graph.train, torch.arange(len(toy.graph.train)) % 2 == 0)
    other, has = sampler.other_positives(batch, 3)
    row, entity = toy.graph.train_index.batch_targets(batch)
    answers = [set(entity[row == i].tolist()) for i in range(len(batch))]
    for i, (x, f, known) in enumerate(zip(batch.target.tolist(), other.tolist(), has.tolist(), strict=True)):
        assert known == (len(answers[i]) > 1)
        assert f in answers[i]
        assert (f == x) != known
    assert has.any()
    assert not has.all()


@pytest.mark.parametrize("step", [0, 5])
def test_the_bound_is_on_what_is_represented(toy: Dataset, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    model, sampler = _build(toy)
    batch, represented, asked = _batch(toy, 23), list[int](), list[tuple[int, ...]]()
    represent, fits = GuidedSimilarity.represent, GuidedSimilarity.fits

    def counted(self: GuidedSimilarity, relations: Tensor, entities: Tensor, *more: Any, **options: Any) -> Any:
        represented.append(len(entities))
        return represent(self, relations, entities, *more, **options)

    def told(self: GuidedSimilarity, *counts: int) -> bool:
        asked.append(counts)
        return fits(self, *counts)

    monkeypatch.setattr(GuidedSimilarity, "represent", counted)
    monkeypatch.setattr(GuidedSimilarity, "fits", told)
    c = sampler.draw(model.lookup(batch), model, step).trace.candidates
    # Targets and candidates of its own, and every other step another positive, too.
    assert len(represented) == (3 if step == 0 else 2)
    assert asked == [(sum(represented), len(c.pool), len(batch.relations), 23 * c.typed.shape[1])]


def test_a_candidate_without_a_modality_is_as_likely_as_the_rows_mean(toy: Dataset) -> None:
    model, sampler = _build(toy, modalities=["image"])
    batch = _batch(toy)
    c = sampler.candidates(batch, 0)
    similarities, pmi, _ = sampler.pmi(batch, c, None, model)
    image = similarities["image"]
    assert not image.candidate.all()
    assert not image.target.all()
    ids = c.ids(torch.arange(pmi.shape[1]).expand_as(pmi))
    has = toy.features["image"].gather(ids.flatten())[1].any(1).view_as(ids)
    for row in range(len(batch)):
        if not image.target[row]:
            assert (pmi[row] == 0).all()
        elif not has[row].all():
            mean = pmi[row][has[row]].mean()
            torch.testing.assert_close(pmi[row][~has[row]], mean.expand(int((~has[row]).sum())))


def test_missing_equals_removed(toy: Dataset) -> None:
    """Zeroing a mask and deleting the row of the feature file come to the same draw, losses and gradients."""
    victims = [3, 8, 21]
    image = toy.features["image"]
    rows = image.row[victims]
    assert (rows >= 0).all()
    masked = image.mask.clone()
    masked[rows] = False
    removed = image.row.clone()
    removed[victims] = -1
    batch = _batch(toy)
    outcomes: list[tuple[Tensor, list[Tensor]]] = []
    for modality in (replace(image, mask=masked), replace(image, row=removed)):
        model, sampler = _build(toy, Features({"image": modality, "text": toy.features["text"]}))
        negatives = sampler.draw(model.lookup(batch), model, 5)
        lookup = model.lookup(batch)
        s_pos, s_neg = model.score(lookup), model.score_against(lookup, negatives)
        loss = s_neg.sum() + sampler.loss(model.lookup(batch), negatives, s_pos, s_neg, model, 5)
        loss.backward()
        outcomes.append((loss.detach(), [p.grad for p in sampler.parameters() if p.grad is not None]))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=0, atol=0)
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_absent_values_do_not_matter(toy: Dataset) -> None:
    """What a file holds under a False mask is never read, except by the authors' form, which knows no masks."""
    image = toy.features["image"]
    noise = torch.where(image.mask[..., None], image.values, 1e3)
    batch = _batch(toy)
    logits: list[Tensor] = []
    for values in (image.values, noise):
        features = Features({"image": replace(image, values=values), "text": toy.features["text"]})
        model, sampler = _build(toy, features)
        logits.append(sampler.draw(model.lookup(batch), model, 0).trace.logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@pytest.mark.parametrize("modalities", [[], ["text"], ["text", "image"]])
def test_any_number_of_modalities_up_to_two(toy: Dataset, modalities: list[str]) -> None:
    model, sampler = _build(toy, modalities=modalities)
    batch = _batch(toy)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert list(negatives.trace.more.similarities) == (modalities or ["structure"])
    s_neg = model.score_against(model.lookup(batch), negatives)
    loss = s_neg.sum() + sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_three_modalities_have_to_be_chosen(toy: Dataset) -> None:
    third = Modality(torch.zeros(1, 1, 2), torch.ones(1, 1).bool(), torch.full((40,), -1))
    features = Features({**toy.features, "sound": third})
    with pytest.raises(UsageError, match=r"sampler\.modalities"):
        _build(toy, features)
    with pytest.raises(UsageError, match="did you mean 'image'"):
        _build(toy, features, modalities=["imag"])


def test_it_says_before_training_what_a_step_holds(toy: Dataset) -> None:
    batch = _batch(toy)
    (line,) = _build(toy)[1].notes(batch)
    assert f"({len(batch.relations)} relations, 30 candidates)" in line
    assert "chunks" not in line
    (line,) = _build(toy, memory_mb=0)[1].notes(batch)
    assert "more than sampler.memory_mb=0" in line
    assert _build(toy, modalities=[])[1].notes(batch)[0] == "No modality: the mmrns sampler compares structure alone."


def test_without_the_discount_the_draw_is_that_of_domain_and_range(toy: Dataset) -> None:
    model, sampler = _build(toy, discount=1e-12)
    plain = DomainRange(toy.graph, toy.features, model.spec, negatives=4, pool=30, domain_range=20)
    lookup = model.lookup(_batch(toy))
    for step in range(5):
        a, b = sampler.draw(lookup, model, step), plain.draw(lookup, model, step)
        assert torch.equal(a.entities(24), b.entities(24))
        torch.testing.assert_close(a.log_weight, b.log_weight)


def test_ablations_leave_one_part_out(toy: Dataset) -> None:
    lookups, found = {}, {}
    for name in ("guidance", "contrastive", "gradient", "corrected"):
        model, sampler = _build(toy, **{name: False})
        lookups[name] = model.lookup(_batch(toy))
        negatives = sampler.draw(lookups[name], model, 0)
        assert isinstance(negatives, OwnNegatives)
        s_neg = model.score_against(lookups[name], negatives)
        found[name] = negatives, sampler.loss(lookups[name], negatives, s_neg[:, 0], s_neg, model, 0), sampler
    assert [found[name][0].views is None for name in found] == [False, False, True, False]
    assert [found[name][0].log_weight is None for name in found] == [False, False, False, True]
    assert [isinstance(found[name][1], float) for name in found] == [False, True, False, False]
    sampler = found["guidance"][2]
    relations = sampler.similarity.relations(_batch(toy), Model(TransE(DIM, 1.0), 40, 5))
    assert not relations.any()


@pytest.mark.parametrize("discount", [0.25, 2.0])
def test_weights_take_out_the_draw_and_leave_the_debiasing(toy: Dataset, discount: float) -> None:
    """log_weight = -(ln inclusion + ln pi + discount pmi), each from what the draw leaves behind."""
    model, sampler = _build(toy, discount=discount)
    with torch.no_grad():
        sampler.scale.bias.fill_(1.0)
    batch = _batch(toy)
    for step in (0, 5):
        drawn = sampler.draw(model.lookup(batch), model, step)
        trace: Trace = drawn.trace
        logits, pmi = trace.logits.detach(), trace.more.pmi.detach()
        perturbed = logits + sampler.noise(logits.shape, step, logits.device)
        inclusion = log_inclusion(logits, perturbed, trace.positions)
        density = trace.candidates.log_density.gather(1, trace.positions)
        held_back = discount * pmi.gather(1, trace.positions)
        assert drawn.log_weight is not None
        assert drawn.mask is not None
        assert held_back.std() > 0.01
        expected = -(inclusion + density + held_back)
        torch.testing.assert_close(drawn.log_weight[drawn.mask], expected[drawn.mask])
        # And the draw itself: q ~ exp(alpha s) / (pi exp(pmi)^discount).
        with torch.no_grad():
            scores, _, _ = sampler.scores(model.lookup(batch), model, trace.candidates)
        q = sampler.alpha * scores - trace.candidates.log_density - discount * pmi
        allowed = ~trace.candidates.excluded
        torch.testing.assert_close(logits[allowed], q[allowed])
