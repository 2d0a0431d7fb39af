"""Writing to disk: whole files under final names, one writer a folder, nothing left behind."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmrns import files
from mmrns.errors import DataError
from mmrns.files import (
    LOCK,
    JsonLines,
    StoredTensors,
    locked,
    new_folder,
    replaced,
    replacing,
    tensor_on_disk,
    write_frame,
    write_json,
    write_tensors,
    write_text,
)


@contextmanager
def holder(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs code and waits where it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = "from pathlib import Path; from mmrns.files import {0}\nwith {0}(Path({1!r})):\n print(flush=True); input()"


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(HOLD.format("locked", str(folder))) as other:
        told = rf"run: is being written by process {other.pid} since \d{{4}}-.*; wait"
        with pytest.raises(DataError, match=told), locked(folder):
            pass
        with locked(tmp_path / "another"):
            pass
        other.kill()
        other.wait()
        with locked(folder):  # The lock ends with the process that held it.
            pass
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_a_second_thread_is_a_second_writer_and_the_same_thread_is_not(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def second() -> None:
        try:
            with locked(tmp_path / ".." / tmp_path.name):
                pass
        except DataError as error:
            found.append(error)

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        with locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()  # Not released by the inner one.
    assert "process" in str(found[0])
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_stays_empty_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "new" / "inner"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with locked(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for context in (locked, new_folder):
        with pytest.raises(DataError, match=r"cannot be (written|made)"), context(tmp_path / "file" / "inner"):
            pass


def test_one_at_a_time_makes_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with holder(HOLD.format("new_folder", str(target))) as other:
        with pytest.raises(DataError, match=rf"made: is being written by process {other.pid}"), new_folder(target):
            pass
        with new_folder(tmp_path / "another"):
            pass
        other.kill()
        other.wait()
        left = [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        assert len(left) == 1
        with new_folder(target) as folder:
            (folder / "x").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "made"]


def test_a_lock_left_behind_is_no_content(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("left by one that was killed")
    with new_folder(tmp_path) as folder:
        (folder / "x").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    inner = tmp_path / "checkpoint"
    inner.mkdir()
    swept = [f".last.safetensors.{dead.pid}.tmp", f".a.b.{dead.pid}-0f0f0f0f.tmp", f".x.{os.getpid()}-12ab.tmp"]
    kept = [f".x.{os.getppid()}-12ab.tmp", "x.tmp", ".hidden", ".tmp", "config.yaml", f".x.{dead.pid}.tmp.bak"]
    for place in (tmp_path, inner):
        for name in [*swept, *kept, ".tmpA1b2C3"]:
            (place / name).write_text("left")
    (tmp_path / f".made.{dead.pid}-0f.tmp").mkdir()
    (tmp_path / f".made.{dead.pid}-0f.tmp" / "x").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / swept[0]).write_text("left")
    with replaced(tmp_path / "open") as open_now, locked(tmp_path, "checkpoint", "missing"):
        open_now.write_text("ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "checkpoint", "open", "other"])
    assert sorted(path.name for path in inner.iterdir()) == sorted(kept)
    assert (tmp_path / "other" / swept[0]).exists()


def test_two_threads_write_one_name_without_meeting(tmp_path: Path) -> None:
    path, barrier = tmp_path / "x", threading.Barrier(2)
    failed: list[BaseException] = []

    def write(text: str) -> None:
        try:
            with replacing(path) as (file,):
                barrier.wait()
                file.write(text.encode())
                barrier.wait()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text * 1000,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 1000 bytes; to who writes it that is as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _write(path: Path) -> None:
    """Write more than is allowed."""
    if path.name == "text":
        write_text(path, "x" * 10_000)
    elif path.name == "tensors":
        write_tensors(path, {"x": torch.zeros(10_000)})
    elif path.name == "lines":
        JsonLines(path).write({"x": "x" * 10_000})
    elif path.name == "folder":
        with new_folder(path) as made:
            (made / "x").write_text("x" * 10_000)
    else:
        write_frame(pl.DataFrame({"x": np.random.default_rng(0).random(10_000)}), path)


@pytest.mark.parametrize("what", ["text", "tensors", "lines", "folder", "x.csv", "x.parquet", "x.json"])
def test_a_full_disk_is_one_line_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    with small_files(), pytest.raises(DataError, match=r"cannot be written .*; make room or choose another") as caught:
        _write(tmp_path / what)
    assert caught.value.where == tmp_path / what
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == (["lines"] if what == "lines" else [])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_what_the_disk_refuses_at_the_last_moment_leaves_the_old_file(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def refuse(file: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match=rf"x.json: cannot be written \({os.strerror(code)}\)"):
        write_json(path, {"new": 1})
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_read_meanwhile_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), replaced(tmp_path / "x"):
        (tmp_path / "missing").read_text()
    with pytest.raises(FileNotFoundError, match="missing"), new_folder(tmp_path / "y"):
        (tmp_path / "missing").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    code = f"from pathlib import Path; from mmrns.files import replaced\nwith replaced(Path({str(path)!r})) as t:\n"
    with holder(code + " t.write_text('ne'); print(flush=True); input()") as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert path.read_text() == "old"
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_json_lines_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").symlink_to("m.jsonl")
    with pytest.raises(DataError, match=r"m\.jsonl: cannot be written"):
        JsonLines(tmp_path / "m.jsonl")


def test_a_new_folder_may_be_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with new_folder(Path()) as made:
        (made / "x").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "x"]
    for taken in (Path("..") / "here", Path("/")):
        with pytest.raises(DataError, match="exists already; choose another name or remove it"), new_folder(taken):
            pass


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file of tensors of several kinds, and what it holds."""
    values = torch.randn(50, 3, 2)
    tensors = {"values": values, "mask": values[:, 0] > 0, "step": torch.tensor(7), "none": torch.empty(0, 4)}
    path = tmp_path_factory.mktemp("stored") / "x.safetensors"
    write_tensors(path, tensors, {"a": "b"})
    return path, tensors


