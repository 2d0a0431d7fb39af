"""The benchmark of models: its names, what it counts, what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mmrns.data.datasets import load_dataset
from mmrns.nn.mixtures import Mixture
from mmrns.runs.build import build_trainer
from mmrns.runs.config import apply_settings, make_config

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "models.py"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which imports others of its folder."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import models

    return models


def test_every_model_that_compares_by_products_has_a_name(models: ModuleType) -> None:
    every = models.every_model(["text"])
    assert {"ComplEx", "BiQUE", "TuckER", *Mixture.registry.names()} <= {*every}
    assert not {"TransE", "RotatE", "fused", "table"} & {*every}
    assert not {*Mixture.registry.names()} & {*models.every_model([])}
    assert models.settings_of("m-hyper", ["text"])["model.scorer"] == "BiQUE"
    with pytest.raises(SystemExit, match="residual reads features, and the dataset has none"):
        models.settings_of("residual", [])


@pytest.mark.parametrize(("name", "products"), [("ComplEx", 1), ("residual", 3)])
def test_flop_are_those_of_the_products(models: ModuleType, toy_folder: Path, name: str, products: int) -> None:
    dataset = load_dataset(toy_folder)
    values = models.SETTING | models.settings_of(name, [*dataset.features])
    values |= {"model.dim": 8, "training.batch_size": 16, "device": "cpu"}
    trainer = build_trainer(make_config(apply_settings({}, values)), dataset)
    # Of 16 queries with 40 entities by 16 numbers for each view, and its two gradients.
    least = products * 3 * 2 * 16 * 40 * 16
    found = models.flop_of(trainer, range(2))
    assert found == least if name == "ComplEx" else found > least


def test_it_prints_a_row_for_each_model(toy_folder: Path) -> None:
    options = {"dataset": toy_folder, "dim": 8, "batch": 32, "steps": 2, "square": 64, "models": "ComplEx"}
    command = [sys.executable, str(SCRIPT), "--json", *(f"--{name}={value}" for name, value in options.items())]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert list(found) == ["ComplEx"]
    assert found["ComplEx"].keys() == {"seconds", "flop", "ratio", "memory_mb"}
    assert all(value > 0 for value in found["ComplEx"].values())
