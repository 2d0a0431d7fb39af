"""What a run folder holds is what was written there: by one writer, whole, and of this run."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mmrns
from mmrns.errors import DataError, Diverged, Note, UsageError
from mmrns.runs.digests import RUN_FILES
from mmrns.training.callbacks import Training
from mmrns.training.checkpoint import Checkpoint
from toy import write_toy

SMALL: dict[str, Any] = {
    "method": "self-adversarial",
    "model": {"dim": 6},
    "sampler": {"negatives": 4},
    "training": {
        "steps": 24,
        "batch_size": 40,
        "evaluate_every": 8,
        "log_every": 4,
        "checkpoint_every": 6,
        "patience": 0,
        "lr": 0.01,
        "hardness": False,
    },
    "device": "cpu",
}


class _Stop(Exception):
    pass


class _At(mmrns.Callback):
    """Does something before the end of a step."""

    def __init__(self, step: int, do: Callable[[Training], None]):
        self.step, self.do = step, do

    def on_start(self, training: Training) -> None:
        self.training = training

    def on_progress(self, step: int, loss: float | None) -> None:
        if step == self.step and loss is None:
            self.do(self.training)


def _stop(training: Training) -> None:
    raise _Stop


def _cut(toy: Path, out: Path, at: int = 15, **values: Any) -> Path:
    with pytest.raises(_Stop):
        mmrns.train(SMALL | values, dataset=toy, out=out, callbacks=[_At(at, _stop)])
    return out


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def finished(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in (0, 1):
        mmrns.train(SMALL, dataset=toy_data, seed=seed, out=folder / str(seed), plots=False)
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def unfinished(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs cut at step 15 that differ in their seed: the last checkpoint is of step 12, or 16 with its best."""
    folder = tmp_path_factory.mktemp("unfinished")
    return [_cut(toy_data, folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Copies of the two runs that the parameter names."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in request.getfixturevalue(request.param)]


def _use(folder: Path) -> None:
    run = mmrns.load_run(folder)
    run.predict("e04", "likes")
    assert run.sampler is not None


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("two", ["finished"], indirect=True)
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "of another run"])
@pytest.mark.parametrize("name", [*RUN_FILES, "SHA256SUMS"])
def test_a_file_of_a_finished_run_that_is_not_its_own_is_refused(two: list[Path], name: str, damage: str) -> None:
    folder, other = two
    path = folder / name
    if damage == "flipped":
        _flip(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "missing":
        path.unlink()
    else:
        if path.read_bytes() == (other / name).read_bytes():
            pytest.skip("the two runs have the same")
        shutil.copyfile(other / name, path)
    if (name, damage) == ("SHA256SUMS", "missing"):
        with pytest.warns(Note, match="has no SHA256SUMS: whether its files are what the run wrote is not known"):
            _use(folder)
        return
    with pytest.raises((DataError, UsageError)) as caught:
        _use(folder)
    told = str(caught.value)
    assert "\n" not in told
    assert name in told or (damage == "missing" and "holds no finished run" in told) or name == "SHA256SUMS"


@pytest.mark.parametrize("two", ["finished"], indirect=True)
def test_results_that_were_edited_are_written_anew_as_the_remedy_says(two: list[Path]) -> None:
    path = two[0] / "results.json"
    before = path.read_text()
    path.write_text(before.replace('"mrr": 0.', '"mrr": 0.9', 1))
    with pytest.raises(DataError, match=r"results\.json: is not the file that the run wrote.*; restore it, or remove"):
        mmrns.load_run(two[0])
    path.unlink()
    (two[0] / "model.safetensors").unlink()
    again = mmrns.train(out=two[0], resume=True, plots=False)
    assert again.results["test"] == json.loads(before)["test"]
    _use(two[0])


@pytest.mark.parametrize("two", ["finished"], indirect=True)
def test_using_a_run_writes_nothing_to_it(two: list[Path]) -> None:
    (two[0] / ".mmrns.lock").write_text("left by one that was killed")

    def listing() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [two[0], *two[0].rglob("*")]}

    before = listing()
    _use(two[0])
    assert mmrns.train(out=two[0], resume=True).results
    assert listing() == before


def _resume(folder: Path, *settings: str) -> mmrns.Run:
    return mmrns.train(out=folder, resume=True, settings=settings, plots=False)


def _edit(path: Path, key: str, value: Any) -> None:
    values = yaml.safe_load(path.read_text())
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    path.write_text(yaml.safe_dump(values))


DAMAGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "last flipped": (
        lambda a, b: _flip(a / "checkpoint/last.safetensors"),
        r"last\.safetensors: is (damaged|not a readable)",
    ),
    "best flipped": (
        lambda a, b: _flip(a / "checkpoint/best.safetensors"),
        r"best\.safetensors: is (damaged|not a readable)",
    ),
    "last of another": (
        lambda a, b: shutil.copy(b / "checkpoint/last.safetensors", a / "checkpoint"),
        r"(best\.safetensors: is of another run \(seed is 0, not 1\))|(config\.yaml: seed is 0, not 1 as when last)",
    ),
    "best of another": (
        lambda a, b: shutil.copy(b / "checkpoint/best.safetensors", a / "checkpoint"),
        r"best\.safetensors: is of (another run \(seed is 1, not 0\)|step \d+, but the best step is \d+)",
    ),
    "best is last": (
        lambda a, b: shutil.copy(a / "checkpoint/last.safetensors", a / "checkpoint/best.safetensors"),
        r"best\.safetensors: is of step 12, but the best step is 8; restore it",
    ),
    "best missing": (lambda a, b: (a / "checkpoint/best.safetensors").unlink(), r"best\.safetensors: .*; "),
    "last missing": (lambda a, b: (a / "checkpoint/last.safetensors").unlink(), r"last\.safetensors: is missing; "),
    "config edited": (
        lambda a, b: _edit(a / "config.yaml", "objective.gamma", 3.0),
        r"config\.yaml: objective\.gamma is 3\.0, not 1\.0 as when last\.safetensors was made; restore",
    ),
    "rate edited": (
        lambda a, b: _edit(a / "config.yaml", "training.lr", 0.5),
        r"config\.yaml: training\.lr is 0\.5, not 0\.01 .*; restore it, or go on so by --set training\.lr=0\.5",
    ),
    "config cut": (lambda a, b: (a / "config.yaml").write_text("model: {dim"), r"config\.yaml:1"),
    "record cut": (
        lambda a, b: (a / "record.json").write_text('{"code'),
        r"record\.json: (is not what|cannot be read) .*; restore it, or remove it",
    ),
    "record edited": (
        lambda a, b: (a / "record.json").write_text('{"dataset": {"sha256": {}}}'),
        r"record\.json: (is not what|cannot be read) .*; restore it, or remove it",
    ),
    "metrics cut": (
        lambda a, b: (a / "metrics.jsonl").write_bytes((a / "metrics.jsonl").read_bytes()[:60]),
        r"metrics\.jsonl: does not begin with the [\d,]+ bytes .*; restore it, or remove it",
    ),
    "metrics of another": (
        lambda a, b: shutil.copy(b / "metrics.jsonl", a),
        r"metrics\.jsonl: does not begin with the [\d,]+ bytes .*; restore it, or remove it",
    ),
    "metrics flipped": (lambda a, b: _flip(a / "metrics.jsonl"), r"metrics\.jsonl: does not begin with"),
    "metrics a folder": (
        lambda a, b: ((a / "metrics.jsonl").unlink(), (a / "metrics.jsonl").mkdir()),
        r"metrics\.jsonl: cannot be written",
    ),
}


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_with_what_it_wrote_or_not_at_all(two: list[Path], damage: str) -> None:
    folder = two[0]
    do, message = DAMAGES[damage]
    do(folder, two[1])
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises((DataError, UsageError), match=message) as caught:
        mmrns.train(out=folder, resume=True, callbacks=[_At(13, _stop)])
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
def test_a_missing_metrics_file_begins_anew_and_says_so(two: list[Path]) -> None:
    (two[0] / "metrics.jsonl").unlink()
    with pytest.warns(Note, match=r"metrics\.jsonl is missing; it begins anew"), pytest.raises(_Stop):
        mmrns.train(out=two[0], resume=True, callbacks=[_At(13, _stop)])
    assert _resume(two[0]).history["step"].to_list() == [16, 16, 20, 24, 24]


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
def test_a_best_checkpoint_that_was_not_made_in_time_is_made(two: list[Path]) -> None:
    """Killed after `last` was written and before `best` got its name."""
    checkpoint = two[0] / "checkpoint"
    expected = _resume(Path(shutil.copytree(two[0], two[0].with_name("whole")))).results["test"]
    shutil.copy(checkpoint / "best.safetensors", checkpoint / "last.safetensors")
    assert Checkpoint.read(checkpoint / "last.safetensors").progress.step == 8
    (checkpoint / "best.safetensors").unlink()
    assert _resume(two[0]).results["test"] == expected


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
def test_another_learning_rate_is_taken_and_recorded(two: list[Path]) -> None:
    folder = two[0]
    before = Checkpoint.read(folder / "checkpoint/last.safetensors")
    changed = {"step": before.progress.step, "key": "training.lr", "from": 0.01, "to": 0.002}
    told: list[str] = []

    class Notes(mmrns.Callback):
        def on_note(self, message: str) -> None:
            told.append(message)

        def on_start(self, training: Training) -> None:
            raise _Stop

    with pytest.raises(_Stop):
        mmrns.train(out=folder, resume=True, settings=["training.lr=2e-3"], callbacks=[Notes()])
    assert told[-1] == "training.lr is 0.002 from step 12 on; it was 0.01."
    # Whatever ends it now, it goes on with the new rate.
    run = _resume(folder)
    assert run.config.training.lr == 0.002
    assert run.record["changes"] == [changed]
    assert json.loads((folder / "record.json").read_text())["changes"] == [changed]
    assert _resume(two[1]).record["changes"] == []
    slow = Checkpoint.read(folder / "checkpoint/last.safetensors")
    assert slow._groups[0][0]["base_lr"] == 0.002
    with pytest.raises(UsageError, match=r"training\.lr is 0\.002 in .*, not 0\.1; --resume keeps .*configuration$"):
        _resume(folder, "training.lr=0.1")


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
def test_the_device_and_the_place_of_the_data_may_be_edited(two: list[Path], toy_data: Path) -> None:
    moved = Path(shutil.copytree(toy_data, two[0].parent / "moved"))
    _edit(two[0] / "config.yaml", "data.dataset", str(moved))
    _edit(two[0] / "config.yaml", "device", "auto")
    assert _resume(two[0]).dataset.folder == moved


