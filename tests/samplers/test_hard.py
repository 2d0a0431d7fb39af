from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.samplers.explanation import effective_sample_size
from mmrns.samplers.hard import Hard
from mmrns.types import Batch


def _model(graph: KnowledgeGraph) -> Model:
    torch.manual_seed(0)
    return Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))


def _sampler(graph: KnowledgeGraph, features: Features, **options: Any) -> Hard:
    return Hard(graph, features, _model(graph).spec, **options)


def _small(n: int) -> KnowledgeGraph:
    none = torch.empty(0, 3, dtype=torch.int64)
    triples = torch.tensor([[0, 0, 1], [0, 0, 2], [3, 0, 0]])
    return KnowledgeGraph(Vocabulary([f"{i:02d}" for i in range(n)]), Vocabulary(["r"]), triples, none, none)


def test_top_takes_the_highest_of_the_pool(toy: Dataset) -> None:
    model = _model(toy.graph)
    sampler = _sampler(toy.graph, toy.features, negatives=4, pool=100)
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 2 == 0)
    ids = sampler.draw(model.lookup(batch), model, 0).ids
    assert ids is not None
    scores = model.score_all(batch)
    scores[toy.graph.train_index.batch_targets(batch)] = -torch.inf
    assert torch.equal(ids, scores.topk(4, dim=1).indices)


@pytest.mark.parametrize("choice", ["softmax", "corrected"])
def test_draws_follow_plackett_luce(choice: str) -> None:
    graph, model = _small(7), _model(_small(7))
    sampler = _sampler(graph, Features(), negatives=2, pool=7, choice=choice, alpha=1.3)
    # The same row again and again: each has a noise of its own.
    batch = Batch.of(graph.train[:1].expand(600, -1), torch.zeros(600, dtype=torch.bool))
    weight = (1.3 * model.score_all(batch)[0]).detach().double().exp()
    weight[[1, 2]] = 0
    n, found = 10 * len(batch), dict.fromkeys(itertools.permutations([0, 3, 4, 5, 6], 2), 0)
    for step in range(10):
        ids = sampler.draw(model.lookup(batch), model, step).ids
        assert ids is not None
        for row in ids.tolist():
            found[tuple(row)] += 1
    total = weight.sum()
    chi2 = 0.0
    for (a, b), count in found.items():
        expected = float(n * weight[a] / total * weight[b] / (total - weight[a]))
        chi2 += (count - expected) ** 2 / expected
    degrees = len(found) - 1
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_the_pool_reaches_every_entity_as_often(toy: Dataset) -> None:
    graph = toy.graph
    model = _model(graph)
    sampler = _sampler(graph, toy.features, negatives=8, pool=8)
    batch = Batch.of(graph.test[-1:], torch.tensor([False]))
    n, counts = 1500, torch.zeros(len(graph.entities))
    for step in range(n):
        ids = sampler.draw(model.lookup(batch), model, step).ids
        assert ids is not None
        assert len(ids.unique()) == 8
        counts[ids[0]] += 1
    share = 8 / len(counts)
    assert ((counts / n - share).abs() < 5 * (share * (1 - share) / n) ** 0.5).all()


def test_the_correction_makes_sums_over_the_draws_unbiased() -> None:
    graph, model = _small(9), _model(_small(9))
    sampler = _sampler(graph, Features(), negatives=3, pool=9, choice="corrected")
    batch = Batch.of(graph.train[:1].expand(400, -1), torch.zeros(400, dtype=torch.bool))
    value = model.score_all(batch)[0].detach().double()
    others = torch.tensor([0, *range(3, 9)])
    estimates = []
    for step in range(10):
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert negatives.ids is not None
        assert negatives.log_weight is not None
        estimates.append((value[negatives.ids] * negatives.log_weight.double().exp()).sum(1))
    found = torch.cat(estimates)
    assert (found.mean() - value[others].sum()).abs() < 5 * found.std() / len(found) ** 0.5


@pytest.mark.parametrize("choice", ["top", "softmax", "corrected"])
def test_a_row_with_too_few_candidates_counts_those_it_has(choice: str) -> None:
    graph, model = _small(4), _model(_small(4))
    sampler = _sampler(graph, Features(), negatives=4, pool=4, choice=choice)
    batch = Batch.of(graph.train, torch.zeros(3, dtype=torch.bool))
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert negatives.mask is not None
    assert negatives.mask.sum(1).tolist() == [2, 2, 3]
    assert negatives.log_weight is None or torch.isfinite(negatives.log_weight).all()
    assert torch.isfinite(model.score_against(model.lookup(batch), negatives)).all()


def test_the_proposal_is_even_over_what_top_takes_and_sharp_where_alpha_is_large(toy: Dataset) -> None:
    model = _model(toy.graph)
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) > 2)
    everything, sizes = len(toy.graph.entities), {}
    for choice, alpha in (("top", 1.0), ("softmax", 0.0), ("softmax", 2.0)):
        sampler = _sampler(toy.graph, toy.features, negatives=5, pool=30, choice=choice, alpha=alpha)
        negatives = sampler.draw(model.lookup(batch), model, 0)
        sizes[choice, alpha] = effective_sample_size(sampler.proposal(batch, negatives, torch.arange(6)))
    torch.testing.assert_close(sizes["top", 1.0], torch.full((6,), 5 / everything))
    assert (sizes["softmax", 0.0] * everything).round().tolist() == pytest.approx(
        (sizes["softmax", 0.0] * everything).tolist(), abs=1e-3
    )
    assert (sizes["softmax", 2.0] < sizes["softmax", 0.0]).all()


def test_only_corrected_has_importance_weights(toy: Dataset) -> None:
    model = _model(toy.graph)
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) > 2)
    for choice, weighed in (("top", False), ("softmax", False), ("corrected", True)):
        sampler = _sampler(toy.graph, toy.features, negatives=5, pool=30, choice=choice)
        negatives = sampler.draw(model.lookup(batch), model, 0)
        assert (negatives.log_weight is not None) == weighed
        if negatives.log_weight is not None:
            assert negatives.log_weight.std(1).min() > 0
