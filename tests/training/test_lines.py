"""Where no terminal shows a training, lines do: after five seconds, then every minute."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import mmrns
import mmrns.runs.train
from mmrns.cli import show
from mmrns.pace import EVERY, FIRST, Pace, duration
from mmrns.training.callbacks import Callback
from mmrns.training.lines import HeldLines, ProgressLines


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Passing(Callback):
    """Lets a time pass with each step and each ranked query."""

    def __init__(self, clock: Clock, step: float, query: float):
        self.clock, self.step, self.query = clock, step, query

    def on_progress(self, step: int, loss: float | None) -> None:
        self.clock.now += self.step if loss is None else 0.0

    def on_ranking(self, what: str, queries: int) -> Any:
        def done(n: int) -> None:
            self.clock.now += self.query * n

        return done


def config(dataset: Path, **training: Any) -> dict[str, Any]:
    whole = {"steps": 40, "batch_size": 64, "evaluate_every": 20, "log_every": 10, "hardness": False}
    return {
        "data": {"dataset": str(dataset)},
        "model": {"dim": 6},
        "method": "uniform",
        "training": whole | training,
        "device": "cpu",
    }


def lines_of(dataset: Path, step: float, query: float = 0.0, **training: Any) -> list[str]:
    clock, said = Clock(), list[str]()
    # The clock comes first, so that each line is said after what it tells of.
    told = [Passing(clock, step, query), ProgressLines(said.append, clock=clock)]
    mmrns.train(config(dataset, **training), callbacks=told, progress=False)
    return said


def test_a_pace_is_due_after_five_seconds_and_then_each_minute() -> None:
    clock = Clock()
    pace, due = Pace(clock), list[float]()
    for second in range(200):
        clock.now = 100.0 + second
        if pace.due():
            due.append(pace.elapsed)
    assert due == [FIRST, FIRST + EVERY, FIRST + 2 * EVERY, FIRST + 3 * EVERY]
    assert pace.lines == 4


WORDS = {
    0.04: "0.0 s",
    9.4: "9.4 s",
    9.6: "10 s",
    89.0: "89 s",
    91.0: "2 min",
    5399.0: "90 min",
    5401.0: "1.5 h",
    2e5: "2.3 days",
}


@pytest.mark.parametrize(("seconds", "words"), WORDS.items())
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lines_tell_the_whole_first_and_then_what_is_left(toy_folder: Path) -> None:
    # Four seconds a step: the first line after two steps, then one at each 15th.
    said = lines_of(toy_folder, 4.0)
    assert said[0] == "step 2 of 40, 4.0 s a step, about 3 min in all, besides ranking"
    assert re.fullmatch(r"step 17 of 40, loss \d\.\d{4}, 4\.0 s a step, about 2 min left, besides ranking", said[1])
    assert re.fullmatch(r"step 32 of 40, loss \d\.\d{4}, valid MRR 0\.\d{4}, 4\.0 s a step, about 32 s left", said[2])
    assert len(said) == 3


def test_what_is_over_soon_says_nothing(toy_folder: Path) -> None:
    assert lines_of(toy_folder, 0.1) == []


def test_ranking_counts_apart_and_says_how_far_it_is(toy_folder: Path) -> None:
    graph = mmrns.load_dataset(str(toy_folder)).graph
    valid, test = 2 * len(graph.valid), 2 * len(graph.test)
    said = lines_of(toy_folder, 3.0, 1.0, evaluate_every=10)
    whole = [line for line in said if line.startswith("step")]
    # The speed is that of steps alone, also behind a ranking.
    assert all("3.0 s a step" in line for line in whole)
    after = next(line for line in whole if "besides" not in line)
    step = int(after.split()[1])
    validations = len([at for at in (10, 20, 30, 40) if at > step])
    left = 3.0 * (40 - step) + (validations + 1) * valid + test
    assert after.endswith(f"about {duration(left)} left")


def test_a_long_ranking_is_told(toy_folder: Path) -> None:
    clock, said = Clock(), list[str]()
    lines = ProgressLines(said.append, name="mine", clock=clock)
    assert lines.on_ranking("valid", 100) is None

    class Stop(Exception): ...

    class Rank(Callback):
        def on_start(self, training: Any) -> None:
            told = lines.on_ranking("valid", 100)
            assert told is not None
            for _ in range(4):
                clock.now += 4.0
                told(25)
            raise Stop

    with pytest.raises(Stop):
        mmrns.train(config(toy_folder), callbacks=[lines, Rank()], progress=False)
    assert said == ["mine: ranking valid: 50 of 100 queries, about 8.0 s left"]


def test_python_is_told_on_standard_error_by_default(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mmrns.train(config(toy_folder))
    assert capsys.readouterr().err == ""
    clock = Clock()
    monkeypatch.setattr(mmrns.runs.train, "HeldLines", lambda: HeldLines(clock=clock))
    mmrns.train(config(toy_folder), callbacks=[Passing(clock, 4.0, 0.0)])
    told = capsys.readouterr().err.splitlines()
    # What is worth knowing was held until it was clear that there is time to read it.
    assert told[0].startswith("Training on cpu with ")
    assert "entities matched" in told[1]
    assert [line.split(",")[0] for line in told if line.startswith("step")] == [
        *("step 2 of 40", "step 17 of 40", "step 32 of 40")
    ]
    mmrns.train(config(toy_folder), callbacks=[Passing(clock, 4.0, 0.0)], progress=False)
    assert capsys.readouterr().err == ""


def test_a_command_without_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(show, "Pace", lambda: Pace(clock))
    with show.bar("training", 30) as advance:
        for _ in range(30):
            clock.now += 3.0
            advance(1)
    told = capsys.readouterr().err.splitlines()
    assert told == ["training: 2 of 30, about 84 s left", "training: 22 of 30, about 24 s left"]