@pytest.mark.parametrize(("at", "what"), [(9, "model"), (12, "model"), (16, "model"), (12, "sampler")])
def test_what_is_on_the_disk_is_from_before_the_divergence(toy_data: Path, tmp_path: Path, at: int, what: str) -> None:
    """Made not finite by the last step before a checkpoint (12) or a validation (16), whose loss still is, or amid."""

    def spoil(training: Training) -> None:
        with torch.no_grad():
            part = training.model if what == "model" else training.sampler
            next(part.parameters()).view(-1)[0] = torch.nan

    folder = tmp_path / "run"
    method = "mmrns" if what == "sampler" else "self-adversarial"
    with pytest.raises(Diverged, match=r"run: the (loss|model) is not finite at step \d+; ") as caught:
        mmrns.train(SMALL | {"method": method}, dataset=toy_data, out=folder, callbacks=[_At(at, spoil)])
    assert "--resume --set training.lr=0.001" in str(caught.value)
    assert "\n" not in str(caught.value)
    for name in ("last", "best"):
        found = Checkpoint.read(folder / "checkpoint" / f"{name}.safetensors")
        assert found.progress.step < at
        assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in found.tensors.values())
        if name == "last":
            assert f"the checkpoint of step {found.progress.step} is from before" in str(caught.value)
    run = _resume(folder, "training.lr=0.001")
    assert run.record["changes"][0]["to"] == 0.001


@pytest.mark.parametrize("two", ["unfinished"], indirect=True)
@pytest.mark.parametrize("most", [40, 400, 3000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(two: list[Path], most: int) -> None:
    """The size of files is limited, so that the first write beyond it fails as on a full disk."""
    expected = _resume(Path(shutil.copytree(two[0], two[0].with_name("whole")))).results["test"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(File too large\); make room or choose") as caught:
            mmrns.train(out=two[0], resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not [path for path in two[0].rglob("*") if path.name.startswith(".")]
    assert _resume(two[0]).results["test"] == expected


def test_two_threads_do_not_train_into_one_folder(toy_data: Path, tmp_path: Path) -> None:
    alone = mmrns.train(SMALL, dataset=toy_data)
    begun, go_on = threading.Event(), threading.Event()

    def wait(training: Training) -> None:
        begun.set()
        assert go_on.wait(60)

    found: list[Any] = []

    def first() -> None:
        found.append(mmrns.train(SMALL, dataset=toy_data, out=tmp_path / "run", callbacks=[_At(10, wait)], plots=False))

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(60)
    for resume in (False, True):
        with pytest.raises(DataError, match=rf"run: (holds a run already|is being written by process {os.getpid()})"):
            mmrns.train(None if resume else SMALL, dataset=toy_data, out=tmp_path / "run", resume=resume)
    with pytest.raises(DataError, match="run: is being written by process"):
        alone.save(tmp_path / "run")
    go_on.set()
    thread.join()
    assert found[0].results["test"] == alone.results["test"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "model.safetensors", "checkpoint/last.safetensors"])
def test_a_new_run_writes_over_nothing(toy_data: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DataError, match=rf"{name}: is there already"):
        mmrns.train(SMALL, dataset=toy_data, out=tmp_path / "run")
    assert path.read_text() == "mine"
