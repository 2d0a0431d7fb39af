"""What samplers say of their own draws, against the draws: `proposal`, `serves` and `evidence` of every one."""

from __future__ import annotations

import pytest
import torch

from forms import FORMS, form_of, model_of
from mmrns.data.datasets import Dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.types import AllNegatives, Batch

STEPS = 120
WITHOUT_REPLACEMENT = ("mmrns", "mmrns-published", "domain-range")


@pytest.mark.parametrize("name", FORMS)
def test_draws_follow_the_proposal(toy: Dataset, name: str) -> None:
    options = form_of(name, 8)
    if options["name"] in ("mmrns", "domain-range"):
        # Some candidates of many, so that the proposal differs from step to step.
        options = {"domain_range": 8} | options | {"pool": 20}
    config = {"model": model_of(name), "sampler": options, "training": {"batch_size": 32}, "device": "cpu"}
    if options["name"] == "mmrns":
        # Its own would leave too few entities that are drawn often enough to be counted.
        config["objective"] = {"alpha": 0.5}
    trainer = build_trainer(make_config(config), toy)
    # What is trained at random is trained a little, so that it is not nearly uniform.
    with torch.no_grad():
        for parameter in trainer.sampler.parameters():
            parameter.mul_(3.0)
    batch = Batch.of(toy.graph.train[:24], torch.arange(24) >= 12)
    rows, everything = torch.tensor([2, 3, 4]), len(toy.graph.entities)
    counts = torch.zeros(3, everything, dtype=torch.float64)
    expected = torch.zeros_like(counts)
    for step in range(STEPS):
        with torch.no_grad():
            negatives = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, step)
            proposal = trainer.sampler.proposal(batch, negatives, rows)
        assert proposal is not None, f"define `proposal` of {name}, so that its draws can be explained and compared"
        torch.testing.assert_close(proposal.sum(1), torch.ones(3))
        assert (proposal >= 0).all()
        true = toy.graph.train_index.batch_contains(batch, torch.arange(everything))[rows]
        assert (proposal[true] < 1e-30).all()
        if isinstance(negatives, AllNegatives):
            return
        ids, mask = negatives.entities(len(batch))[rows], negatives.counts(len(batch))[rows]
        if options["name"] in WITHOUT_REPLACEMENT or "choice" in options:
            # Only the first is drawn from the proposal itself.
            ids, mask = ids[:, :1], mask[:, :1]
        counts.scatter_add_(1, ids, mask.double())
        expected += proposal.double() * mask.sum(1, keepdim=True)
    likely = expected > 1e-6
    assert (counts[~likely] == 0).all()
    # Entities that are seldom expected count together.
    often = expected >= 1.5
    for row in range(3):
        seen = torch.cat([counts[row, often[row]], counts[row, ~often[row]].sum()[None]])
        hoped = torch.cat([expected[row, often[row]], expected[row, ~often[row]].sum()[None]]).clamp(min=1e-9)
        statistic = ((seen - hoped) ** 2 / hoped).sum()
        freedom = len(seen) - 1
        assert freedom > 4
        assert statistic < freedom + 5 * (2 * freedom) ** 0.5, row


@pytest.mark.parametrize("name", FORMS)
def test_queries_of_train_are_served_and_evidence_fits(toy: Dataset, name: str) -> None:
    config = {"model": model_of(name), "sampler": form_of(name, 8), "device": "cpu"}
    trainer = build_trainer(make_config(config), toy)
    batch = trainer.batches.at(0)
    assert trainer.sampler.serves(batch).all()
    ids = torch.tensor([0, 7, 39])
    evidence = trainer.sampler.evidence(batch, ids, trainer.model)
    assert bool(evidence.maps) != bool(evidence.why_not)
    for values in evidence.similarities.values():
        assert values.shape == (len(batch), 3)
        known = values[~values.isnan()]
        assert (known.abs() <= 1 + 1e-5).all()
    assert set(evidence.weights) <= set(evidence.similarities)
