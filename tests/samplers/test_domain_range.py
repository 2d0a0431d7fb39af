from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.domain_range import DomainRange
from mmrns.training.batches import Batches
from mmrns.types import Batch, OwnNegatives, SidePolicy

DIM = 6


def _build(toy: Dataset, features: Features | None = None, **options: object) -> tuple[Model, DomainRange]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        chosen = toy.features if features is None else features
        settings = {"negatives": 4, "pool": 30, "domain_range": 20, "hold": 1} | options
        return model, DomainRange(toy.graph, chosen, model.spec, **settings)  # type: ignore[arg-type]


def _batch(toy: Dataset, n: int = 24) -> Batch:
    return Batch.of(toy.graph.train[:n], torch.arange(n) % 2 == 0)


def test_nothing_true_is_drawn_and_nothing_twice(toy: Dataset) -> None:
    model, sampler = _build(toy, negatives=10)
    batch = _batch(toy)
    for step in range(20):
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert isinstance(negatives, OwnNegatives)
        assert negatives.mask is not None
        assert negatives.mask.all()
        assert all(len(set(row)) == 10 for row in negatives.ids.tolist())
        h = torch.where(batch.head[:, None], negatives.ids, batch.h[:, None])
        t = torch.where(batch.head[:, None], batch.t[:, None], negatives.ids)
        assert not toy.graph.train_index.contains(h, batch.r[:, None].expand_as(h), t).any()


def test_every_entity_is_reachable(toy: Dataset) -> None:
    model, sampler = _build(toy, negatives=8)
    batch = _batch(toy)
    ids = [sampler.draw(model.lookup(batch), model, step).entities(len(batch)) for step in range(30)]
    assert torch.cat([i.flatten() for i in ids]).unique().tolist() == list(range(40))


def test_pool_is_distinct_uniform_and_at_most_everything(toy: Dataset) -> None:
    _, sampler = _build(toy, pool=10)
    pools = torch.stack([sampler.pool(step) for step in range(4000)])
    assert all(len(set(pool)) == 10 for pool in pools.tolist())
    counts = torch.bincount(pools.flatten(), minlength=40).double()
    expected, variance = 1000.0, 4000 * 0.25 * 0.75
    assert ((counts - expected).abs() < 5 * math.sqrt(variance)).all()
    assert sorted(_build(toy, pool=1500)[1].pool(0).tolist()) == list(range(40))


def test_draws_follow_plackett_luce(toy: Dataset) -> None:
    """Ordered pairs of draws against their exact probabilities, with logits far from uniform."""
    _, sampler = _build(toy)
    n = 60_000
    logits = torch.tensor([2.0, 1.0, 0.0, -torch.inf, -1.0])
    noise = sampler.noise(torch.Size((n, 5)), 3, torch.device("cpu"))
    drawn = (logits - noise.log()).topk(2, dim=1).indices
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
    negatives = sampler.draw(model.lookup(batch), model, 0)
    free = (~negatives.trace.candidates.excluded).sum(1)
    assert negatives.mask is not None
    assert (negatives.mask.sum(1) == free.clamp(max=39)).all()
    assert (free < 39).any()
    assert negatives.log_weight is not None
    assert torch.isfinite(negatives.log_weight).all()
    s_neg = model.score_against(model.lookup(batch), negatives)
    (s_neg * negatives.mask).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), *sampler.parameters()] if p.grad is not None)


@pytest.mark.parametrize("sides", ["tail", "head", "both"])
def test_typed_candidates_are_of_the_domain_or_range_and_distinct(toy: Dataset, sides: str) -> None:
    _, sampler = _build(toy, pool=5, domain_range=20)
    batch = Batch.of(toy.graph.train[:24], {"tail": torch.zeros, "head": torch.ones}.get(sides, torch.rand)(24) > 0.5)
    train = toy.graph.train
    for step in range(5):
        c = sampler.candidates(batch, step)
        for row in range(len(batch)):
            head = bool(batch.head[row])
            members = set(train[train[:, 1] == batch.r[row]][:, 0 if head else 2].tolist())
            free = (~c.excluded[row, 5:]).nonzero().flatten()
            ids = c.typed[c.group[row], free].tolist()
            assert set(ids) <= members
            assert len(set(ids)) == len(ids)
            assert not set(ids) & set(c.pool.tolist())


