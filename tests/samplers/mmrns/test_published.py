from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.samplers.mmrns.published import MmrnsPublished
from mmrns.types import Batch, OwnNegatives

DIM = 6


def _build(toy: Dataset, features: Features | None = None, **options: object) -> tuple[Model, MmrnsPublished]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        chosen = toy.features if features is None else features
        settings = {"negatives": 4, "pool": 30, "width": 8, "gate_width": 9} | options
        return model, MmrnsPublished(toy.graph, chosen, model.spec, **settings)  # type: ignore[arg-type]


def _batch(toy: Dataset, n: int = 24) -> Batch:
    return Batch.of(toy.graph.train[:n], torch.arange(n) % 2 == 0)


def test_temperature_falls_as_scheduled(toy: Dataset) -> None:
    model, sampler = _build(toy, temperature=10.0)
    batch = _batch(toy)
    for step in (0, 1, 1000):
        trace = sampler.draw(model.lookup(batch), model, step).trace
        tau = 10 / (1 + math.log(step + 1))
        total = sum(torch.softmax(s / tau, 1) for s in trace.similarities)
        assert isinstance(total, Tensor)
        free = ~trace.true
        torch.testing.assert_close(trace.logits[free], total.log()[free])


def test_draws_are_distinct_and_not_true(toy: Dataset) -> None:
    model, sampler = _build(toy, negatives=6)
    batch = _batch(toy)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert isinstance(negatives, OwnNegatives)
    assert all(len(set(row)) == 6 for row in negatives.ids.tolist())
    assert not negatives.trace.true.gather(1, negatives.trace.positions).any()


def test_gradients_of_the_contrastive_terms_reach_the_model(toy: Dataset) -> None:
    model, sampler = _build(toy)
    lookup = model.lookup(_batch(toy))
    negatives = sampler.draw(lookup, model, 0)
    s_neg = model.score_against(lookup, negatives)
    loss = sampler.loss(lookup, negatives, s_neg[:, 0], s_neg.detach(), model, 0)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert _build(toy, loss_rate=0.0)[1].loss(lookup, negatives, s_neg[:, 0], s_neg, model, 0) == 0.0


def test_options_start_as_in_the_authors_code() -> None:
    parameters = inspect.signature(MmrnsPublished).parameters
    expected = {"negatives": 20, "pool": 1500, "temperature": 10.0, "loss_rate": 100.0, "width": 50, "gate_width": 100}
    assert {name: parameters[name].default for name in [*expected, "alpha"]} == expected | {"alpha": 1.0}
