"""Values of a configuration that may be paths, and need not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrns.data.datasets import load_dataset
from mmrns.data.tables import read_lines
from mmrns.errors import DataError, UsageError
from mmrns.runs.places import PATHS, absolute, beside, dataset_of_run

STRANGE = ["a" * 5000, "null\0byte", "~nobody-of-this-name/x", "half\ud800", "", ".", "a/" * 3000, "\n"]


@pytest.mark.parametrize("value", STRANGE)
def test_what_can_be_no_path_stays_as_it_is(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key in PATHS:
        section, name = key.split(".")
        found = beside({section: {name: value}}, tmp_path / "config.yaml")[section][name]
        assert found in (value, str(tmp_path), str(Path(value)))
        assert absolute(key, value) in (value, str(tmp_path))
    assert dataset_of_run(value, "nothing-of-this-name", tmp_path / "run") in (None, Path("."))


@pytest.mark.parametrize("value", [value for value in STRANGE if value not in ("", ".")])
def test_what_can_be_no_path_is_no_dataset_and_no_file(value: str) -> None:
    with pytest.raises(UsageError, match="no dataset or folder"):
        load_dataset(value)
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(Path(value))
