"""What each tracker keeps, as its own program's files have it, without a network; and how a training uses any."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.errors import Note, UsageError
from mmrns.files import read_json_lines
from mmrns.runs import build
from mmrns.runs.tracking import FILE, numbers, summary
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracked, Tracker
from mmrns.training.trackers.mlflow import MLflow
from mmrns.training.trackers.tensorboard import TensorBoard
from mmrns.training.trackers.wandb import WeightsAndBiases
from undrawn import drawing

NAMES = ["tensorboard", "wandb", "mlflow"]
SETTINGS: dict[str, Any] = {
    "model.dim": 8,
    "training.steps": 20,
    "training.evaluate_every": 10,
    "training.log_every": 5,
    "training.checkpoint_every": 10,
    "training.batch_size": 64,
    "sampler.negatives": 4,
    "threads": 1,
}


class Crash(Callback):
    """Raises behind step 15, of which the last checkpoint knows nothing."""

    def on_progress(self, step: int, loss: float | None) -> None:
        if step == 18:
            raise OSError("the machine was taken away")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mmrns.Run]:
    """A run of a study that all trackers were told of, which crashed once and went on."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("tracked")
    data = write_toy(folder / "toy")
    given: dict[str, Any] = {"dataset": data, "method": "uniform", "device": "cpu", "out": folder / "runs" / "one"}
    settings = SETTINGS | {"training.track": NAMES}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("NETRC", str(folder / "none"))
        patch.setenv("HOME", str(folder))
        with pytest.raises(OSError, match="taken away"):
            mmrns.train(**given, settings=settings, callbacks=[Crash()], group="a study")
        with drawing():
            run = mmrns.train(out=given["out"], resume=True, group="a study")
        yield run


@pytest.fixture(scope="module")
def rows(run: mmrns.Run) -> list[dict[str, Any]]:
    """What is to be found: step and numbers of each row."""
    assert run.folder is not None
    found = read_json_lines(run.folder / "metrics.jsonl")
    assert [row["step"] for row in found] == [5, 10, 10, 15, 20, 20]
    return found


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    told = [(row["step"], numbers(row)) for row in rows]
    return [(step, values[name]) for step, values in told if name in values]


def test_a_tracked_run_is_as_one_that_is_not(run: mmrns.Run) -> None:
    assert run.folder is not None
    data, settings = run.folder.parents[1] / "toy", SETTINGS
    other = mmrns.train(dataset=data, method="uniform", device="cpu", settings=settings)
    assert other.results["test"] == run.results["test"]
    logs = json.loads((run.folder / FILE).read_text())
    assert [*logs] == NAMES
    assert {log["rows"] for log in logs.values()} == {6}


