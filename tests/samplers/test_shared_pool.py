from __future__ import annotations

import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.model import Model
from mmrns.nn.scorers import DistMult, TransE
from mmrns.samplers.shared_pool import SharedPool
from mmrns.types import Batch, OwnNegatives


def test_draws_are_uniform_over_all_entities(toy: Dataset) -> None:
    graph = toy.graph
    model = Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))
    sampler = SharedPool(graph, toy.features, model.spec, negatives=40_000)
    batch = Batch.of(graph.train[:6], torch.arange(6) % 2 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert negatives.ids is not None
    counts = torch.bincount(negatives.ids, minlength=len(graph.entities)).double()
    expected = counts.sum() / len(counts)
    degrees = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_a_row_leaves_out_what_is_true_for_it_and_nothing_else(toy: Dataset) -> None:
    graph = toy.graph
    model = Model(DistMult(4, 1.0), len(graph.entities), len(graph.relations))
    batch = Batch.of(graph.train[:30], torch.arange(30) % 2 == 0)
    negatives = SharedPool(graph, toy.features, model.spec, negatives=200).draw(model.lookup(batch), model, 0)
    assert negatives.ids is not None
    assert negatives.mask is not None
    true = torch.zeros(len(batch), len(graph.entities), dtype=torch.bool)
    true[graph.train_index.batch_targets(batch)] = True
    assert torch.equal(negatives.mask, ~true[:, negatives.ids])
    # The rows are scored as if each had drawn them itself.
    own = OwnNegatives(negatives.ids.expand(len(batch), -1))
    torch.testing.assert_close(
        model.score_against(model.lookup(batch), negatives), model.score_against(model.lookup(batch), own)
    )
