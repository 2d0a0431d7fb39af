"""Whether a result can be written is known before the work, in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.cli.use import predict
from mmrns.errors import DataError, UsageError
from mmrns.files import new_folder, refuse_taken, refuse_unwritable
from mmrns.prepare.split import split_dataset
from mmrns.studies.compare import Comparison, compare


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("")
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    return tmp_path


LONG = "a" * 300
FOLDERS = {
    "afile": "is a file",
    "afile/run": "'afile' is a file",
    "afile/deep/run": "'afile' is a file",
    "folder/inside/run": "'folder/inside' is a file",
    LONG: "cannot be written (File name too long)",
    f"new/{LONG}": "cannot be written (File name too long)",
    f"{LONG}/run": "cannot be written (File name too long)",
    "nothing": "is a link to nothing",
}
FILES = {
    "folder": "is a folder",
    "": "is a folder",
    "..": "is a folder",
    "new/x.csv": "no folder 'new'",
    "afile/x.csv": "'afile' is a file",
    f"{LONG}.csv": "cannot be written (File name too long)",
    # It fits, but not with what is added while it is written.
    f"{'a' * 246}.csv": "cannot be written (File name too long)",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_made(place: Path, name: str) -> None:
    with pytest.raises(UsageError) as raised:
        refuse_unwritable(Path(name), folder=True)
    assert str(raised.value) == f"--out {name}: {FOLDERS[name]}; choose another place"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_written(place: Path, name: str) -> None:
    with pytest.raises(UsageError) as raised:
        refuse_unwritable(Path(name))
    assert str(raised.value) == f"--out {Path(name)}: {FILES[name]}; choose another place"


@pytest.mark.parametrize("name", ["new", "new/deep/er", ".", "folder", "folder/..", "x" * 200])
def test_a_folder_that_can_be_made(place: Path, name: str) -> None:
    refuse_unwritable(Path(name), folder=True)
    assert not (place / "new").exists()


def test_a_file_that_can_be_written(place: Path) -> None:
    for name in ("afile", "x.csv", "folder/x.csv", "nothing"):
        refuse_unwritable(Path(name))


def test_what_may_not_be_written_to(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as a user who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("folder"))
    with pytest.raises(UsageError, match=r"--out folder/x\.csv: 'folder' may not be written to; choose another place"):
        refuse_unwritable(Path("folder/x.csv"))
    with pytest.raises(UsageError, match="--out folder/new/run: 'folder' may not be written to"):
        refuse_unwritable(Path("folder/new/run"), folder=True)
    with pytest.raises(DataError, match=r"folder/new: cannot be made \('folder' may not be written to\)"):
        refuse_taken(Path("folder/new"))
    with pytest.raises(DataError, match="cannot be made"), new_folder(Path("folder/new")):
        pass


def _train(out: str) -> Any:
    return mmrns.train(dataset="countries", out=out)


def _compare(out: str) -> Any:
    return compare(Comparison.of("countries", ["TransE"], ["uniform"]), out)


def _predict(out: str) -> Any:
    return predict(Path("no-run"), head="a", relation="r", file=Path(out))


def _split(out: str) -> Any:
    return split_dataset(Path("no-folder"), Path(out))


@pytest.mark.parametrize(
    ("work", "out"),
    [
        (_train, "afile"),
        (_train, f"{LONG}/run"),
        (_compare, "afile"),
        (_predict, "folder/inside/x.csv"),
        (_split, "afile/new"),
        (_split, "folder"),
    ],
)
def test_no_work_is_done_for_nothing(place: Path, work: Any, out: str) -> None:
    with pytest.raises((UsageError, DataError)) as raised:
        work(out)
    assert out in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in place.iterdir()) == ["afile", "folder", "nothing"]
