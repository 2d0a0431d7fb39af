"""The examples run, with their trainings cut short; all but the study leave nothing behind."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmrns.runs.train
from mmrns.nn.embedders import Embedder
from mmrns.nn.scorers import Scorer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "make_notebook.py")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder and short trainings; names that an example gives are taken back."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def shortened(values: object) -> object:
        config = make_config(values)  # pyright: ignore[reportArgumentType]
        cut = {"steps": min(config.training.steps, 6), "evaluate_every": 3, "log_every": 3, "batch_size": 64}
        model = config.model.model_copy(update={"dim": 8})
        return config.model_copy(update={"training": config.training.model_copy(update=cut), "model": model})

    monkeypatch.setattr(mmrns.runs.train, "make_config", shortened)
    kept = [
        (seam, {**seam._classes}) for seam in (Sampler.registry, Scorer.registry, Embedder.registry) if seam.names()
    ]
    yield folder
    for seam, classes in kept:
        seam._classes = classes


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_runs(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(EXAMPLES / name), run_name="example")
    assert "MRR" in capsys.readouterr().out or "run" in found
    if name != "study.py":
        assert list(here.iterdir()) == []
        assert found["run" if "run" in found else "runs"]


def test_everything_of_your_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "everything_of_your_own.py"
    code = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(code) < 25
    found = runpy.run_path(str(path), run_name="example")
    run = found["run"]
    assert run.folder is None
    assert list(here.iterdir()) == []
    assert type(run.sampler).__name__ == "Near"
    assert type(run.model.entity).__name__ == "Linear"
    shown = capsys.readouterr().out
    assert "plus4" in shown
    assert "Figure" in shown


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "study.py"])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 40


def test_every_example_has_a_line() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in page for name in (*PROGRAMS, "study.ipynb"))


def test_the_notebook_is_made_from_the_program() -> None:
    spec = importlib.util.spec_from_file_location("make_notebook", EXAMPLES / "make_notebook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.notebook((EXAMPLES / "study.py").read_text(encoding="utf-8"))
    assert made == (EXAMPLES / "study.ipynb").read_text(encoding="utf-8"), "run: python examples/make_notebook.py"
    assert '"outputs": []' in made