def test_density_is_the_probability_of_being_a_candidate(toy: Dataset) -> None:
    """Counted over many steps: once in the pool or among the typed candidates, each entity as often as its density
    says.
    """
    _, sampler = _build(toy, pool=8, domain_range=10)
    batch = _batch(toy)
    n, e = 600, len(toy.graph.entities)
    seen, expected = torch.zeros(len(batch), e), torch.full((len(batch), e), torch.nan)
    true = torch.zeros(len(batch), e, dtype=torch.bool)
    true[toy.graph.train_index.batch_targets(batch)] = True
    for step in range(n):
        c = sampler.candidates(batch, step)
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
    """The sum of e^(alpha s) over the draws, each with its importance weight, estimates that over all that is false."""
    model, sampler = _build(toy, pool=10, domain_range=10, negatives=5)
    batch = _batch(toy, 12)
    with torch.no_grad():
        scores = model.score_all(batch)
        true = torch.zeros_like(scores, dtype=torch.bool)
        true[toy.graph.train_index.batch_targets(batch)] = True
        expected = scores.exp().masked_fill(true, 0).sum(1)
        sums: list[Tensor] = []
        for step in range(500):
            drawn = sampler.draw(model.lookup(batch), model, step)
            assert drawn.log_weight is not None
            assert drawn.mask is not None
            sums.append(
                ((model.score_against(model.lookup(batch), drawn) + drawn.log_weight).exp() * drawn.mask).sum(1)
            )
    found = torch.stack(sums).double()
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.2 * expected).all()


