from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forms import FORMS, form_of
from mmrns.data.datasets import Dataset
from mmrns.errors import DataError
from mmrns.files import read_tensors, write_tensors
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.checkpoint import load_checkpoint, save_checkpoint
from mmrns.training.progress import Progress
from mmrns.training.trainer import Trainer


def _trainer(toy: Dataset, name: str, dim: int = 6, **training: object) -> Trainer:
    values = {
        "model": {"dim": dim},
        "sampler": form_of(name, 4),
        "training": {"batch_size": 50, "steps": 9, **training},
    }
    return build_trainer(make_config({**values, "device": "cpu"}), toy)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "training",
    [{}, {"sparse": True, "schedule": "cosine", "warmup": 3}, {"optimizer": "adagrad"}],
    ids=["adam", "sparse adam, scheduled", "adagrad"],
)
def test_resume_is_bit_equal(toy: Dataset, tmp_path: Path, name: str, training: dict[str, object]) -> None:
    if name == "1-vs-all" and training.get("sparse"):
        pytest.skip("refused")
    path = tmp_path / "last.safetensors"
    whole = _trainer(toy, name, **training)
    for step in range(9):
        whole.step(step)
    first = _trainer(toy, name, **training)
    for step in range(4):
        first.step(step)
    progress = Progress(step=4, best_mrr=0.25, loss_sum=1 / 3)
    save_checkpoint(path, first, progress, {"metrics_length": 7})
    second = _trainer(toy, name, **training)
    restored, extra = load_checkpoint(path, second)
    assert (restored, extra) == (progress, {"metrics_length": 7})
    for step in range(restored.step, 9):
        second.step(step)
    for part in ("model", "sampler"):
        expected, found = getattr(whole, part).state_dict(), getattr(second, part).state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_a_checkpoint_of_another_model_is_refused(toy: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, _trainer(toy, "uniform"), Progress(), {})
    with pytest.raises(DataError, match=r"last\.safetensors: does not fit"):
        load_checkpoint(path, _trainer(toy, "uniform", dim=7))
    attention = "mmrns"
    save_checkpoint(path, _trainer(toy, attention), Progress(), {})
    with pytest.raises(DataError, match="1 optimizers where there are 2"):
        load_checkpoint(path, _trainer(toy, attention, sparse=True))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_checkpoint(path, _trainer(toy, "uniform"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(DataError, match="disk full"):
        write_tensors(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == before


def test_a_file_without_tensors_can_be_read(tmp_path: Path) -> None:
    # The weights of a sampler that has none.
    path = tmp_path / "sampler.safetensors"
    write_tensors(path, {})
    assert read_tensors(path) == ({}, {})
