"""The number of threads is measured on a clock of our own, changes no result, and is kept by a run that goes on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmrns
import mmrns.runs.train
from forms import model_of
from mmrns.nn.kernels import compiled
from mmrns.nn.model import ModelSpec
from mmrns.nn.scorers import TransE
from mmrns.runs import threads as module
from mmrns.runs.build import Parts, build_dataset
from mmrns.runs.config import apply_settings, make_config
from mmrns.runs.methods import method_names
from mmrns.runs.threads import candidates, fastest, measure, time_threads, told, use_threads
from mmrns.runs.train import Interrupted
from mmrns.runs.values import read_config
from mmrns.samplers.uniform import Uniform
from mmrns.studies.compare import compare
from mmrns.studies.comparison import Comparison
from mmrns.training.callbacks import Callback

STEPS = 8
"""Of a training that is just worth the measuring in these tests."""


class Machine:
    """On which a step takes so many seconds with so many threads."""

    def __init__(self, seconds: dict[int, float]):
        self.seconds, self.now, self.threads = seconds, 0.0, 0
        self.used: list[int] = []

    def use(self, n: int) -> None:
        self.threads = n
        self.used.append(n)

    def step(self) -> None:
        self.now += self.seconds[self.threads]

    def time(self, numbers: list[int], steps: int = 1) -> dict[int, float]:
        return time_threads(self.step, numbers, steps=steps, use=self.use, clock=lambda: self.now)


def test_the_fastest_is_found_and_more_are_not_tried_once_they_are_slower() -> None:
    idle = Machine({1: 0.04, 2: 0.022, 4: 0.013, 8: 0.015, 16: 0.03, 32: 0.5})
    found = idle.time(candidates(32))
    assert found == pytest.approx({n: idle.seconds[n] for n in (1, 2, 4, 8, 16)})
    assert fastest(found) == 4
    # The numbers take turns.
    assert idle.used == [1, 2, 4, 8, 16] * 3
    busy = Machine({1: 0.03, 2: 0.8})
    assert fastest(busy.time([1, 2])) == 1


@pytest.mark.parametrize(("seconds", "steps", "taken"), [(0.01, 100, 26), (0.01, 3, 6), (0.2, 100, 2), (0.01, 0, 2)])
def test_short_steps_are_timed_together(seconds: float, steps: int, taken: int) -> None:
    machine = Machine({1: seconds, 2: 9.0})
    assert machine.time([1], steps) == pytest.approx({1: seconds})
    # Once before, to begin with.
    assert machine.now == pytest.approx(seconds * (1 + 3 * taken))


def test_measuring_slow_steps_ends_after_a_round() -> None:
    slow = Machine({1: 2.0, 2: 1.0})
    assert fastest(slow.time([1, 2])) == 2
    assert slow.used == [1, 2]


@given(st.integers(1, 300))
def test_candidates_are_ascending_and_end_with_the_most(most: int) -> None:
    found = candidates(most)
    assert found == sorted(set(found))
    assert found[0] == 1
    assert found[-1] == most
    assert all(b <= 2 * a for a, b in pairwise(found))


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-4, 10), min_size=1))
def test_the_fewest_that_are_as_good_are_taken(seconds: dict[int, float]) -> None:
    found = fastest(seconds)
    assert seconds[found] <= 1.05 * min(seconds.values())
    assert all(seconds[n] > 1.05 * min(seconds.values()) for n in seconds if n < found)
    assert f"with {found} thread" in told("cpu", found, seconds, 100)


class Torch:
    """Says that it has so many threads, and has one: what is tested here is which number is taken."""

    def __init__(self) -> None:
        self.threads = 2

    def get(self) -> int:
        return self.threads

    def set(self, n: int) -> None:
        self.threads = n


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Torch:
    """A process with two threads. Steps are taken, and two threads are said to be faster, without a clock."""
    found = Torch()

    def timed(step: Any, numbers: list[int], steps: int) -> dict[int, float]:
        for _ in range(5):
            step()
        return {n: 0.1 / n for n in numbers}

    monkeypatch.setattr(module, "time_threads", timed)
    monkeypatch.setattr(module, "FEWEST", STEPS)
    monkeypatch.setattr(compiled, "_MOST_THREADS", 1)
    monkeypatch.setattr(torch, "get_num_threads", found.get)
    monkeypatch.setattr(torch, "set_num_threads", found.set)
    return found


def config(dataset: Path, method: str = "uniform", **more: Any) -> dict[str, Any]:
    training = {"steps": STEPS, "batch_size": 64, "evaluate_every": STEPS // 2, "hardness": False}
    sampler = {} if method in ("1-vs-all", "k-vs-all", "file") else {"negatives": 4}
    if method == "kbgan":
        sampler["pretrain"] = 20
    values = {"data": {"dataset": str(dataset)}, "model": model_of(method), "method": method, "sampler": sampler}
    return values | {"training": training, "device": "cpu"} | more


# `file` needs one.
@pytest.mark.parametrize("method", [method for method in method_names() if method != "file"])
def test_measuring_changes_no_bit(two: Torch, toy_folder: Path, method: str) -> None:
    settings = {"training.steps": STEPS, "training.evaluate_every": STEPS}
    measured = mmrns.train(config(toy_folder, method), settings=settings, progress=False)
    given_number = mmrns.train(config(toy_folder, method, threads=2), settings=settings, progress=False)
    assert measured.record["threads"] == given_number.record["threads"] == 2
    assert measured.record["step_seconds"] == {"1": 0.1, "2": 0.05}
    assert "step_seconds" not in given_number.record
    for part in ("model", "sampler"):
        one, other = (getattr(run, part).state_dict() for run in (measured, given_number))
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)


def test_own_objects_are_copied_for_it(two: Torch, toy_folder: Path) -> None:
    dataset = mmrns.load_dataset(str(toy_folder))

    def trained(threads: Any) -> mmrns.Run:
        scorer = TransE(6, 1.0)
        spec = ModelSpec(6, *3 * (scorer.entity_width,))
        sampler = Uniform(dataset.graph, dataset.features, spec, negatives=4)
        values = config(toy_folder, threads=threads) | {"data": {}, "sampler": {}}
        return mmrns.train(values, dataset=dataset, scorer=scorer, sampler=sampler, progress=False)

    one, other = trained("auto"), trained(2)
    assert one.record["step_seconds"]
    assert one.model.entity.weight.equal(other.model.entity.weight)


@pytest.mark.parametrize(
    "settings",
    [{"training.steps": STEPS - 1}, {"training.compile": True}, {"threads": 1}],
    ids=lambda s: next(iter(s)),
)
def test_it_is_not_measured_where_it_is_not_worth_it(
    two: Torch, toy_folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(module, "build_trainer", None)
    chosen = make_config(apply_settings(config(toy_folder), settings))
    if chosen.threads == "auto":
        assert measure(chosen, build_dataset(chosen)) == {}
    else:
        assert use_threads(chosen, build_dataset(chosen), Parts()) == {}
        assert two.threads == 1


class _Told(Callback):
    def __init__(self, stop: int = 10**9):
        self.notes: list[str] = []
        self.stop, self.step = stop, 0

    def on_note(self, message: str) -> None:
        self.notes.append(message)

    def on_progress(self, step: int, loss: float | None) -> None:
        self.step = step

    def should_stop(self) -> bool:
        return self.step >= self.stop


def test_a_run_that_goes_on_takes_the_recorded_number(two: Torch, toy_folder: Path, tmp_path: Path) -> None:
    whole = mmrns.train(config(toy_folder), out=tmp_path / "whole", progress=False, plots=False)
    first = _Told(STEPS // 2)
    with pytest.raises(Interrupted):
        mmrns.train(config(toy_folder), out=tmp_path / "cut", callbacks=[first], progress=False)
    assert first.notes[0].startswith("Training on cpu with 2 threads (a step takes 100 ms with 1, 50 ms with 2): about")
    # On a machine where another number would be the fastest.
    two.threads = 1
    then = _Told()
    resumed = mmrns.train(out=tmp_path / "cut", resume=True, callbacks=[then], progress=False, plots=False)
    assert then.notes[0] == "Training on cpu with 2 threads."
    assert not [note for note in then.notes if "goes on with" in note]
    assert resumed.record["threads"] == json.loads((tmp_path / "cut" / "record.json").read_text())["threads"] == 2
    assert two.threads == 1
    assert resumed.model.entity.weight.equal(whole.model.entity.weight)
    assert resumed.config.threads == "auto"


def test_a_comparison_has_one_number_for_all(two: Torch, toy_folder: Path, tmp_path: Path) -> None:
    def comparison(**settings: Any) -> Comparison:
        own = {"training.steps": STEPS, "training.evaluate_every": STEPS, "training.batch_size": 64, "model.dim": 6}
        given = own | {"device": "cpu", "training.hardness": False} | settings
        return Comparison.of(str(toy_folder), ["TransE"], ["uniform", "sans"], seeds=1, settings=given)

    notes: list[str] = []
    compare(comparison(), tmp_path / "auto", note=notes.append, progress=False)
    assert [note for note in notes if note.startswith("Training on cpu with 2 threads (")]
    assert read_config(tmp_path / "auto" / "comparison.yaml")["threads"] == 2
    for name in ("uniform", "sans"):
        folder = tmp_path / "auto" / "trained" / f"{name}-seed-0"
        assert read_config(folder / "config.yaml")["threads"] == 2
        assert json.loads((folder / "record.json").read_text())["threads"] == 2
    # Said, it is no other comparison: the results are the same but for the last bits.
    more = Comparison.of(str(toy_folder), ["TransE"], ["uniform", "sans", "frequency"], seeds=1,
                         settings=dict(comparison().common) | {"threads": 1})  # fmt: skip
    assert more.threads == 1
    assert "threads" not in more.common
    compare(more, tmp_path / "auto", progress=False)
    folder = tmp_path / "auto" / "trained" / "frequency-seed-0"
    assert json.loads((folder / "record.json").read_text())["threads"] == 1


def test_numba_is_offered_where_it_is_missing(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told_of = _Told()
    mmrns.train(config(toy_folder), callbacks=[told_of], progress=False)
    offered = "Without Numba a step takes up to twice as long; pip install 'mmrns[fast]'."
    assert offered not in told_of.notes
    monkeypatch.setattr("mmrns.runs.notes.find_spec", lambda name: None)
    mmrns.train(config(toy_folder), callbacks=[told_of], progress=False)
    assert told_of.notes.count(offered) == 1
