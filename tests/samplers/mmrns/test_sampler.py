from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.errors import UsageError
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.mmrns.attention import KnowledgeGuidedAttention
from mmrns.samplers.mmrns.sampler import Mmrns, Trace
from mmrns.samplers.mmrns.similarity import Similarity
from mmrns.types import Batch, Negatives

DIM = 6


def _build(toy: Dataset, features: Features | None = None, **options: object) -> tuple[Model, Mmrns]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        chosen = toy.features if features is None else features
        settings = {"negatives": 4, "pool": 30, "slots": 20, "discount": 0.25, "width": 8, "gate_width": 9} | options
        return model, Mmrns(toy.graph, chosen, model.spec, **settings)  # type: ignore[arg-type]


def _batch(toy: Dataset, n: int = 24) -> Batch:
    return Batch.of(toy.graph.train[:n], torch.arange(n) % 2 == 0)


def _trace(negatives: Negatives) -> Trace:
    assert isinstance(negatives.trace, Trace)
    return negatives.trace


def test_nothing_true_is_drawn_and_nothing_twice(toy: Dataset) -> None:
    model, sampler = _build(toy, negatives=10)
    batch = _batch(toy)
    for step in range(20):
        negatives = sampler.draw(batch, model, step)
        assert negatives.ids is not None
        assert negatives.mask is not None
        assert negatives.mask.all()
        assert all(len(set(row)) == 10 for row in negatives.ids.tolist())
        h = torch.where(batch.head[:, None], negatives.ids, batch.h[:, None])
        t = torch.where(batch.head[:, None], batch.t[:, None], negatives.ids)
        assert not toy.graph.train_index.contains(h, batch.r[:, None].expand_as(h), t).any()


def test_every_entity_is_reachable(toy: Dataset) -> None:
    model, sampler = _build(toy, negatives=8)
    batch = _batch(toy)
    ids = [sampler.draw(batch, model, step).ids for step in range(30)]
    assert torch.cat([i.flatten() for i in ids if i is not None]).unique().tolist() == list(range(40))


def test_pool_is_distinct_uniform_and_at_most_everything(toy: Dataset) -> None:
    _, sampler = _build(toy, pool=10)
    pools = torch.stack([sampler.candidates(step) for step in range(4000)])
    assert all(len(set(pool)) == 10 for pool in pools.tolist())
    counts = torch.bincount(pools.flatten(), minlength=40).double()
    expected, variance = 1000.0, 4000 * 0.25 * 0.75
    assert ((counts - expected).abs() < 5 * math.sqrt(variance)).all()
    assert sorted(_build(toy, pool=1500)[1].candidates(0).tolist()) == list(range(40))


def test_draws_follow_plackett_luce(toy: Dataset) -> None:
    """Ordered pairs of draws against their exact probabilities, with logits far from uniform."""
    _, sampler = _build(toy)
    n = 60_000
    logits = torch.tensor([2.0, 1.0, 0.0, -torch.inf, -1.0])
    noise = sampler.noise(torch.Size((n, 5)), 3, 0, torch.device("cpu"))
    drawn = (logits + noise).topk(2, dim=1).indices
    p = torch.softmax(logits, 0)
    chi2, cells = 0.0, 0
    for i, j in itertools.permutations([0, 1, 2, 4], 2):
        expected = float(n * p[i] * p[j] / (1 - p[i]))
        seen = int(((drawn[:, 0] == i) & (drawn[:, 1] == j)).sum())
        chi2 += (seen - expected) ** 2 / expected
        cells += 1
    assert not (drawn == 3).any()
    assert chi2 < cells - 1 + 5 * math.sqrt(2 * (cells - 1))


def test_a_row_with_too_few_candidates_counts_only_those(toy: Dataset) -> None:
    model, sampler = _build(toy, pool=40, negatives=39)
    batch = _batch(toy)
    negatives = sampler.draw(batch, model, 0)
    free = (~_trace(negatives).candidates.excluded).sum(1)
    assert negatives.mask is not None
    assert (negatives.mask.sum(1) == free.clamp(max=39)).all()
    assert (free < 39).any()
    assert negatives.logp is not None
    assert torch.isfinite(negatives.logp).all()
    s_neg = model.score_against(batch, negatives)
    (s_neg * negatives.mask).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), *sampler.parameters()] if p.grad is not None)


