from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmrns.errors import DataError, UsageError
from mmrns.runs import compare as module
from mmrns.runs.run import load_run
from mmrns.runs.train import Interrupted
from mmrns.studies.compare import Comparison, Training, compare, train_once
from mmrns.studies.report import rows, write_summary

SMALL = {
    "training.steps": 12,
    "training.evaluate_every": 6,
    "training.batch_size": 64,
    "training.hardness": False,
    "model.dim": 6,
    "sampler.negatives": 4,
    "device": "cpu",
}


def small(dataset: Path, *samplers: str, scorers: tuple[str, ...] = ("TransE",), **options: Any) -> Comparison:
    return Comparison.of(str(dataset), scorers, samplers, **{"seeds": 2, "settings": SMALL, "threads": 1} | options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is trained, in order."""
    names: list[str] = []

    def counted(training: Training) -> dict[str, Any]:
        names.append(training.name)
        return train_once(training)

    monkeypatch.setattr(module, "train_once", counted)
    return names


def test_every_scorer_with_every_sampler_and_seed(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    comparison = small(toy_folder, "uniform", "mmrns", scorers=("TransE", "DistMult"), seeds=1)
    seen: list[str] = []
    records = compare(comparison, tmp_path / "out", done=lambda record: seen.append(record["method"]))
    labels = ["TransE-uniform", "TransE-mmrns", "DistMult-uniform", "DistMult-mmrns"]
    assert [(r["method"], r["seed"]) for r in records] == [(label, seed) for label in labels for seed in (0,)]
    assert len(seen) == comparison.trainings == 4
    for record in records:
        run = load_run(tmp_path / "out" / "trained" / f"{record['method']}-seed-{record['seed']}")
        assert record["test"] == run.results["test"]["both"]
        assert run.config.seed == record["seed"]
        assert record["curve"][-1][0] == 12
    # Nothing is trained twice, and a further seed and sampler only add what is missing.
    more = small(toy_folder, "uniform", "mmrns", "sans", scorers=("TransE", "DistMult"), seeds=2)
    trained.clear()
    assert compare(more, tmp_path / "out")[0] == records[0]
    assert len(trained) == 6 * 2 - 4
    assert "TransE-uniform-seed-0" not in trained


def test_settings_are_chosen_on_validation_only(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    space = {"training.lr": [1e-5, 0.05], "uniform": {"sampler.negatives": [2, 3]}}
    comparison = small(toy_folder, "uniform", "self-adversarial", trials=3, space=space, seeds=1)
    # Two settings are all that the second has.
    assert [comparison.budget(entry) for entry in comparison.entries.values()] == [3, 2]
    records = compare(comparison, tmp_path)
    for record in records:
        trials = [json.loads(p.read_text()) for p in tmp_path.glob(f"{record['method']}-trial-*.json")]
        assert all("test" not in trial for trial in trials)
        assert all(trial["seed"] == 0 for trial in trials)
        best = max(trials, key=lambda trial: trial["valid_mrr"])
        assert record["settings"] == best["settings"]
    assert sorted(path.name for path in (tmp_path / "trained").iterdir()) == [
        "self-adversarial-seed-0",
        "uniform-seed-0",
    ]


def test_an_interruption_loses_nothing(
    toy_folder: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = small(toy_folder, "uniform", "mmrns")
    whole = compare(comparison, tmp_path / "whole")
    again = module.train_once

    def cut(training: Training) -> dict[str, Any]:
        if len(trained) == 4 + 2:
            raise Interrupted("cut")
        return again(training)

    monkeypatch.setattr(module, "train_once", cut)
    with pytest.raises(Interrupted, match="the same command continues"):
        compare(comparison, tmp_path / "cut")
    monkeypatch.setattr(module, "train_once", again)
    trained.clear()
    found = compare(comparison, tmp_path / "cut")
    assert len(trained) == 2
    assert [r["test"] for r in found] == [r["test"] for r in whole]


def test_jobs_find_the_same(toy_folder: Path, tmp_path: Path) -> None:
    comparison = small(toy_folder, "uniform", "self-adversarial", seeds=1)
    one, two = compare(comparison, tmp_path / "one"), compare(comparison, tmp_path / "two", jobs=2)
    assert [r["test"] for r in one] == [r["test"] for r in two]


def test_a_folder_belongs_to_one_comparison(toy_folder: Path, tmp_path: Path) -> None:
    compare(small(toy_folder, "uniform", seeds=1), tmp_path)
    other = small(toy_folder, "uniform", seeds=1, settings=SMALL | {"model.dim": 5})
    with pytest.raises(DataError, match=r"comparison\.yaml: was begun with another 'common'"):
        compare(other, tmp_path)
    with pytest.raises(DataError, match="another 'trials'"):
        compare(small(toy_folder, "uniform", trials=2), tmp_path)


def test_a_comparison_can_be_written_down(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "trials: 2\nseeds: 4\nthreads: 1\ncommon: {model.dim: 8}\nspace: {training.lr: [0.1, 0.2]}\n"
        "methods:\n  uniform: {objective.gamma: [3]}\n  more: [{sampler.name: uniform, sampler.negatives: 99}]\n"
    )
    found = Comparison.read(path)
    assert found.seeds == 4
    assert found.entries["uniform"].space == {"training.lr": [0.1, 0.2], "objective.gamma": [3]}
    assert found.entries["uniform"].settings == {"sampler.name": "uniform"}
    assert found.entries["more"].listed == [{"sampler.name": "uniform", "sampler.negatives": 99}]
    assert found.trainings == 2 + 4 + 1 + 4
    path.write_text("methods: {uniform: {training.lr: [1]}}\nseed: 3\n")
    with pytest.raises(DataError, match="unknown key 'seed'"):
        Comparison.read(path)
    path.write_text("common: {}\n")
    with pytest.raises(DataError, match="holds no `methods`"):
        Comparison.read(path)


@pytest.mark.parametrize("study", sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml")), ids=str)
def test_every_study_of_the_repository_is_one(study: Path) -> None:
    if "methods:" in study.read_text():
        assert Comparison.read(study).entries


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samplers": ("mmrn",)}, "unknown sampler 'mmrn'"),
        ({"scorers": ("TransF",)}, "unknown scorer 'TransF'"),
        ({"settings": {"training.step": 3}}, "unknown configuration key"),
        ({"samplers": ()}, "needs a scorer, a sampler"),
        ({"space": {"training.lr": 3}, "trials": 1}, "is no space"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(given: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"dataset": "countries", "scorers": ("TransE",), "samplers": ("uniform",)} | given
    with pytest.raises(UsageError, match=message):
        Comparison.of(**values)


def test_what_it_came_to_is_written(toy_folder: Path, tmp_path: Path) -> None:
    comparison = small(toy_folder, "self-adversarial", "mmrns")
    records = compare(comparison, tmp_path)
    write_summary(records, tmp_path, comparison.common, comparison.trials)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == rows(records)
    assert {"scorer", "sampler", "seed", "valid_mrr", "test_mrr", "hits@10", "seconds"} <= set(written[0])
    report = (tmp_path / "report.md").read_text()
    assert "| mmrns |" in report
    assert "`model.dim=6`" in report
    for name in ("mrr.png", "time.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
