"""The benchmark for one GPU runs on a processor, where it leaves out what only a device can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmrns.runs.methods import method_names

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SMALL = {"device": "cpu", "steps": 2, "dim": 8, "batch": 32, "negatives": 4, "triples": 5, "scorer": "TransE"}


def test_it_measures_every_method_and_the_peer(toy_folder: Path) -> None:
    pytest.importorskip("pykeen")
    options = SMALL | {"dataset": toy_folder, "beside": toy_folder}
    command = [sys.executable, str(SCRIPT), "--json", *(f"--{name}={value}" for name, value in options.items())]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    for key in ("aten_ops", "step_ms"):
        assert found[key].keys() == set(method_names())
        assert all(value > 0 for value in found[key].values())
    for key in ("busy_ms", "launches", "peak_gb"):
        assert found[key] == dict.fromkeys(method_names())
    assert found["recorded"] == dict.fromkeys(method_names())
    for row in found["published"].values():
        assert row["aten_ops"] > 0
        assert row["busy_ms"] is None
    for key in ("ranking", "training"):
        assert found[key].keys() == {"TransE"}
        row = found[key]["TransE"]
        assert row["ratio"] == pytest.approx(row["ours"] / row["pykeen"])
    assert all(value > 0 for value in found["bandwidth"].values())
    assert {"hard", "mmrns"} < found["tables"].keys()
    for rows in found["tables"].values():
        assert rows.keys() == {"device", "host"}
        assert all(row["step_ms"] > 0 for row in rows.values())