def test_temperature_falls_as_scheduled(toy: Dataset) -> None:
    model, sampler = _build(toy, temperature=10.0, reference=True)
    batch = _batch(toy)
    for step in (0, 1, 1000):
        trace = _trace(sampler.draw(batch, model, step))
        tau = 10 / (1 + math.log(step + 1))
        total = sum(torch.softmax(s.values / tau, 1) for s in trace.similarities.values())
        assert isinstance(total, Tensor)
        free = ~trace.candidates.excluded
        torch.testing.assert_close(trace.logits[free], total.log()[free])


@pytest.mark.parametrize("sides", ["tail", "head", "both"])
def test_fillers_fill_the_slot_and_are_distinct(toy: Dataset, sides: str) -> None:
    _, sampler = _build(toy, pool=5, slots=20)
    batch = Batch.of(toy.graph.train[:24], {"tail": torch.zeros, "head": torch.ones}.get(sides, torch.rand)(24) > 0.5)
    train = toy.graph.train
    for step in range(5):
        c = sampler.propose(batch, step)
        for row in range(len(batch)):
            head = bool(batch.head[row])
            slot = set(train[train[:, 1] == batch.r[row]][:, 0 if head else 2].tolist())
            free = (~c.excluded[row, 5:]).nonzero().flatten()
            ids = c.fillers[c.slot[row], free].tolist()
            assert set(ids) <= slot
            assert len(set(ids)) == len(ids)
            assert not set(ids) & set(c.pool.tolist())


def test_density_is_the_probability_of_being_a_candidate(toy: Dataset) -> None:
    """Counted over many steps: once in the pool or among the fillers, each entity as often as its density says."""
    _, sampler = _build(toy, pool=8, slots=10)
    batch = _batch(toy)
    n, e = 600, len(toy.graph.entities)
    seen, expected = torch.zeros(len(batch), e), torch.full((len(batch), e), torch.nan)
    true = torch.zeros(len(batch), e, dtype=torch.bool)
    true[toy.graph.train_index.batch_targets(batch)] = True
    for step in range(n):
        c = sampler.propose(batch, step)
        columns = torch.arange(c.excluded.shape[1]).expand_as(c.excluded)
        ids = c.ids(columns)
        free = ~c.excluded
        row = torch.arange(len(batch))[:, None].expand_as(ids)
        seen.index_put_((row[free], ids[free]), torch.ones(int(free.sum())), accumulate=True)
        expected[row[free], ids[free]] = c.log_density.exp()[free]
    assert torch.equal(expected.isnan(), true)
    p = expected.nan_to_num(0.0)
    assert ((seen - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 1e-3).all()
    assert p.unique().numel() > 2


def test_weighted_draws_estimate_the_softmax_over_all_entities(toy: Dataset) -> None:
    """Sum over the draws of e^(alpha s) / e^logp, averaged over steps, is the sum over all entities not true."""
    model, sampler = _build(toy, pool=10, slots=10, negatives=5, discount=0.0)
    batch = _batch(toy, 12)
    with torch.no_grad():
        scores = model.score_all(batch)
        true = torch.zeros_like(scores, dtype=torch.bool)
        true[toy.graph.train_index.batch_targets(batch)] = True
        expected = scores.exp().masked_fill(true, 0).sum(1)
        sums: list[Tensor] = []
        for step in range(500):
            drawn = sampler.draw(batch, model, step)
            assert drawn.logp is not None
            assert drawn.mask is not None
            sums.append(((model.score_against(batch, drawn) - drawn.logp).exp() * drawn.mask).sum(1))
    found = torch.stack(sums).double()
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.2 * expected).all()


def test_without_a_discount_there_is_nothing_to_train(toy: Dataset) -> None:
    model, sampler = _build(toy, discount=0.0)
    assert not list(sampler.parameters())
    negatives = sampler.draw(_batch(toy), model, 0)
    assert _trace(negatives).likeness is None
    assert negatives.emb is None


def test_attention_is_trained_in_two_steps_of_each_refresh(toy: Dataset) -> None:
    model, sampler = _build(toy, refresh=5)
    batch = _batch(toy)
    trained: list[bool] = []
    for step in range(10):
        negatives = sampler.draw(batch, model, step)
        s_neg = model.score_against(batch, negatives)
        loss = sampler.loss(batch, negatives, s_neg[:, 0], s_neg, model, step)
        trained.append(isinstance(loss, Tensor) and loss.requires_grad)
        assert (negatives.emb is not None) == trained[-1]
    assert trained == [True, True, False, False, False] * 2


