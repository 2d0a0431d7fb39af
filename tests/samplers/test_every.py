"""Every entity as a negative, alone and in batches of queries."""

from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer


def _trainer(toy: Dataset, method: str, **training: object) -> Trainer:
    values = {
        "model": {"dim": 8, "scorer": "DistMult"},
        "method": method,
        "training": {"batch_size": 16, "lr": 0.05, **training},
        "device": "cpu",
    }
    return build_trainer(make_config(values), toy)


@pytest.mark.parametrize("method", ["1-vs-all", "k-vs-all"])
def test_the_mask_is_what_is_not_true_in_train(toy: Dataset, method: str) -> None:
    trainer = _trainer(toy, method)
    known = {tuple(row) for row in toy.graph.train.tolist()}
    for step in (0, 1):
        batch = trainer.batches.at(step)
        mask = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, step).mask
        assert mask is not None
        for row in range(len(batch)):
            h, r, t = (int(x[row]) for x in (batch.h, batch.r, batch.t))
            for e in range(len(toy.graph.entities)):
                triple = (e, r, t) if batch.head[row] else (h, r, e)
                assert bool(mask[row, e]) is (triple not in known)


def test_one_vs_all_is_the_cross_entropy_without_other_answers(toy: Dataset) -> None:
    trainer, other = _trainer(toy, "1-vs-all"), _trainer(toy, "1-vs-all")
    batch = trainer.batches.at(3)
    loss = trainer.step(3)
    scores = other.model.score_all(batch)
    rows = torch.arange(len(batch))
    mask = other.sampler.draw(other.model.lookup(batch), other.model, 3).mask
    assert mask is not None
    mask[rows, batch.target] = True
    expected = torch.nn.functional.cross_entropy(scores.masked_fill(~mask, -torch.inf), batch.target, reduction="none")
    torch.testing.assert_close(loss, (batch.weight * expected).sum() / batch.weight.sum())


def test_k_vs_all_is_the_cross_entropy_of_all_answers(toy: Dataset) -> None:
    trainer, other = _trainer(toy, "k-vs-all"), _trainer(toy, "k-vs-all")
    batch = trainer.batches.at(1)
    assert batch.head.all()
    loss = trainer.step(1)
    scores = other.model.score_all(batch)
    true = torch.zeros_like(scores)
    true[toy.graph.train_index.batch_targets(batch)] = 1.0
    assert (true.sum(1) > 1).any()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, true / true.sum(1, keepdim=True)))


@pytest.mark.parametrize("method", ["1-vs-all", "k-vs-all"])
def test_training_lowers_the_loss(toy: Dataset, method: str) -> None:
    trainer = _trainer(toy, method)
    losses = [float(trainer.step(step)) for step in range(120)]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"leave training\.sparse out"):
        make_config({"sampler": {"name": "1-vs-all"}, "training": {"sparse": True}})
    with pytest.raises(UsageError, match="use --method k-vs-all"):
        make_config({"sampler": {"name": "uniform"}, "objective": {"loss": "k-vs-all"}})
