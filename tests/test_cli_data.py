"""`mmrns data list`, `check`, `split` and `get` as processes, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrns.cli import app
from mmrns.data.datasets import load_dataset
from mmrns.data.folders import EMBEDDED
from mmrns.errors import MmrnsError, UsageError

HEAVY = ("torch", "matplotlib")


def process(*arguments: str | Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mmrns", "data", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "400", **env},
        timeout=60,
    )
    lines = done.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    done.stderr = "".join(f"{line}\n" for line in lines if not line.startswith("import time:"))
    assert done.returncode == code, done.stderr + done.stdout
    assert not loaded.intersection(HEAVY), "torch alone takes seconds"
    return done


def inside(*arguments: str | Path, code: int = 0) -> str:
    """The output of a command run in this process."""
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["data", *map(str, arguments)])
    if isinstance(done.exception, MmrnsError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_check(toy_folder: Path) -> None:
    report = process("check", toy_folder).stdout
    assert "no errors" in report
    assert "warning test.tsv:" in report
    leak = (toy_folder / "train.tsv").read_text().splitlines()[0]
    with (toy_folder / "valid.tsv").open("a") as file:
        file.write(f"{leak}\n" + "e01 likes e02\n" * 9)
    report = inside("check", toy_folder, code=1)
    assert "error valid.tsv:26: 1 of 26 rows are also rows of train" in report
    assert (
        "error valid.tsv:27: 1 column where head TAB relation TAB tail is expected (separated by blanks?); " in report
    )
    assert "error valid.tsv: 4 more of the kind `columns`" in report
    assert report.splitlines()[-1] == "10 errors"
    found = json.loads(inside("check", toy_folder, "--json", "--limit", "100", code=1))
    assert found["leakage"]["valid_in_train"] == 1
    assert {"file", "line", "code", "message", "remedy"} <= set(found["problems"][0])
    assert found["more"] == []


def test_check_finds_the_leak_of_db15k(shared: Path) -> None:
    found = json.loads(process("check", shared / "data" / "DB15K", "--json", code=1).stdout)
    assert found["leakage"]["valid_in_train"] == 8719
    assert found["leakage"]["valid_in_test"] == 1105


def test_split(toy_folder: Path, tmp_path: Path) -> None:
    done = process("split", toy_folder, tmp_path / "new", "--test", "20", "--valid", "0.1", "--seed", "7")
    assert "20 test" in done.stdout
    assert len((tmp_path / "new" / "test.tsv").read_text().splitlines()) == 20
    record = json.loads(
        inside("split", toy_folder, tmp_path / "again", "--test=20", "--valid=0.1", "--seed=7", "--json")
    )
    assert record["split"]["seed"] == 7
    assert (tmp_path / "again" / "valid.tsv").read_bytes() == (tmp_path / "new" / "valid.tsv").read_bytes()
    assert inside("split", toy_folder / "train.tsv", tmp_path / "file", "--random").startswith(str(tmp_path / "file"))
    leak = (toy_folder / "train.tsv").read_text().splitlines()[0]
    (toy_folder / "valid.tsv").write_text(leak + "\n")
    report = inside("split", toy_folder, tmp_path / "clean", "--repair", "--valid", "5")
    assert report.splitlines()[:2] == [
        "1 rows of valid dropped: in train",
        "5 rows of train moved to valid: to fill valid",
    ]


def test_split_with_new_entities(toy_folder: Path, tmp_path: Path) -> None:
    told = inside("split", toy_folder, tmp_path / "new", "--new-entities", "6", "--valid=10", "--test=10")
    new = load_dataset(tmp_path / "new").graph
    counts = [int((~new.seen_entities)[rows[:, [0, 2]].flatten().unique()].sum()) for rows in (new.valid, new.test)]
    assert int((~new.seen_entities).sum()) == 6
    assert told.splitlines()[1] == f"train lacks {counts[0]} entities of valid and {counts[1]} of test"
    record = json.loads((tmp_path / "new" / "dataset.json").read_text())
    assert record["split"]["new_entities"] == {"asked": 6, "valid": counts[0], "test": counts[1]}
    with pytest.raises(UsageError, match=r"--new-entities 1\.5: give a number of entities, such as 500, or a share"):
        inside("split", toy_folder, tmp_path / "other", "--new-entities=1.5")


@pytest.mark.parametrize("amount", ["-1", "1.0", "1.5", "nan", "many", ".", "inf", "-0.1"])
def test_amounts_that_are_none(tmp_path: Path, amount: str) -> None:
    with pytest.raises(UsageError, match=r"give a number of rows, such as 500, or a share below 1, such as 0\.1"):
        inside("split", "countries", tmp_path / "new", f"--test={amount}")


def test_an_emptied_valid_is_said(toy_folder: Path, tmp_path: Path) -> None:
    (toy_folder / "valid.tsv").write_text((toy_folder / "train.tsv").read_text().splitlines()[0] + "\n")
    done = CliRunner().invoke(app, ["data", "split", str(toy_folder), str(tmp_path / "new"), "--repair"])
    assert "valid is empty, and a model is selected on it: --valid N fills it from train" in done.output


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrns.data.folders.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    rows = json.loads(inside("list", "--json"))
    assert rows[0].items() >= {"name": "countries", "where": "embedded", "train": 1829}.items()
    (db15k,) = [row for row in rows if row["name"] == "DB15K"]
    assert db15k["where"] is None
    assert db15k["licence"].startswith("BSD-3-Clause")
    table = inside("list")
    assert "DB15K: 8,719 of the 9,904 rows of valid are also rows of train" in table
    assert {"countries", "DB15K", "MKG-W", "MKG-Y", "FB15k-237", "WN9-IMG"} <= {
        line.split()[0] for line in table.splitlines()
    }


def test_get(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "MMRNS_DATA": str(tmp_path)}
    done = process("get", "MKG-W", code=2, **cache)
    assert "mmrns: MKG-W has no direct link." in done.stderr
    assert "mmrns data get MKG-W --from NAMED" in done.stderr
    done = process("get", "MKG-W", "--from", EMBEDDED["countries"], code=1, **cache)
    place = f"mmrns: {EMBEDDED['countries']}: "
    assert done.stderr == (
        f"{place}1,829 rows in train where MKG-W has 34,196; get the published dataset, or put this one under "
        "$MMRNS_DATA by another name\n"
    )
    done = process("get", "WN18RR", "--from", "http://127.0.0.1:9/x.zip", code=1, **cache)
    assert done.stderr.startswith("mmrns: http://127.0.0.1:9/x.zip: cannot be reached (")
    assert len(done.stderr.splitlines()) == 1
    assert inside("get", "countries").strip() == str(EMBEDDED["countries"])
    with pytest.raises(UsageError, match="unknown dataset 'DB14K'; did you mean 'DB15K'"):
        inside("get", "DB14K")


def test_get_brings_a_real_dataset(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrns.data.folders.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("mmrns.prepare.download.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    assert inside("get", "MKG-W", "--from", shared / "data" / "MKG-W").strip() == str(tmp_path / "cache" / "MKG-W")
    assert "12 rows" not in inside("list")
    # A long path is folded where the terminal is narrow.
    assert str(tmp_path / "cache" / "MKG-W") in "".join(inside("list").split())


@pytest.mark.parametrize("command", ["list", "check", "split", "get"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: mmrns data {command}" in inside(command, "--help")
