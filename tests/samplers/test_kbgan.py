from __future__ import annotations

import torch

from mmrns.data.datasets import Dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.kbgan import Kbgan
from mmrns.training.trainer import Trainer
from mmrns.types import Batch, OwnNegatives


def _trainer(toy: Dataset, **options: object) -> tuple[Trainer, Kbgan]:
    sampler = {"name": "kbgan", "negatives": 5, "candidates": 8, **options}
    values = {"model": {"dim": 6}, "sampler": sampler, "training": {"batch_size": 64, "lr": 0.01, "sampler_lr": 0.05}}
    trainer = build_trainer(make_config(values), toy)
    assert isinstance(trainer.sampler, Kbgan)
    return trainer, trainer.sampler


def test_draws_follow_the_generator(toy: Dataset) -> None:
    trainer, sampler = _trainer(toy, negatives=20_000, temperature=0.3)
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) % 2 == 0)
    negatives = sampler.draw(trainer.model.lookup(batch), trainer.model, 0)
    candidates = sampler.candidates(batch, 0).ids
    assert negatives.ids is not None
    assert candidates is not None
    with torch.no_grad():
        q = torch.softmax(
            sampler.generator.score_against(sampler.generator.lookup(batch), OwnNegatives(candidates)) / 0.3, dim=1
        )
    for row, among, probability in zip(negatives.ids, candidates, q, strict=True):
        for entity in among.unique():
            p = probability[among == entity].sum().double()
            assert abs((row == entity).double().mean() - p) < 5 * (p * (1 - p) / len(row)) ** 0.5


def test_the_generator_learns_what_the_model_scores_high(toy: Dataset) -> None:
    trainer, sampler = _trainer(toy, negatives=20, candidates=30)
    batch = trainer.batches.at(0)

    def reward() -> float:
        with torch.no_grad():
            drawn = [sampler.draw(trainer.model.lookup(batch), trainer.model, 1000 + i) for i in range(10)]
            return float(
                torch.stack([trainer.model.score_against(trainer.model.lookup(batch), d).mean() for d in drawn]).mean()
            )

    before = reward()
    optimizer = torch.optim.Adam(sampler.parameters(), 0.05)
    for step in range(60):
        negatives = sampler.draw(trainer.model.lookup(batch), trainer.model, step)
        s_neg = trainer.model.score_against(trainer.model.lookup(batch), negatives)
        optimizer.zero_grad()
        sampler.loss(trainer.model.lookup(batch), negatives, s_neg[:, 0], s_neg, trainer.model, step).backward()
        optimizer.step()
    assert reward() > before + 0.05
    # The model is rewarded for nothing.
    assert all(p.grad is None for p in trainer.model.parameters())


def test_pretraining_teaches_the_generator_the_graph(toy: Dataset) -> None:
    trainer, sampler = _trainer(toy, pretrain=150)
    batch = trainer.batches.at(0)
    others = sampler.candidates(batch, 99)

    def advantage() -> float:
        with torch.no_grad():
            true, false = (
                sampler.generator.score(sampler.generator.lookup(batch)),
                sampler.generator.score_against(sampler.generator.lookup(batch), others),
            )
            return float((true[:, None] > false).double().mean())

    before, model = advantage(), {k: v.clone() for k, v in trainer.model.state_dict().items()}
    sampler.pretrain(trainer.batch)
    assert advantage() > max(0.8, before)
    assert all(torch.equal(model[k], v) for k, v in trainer.model.state_dict().items())
    assert all(p.grad is None for p in sampler.parameters())


def test_the_temperature_sharpens_the_draw(toy: Dataset) -> None:
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) % 2 == 0)
    for temperature in (1e-6, 1e6):
        trainer, sampler = _trainer(toy, temperature=temperature)
        with torch.no_grad():
            _, q, candidates = sampler.draw(trainer.model.lookup(batch), trainer.model, 0).trace
        distinct = torch.tensor([len(row.unique()) for row in candidates])
        if temperature < 1:
            # Of an entity that is a candidate twice each place has half.
            assert (q.amax(1) > 0.3).all()
            assert ((q > 0.01).sum(1) < distinct).all()
        else:
            torch.testing.assert_close(q, torch.full_like(q, 1 / 8), rtol=1e-3, atol=1e-3)
