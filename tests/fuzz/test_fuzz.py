"""A few thousand damaged inputs; `make fuzz N=1000000` reads as many as wanted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fuzz import harness
from fuzz.harness import Count, Target, fuzz
from fuzz.mutations import mutate
from fuzz.targets import make_run_targets, make_targets
from mmrns.errors import DataError

PARTS = 6
SLOW = ("check", "convert", "convert-nt", "split", "dataset", "encode", "ids", "queries")


@pytest.mark.parametrize("part", range(PARTS))
def test_readers_return_or_refuse_in_one_line(part: int, tmp_path: Path) -> None:
    targets = [target for number, target in enumerate(make_targets().values()) if number % PARTS == part]
    found = {target.name: fuzz(target, tmp_path, iter(range(8 if target.name in SLOW else 40))) for target in targets}
    assert {name: count.faults for name, count in found.items() if count.faults} == {}
    # Neither so little damage that all are read, nor so much that none is.
    assert sum(count.read for count in found.values()) > 0
    assert sum(count.refused for count in found.values()) > 0 or "check" in found


def test_runs_are_opened_or_refused_in_one_line(tmp_path: Path) -> None:
    found = {name: fuzz(target, tmp_path, iter(range(30))) for name, target in make_run_targets().items()}
    assert {name: count.faults for name, count in found.items() if count.faults} == {}


def verdicts(of_damage: Callable[[Path], object], tmp_path: Path) -> Count:
    def read(folder: Path) -> None:
        path = folder / "a.txt"
        if not path.is_file() or path.read_bytes() != b"x\ty\n":
            of_damage(folder)

    return fuzz(Target("t", ({"a.txt": b"x\ty\n"},), read), tmp_path, iter(range(8)))


def test_each_kind_of_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panics(folder: Path) -> None:
        raise Panic

    def several(folder: Path) -> None:
        error = DataError(folder, "a", "b")
        error.args = ("a\nb",)
        raise error

    def leaves(folder: Path) -> None:
        (folder / "more").mkdir()
        raise DataError(folder, "a", "b")

    def warns(folder: Path) -> None:
        warnings.warn("careful", RuntimeWarning, stacklevel=1)

    def hangs(folder: Path) -> None:
        time.sleep(5)

    monkeypatch.setattr(harness, "SECONDS", 0.05)
    expected = {
        panics: "Panic",
        several: "several lines",
        leaves: "leaves files",
        warns: "RuntimeWarning",
        hangs: "Hangs",
    }
    for read, name in expected.items():
        faults = verdicts(read, tmp_path).faults
        assert [(name in kind, fault["times"] > 4) for kind, fault in faults.items()] == [(True, True)], faults
    assert verdicts(lambda folder: None, tmp_path).read == 8


@pytest.mark.parametrize("name", ["tsv", "png", "npz", "safetensors", "yaml", "json", "jsonl", "gz", "npy", "h5"])
def test_a_number_stands_for_one_input(name: str) -> None:
    files = [c for t in make_targets().values() for v in t.inputs for n, c in v.items() if n.endswith(f".{name}")]
    made = [[mutate(files[0], name, Random(number), files) for number in range(60)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 30
