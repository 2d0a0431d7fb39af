from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.samplers.inbatch import InBatch
from mmrns.training.batches import Batches
from mmrns.types import Batch, SidePolicy


def _sampler(toy: Dataset, **options: int | bool) -> tuple[InBatch, Model]:
    model = Model(TransE(4, 1.0), len(toy.graph.entities), len(toy.graph.relations))
    return InBatch(toy.graph, toy.features, model.spec, **options), model


def test_negatives_are_the_targets_of_other_rows_and_never_true(toy: Dataset) -> None:
    sampler, model = _sampler(toy, negatives=100)
    batch = Batch.of(toy.graph.train[:40], torch.arange(40) % 3 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    ids, mask = negatives.ids, negatives.mask
    assert ids is not None
    assert mask is not None
    assert ids.tolist() == sorted(batch.target.tolist())
    true = torch.zeros(len(batch), len(toy.graph.entities), dtype=torch.bool)
    true[toy.graph.train_index.batch_targets(batch)] = True
    assert torch.equal(mask, ~true[:, ids])


def test_a_row_that_train_does_not_hold_is_not_its_own_negative(toy: Dataset) -> None:
    sampler, model = _sampler(toy)
    batch = Batch.of(toy.graph.test, torch.zeros(len(toy.graph.test), dtype=torch.bool))
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert negatives.ids is not None
    assert negatives.mask is not None
    assert not negatives.mask[negatives.ids == batch.target[:, None]].any()


@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_the_importance_weights_are_of_the_proposal(toy: Dataset, sides: SidePolicy) -> None:
    sampler, model = _sampler(toy, negatives=8)
    batches = Batches(toy.graph, size=32, sides=sides)
    n = len(toy.graph.entities)
    counts, expected = torch.zeros(2, n), torch.zeros(2, n)
    for step in range(600):
        batch = batches.at(step)
        negatives = sampler.draw(model.lookup(batch), model, step)
        assert negatives.ids is not None
        assert negatives.log_weight is not None
        if len(batch) < 32:
            continue
        side = 0 if sides == "bernoulli" else step % 2
        counts[side] += torch.bincount(negatives.ids, minlength=n)
        q = sampler.frequency[2] if sides == "bernoulli" else sampler.frequency[side]
        torch.testing.assert_close((-negatives.log_weight[0]).exp(), q[negatives.ids])
        expected[side] += len(negatives.ids) * q
    for found, mean in zip(counts, expected, strict=True):
        # Every entity that is on the side in train is within reach, the first and the last too, and no other is.
        assert torch.equal(found > 0, mean > 0)
        some = mean > 0
        degrees = max(int(some.sum()) - 1, 1)
        # Batches are cut from permutations, so that the counts vary less than independent draws would.
        assert ((found - mean)[some] ** 2 / mean[some]).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_the_uncorrected_form_has_no_importance_weights(toy: Dataset) -> None:
    sampler, model = _sampler(toy, corrected=False)
    assert sampler.draw(model.lookup(Batch.of(toy.graph.train[:9], torch.arange(9) > 4)), model, 0).log_weight is None