def test_tensorboard_shows_each_step_once(run: mmrns.Run, rows: list[dict[str, Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run.folder is not None
    assert TensorBoard.drops
    # All that was written is kept, and what was told twice is dropped where it is shown.
    found = EventAccumulator(str(run.folder.parent / "tensorboard" / "one"), size_guidance={"scalars": 0}).Reload()
    for name in ("loss", "valid_mrr", "hardness/score_percentile", "hardness/gradient_norm/model"):
        shown = [(event.step, event.value) for event in found.Scalars(name)]
        assert shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in series(rows, name)]
    selected, test = run.results["selected_step"], run.results["test"]["both"]
    [event] = found.Scalars("test/pessimistic/hits@10")
    assert (event.step, event.value) == (selected, pytest.approx(test["pessimistic"]["hits@10"]))
    [text] = found.Tensors("config/text_summary")
    config = json.loads(text.tensor_proto.string_val[0])
    assert config["training"]["steps"] == 20
    assert config["data"]["dataset"] == "../../toy"
    for picture in ("curves", "hardness"):
        [image] = found.Images(picture)
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert image.width > 500


def test_mlflow_keeps_each_step_once(run: mmrns.Run, rows: list[dict[str, Any]], monkeypatch: Any) -> None:
    from mlflow.tracking import MlflowClient

    assert run.folder is not None
    assert not MLflow.drops
    client = MlflowClient(tracking_uri=(run.folder.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("a study")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("one", "FINISHED")
    for name in ("loss", "valid_mrr", "hardness/score_percentile"):
        kept = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name)]
        assert kept == series(rows, name)
    assert found.data.metrics["test/realistic/hits_at_10"] == run.results["test"]["both"]["realistic"]["hits@10"]
    assert found.data.metrics["wall_seconds/train"] == run.results["seconds"]["train"]
    assert found.data.params["model.dim"] == "8"
    assert found.data.params["data.dataset"] == "../../toy"
    pictures = {file.path for file in client.list_artifacts(found.info.run_id, "plots")}
    assert pictures == {"plots/curves.png", "plots/hardness.png"}


def records(path: Path) -> Iterator[Any]:
    """The records of a file of W&B's: behind a header of 7 bytes, blocks of 32 KiB as LevelDB's log has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, whole, at = path.read_bytes(), b"", 7
    assert data[:4] == b":W&B"
    while at < len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_keeps_each_step_once(run: mmrns.Run, rows: list[dict[str, Any]]) -> None:
    assert run.folder is not None
    assert not WeightsAndBiases.drops
    key = json.loads((run.folder / FILE).read_text())["wandb"]["key"]
    folders = sorted((run.folder.parent / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(folder.name.endswith(key) for folder in folders)
    found = [record for folder in folders for record in records(folder / f"run-{key}.wandb")]
    history: dict[int, dict[str, Any]] = {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            step = items["_step"]
            assert not history.get(step, {}).keys() & {"loss", "valid_mrr"} & items.keys()
            history.setdefault(step, {}).update(items)
    for name in ("loss", "valid_mrr", "hardness/score_percentile"):
        kept = [(step, items[name]) for step, items in sorted(history.items()) if name in items]
        assert kept == series(rows, name)
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert {(one.project, one.run_group, one.display_name) for one in runs} == {("mmrns", "a study", "one")}
    # Of the machine and its user nothing is told.
    assert {one.host for one in runs} == {"unnamed"}
    config = {item.key: json.loads(item.value_json) for one in runs for item in one.config.update}
    assert config["model"]["dim"] == 8
    ends = [record.summary for record in found if record.WhichOneof("record_type") == "summary"]
    results = {item.key: item.value_json for end in ends for item in end.update}
    assert float(results["test/realistic/mrr"]) == run.results["test"]["both"]["realistic"]["mrr"]
    assert len([*(folders[-1] / "files" / "media").rglob("*.png")]) == 2


class Memory(Tracker, name="memory of test_trackers"):
    """Remembers what it is told; raises where it is asked to."""

    told: list[Any]
    raises: str = ""

    def begin(self, training: Tracked) -> str | None:
        type(self).told = [*(Memory.told if training.key else []), ("begin", training.key, training.step)]
        if self.raises == "begin":
            raise ConnectionError("no network\nat all")
        return "the key"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.raises == "log":
            raise ValueError
        self.told.append((step, sorted(values)))

    def end(self, step: int, results: Mapping[str, float], pictures: Sequence[Path]) -> None:
        self.told.append(("end", step, [path.name for path in pictures]))

    def close(self, finished: bool) -> None:
        if self.raises == "log":
            raise ValueError
        self.told.append(("close", finished))


class Grow(Callback):
    def on_row(self, row: dict[str, Any]) -> None:
        row |= {"length": 2, "remark": "no number", "done": True}


MEMORY = SETTINGS | {"training.track": ["memory of test_trackers"], "training.hardness": False}


def test_a_run_in_memory_is_tracked_with_pictures_and_what_callbacks_add(toy_folder: Path, pictures: None) -> None:
    run = mmrns.train(dataset=toy_folder, method="uniform", device="cpu", settings=MEMORY, callbacks=[Grow()])
    loss = ["length", "loss", "model_loss", "seconds"]
    valid = ["length", "seconds", "valid_mrr"]
    assert Memory.told == [
        ("begin", None, 0),
        *((5, loss), (10, loss), (10, valid), (15, loss), (20, loss), (20, valid)),
        ("end", run.results["selected_step"], ["curves.png"]),
        ("close", True),
    ]


@pytest.mark.parametrize(("raises", "why"), [("begin", "no network at all"), ("log", "ValueError")])
def test_a_tracker_that_fails_is_let_go_and_told_later(
    raises: str, why: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"dataset": toy_folder, "method": "uniform", "device": "cpu", "out": tmp_path / "run"}
    monkeypatch.setattr(Memory, "raises", raises)
    said = rf"^memory of test_trackers does not track the training any more \({why}\); the training goes on$"
    with pytest.raises(OSError, match="taken away"), pytest.warns(Note, match=said):
        mmrns.train(**given, settings=MEMORY, callbacks=[Crash()])
    monkeypatch.setattr(Memory, "raises", "")
    mmrns.train(out=given["out"], resume=True)
    begun = [one for one in Memory.told if one[0] == "begin"]
    assert begun[-1] == ("begin", None if raises == "begin" else "the key", 10)
    # What it was not told while it was gone it is told now.
    assert [one[0] for one in Memory.told if isinstance(one[0], int)] == [5, 10, 10, 15, 20, 20]


def test_what_is_not_installed_is_said_before_anything_is_made(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    for name in NAMES:
        with pytest.raises(UsageError, match=rf"^training.track: {name} needs .*; pip install 'mmrns\[track\]'$"):
            mmrns.train(dataset=toy_folder, settings={"training.track": [name]}, out=tmp_path / "run")
    monkeypatch.setattr(Memory, "needs", "nothing_like_it")
    with pytest.raises(UsageError, match=r"needs the package nothing_like_it; install it$"):
        mmrns.train(dataset=toy_folder, settings=MEMORY, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        mmrns.train(dataset=toy_folder, settings={"training.track": ["tensorbord"]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_are_those_that_are_finite() -> None:
    assert numbers({"a": {"b": 1, "c": None}, "d": float("nan"), "e": True, "f": "x"}) == {"a/b": 1.0}
    both = {"realistic": {"mrr": 0.5, "hits@1": 0.25}}
    results = {"valid": {"both": both}, "selected_step": 3, "baseline": None, "seconds": {"train": 1.5}}
    valid = {"valid/realistic/mrr": 0.5, "valid/realistic/hits@1": 0.25}
    assert summary(results) == valid | {"selected_step": 3.0, "wall_seconds/train": 1.5}
