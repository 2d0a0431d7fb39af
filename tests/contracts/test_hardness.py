"""Every registered sampler's negatives can be measured, and measuring changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mmrns
from forms import FORMS, form_of, model_of
from mmrns.data.datasets import Dataset
from mmrns.evaluation.hardness import measure
from mmrns.files import read_json_lines
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer
from mmrns.types import Batch, Negatives


def _values(name: str, **training: Any) -> dict[str, Any]:
    return {
        "model": model_of(name),
        "sampler": form_of(name, 5),
        "training": {"batch_size": 32, "lr": 0.01, **training},
        "device": "cpu",
    }


def _trainer(toy: Dataset, name: str) -> Trainer:
    return build_trainer(make_config(_values(name)), toy)


def _state(trainer: Trainer) -> dict[str, Tensor]:
    parts = {"model": trainer.model, "sampler": trainer.sampler}
    return {f"{part}.{k}": v.clone() for part, module in parts.items() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", FORMS)
def test_a_step_looked_at_is_the_same_step(toy: Dataset, name: str) -> None:
    plain, watched = _trainer(toy, name), _trainer(toy, name)
    train, valid = toy.graph.train_index, toy.graph.valid_index
    records: list[dict[str, Any]] = []

    def watch(batch: Batch, negatives: Negatives) -> None:
        state, random = _state(watched), torch.random.get_rng_state()
        records.append(measure(watched.model, watched.sampler, batch, negatives, train, valid))
        assert torch.equal(random, torch.random.get_rng_state())
        assert all(torch.equal(state[k], v) for k, v in _state(watched).items())

    for step in range(4):
        assert torch.equal(plain.step(step), watched.step(step, watch))
    found = _state(watched)
    assert all(torch.equal(v, found[k]) for k, v in _state(plain).items())
    for record in records:
        json.dumps(record, allow_nan=False)
        assert set(record) == {"score_percentile", "effective_sample_size", "valid_negatives", "gradient_norm"}
        for key in ("score_percentile", "valid_negatives"):
            # Where every entity is a negative there is none in particular.
            assert record[key] is None if name == "1-vs-all" else 0 <= record[key] <= 1
        size = record["effective_sample_size"]
        assert size is None or 0 < size <= 1 + 1e-6
        assert record["gradient_norm"]["model"] > 0
    # A sampler may be trained in some of the steps only.
    trained = any(p.requires_grad for p in watched.sampler.parameters())
    if name == "mmrns without a contrastive loss":
        return
    assert any(record["gradient_norm"]["sampler"] is not None for record in records) == trained


@pytest.mark.parametrize("name", FORMS)
def test_runs_are_bit_equal_with_and_without(toy_folder: Path, tmp_path: Path, name: str) -> None:
    lengths = {"steps": 12, "log_every": 5, "evaluate_every": 6, "checkpoint_every": 6}
    rows: list[list[dict[str, Any]]] = []
    for hardness in (True, False):
        values = _values(name, **lengths, hardness=hardness) | {"data": {"dataset": str(toy_folder)}}
        mmrns.train(values, out=tmp_path / str(hardness), plots=False)
        folder = tmp_path / str(hardness)
        rows.append([row for row in read_json_lines(folder / "metrics.jsonl") if "loss" in row])
    for file in ("model.safetensors", "sampler.safetensors"):
        assert (tmp_path / "True" / file).read_bytes() == (tmp_path / "False" / file).read_bytes()
    assert [row["step"] for row in rows[0] if "hardness" in row] == [5, 10, 12]
    assert not any("hardness" in row for row in rows[1])
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
