"""What is compared with every entity holds no more than `training.memory_mb`, and learns the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from forms import convert
from live_memory import LiveMemory
from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.evaluation.hardness import measure
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer
from mmrns.types import AllNegatives, Batch, Negatives

LOSSES = Loss.registry.names()


def trainer_of(dataset: Dataset, loss: str, scorer: str = "TransE", **sections: dict[str, Any]) -> Trainer:
    values: dict[str, Any] = {
        "method": "k-vs-all" if Loss.registry.get(loss).needs_all else "1-vs-all",
        "model": {"scorer": scorer, "dim": 6},
        "objective": {"loss": loss, "l3": 0.1},
        "training": {"batch_size": 32, "optimizer": "adagrad"},
    }
    for section, given in sections.items():
        values[section] |= given
    return build_trainer(make_config({**values, "device": "cpu"}), dataset)


def gradients(trainer: Trainer, step: int) -> dict[str, torch.Tensor]:
    loss = trainer.step(step)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return found | {"loss": loss}


def alike(dataset: Dataset, parts: float, **given: Any) -> None:
    """The gradients of whole batches and of parts are the same but for rounding, that of the rows' float32 weights."""
    whole, split = trainer_of(dataset, **given), trainer_of(dataset, **given)
    for trainer in (whole, split):
        convert(trainer, torch.float64)
    split.memory_mb = parts
    assert 1 <= split.rows_at_once < 16
    for step in range(2):
        expected = gradients(whole, step)
        found = gradients(split, step)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("modalities", [[], ["image", "text"]])
def test_gradients_are_those_of_the_whole_batch(toy: Dataset, loss: str, modalities: list[str]) -> None:
    alike(toy, 0.02, loss=loss, model={"modalities": modalities, "reciprocal": True})


@pytest.mark.parametrize("loss", LOSSES)
def test_so_they_are_where_each_view_has_a_loss(toy: Dataset, loss: str) -> None:
    alike(toy, 0.05, loss=loss, model={"modalities": ["image", "text"], "mixture": "residual"})


@pytest.mark.parametrize("mixture", Mixture.registry.names())
@pytest.mark.parametrize("scorer", ["TransE", "DistMult"])
def test_so_they_are_of_every_mixture(toy: Dataset, mixture: str, scorer: str) -> None:
    """Also where it makes vectors of views that are projected, in each part anew."""
    model = {"modalities": ["image", "text"], "mixture": mixture}
    alike(toy, 0.05, loss="cross-entropy", scorer=scorer, model=model)


@pytest.mark.parametrize("scorer", Scorer.registry.names())
def test_so_they_are_of_every_scorer_and_of_both_sides_at_once(toy: Dataset, scorer: str) -> None:
    alike(toy, 0.02, loss="cross-entropy", scorer=scorer, training={"sides": "bernoulli"})


def test_the_samplers_own_term_stays_apart_in_parts(toy: Dataset) -> None:
    trainer = trainer_of(toy, "cross-entropy")
    trainer.memory_mb = 0.01
    assert trainer.rows_at_once < 16
    lookup = trainer.model.lookup(trainer.batch(0))
    bare = trainer.compared(lookup, 0)[0]
    assert bare.sampler == 0.0
    trainer.sampler.loss = lambda *given: torch.tensor(3.0)  # type: ignore[method-assign]
    found = trainer.compared(lookup, 0)[0]
    assert float(found.sampler) == pytest.approx(3.0)
    torch.testing.assert_close(found.model, bare.model)


@pytest.fixture(scope="module")
def wide(toy: Dataset) -> Dataset:
    """So many entities that their scores are what a step holds."""
    n, g = 4000, torch.Generator().manual_seed(0)
    train = torch.stack([torch.randint(size, (400,), generator=g) for size in (n, 4, n)], dim=1)
    names = Vocabulary([f"e{i:04d}" for i in range(n)]), Vocabulary([f"r{i}" for i in range(4)])
    return replace(toy, graph=KnowledgeGraph(*names, train, train[:5], train[:5]), features=Features())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scorer", ["DistMult", "PairRE"])
