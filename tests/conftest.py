"""Shapes are checked while the tests run: every annotation of the package is enforced."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmrns.data.datasets import Dataset

# Without a GPU the kernels for one are interpreted, which Triton asks for when it is imported. Nothing else runs by it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# What torch warns of but once would fail whichever test comes first.
torch.set_warn_always(True)
# So that any test may `from toy import toy` or use what the benchmarks share; last, so that these shadow no package.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
import_module("shapes").enforce("mmrns")
# How long an example takes depends on the machine and on what else it does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """Trainings draw no pictures, which take longer than their steps, but in tests that ask for `pictures`; and nobody
    waits for the disk, whose power no test cuts.
    """
    from forked import forking
    from undrawn import draw_nothing

    # A console that is made while a test sets COLUMNS would keep that width.
    import_module("mmrns.cli.show")
    draw_nothing()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(os, "sync", lambda: None, raising=False)
        # A worker of a comparison would import everything anew.
        patch.setattr("mmrns.studies.workers._context", forking)
        yield


@pytest.fixture
def pictures() -> Iterator[None]:
    """Trainings of this test draw their pictures."""
    from undrawn import drawing

    with drawing():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real datasets and recorded steps beside the repository; tests that need it skip without."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}/ beside the repository")
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The toy dataset, loaded once; not to be changed."""
    from toy import toy

    return toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    """A toy dataset folder of the test's own, to be changed at will."""
    from toy import write_toy

    return write_toy(tmp_path / "toy")


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the toy dataset that was calibrated at its end; not to be changed.

    With reciprocal relations, so that the two sides of a triple have scores of their own.
    """
    import mmrns
    from toy import SHORT, write_toy

    folder = tmp_path_factory.mktemp("calibrated")
    settings = SHORT | {"training.steps": 60, "threads": 1, "model.reciprocal": True}
    settings |= {"objective.gamma": 9.0, "evaluation.calibrate": True}
    given = {"scorer": "TransE", "method": "uniform", "device": "cpu", "settings": settings, "progress": False}
    mmrns.train(dataset=write_toy(folder / "kg"), out=folder / "run", **given)
    return folder / "run"
