from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forms import FORMS, form_of, model_of
from mmrns.data.datasets import Dataset
from mmrns.errors import DataError
from mmrns.files import read_tensors, write_tensors
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.checkpoint import Checkpoint, save_checkpoint
from mmrns.training.progress import Progress
from mmrns.training.trainer import Trainer


def _trainer(toy: Dataset, name: str, dim: int = 6, **training: object) -> Trainer:
    values = {
        "model": model_of(name, dim),
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
    progress = Progress(step=4, best_mrr=0.25, loss_sum=1 / 3, sampler_loss_sum=1 / 7, sampler_loss_steps=2)
    save_checkpoint(path, first, progress, {"metrics_length": 7})
    second = _trainer(toy, name, **training)
    found = Checkpoint.read(path)
    found.load(second)
    assert (found.progress, found.extra) == (progress, {"metrics_length": 7})
    for step in range(4, 9):
        second.step(step)
    for part in ("model", "sampler"):
        expected, found = getattr(whole, part).state_dict(), getattr(second, part).state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[k], found[k]) for k in expected)


VARYING: list[dict[str, object]] = [
    {"modalities": ["image", "text"], "structure_dropout": 0.3},
    {
        "scorer": "TuckER",
        "batch_norm": True,
        "reciprocal": True,
        **dict.fromkeys(("anchor_dropout", "matrix_dropout", "query_dropout"), 0.3),
    },
    {"embedder": "mygo", "inner": 8, "contrastive": 0.1, **dict.fromkeys(("dropout", "token_noise"), 0.2)},
    {"embedder": "adamf"},
    {"modalities": ["image", "text"], "mixture": "joint"},
    {"embedder": "m-hyper", "scorer": "BiQUE"},
    {"embedder": "momok", "scorer": "TuckER", "mixture": "mean-probability", "batch_norm": True, "reciprocal": True},
]


@pytest.mark.parametrize("model", VARYING, ids=["structure", "TuckER", "mygo", "adamf", "joint", "m-hyper", "momok"])
def test_resume_is_bit_equal_where_steps_leave_something_out(
    toy: Dataset, tmp_path: Path, model: dict[str, object]
) -> None:
    def trainer() -> Trainer:
        values = {"model": {"dim": 6, **model}, "method": "uniform", "training": {"batch_size": 50}, "device": "cpu"}
        return build_trainer(make_config(values), toy)

    whole, first, second = trainer(), trainer(), trainer()
    for step in range(8):
        whole.step(step)
    for step in range(5):
        first.step(step)
    save_checkpoint(tmp_path / "last.safetensors", first, Progress(step=5), {})
    Checkpoint.read(tmp_path / "last.safetensors").load(second)
    for step in range(5, 8):
        second.step(step)
    expected, found = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_a_checkpoint_of_another_model_is_refused(toy: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, _trainer(toy, "uniform"), Progress(), {})
    with pytest.raises(DataError, match=r"last\.safetensors: does not fit"):
        Checkpoint.read(path).load(_trainer(toy, "uniform", dim=7))
    attention = "mmrns"
    save_checkpoint(path, _trainer(toy, attention), Progress(), {})
    with pytest.raises(DataError, match="1 optimizers where there are 2"):
        Checkpoint.read(path).load(_trainer(toy, attention, sparse=True))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        Checkpoint.read(path)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sparse"])
@pytest.mark.parametrize("what", ["shape", "dtype", "missing", "index", "step", "weight", "weight dtype", "buffer"])
def test_nothing_is_loaded_of_what_does_not_fit(toy: Dataset, tmp_path: Path, optimizer: str, what: str) -> None:
    training = {"sparse": True} if optimizer == "sparse" else {"optimizer": optimizer}
    path = tmp_path / "last.safetensors"
    first = _trainer(toy, "mmrns", **training)
    first.step(0)
    save_checkpoint(path, first, Progress(step=1), {})
    found = Checkpoint.read(path)
    tensors = dict(found.tensors)
    moments = sorted(name for name in tensors if name.endswith((".exp_avg", ".sum")))
    moment, weight = moments[-1], "model.relation.weight"
    if what == "shape":
        tensors[moment] = torch.cat([tensors[moment].flatten(), torch.zeros(1)])
    elif what == "dtype":
        tensors[moment] = tensors[moment].double()
    elif what == "missing":
        del tensors[moment]
    elif what == "index":
        tensors[moment.replace("optimizer.0.", "optimizer.0.77").replace("optimizer.1.", "optimizer.1.77")] = (
            torch.ones(1)
        )
    elif what == "step":
        tensors[next(name for name in tensors if name.endswith(".step"))] = torch.zeros(3)
    elif what == "weight":
        tensors[weight] = tensors[weight][:-1]
    elif what == "weight dtype":
        tensors[weight] = tensors[weight].half()
    else:
        tensors["sampler.of_another"] = torch.ones(1)
    second = _trainer(toy, "mmrns", **training)
    before = [tensor.clone() for part in (second.model, second.sampler) for tensor in part.state_dict().values()]
    states = json.dumps([str(part["state"]) for part in second.optimizer.state_dict()])
    with pytest.raises(DataError, match=r"last\.safetensors: does not fit the run's configuration \(") as caught:
        replace(found, tensors=tensors).load(second)
    assert "\n" not in str(caught.value)
    after = [tensor for part in (second.model, second.sampler) for tensor in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert json.dumps([str(part["state"]) for part in second.optimizer.state_dict()]) == states


def test_no_bit_of_a_checkpoint_turns_unseen(toy: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    trainer = _trainer(toy, "uniform")
    trainer.step(0)
    save_checkpoint(path, trainer, Progress(step=1), {"config": {"seed": 0}})
    whole = path.read_bytes()
    Checkpoint.read(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in [*range(0, header, 97), *range(header, len(whole), max(1, (len(whole) - header) // 40)), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"last\.safetensors: is (damaged|not a readable|no checkpoint)"):
            Checkpoint.read(path)
    write_tensors(path, {})
    with pytest.raises(DataError, match="is no checkpoint"):
        Checkpoint.read(path)


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
