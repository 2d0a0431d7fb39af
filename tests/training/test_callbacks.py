from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.errors import UsageError
from mmrns.training.callbacks import Callback, CallbackList, Training
from mmrns.types import Batch, Negatives

CONFIG: dict[str, Any] = {
    "model": {"dim": 6},
    "method": "uniform",
    "training": {"steps": 8, "batch_size": 64, "evaluate_every": 4, "log_every": 4, "hardness": False},
    "device": "cpu",
}


class Recorder(Callback, name="recorder of test_callbacks"):
    last: Recorder | None = None

    def __init__(self) -> None:
        self.told: list[str] = []
        Recorder.last = self

    def on_note(self, message: str) -> None:
        self.told.append("note")

    def on_start(self, training: Training) -> None:
        self.told.append(f"start {training.progress.step} of {training.plan.steps}")

    def watches(self, step: int) -> bool:
        return step == 3

    def on_step(self, batch: Batch, negatives: Negatives) -> None:
        self.told.append(f"step with {negatives.entities(len(batch)).shape[1]} negatives")

    def on_progress(self, step: int, loss: float | None) -> None:
        if loss is not None:
            self.told.append(f"progress {step}")

    def on_row(self, row: dict[str, Any]) -> None:
        row["extra"] = row["step"] * 10
        self.told.append("row " + "/".join(key for key in row if key not in ("step", "seconds", "extra")))

    def on_validation(self, step: int, mrr: float) -> None:
        self.told.append(f"validation {step}")

    def on_ranking(self, what: str, queries: int) -> Any:
        self.told.append(f"ranking {what} {queries}")


def test_callbacks_are_told_in_order_and_rows_grow(toy_folder: Path) -> None:
    recorder = Recorder()
    run = mmrns.train(CONFIG, dataset=toy_folder, callbacks=[recorder])
    ranks = ["ranking valid 50"]
    assert [line for line in recorder.told if line != "note"] == [
        "start 0 of 8",
        "step with 64 negatives",
        *("progress 4", "row loss/model_loss", *ranks, "validation 4", "row valid_mrr"),
        *("progress 8", "row loss/model_loss", *ranks, "validation 8", "row valid_mrr"),
        *ranks,
        "ranking test 50",
    ]
    assert recorder.told[:2] == ["note", "note"]
    assert run.history["extra"].to_list() == [40, 40, 80, 80]


def test_a_named_callback_is_made_from_the_configuration(toy_folder: Path) -> None:
    name = "recorder of test_callbacks"
    run = mmrns.train(CONFIG, dataset=toy_folder, settings={"training.callbacks": [name]})
    assert Recorder.last is not None
    assert "validation 8" in Recorder.last.told
    assert run.config.training.callbacks == [name]
    with pytest.raises(UsageError, match="unknown callback 'recorde'"):
        mmrns.train(CONFIG, dataset=toy_folder, settings={"training.callbacks": ["recorde"]})


def test_a_callback_may_stop_and_the_run_goes_on_later(toy_folder: Path, tmp_path: Path) -> None:
    class Stop(Callback):
        steps = 0

        def on_progress(self, step: int, loss: float | None) -> None:
            self.steps = step

        def should_stop(self) -> bool:
            return self.steps == 5

    with pytest.raises(mmrns.runs.train.Interrupted, match=r"run: interrupted at step 5; continue with --resume"):
        mmrns.train(CONFIG, dataset=toy_folder, callbacks=[Stop()], out=tmp_path / "run")
    resumed = mmrns.train(out=tmp_path / "run", resume=True, plots=False)
    whole = mmrns.train(CONFIG, dataset=toy_folder)
    assert resumed.results["test"] == whole.results["test"]
    with pytest.raises(mmrns.runs.train.Interrupted, match="nothing is kept without a folder"):
        mmrns.train(CONFIG, dataset=toy_folder, callbacks=[Stop()])


def test_no_step_is_shown_to_who_does_not_watch(toy_folder: Path) -> None:
    class Blind(Callback):
        def on_step(self, batch: Batch, negatives: Negatives) -> None:
            raise AssertionError

    mmrns.train(CONFIG, dataset=toy_folder, callbacks=[Blind()])


def test_the_states_of_a_list_are_kept_apart() -> None:
    class Counter(Callback):
        def __init__(self, n: int):
            self.n = n

        def state_dict(self) -> dict[str, Any]:
            return {"n": self.n} if self.n else {}

        def load_state_dict(self, state: Any) -> None:
            self.n = state["n"]

    state = CallbackList([Counter(1), Callback(), Counter(0), Counter(3)]).state_dict()
    assert state == {"0": {"n": 1}, "3": {"n": 3}}
    other = [Counter(0), Callback(), Counter(0), Counter(0)]
    CallbackList(other).load_state_dict(state)
    assert [c.n for c in other if isinstance(c, Counter)] == [1, 0, 3]