def test_the_samplers_loss_does_not_reach_the_model(toy: Dataset) -> None:
    for modalities in (["text", "image"], []):
        model, sampler = _build(toy, modalities=modalities)
        batch = _batch(toy)
        negatives = sampler.draw(batch, model, 0)
        s_neg = model.score_against(batch, negatives)
        loss = sampler.loss(batch, negatives, s_neg[:, 0], s_neg, model, 0)
        assert isinstance(loss, Tensor)
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_fellows_are_other_true_answers(toy: Dataset) -> None:
    _, sampler = _build(toy)
    batch = Batch.of(toy.graph.train, torch.arange(len(toy.graph.train)) % 2 == 0)
    fellow, has = sampler.fellows(batch, 3)
    row, entity = toy.graph.train_index.batch_targets(batch)
    answers = [set(entity[row == i].tolist()) for i in range(len(batch))]
    for i, (x, f, known) in enumerate(zip(batch.target.tolist(), fellow.tolist(), has.tolist(), strict=True)):
        assert known == (len(answers[i]) > 1)
        assert f in answers[i]
        assert (f == x) != known
    assert has.any()
    assert not has.all()


def test_a_candidate_without_a_modality_is_as_likely_as_the_rows_mean(toy: Dataset) -> None:
    model, sampler = _build(toy, modalities=["image"])
    batch = _batch(toy)
    c = sampler.propose(batch, 0)
    similarities, likeness, _ = sampler.likeness(batch, c, None, model)
    image = similarities["image"]
    assert not image.candidate.all()
    assert not image.target.all()
    ids = c.ids(torch.arange(likeness.shape[1]).expand_as(likeness))
    has = toy.features["image"].gather(ids.flatten())[1].any(1).view_as(ids)
    for row in range(len(batch)):
        if not image.target[row]:
            assert (likeness[row] == 0).all()
        elif not has[row].all():
            mean = likeness[row][has[row]].mean()
            torch.testing.assert_close(likeness[row][~has[row]], mean.expand(int((~has[row]).sum())))


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
        negatives = sampler.draw(batch, model, 5)
        s_pos, s_neg = model.score(batch), model.score_against(batch, negatives)
        loss = s_neg.sum() + sampler.loss(batch, negatives, s_pos, s_neg, model, 5)
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
        logits.append(_trace(sampler.draw(batch, model, 0)).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@pytest.mark.parametrize("modalities", [[], ["text"], ["text", "image"]])
def test_any_number_of_modalities_up_to_two(toy: Dataset, modalities: list[str]) -> None:
    model, sampler = _build(toy, modalities=modalities)
    batch = _batch(toy)
    negatives = sampler.draw(batch, model, 0)
    assert list(_trace(negatives).similarities) == (modalities or ["structure"])
    s_neg = model.score_against(batch, negatives)
    loss = s_neg.sum() + sampler.loss(batch, negatives, s_neg[:, 0], s_neg, model, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in sampler.parameters())


def test_three_modalities_have_to_be_chosen(toy: Dataset) -> None:
    third = Modality(torch.zeros(1, 1, 2), torch.ones(1, 1).bool(), torch.full((40,), -1))
    features = Features({**toy.features, "sound": third})
    with pytest.raises(UsageError, match=r"sampler\.modalities"):
        _build(toy, features)
    with pytest.raises(UsageError, match="did you mean 'image'"):
        _build(toy, features, modalities=["imag"])


def test_reference_draws_the_same_law_with_fresh_noise(toy: Dataset) -> None:
    model, sampler = _build(toy, reference=True, negatives=6)
    batch = _batch(toy)
    negatives = sampler.draw(batch, model, 0)
    assert negatives.ids is not None
    assert all(len(set(row)) == 6 for row in negatives.ids.tolist())
    assert not _trace(negatives).candidates.excluded.gather(1, _trace(negatives).positions).any()


@pytest.mark.parametrize("relations", [1, 5])
@pytest.mark.parametrize("memory_mb", [0, 1024])
@pytest.mark.parametrize("reference", [False, True])
def test_folded_and_chunked_similarities_equal_the_direct_ones(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, relations: int, memory_mb: int, reference: bool
) -> None:
    """In float64, with gradients: one relation or all, in one piece or a relation at a time with recomputation."""
    monkeypatch.setattr(KnowledgeGuidedAttention, "folds", lambda self, modality, n_relations: n_relations > 0)
    rows = toy.graph.train[:60]
    if relations == 1:
        rows = rows[rows[:, 1] == rows[0, 1]]
    batch = Batch.of(rows, torch.arange(len(rows)) % 2 == 0)
    assert len(batch.relations) == relations
    outcomes: list[tuple[dict[str, Similarity], list[Tensor]]] = []
    for direct in (True, False):
        model, sampler = _build(toy, memory_mb=1024 if direct else memory_mb, reference=reference)
        model.double()
        sampler.double()
        assert sampler.similarity is not None
        found = sampler.similarity(batch, sampler.candidates(0), model, direct=direct)
        total = sum((torch.sin(3 * s.values)).sum() for s in found.values())
        assert isinstance(total, Tensor)
        total.backward()
        gradients = [p.grad for p in [*sampler.parameters(), *model.parameters()] if p.grad is not None]
        outcomes.append((found, gradients))
    for name, expected in outcomes[0][0].items():
        torch.testing.assert_close(outcomes[1][0][name].values, expected.values, rtol=0, atol=1e-10)
    assert len(outcomes[0][1]) == len(outcomes[1][1])
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_it_says_before_training_what_a_step_holds(toy: Dataset) -> None:
    batch = _batch(toy)
    assert _build(toy, discount=0.0)[1].notes(batch) == []
    (line,) = _build(toy)[1].notes(batch)
    assert f"({len(batch.relations)} relations, 30 candidates)" in line
    assert "chunks" not in line
    (line,) = _build(toy, memory_mb=0)[1].notes(batch)
    assert "more than sampler.memory_mb=0" in line
    assert _build(toy, modalities=[])[1].notes(batch)[0] == "No modality: the mmrns sampler compares structure alone."


def test_a_fed_pool_holds_what_was_fed_and_says_how_likely_it_was(toy: Dataset) -> None:
    sampler = {"name": "mmrns", "negatives": 3, "pool": 16, "slots": 30, "feed": {"name": "nscaching", "cache": 4}}
    trainer = build_trainer(make_config({"model": {"dim": 6}, "sampler": sampler, "device": "cpu"}), toy)
    mmrns = trainer.sampler
    assert isinstance(mmrns, Mmrns)
    batch = Batch.of(toy.graph.train[:3], torch.tensor([False, True, False]))
    trace = mmrns.draw(batch, trainer.model, 0).trace
    c, fed = trace.candidates, set(trace.fed.ids.flatten().tolist())
    in_pool = [e in fed for e in c.pool.tolist()]
    assert sum(in_pool) == min(len(fed), 8)
    of_fed = sum(in_pool) / len(fed)
    of_others = (16 - sum(in_pool)) / (len(toy.graph.entities) - len(fed))
    width = c.fillers.shape[1]
    for b in range(len(batch)):
        r, head = int(batch.r[b]), bool(batch.head[b])
        slot = {int(x[0 if head else 2]) for x in toy.graph.train if int(x[1]) == r}
        taken = min(len(slot), width) / len(slot)
        columns = [*c.pool.tolist(), *c.fillers[c.slot[b]].tolist()]
        for i, e in enumerate(columns):
            if i >= 16 and bool(c.excluded[b, i]):
                continue
            pi = of_fed if e in fed else of_others
            expected = 1 - (1 - pi) * (1 - taken) if e in slot else pi
            assert c.log_density[b, i].exp().item() == pytest.approx(expected, rel=1e-5)


def test_a_feed_that_learns_is_trained_on_its_own_draws(toy: Dataset) -> None:
    feed = {"name": "kbgan", "candidates": 8, "pretrain": 2}
    sampler = {"name": "mmrns", "negatives": 3, "pool": 16, "feed": feed}
    trainer = build_trainer(make_config({"model": {"dim": 6}, "sampler": sampler, "device": "cpu"}), toy)
    trainer.sampler.pretrain(trainer)
    before = {n: p.detach().clone() for n, p in trainer.sampler.named_parameters()}
    assert before
    trainer.step(0)
    assert all(not torch.equal(before[n], p) for n, p in trainer.sampler.named_parameters())


def test_the_authors_sampler_takes_no_feed(toy: Dataset) -> None:
    config = make_config({"sampler": {"name": "mmrns", "reference": True, "feed": "uniform"}})
    with pytest.raises(UsageError, match=r"leave sampler\.reference or sampler\.feed out"):
        build_trainer(config, toy)
