from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.nscaching import NSCaching, first_of_each
from mmrns.training.trainer import Trainer
from mmrns.types import Batch, OwnNegatives


def _trainer(toy: Dataset, **options: object) -> Trainer:
    sampler = {"name": "nscaching", "negatives": 5, "cache": 6, "candidates": 8, **options}
    training = {"batch_size": 64, "lr": 0.01}
    return build_trainer(make_config({"model": {"dim": 6}, "sampler": sampler, "training": training}), toy)


def _cache(trainer: Trainer) -> torch.Tensor:
    sampler = trainer.sampler
    assert isinstance(sampler, NSCaching)
    return sampler.cache


def _is_true(toy: Dataset, cache: torch.Tensor) -> torch.Tensor:
    anchor, r, head = (part[:, None].expand(-1, cache.shape[1]) for part in toy.graph.train_index.queries())
    ids = cache[:-1].long()
    return toy.graph.train_index.contains(torch.where(head, ids, anchor), r, torch.where(head, anchor, ids))


def test_no_cache_ever_holds_a_true_entity(toy: Dataset) -> None:
    trainer = _trainer(toy)
    for step in range(20):
        trainer.step(step)
        assert not _is_true(toy, _cache(trainer)).any()
        assert (_cache(trainer)[-1] == 0).all()


def test_caches_hold_harder_entities_after_training(toy: Dataset) -> None:
    trainer = _trainer(toy, temperature=0.05)
    fresh = _cache(trainer).clone()
    for step in range(40):
        trainer.step(step)
    anchor, r, head = toy.graph.train_index.queries()
    batch = Batch.of(torch.stack([anchor, r, anchor], dim=1), head)
    with torch.no_grad():
        easy, hard = (
            trainer.model.score_against(trainer.model.lookup(batch), OwnNegatives(cache[:-1].long())).mean(1)
            for cache in (fresh, _cache(trainer))
        )
    for side in (False, True):
        assert hard[head == side].mean() > easy[head == side].mean()


def test_a_refresh_keeps_each_entity_by_the_law_of_its_score(toy: Dataset) -> None:
    # One of two candidates stays: with probability softmax(score).
    graph = toy.graph
    torch.manual_seed(0)
    model = Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))
    sampler = NSCaching(graph, toy.features, model.spec, negatives=1, cache=1, candidates=1)
    batch = Batch.of(graph.train[:1], torch.tensor([False]))
    negatives = sampler.draw(model.lookup(batch), model, 0)
    place = sampler.index.places(batch)
    candidates = torch.tensor([[7, 31]])
    probability = torch.softmax(model.score_against(model.lookup(batch), OwnNegatives(candidates)), dim=1)[0, 0].item()
    n, kept = 4000, 0
    none = torch.zeros(1)
    for step in range(n):
        traced = OwnNegatives(negatives.ids, trace=(place, candidates))
        sampler.loss(model.lookup(batch), traced, none, none[:, None], model, step)
        kept += int(sampler.cache[place, 0] == 7)
    assert abs(kept / n - probability) < 5 * (probability * (1 - probability) / n) ** 0.5


def test_draws_are_uniform_over_the_cache(toy: Dataset) -> None:
    model = _trainer(toy).model
    sampler = NSCaching(toy.graph, toy.features, model.spec, negatives=30_000, cache=4)
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) % 2 == 0)
    ids = sampler.draw(model.lookup(batch), model, 0).ids
    assert ids is not None
    for row, cached in zip(ids, sampler.cache[sampler.index.places(batch)], strict=True):
        for entity in cached.unique():
            share = (cached == entity).double().mean()
            found = (row == entity).double().mean()
            assert abs(found - share) < 5 * (share * (1 - share) / ids.shape[1]) ** 0.5


@pytest.mark.parametrize("lazy", [0, 1, 2])
def test_lazy_epochs_leave_the_caches_alone(toy: Dataset, lazy: int) -> None:
    trainer = _trainer(toy, lazy=lazy)
    per_epoch = trainer.batches.per_epoch
    for epoch in range(4):
        before = _cache(trainer).clone()
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            trainer.step(step)
        trainer.sampler.end_epoch(epoch)
        assert torch.equal(before, _cache(trainer)) == (epoch % (lazy + 1) != 0)


def test_a_resume_knows_the_epoch(toy: Dataset) -> None:
    trainer, resumed = _trainer(toy, lazy=1), _trainer(toy, lazy=1)
    trainer.sampler.end_epoch(0)
    resumed.sampler.load_state_dict(trainer.sampler.state_dict())
    # The second epoch leaves the caches alone, the third does not.
    for refreshes in (False, True):
        before = _cache(resumed).clone()
        resumed.step(0)
        resumed.step(1)
        assert torch.equal(before, _cache(resumed)) != refreshes
        resumed.sampler.end_epoch(1)


def test_queries_of_train_are_served_and_no_others(toy: Dataset) -> None:
    sampler, graph = _trainer(toy).sampler, toy.graph
    for head in (False, True):
        anchor, r = (torch.arange(n) for n in (len(graph.entities), len(graph.relations)))
        pairs = torch.cartesian_prod(anchor, r)
        known = {(t[2 if head else 0], t[1]) for t in graph.train.tolist()}
        batch = Batch.of(torch.stack([pairs[:, 0], pairs[:, 1], pairs[:, 0]], 1), torch.full((len(pairs),), head))
        expected = [(a, r) in known for a, r in zip(batch.anchor.tolist(), batch.r.tolist(), strict=True)]
        assert sampler.serves(batch).tolist() == expected
        assert len(set(expected)) == 2


def test_first_of_each() -> None:
    assert first_of_each(torch.tensor([3, 1, 3, 1, 0])).tolist() == [True, True, False, False, True]


def test_the_temperature_sharpens_the_refresh(toy: Dataset) -> None:
    for temperature, sharp in ((1e-5, True), (1e5, False)):
        trainer = _trainer(toy, temperature=temperature)
        model, sampler = trainer.model, trainer.sampler
        with torch.no_grad():
            model.entity.weight.mul_(20.0)
        batch = Batch.of(toy.graph.train[:1], torch.zeros(1, dtype=torch.bool))
        lookup = model.lookup(batch)
        drawn = sampler.draw(lookup, model, 0)
        place, candidates = drawn.trace
        s_pos, s_neg = model.score(lookup), model.score_against(lookup, drawn)
        sampler.loss(lookup, drawn, s_pos, s_neg, model, 0)
        kept = _cache(trainer)[place].long()
        with torch.no_grad():
            found, among = (model.score_against(lookup, OwnNegatives(ids)) for ids in (kept, candidates))
        highest = among.topk(6, dim=1).values
        assert torch.equal(found.sort(descending=True).values, highest) == sharp
