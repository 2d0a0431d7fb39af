from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mmrns.runs.train import Interrupted
from mmrns.training.interruption import Interruption


@contextmanager
def handled(number: int, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_does_what_it_did_before(number: signal.Signals) -> None:
    told: list[int] = []
    with handled(number, lambda n, frame: told.append(n)):
        with Interruption(lambda: told.append(0)) as interruption:
            assert not interruption.should_stop()
            signal.raise_signal(number)
            assert interruption.should_stop()
            assert interruption.number == number
            assert told == [0]
            signal.raise_signal(number)
            assert told == [0, number]
        signal.raise_signal(number)
        assert told == [0, number, number]


def test_a_signal_that_is_ignored_stays_so() -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), Interruption() as interruption:
        signal.raise_signal(signal.SIGHUP)
        assert not interruption.should_stop()


def test_other_threads_get_no_signals() -> None:
    def enter() -> None:
        with Interruption() as interruption:
            assert interruption.before == {}
        done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [True]


def test_the_exit_code_is_that_of_the_shell() -> None:
    assert Interrupted("x").exit_code == 130
    assert Interrupted("x", signal.SIGTERM).exit_code == 143