@pytest.mark.parametrize("domain_range", [0, 20])
def test_candidates_are_held_for_a_block_of_steps(toy: Dataset, domain_range: int) -> None:
    _, sampler = _build(toy, pool=10, domain_range=domain_range, hold=4)
    one, other = _batch(toy), Batch.of(toy.graph.train[30:50], torch.arange(20) % 3 == 0)
    whole = [sampler.candidates(batch, step) for step in range(8) for batch in (one, other)]
    for step, c in enumerate(whole):
        held = whole[step // 8 * 8]
        assert torch.equal(c.pool, held.pool)
        assert torch.equal(c.typed, held.typed)
    assert not torch.equal(whole[0].pool, whole[8].pool)
    # In any order, on any batch: they are functions of the block.
    fresh = _build(toy, pool=10, domain_range=domain_range, hold=4)[1].candidates(other, 6)
    for name in ("pool", "typed", "group", "excluded", "log_density"):
        assert torch.equal(getattr(fresh, name), getattr(whole[13], name))


@pytest.mark.parametrize("sides", [0.0, 0.5, 1.0])
def test_what_is_too_much_to_hold_is_drawn_for_the_batch_and_is_the_same(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, sides: float
) -> None:
    n = len(toy.graph.train)
    batch = Batch.of(toy.graph.train, torch.arange(n) < sides * n)
    held = _build(toy, pool=10, hold=3)[1]
    c = held.candidates(batch, 5)
    monkeypatch.setattr("mmrns.samplers.mmrns.proposal._MOST_HELD", 0)
    assert not held.holds
    alone = held.candidates(batch, 5)
    assert len(alone.typed) < len(c.typed) or sides == 0.5
    assert torch.equal(alone.typed[alone.group], c.typed[c.group])
    for name in ("pool", "excluded", "log_density"):
        assert torch.equal(getattr(alone, name), getattr(c, name))


@pytest.mark.parametrize("domain_range", [0, 20])
@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_what_is_drawn_ahead_is_what_is_drawn_for_each_step(toy: Dataset, sides: SidePolicy, domain_range: int) -> None:
    batches = Batches(toy.graph, size=24, sides=sides)
    ahead, alone = (_build(toy, pool=10, domain_range=domain_range)[1] for _ in range(2))
    ahead.foresee(batches.at)
    # In any order: a step that was not foreseen is where the next ones begin.
    for step in (0, 1, 2, 9, 10, 7, 31):
        c, own = ahead.candidates(batches.at(step), step), alone.candidates(batches.at(step), step)
        for name in ("pool", "typed", "group", "excluded", "log_density", "per_density"):
            assert torch.equal(getattr(c, name), getattr(own, name))
    assert torch.equal(c.per_density, (-c.log_density).exp() * ~c.excluded)
    # Another batch draws from what its own relations have.
    other = Batch.of(toy.graph.train[:9], False)
    assert torch.equal(ahead.candidates(other, 31).typed, alone.candidates(other, 31).typed)


def test_a_mixed_pool_holds_what_was_drawn_for_it_and_says_how_likely_it_was(toy: Dataset) -> None:
    sampler = {"name": "domain-range", "negatives": 3, "pool": 16, "domain_range": 30}
    sampler |= {"pool_sampler": {"name": "nscaching", "cache": 4}}
    trainer = build_trainer(make_config({"model": {"dim": 6}, "sampler": sampler, "device": "cpu"}), toy)
    assert isinstance(trainer.sampler, DomainRange)
    batch = Batch.of(toy.graph.train[:3], torch.tensor([False, True, False]))
    trace = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, 0).trace
    c, drawn = trace.candidates, set(trace.of_pool.ids.flatten().tolist())
    in_pool = [e in drawn for e in c.pool.tolist()]
    assert sum(in_pool) == min(len(drawn), 8)
    of_drawn = sum(in_pool) / len(drawn)
    of_others = (16 - sum(in_pool)) / (len(toy.graph.entities) - len(drawn))
    width = c.typed.shape[1]
    assert width == 30 // 5
    for b in range(len(batch)):
        r, head = int(batch.r[b]), bool(batch.head[b])
        members = {int(x[0 if head else 2]) for x in toy.graph.train if int(x[1]) == r}
        taken = min(len(members), width) / len(members)
        columns = [*c.pool.tolist(), *c.typed[c.group[b]].tolist()]
        for i, e in enumerate(columns):
            if i >= 16 and bool(c.excluded[b, i]):
                continue
            pi = of_drawn if e in drawn else of_others
            expected = 1 - (1 - pi) * (1 - taken) if e in members else pi
            assert c.log_density[b, i].exp().item() == pytest.approx(expected, rel=1e-5)


def test_a_pool_sampler_that_learns_is_trained_on_its_own_draws(toy: Dataset) -> None:
    inner = {"name": "kbgan", "candidates": 8, "pretrain": 2}
    sampler = {"name": "domain-range", "negatives": 3, "pool": 16, "pool_sampler": inner}
    trainer = build_trainer(make_config({"model": {"dim": 6}, "sampler": sampler, "device": "cpu"}), toy)
    trainer.sampler.pretrain(trainer.batch)
    before = {n: p.detach().clone() for n, p in trainer.sampler.named_parameters()}
    assert before
    trainer.step(0)
    assert all(not torch.equal(before[n], p) for n, p in trainer.sampler.named_parameters())


def test_there_is_nothing_to_train(toy: Dataset) -> None:
    model, sampler = _build(toy)
    assert not list(sampler.parameters())
    negatives = sampler.draw(model.lookup(_batch(toy)), model, 0)
    assert isinstance(negatives, OwnNegatives)
    assert negatives.views is None
    assert sampler.notes(_batch(toy)) == []
