"""Processes that train end with their parent, stop when asked, and tell when they are killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from mmrns.errors import DataError
from mmrns.runs.train import Interrupted
from mmrns.studies.workers import Workers, callbacks

PARENT = """
import sys, time
from mmrns.studies.workers import Workers
if __name__ == "__main__":
    with Workers(1, 1) as workers:
        print(workers.run(abs, -1), flush=True)
        import multiprocessing
        print(multiprocessing.active_children()[0].pid, flush=True)
        workers.run(time.sleep, 600)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process whose parent is gone may stay as a zombie where nobody is told.
    return not Path(f"/proc/{pid}/stat").exists() or " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    worker = int(process.stdout.readline())
    assert _alive(worker)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.stdout.close()


TASKS = """
import os, time
from mmrns.errors import DataError
from mmrns.runs.train import Interrupted
from mmrns.studies.workers import callbacks

def train(folder):
    (folder / "begun").touch()
    deadline = time.monotonic() + 60
    while not callbacks()[0].should_stop():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder / "checkpoint").touch()
    raise Interrupted("stopped")

def refuse(folder):
    raise DataError(folder, "is not fit", "mend it")

def kill(number):
    os.kill(os.getpid(), number)
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that other processes find, too."""
    (tmp_path / "tasks_of_test_workers.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("tasks_of_test_workers")
    del sys.modules["tasks_of_test_workers"]


def test_workers_stop_with_their_checkpoint_and_begin_nothing_more(tasks: Any, tmp_path: Path) -> None:
    assert callbacks() == []
    stopped: list[BaseException] = []

    def run() -> None:
        try:
            workers.run(tasks.train, tmp_path)
        except BaseException as error:
            stopped.append(error)

    with Workers(2, 1) as workers:
        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(DataError, match="is not fit"):
            workers.run(tasks.refuse, tmp_path)
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        workers.stop()
        with pytest.raises(Interrupted):
            workers.run(tasks.refuse, tmp_path)
        thread.join()
    assert (tmp_path / "checkpoint").exists()
    assert isinstance(stopped[0], Interrupted)


def test_a_worker_that_is_killed_does_not_stay_unseen(tasks: Any) -> None:
    with pytest.raises(BrokenProcessPool), Workers(1, 1) as workers:
        workers.run(tasks.kill, signal.SIGKILL)