def test_the_peak_is_bounded(wide: Dataset, scorer: str, loss: str) -> None:
    peaks: list[float] = []
    for bound in (100_000, 4):
        trainer = trainer_of(wide, loss, scorer, training={"batch_size": 128, "memory_mb": bound})
        trainer.step(0)
        with LiveMemory() as memory:
            trainer.step(1)
        peaks.append(memory.peak / 2**20)
    # The gradients of the tables are there either way.
    tables = sum(p.numel() * p.element_size() for p in trainer.model.parameters()) / 2**20
    assert peaks[0] > 6
    assert peaks[1] < 4 + 3 * tables


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mixture", Mixture.registry.names())
def test_the_peak_is_bounded_with_several_views(wide: Dataset, mixture: str, loss: str) -> None:
    g = torch.Generator().manual_seed(1)
    row = torch.arange(4000).masked_fill_(torch.rand(4000, generator=g) < 0.2, -1)
    features = {
        name: Modality(torch.randn(4000, 1, 3, generator=g), torch.ones(4000, 1, dtype=torch.bool), row)
        for name in ("image", "text")
    }
    seen = replace(wide, features=Features(features))
    model = {"modalities": ["image", "text"], "mixture": mixture}
    peaks: list[float] = []
    for bound in (100_000, 4):
        trainer = trainer_of(seen, loss, "DistMult", model=model, training={"batch_size": 128, "memory_mb": bound})
        trainer.step(0)
        with LiveMemory() as memory:
            trainer.step(1)
        peaks.append(memory.peak / 2**20)
    vectors = 3 * 4000 * 6 * 4 / 2**20
    assert peaks[0] > 6
    assert peaks[1] < 4 + 2 * vectors


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mixture", [None, "gated", "residual"])
@pytest.mark.parametrize("scorer", ["DistMult", "TransE"])
def test_a_batch_is_whole_where_its_loss_by_blocks_fits(
    wide: Dataset, monkeypatch: pytest.MonkeyPatch, scorer: str, mixture: str | None, loss: str
) -> None:
    """Within the bound that is just enough, which is a fraction of what the loss of a part is counted with."""
    g = torch.Generator().manual_seed(1)
    features = {
        name: Modality(torch.randn(4000, 1, 3, generator=g), torch.ones(4000, 1, dtype=torch.bool), torch.arange(4000))
        for name in ("image", "text")
    }
    seen = replace(wide, features=Features(features if mixture else {}))
    model = {"modalities": ["image", "text"], "mixture": mixture} if mixture else {}
    trainer = trainer_of(seen, loss, scorer, model=model, training={"batch_size": 128})
    trainer.memory_mb = 1
    in_parts = trainer.rows_at_once
    monkeypatch.setattr("mmrns.nn.blocks._PAIRS", 2**14)
    bounds = [bound / 2 for bound in range(2, 200)]

    def whole(bound: float) -> bool:
        trainer.memory_mb = bound
        return trainer.rows_at_once >= 128

    needed = next(bound for bound in bounds if whole(bound))
    assert needed < 0.7 * 128 / in_parts
    trainer.memory_mb = needed
    trainer.step(0)
    with LiveMemory() as memory:
        trainer.step(1)
    tables = sum(p.numel() * p.element_size() for p in trainer.model.parameters()) / 2**20
    vectors = len(trainer.model.views) * 4000 * 6 * 4 / 2**20
    assert memory.peak / 2**20 < needed + 3 * tables + 2 * vectors


def test_what_fits_is_one_part(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(toy, "cross-entropy")
    assert trainer.rows_at_once > 32
    calls: list[int] = []
    compare = Trainer.compare
    monkeypatch.setattr(Trainer, "compare", lambda self, lookup, *more: calls.append(1) or compare(self, lookup, *more))
    trainer.step(0)
    assert len(calls) == 1
    trainer.memory_mb = math.inf
    assert trainer.rows_at_once > 10**9
    # Whatever draws is never in parts.
    drawing = build_trainer(make_config({"method": "uniform", "training": {"memory_mb": 1}, "device": "cpu"}), toy)
    drawing.memory_mb = 1e-9
    assert drawing.rows_at_once > 10**9


def test_a_watcher_is_told_of_the_last_part(toy: Dataset) -> None:
    trainer = trainer_of(toy, "cross-entropy")
    trainer.memory_mb = 0.01
    size = trainer.rows_at_once
    told: list[tuple[Batch, Negatives]] = []
    trainer.step(0, lambda batch, negatives: told.append((batch, negatives)))
    ((batch, negatives),) = told
    assert 0 < len(batch) <= size
    assert isinstance(negatives, AllNegatives)
    assert negatives.mask is not None
    assert torch.equal(~negatives.mask, toy.graph.train_index.batch_mask(batch))
    whole = trainer.batches.at(0)
    assert torch.equal(batch.h, whole.h[-len(batch) :])
    record = measure(trainer.model, trainer.sampler, batch, negatives, toy.graph.train_index, toy.graph.valid_index)
    assert record["effective_sample_size"] is not None
