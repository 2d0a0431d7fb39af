"""What a comparison recommends can be trained, and comes to what it recorded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.runs.config import make_config
from mmrns.runs.values import read_config
from mmrns.studies.compare import compare
from mmrns.studies.comparison import Comparison, Entry
from mmrns.studies.recipe import best_label, recipe
from mmrns.studies.records import read_records

SMALL = {
    "model.scorer": "DistMult",
    "training.steps": 6,
    "training.evaluate_every": 3,
    "training.batch_size": 64,
    "training.hardness": False,
    "training.lr": 0.05,
    "model.dim": 6,
    "sampler.negatives": 4,
    "device": "cpu",
}


def record(label: str, seed: int, valid: float | None, test: float = 0.1) -> dict[str, Any]:
    known = {"name": f"{label}-seed-{seed}", "label": label, "scorer": "TransE", "sampler": label, "settings": {}}
    if valid is None:
        return known | {"seed": seed, "valid_mrr": None, "failed": "the loss is not finite"}
    metrics = dict.fromkeys(("mrr", "hits@1", "hits@3", "hits@10"), test)
    return known | {"seed": seed, "valid_mrr": valid, "test": {"realistic": metrics}}


def test_the_best_is_so_by_validation_over_the_seeds_that_worked() -> None:
    records = [
        *(record("steady", seed, 0.3, 0.1) for seed in range(2)),
        record("lucky", 0, 0.5, 0.9),
        record("lucky", 1, 0.05, 0.9),
        record("cut", 0, None),
        record("cut", 1, 0.2),
    ]
    assert best_label(records) == "steady"
    assert best_label(records[2:]) == "lucky"
    assert best_label(records[4:]) == "cut"
    assert best_label([records[4]]) is None
    assert recipe([records[4]], Comparison({}, {"cut": Entry({})}), Path()) is None


def test_the_recipe_of_a_study_trains_and_repeats_its_first_seed(toy_folder: Path, tmp_path: Path) -> None:
    common = SMALL | {"data.dataset": str(toy_folder)}
    entries = {
        "drawn": Entry({"method": "self-adversarial"}, {"objective.alpha": [0.5, 1]}),
        "every": Entry({"method": "k-vs-all"}, {"objective.l2": [0.0, 0.01]}),
    }
    comparison = Comparison(common, entries, trials=2, seeds=1).checked()
    folder = tmp_path / "study"
    records = compare(comparison, folder)
    best = max(records, key=lambda one: one["valid_mrr"])
    assert best_label(records) == best["label"]
    path = folder / "best.yaml"
    path.write_text(recipe(records, comparison, folder) or "")
    run = mmrns.train(path)
    assert run.results["test"]["both"] == best["test"]
    ((key, value),) = best["settings"].items()
    assert getattr(run.config.objective, key.removeprefix("objective.")) == value
    # A setting of the study alone is in it, so that another scorer may be laid over it.
    assert "p" not in read_config(path)["model"]
    assert mmrns.train(path, scorer="TransE", out=tmp_path / "other", plots=False).config.model.scorer == "TransE"
    # The dataset is found from the folder, wherever that is moved with it.
    assert str(tmp_path) not in path.read_text()


def test_a_recipe_leaves_out_a_test_split_that_is_not_there(toy_folder: Path, tmp_path: Path) -> None:
    (toy_folder / "test.tsv").write_text("")
    comparison = Comparison(
        SMALL | {"data.dataset": str(toy_folder)}, {"uniform": Entry({"method": "uniform"})}, seeds=1
    )
    comparison = comparison.checked()
    records = compare(comparison, tmp_path)
    path = tmp_path / "best.yaml"
    path.write_text(recipe(records, comparison, tmp_path) or "")
    assert mmrns.train(path).results["valid"]["both"] == records[0]["valid"]


RECORDED = sorted((Path(__file__).parents[2] / "experiments").glob("*/*/comparison.yaml"))


@pytest.mark.parametrize("claim", RECORDED, ids=lambda path: f"{path.parents[1].name}/{path.parent.name}")
def test_a_recorded_study_of_the_repository_has_its_recipe(claim: Path) -> None:
    folder = claim.parent
    comparison = Comparison.read(folder.with_suffix(".yaml"))
    seeds = [one for one in read_records(folder) if one["name"] == f"{one['label']}-seed-{one['seed']}"]
    path = folder / "best.yaml"
    assert path.read_text(encoding="utf-8") == recipe(seeds, comparison, folder)
    assert make_config(read_config(path)).seed == 0


def test_each_dataset_has_the_best_of_its_studies() -> None:
    """By validation, of all that is recorded; and no dataset with a recorded study lacks it."""
    path = Path(__file__).parents[2] / "scripts" / "best_settings.py"
    spec = importlib.util.spec_from_file_location("best_settings", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[Path, str] = module.best_settings()
    assert {path.parent.name for path in found} == {claim.parents[1].name for claim in RECORDED}
    for path, text in found.items():
        assert path.read_text(encoding="utf-8") == text, "run: python scripts/best_settings.py"
        reached = float(re.findall(r"a mean MRR of ([\d.]+) %", text)[0])
        others = path.parent.glob("*/best.yaml")
        assert reached == max(float(re.findall(r"a mean MRR of ([\d.]+) %", one.read_text())[0]) for one in others)
