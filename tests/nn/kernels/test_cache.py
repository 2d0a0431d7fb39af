"""What is compiled once is not compiled again, and no state of its folder stops anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
from numba import njit
from numba.core import caching

from mmrns.errors import Note
from mmrns.nn.kernels import comparisons
from mmrns.nn.kernels.cache import cached

COMPARES = """
import torch
from mmrns.nn.kernels.comparisons import compare
x = torch.arange(12.0).view(3, 4).requires_grad_()
for kind in ("l1", "modulus"):
    found = compare(kind, x, 2 * x)
    found.sum().backward()
    print(found.tolist(), x.grad.tolist())
"""


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    said, kept = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPARES],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        said.append(done.stdout)
        kept.append(files(tmp_path))
    assert said[0] == said[1]
    assert kept[0] == kept[1]
    # Of two kinds: sum, gradient, and the kernels over a pool of both; index and data each.
    assert len(kept[0]) >= 16


def doubled(x: Any) -> Any:
    return 2 * x


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def fresh() -> Any:
    """A dispatcher as another process would make it."""
    return cached(njit(doubled))


def hits(dispatcher: Any) -> int:
    return sum(dispatcher.stats.cache_hits.values())


def test_types_and_processors_have_files_of_their_own(place: Path) -> None:
    by_type: list[set[str]] = []
    for x in (np.float32(1), np.float64(1), np.int64(1)):
        before = set(files(place))
        assert fresh()(x) == 2
        by_type.append(set(files(place)) - before)
    assert [len(names) for names in by_type] == [2, 2, 2]
    cache = fresh()._cache
    names: list[str] = []
    for processor in ("one", "another"):
        cache._index_key(("type",), SimpleNamespace(magic_tuple=lambda processor=processor: (processor,)))
        names.append(cache._cache_file._index_name)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\x80\x04no pickle",
        lambda data: b"garbage" * 100,
    ],
    ids=["empty", "cut off", "no pickle", "garbage"],
)
@pytest.mark.parametrize("which", ["*.nbi", "*.nbc"])
def test_damaged_files_are_written_anew(place: Path, which: str, damage: Callable[[bytes], bytes]) -> None:
    assert fresh()(3.0) == 6.0
    for path in place.rglob(which):
        path.write_bytes(damage(path.read_bytes()))
    again = fresh()
    assert again(3.0) == 6.0
    assert hits(again) == 0
    last = fresh()
    assert last(3.0) == 6.0
    assert hits(last) == 1


def test_what_cannot_be_written_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert fresh()(3.0) == 6.0
    # The index names a file that is not there.
    assert fresh()(3.0) == 6.0


def test_without_a_folder_a_note_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.warns(Note, match="set NUMBA_CACHE_DIR"):
        made = fresh()
    assert made(3.0) == 6.0


@pytest.mark.parametrize("form", ["numba", "triton"])
def test_kernels_that_do_not_load_are_as_good_as_none(form: comparisons.Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "find_spec", lambda name: object())
    # Importing it raises ImportError.
    monkeypatch.setitem(sys.modules, comparisons._MODULES[form], None)
    with pytest.warns(Note, match=f"{form.title()} cannot be loaded"):
        assert comparisons._loaded(form) is False