@given(st.lists(st.integers(0, 49), max_size=80), st.integers(1, 400))
def test_rows_of_a_file_are_those_of_its_tensor(
    stored: tuple[Path, dict[str, Tensor]], rows: list[int], block: int
) -> None:
    path, tensors = stored
    ids = torch.tensor(rows, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.tensors, "_BLOCK", block)
        found = StoredTensors(path)
        assert torch.equal(found.rows("values", ids), tensors["values"][ids])
        for name in tensors:
            parts = [*found.blocks(name)]
            assert torch.equal(torch.cat(parts) if parts[0].ndim else parts[0], tensors[name])


def test_a_file_of_tensors_is_a_mapping(stored: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, tensors = stored
    found = StoredTensors(path)
    assert (found.metadata, set(found), len(found)) == ({"a": "b"}, set(tensors), 4)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    with pytest.raises(KeyError):
        found["other"]
    with pytest.raises(DataError, match="has but 50 rows of 'values'"):
        found.rows("values", torch.tensor([3, 50]))
    half = torch.randn(5, 2).bfloat16()  # Which numpy has no type for.
    write_tensors(tmp_path / "half.safetensors", {"half": half})
    assert torch.equal(StoredTensors(tmp_path / "half.safetensors").rows("half", torch.tensor([4, 0])), half[[4, 0]])


def test_a_tensor_that_is_put_together_on_the_disk_is_gone_afterwards(tmp_path: Path) -> None:
    whole, path = torch.randn(9, 4), tmp_path / "x.safetensors"
    with tensor_on_disk(path, whole.split(4)) as values:
        assert torch.equal(values, whole)
        write_tensors(path, {"whole": values})
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
    assert torch.equal(StoredTensors(path)["whole"], whole)
    too_large = r"x\.safetensors: cannot be written \(File too large\)"
    with small_files(), pytest.raises(DataError, match=too_large), tensor_on_disk(path, [torch.zeros(10_000)]):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
