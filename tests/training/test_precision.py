"""Options that change how a step is computed and hardly what."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer


def trainer_of(toy: Dataset, method: str, scorer: str = "ComplEx", **training: Any) -> Trainer:
    values = {
        "model": {"scorer": scorer, "dim": 16},
        "method": method,
        "training": {"batch_size": 64, **training},
        "device": "cpu",
    }
    return build_trainer(make_config(values), toy)


@pytest.mark.parametrize("method", ["k-vs-all", "mmrns"])
def test_autocast_comes_close_to_full_precision(toy: Dataset, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, cast = trainer_of(toy, method), trainer_of(toy, method, autocast=True)
    products: list[torch.dtype] = []
    compare = type(cast.model.scorer).compare

    def seen(self: Any, *given: Any) -> Any:
        found = compare(self, *given)
        products.append(found.dtype)
        return found

    expected = [float(plain.step(step)) for step in range(5)]
    monkeypatch.setattr(type(cast.model.scorer), "compare", seen)
    assert [float(cast.step(step)) for step in range(5)] == pytest.approx(expected, rel=0.02)
    assert torch.bfloat16 in products
    assert all(p.dtype == torch.float32 for p in [*cast.model.parameters(), *cast.sampler.parameters()])


COMPILED = """
import sys, torch
from mmrns.data.datasets import load_dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config

for compile in (True, False):
    values = {"model": {"scorer": "PairRE", "dim": 16}, "method": "self-adversarial"}
    training = {"batch_size": 64, "compile": compile}
    trainer = build_trainer(make_config({**values, "training": training, "device": "cpu"}), load_dataset(sys.argv[1]))
    print(*(float(trainer.step(step)) for step in range(3)))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_formulas_give_the_same(toy_folder: Path) -> None:
    # In a process of its own: torch does not compile what checks types at run time.
    done = subprocess.run([sys.executable, "-c", COMPILED, toy_folder], capture_output=True, text=True, check=True)
    compiled, plain = ([float(x) for x in line.split()] for line in done.stdout.splitlines())
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert len(set(plain)) == 3
    # The compiler has not gone through what the kernels import.
    assert not done.stderr
