"""An entity whose tokens are masked, whose row is absent, or whose modality is dropped is the same: it lacks it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmrns
from mmrns.data.datasets import Dataset, load_dataset
from mmrns.evaluation.ranking import rank
from mmrns.nn.mixtures import Mixture
from mmrns.runs.build import build_dataset, build_model, build_sampler
from mmrns.runs.config import make_config
from mmrns.types import Batch

CONFIG: dict[str, Any] = {
    "model": {"dim": 6, "modalities": ["text", "image"]},
    "objective": {"gamma": 3.0},
    "sampler": {"name": "mmrns", "negatives": 6, "pool": 20, "domain_range": 20, "discount": 0.25},
    "training": {"steps": 20, "batch_size": 64, "evaluate_every": 10, "lr": 0.01},
    "data": {"drop_modality": 0.3},
    "seed": 3,
    "device": "cpu",
}


class Notes(mmrns.Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, message: str) -> None:
        self.notes.append(message)


def with_config(folder: Path, dropped: float) -> dict[str, Any]:
    return {**CONFIG, "data": {"dataset": str(folder), "drop_modality": dropped}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import write_toy

    return write_toy(tmp_path_factory.mktemp("whole") / "toy")


@pytest.fixture(scope="module")
def dropped(whole: Path) -> Dataset:
    """The dataset as a run with `data.drop_modality` sees it."""
    return build_dataset(make_config(with_config(whole, 0.3)))


def rewritten(whole: Path, dropped: Dataset, way: str, folder: Path) -> Path:
    """A copy of the folder whose files say themselves what `dropped` lacks."""
    shutil.copytree(whole, folder)
    for name, modality in dropped.features.items():
        path = folder / "features" / f"{name}.safetensors"
        tensors, names = load_file(path), path.with_suffix(".entities").read_text().splitlines()
        lacks = ~modality.present[dropped.graph.entities.find(pl.Series(names))]
        assert 0 < lacks.sum() < len(names)
        if way == "removed":
            tensors = {key: tensor[~lacks] for key, tensor in tensors.items()}
            names = [entity for entity, lack in zip(names, lacks.tolist(), strict=True) if not lack]
        else:
            tensors["mask"][lacks] = False
            tensors["values"][lacks] = 99.0
        save_file(tensors, path)
        path.with_suffix(".entities").write_text("".join(f"{entity}\n" for entity in names))
    return folder


@pytest.fixture(scope="module", params=["removed", "masked"])
def other(request: pytest.FixtureRequest, whole: Path, dropped: Dataset, tmp_path_factory: pytest.TempPathFactory):
    folder = rewritten(whole, dropped, request.param, tmp_path_factory.mktemp(request.param) / "toy")
    return load_dataset(folder)


def parts(dataset: Dataset, mixture: str = "gated") -> tuple[Any, Any, Batch]:
    config = make_config({**CONFIG, "model": {**CONFIG["model"], "mixture": mixture}})
    model = build_model(config, dataset)
    sampler = build_sampler(config, dataset, model)
    h, r, t = dataset.graph.train[:48].T
    batch = Batch.of(torch.stack([h, r, t], 1), torch.arange(48) % 2 == 0)
    return model, sampler, batch


def test_the_features_are_the_same(dropped: Dataset, other: Dataset) -> None:
    ids = torch.arange(len(dropped.graph.entities))
    for name, modality in dropped.features.items():
        assert modality.covered == other.features[name].covered
        for a, b in zip(modality.gather(ids), other.features[name].gather(ids), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("published", [False, True])
def test_the_sampler_draws_and_learns_the_same(dropped: Dataset, other: Dataset, published: bool) -> None:
    found: list[list[Any]] = []
    for dataset in (dropped, other):
        model, sampler, batch = parts(dataset)
        if published:
            config = make_config({**CONFIG, "sampler": {"name": "mmrns-published", "negatives": 6}})
            sampler = build_sampler(config, dataset, model)
        lookup = model.lookup(batch)
        drawn = sampler.draw(lookup, model, 0)
        s_pos, s_neg = model.score(lookup), model.score_against(lookup, drawn)
        loss = s_neg.mean() - s_pos.mean() + sampler.loss(lookup, drawn, s_pos, s_neg, model, 0)
        loss.backward()
        gradients = [p.grad for part in (model, sampler) for p in part.parameters() if p.grad is not None]
        assert sum(bool(g.any()) for g in gradients) > 8
        found.append([drawn.ids, drawn.log_weight, s_neg, loss, *gradients])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("mixture", Mixture.registry.names())
def test_the_fused_scores_and_ranks_are_the_same(dropped: Dataset, other: Dataset, whole: Path, mixture: str) -> None:
    scores: list[torch.Tensor] = []
    ranks: list[torch.Tensor] = []
    for dataset in (dropped, other, load_dataset(whole)):
        model, _, batch = parts(dataset, mixture)
        with torch.no_grad():
            scores.append(model.score_all(batch))
            ranks.append(rank(model, dataset.graph.test, dataset.graph.known_index).realistic)
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(ranks[0], ranks[1])
    assert not torch.equal(scores[0], scores[2])  # What is dropped does make a difference.


def test_a_run_is_the_same_and_predicts_the_same(whole: Path, dropped: Dataset, tmp_path: Path) -> None:
    removed = rewritten(whole, dropped, "removed", tmp_path / "toy")
    told = Notes()
    first = mmrns.train(with_config(whole, 0.3), out=tmp_path / "first", callbacks=[told], plots=False)
    second = mmrns.train(with_config(removed, 0.0), out=tmp_path / "second", plots=False)
    present = {name: modality.covered for name, modality in dropped.features.items()}
    for name, n in present.items():
        assert f"{name}: {n} of 40 entities matched; others were left out by data.drop_modality=0.3." in told.notes
    assert first.results["test"] == second.results["test"]
    again = mmrns.load_run(tmp_path / "first")
    assert {name: modality.covered for name, modality in again.dataset.features.items()} == present
    for query in ({"head": "e39", "relation": "likes"}, {"tail": "e05", "relation": "knows"}):
        assert again.predict(**query).equals(second.predict(**query))


@pytest.mark.parametrize("name", ["domain-range", "mmrns"])
def test_with_everything_dropped_a_run_goes_on_with_structure(whole: Path, tmp_path: Path, name: str) -> None:
    values = with_config(whole, 1.0)
    values["sampler"] = {"name": name, "negatives": 6, "pool": 20}
    run = mmrns.train(values, out=tmp_path / "run", plots=False)
    assert 0 < run.results["test"]["both"]["realistic"]["mrr"] < 1
