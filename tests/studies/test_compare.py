from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from mmrns.errors import DataError, Diverged, UsageError
from mmrns.nn.scorers import Scorer
from mmrns.runs.run import load_run
from mmrns.runs.train import Interrupted, train
from mmrns.runs.values import read_config
from mmrns.samplers.base import Sampler
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.studies import compare as module
from mmrns.studies.compare import Training, compare, train_once
from mmrns.studies.comparison import Comparison, Entry
from mmrns.studies.records import read_records
from mmrns.studies.report import paired, rows, spread, table, write_summary

SMALL = {
    "training.steps": 12,
    "training.evaluate_every": 6,
    "training.batch_size": 64,
    "training.hardness": False,
    "model.dim": 6,
    "sampler.negatives": 4,
    "device": "cpu",
}


def small(dataset: Path, *methods: Any, scorers: tuple[Any, ...] = ("TransE",), **options: Any) -> Comparison:
    return Comparison.of(str(dataset), scorers, methods, **{"seeds": 2, "settings": SMALL, "threads": 1} | options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is trained, in order."""
    names: list[str] = []

    def counted(training: Training) -> dict[str, Any]:
        names.append(training.name)
        return train_once(training)

    monkeypatch.setattr(module, "train_once", counted)
    return names


def test_every_scorer_with_every_method_and_seed(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    comparison = small(toy_folder, "uniform", "mmrns", scorers=("TransE", "DistMult"), seeds=1)
    seen: list[str] = []
    records = compare(comparison, tmp_path / "out", done=lambda record: seen.append(record["label"]))
    labels = ["TransE-uniform", "TransE-mmrns", "DistMult-uniform", "DistMult-mmrns"]
    assert [(r["label"], r["seed"]) for r in records] == [(label, seed) for label in labels for seed in (0,)]
    assert len(seen) == comparison.trainings == 4
    for record in records:
        run = load_run(tmp_path / "out" / "trained" / record["name"])
        assert record["test"] == run.results["test"]["both"]
        assert record["name"] == f"{record['label']}-seed-{record['seed']}"
        assert (run.config.seed, run.config.method) == (record["seed"], record["sampler"])
        assert record["curve"][-1][0] == 12
        assert (tmp_path / "out" / "trained" / record["name"] / "plots").is_dir()
    assert read_records(tmp_path / "out") == records
    # Nothing is trained twice, and a further seed and method only add what is missing.
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
        label = record["label"]
        trials = [r for r in read_records(tmp_path) if r["name"].startswith(f"{label}-trial-")]
        assert len(trials) == comparison.budget(comparison.entries[label])
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


def test_a_record_that_was_cut_off_is_trained_again(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    comparison = small(toy_folder, "uniform")
    whole = compare(comparison, tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    trained.clear()
    said: list[str] = []
    found = compare(comparison, tmp_path, note=said.append)
    assert trained == ["uniform-seed-1"]
    assert "the last line was cut off" in said[0]
    assert said[1:] == ["Each training: 12 steps, 64 triples a step, 4 negatives a triple."]
    # Its run was finished, so that not even its steps are repeated.
    assert found == whole == read_records(tmp_path)


@pytest.mark.parametrize("trials", [0, 2])
def test_jobs_find_the_same(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    """As many at a time as there are jobs: trials and seeds of an entry as well, which may be the last that is left."""
    together = threading.Barrier(2)

    class Meeting(module.Workers):
        def run(self, task: Any, argument: Any) -> Any:
            together.wait(timeout=60)
            return super().run(task, argument)

    monkeypatch.setattr(module, "Workers", Meeting)
    space = {"training.lr": [1e-2, 1e-3, 1e-4]}
    comparison = small(toy_folder, "uniform", seeds=2, **({"trials": trials, "space": space} if trials else {}))
    one, two = compare(comparison, tmp_path / "one"), compare(comparison, tmp_path / "two", jobs=2)
    assert [r["test"] for r in one] == [r["test"] for r in two]
    assert [r["name"] for r in two] == ["uniform-seed-0", "uniform-seed-1"]
    assert [r["settings"] for r in one] == [r["settings"] for r in two]
    records = [{r["name"]: r["valid_mrr"] for r in read_records(tmp_path / folder)} for folder in ("one", "two")]
    assert len(records[0]) == 2 + trials
    assert records[0] == records[1]


def table_of(records: list[dict[str, Any]], comparison: Comparison) -> dict[str, dict[str, str]]:
    return {row["method"]: row for row in table(records, comparison)}


def test_a_search_goes_on_where_a_trial_diverges(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    said: list[str] = []
    space = {"training.lr": ["1e30", 1e-2, 1e29], "inbatch": {"training.lr": [1e30, 1e29]}}
    comparison = small(toy_folder, "uniform", "inbatch", scorers=("DistMult",), trials=3, space=space, seeds=2)
    records = compare(comparison, tmp_path, note=said.append)
    by_name = {record["name"]: record for record in read_records(tmp_path)}
    trials = [by_name[f"uniform-trial-{i}"] for i in range(3)]
    failed = [trial for trial in trials if "failed" in trial]
    assert len(failed) == 2
    assert all("not finite" in trial["failed"] and trial["valid_mrr"] is None for trial in failed)
    assert {trial["settings"]["training.lr"] for trial in failed} == {"1e30", 1e29}
    # Said with label, trial, settings and the way to try it again.
    assert any("uniform-trial-" in line and "training.lr=1e+29" in line and "records.jsonl" in line for line in said)
    assert [r["settings"] for r in records if r["label"] == "uniform"] == [{"training.lr": 0.01}] * 2
    # The other has no settings left, and says so.
    assert "inbatch: all 2 trials failed; there are no settings to train with." in said
    assert [r.get("failed") for r in records if r["label"] == "inbatch"] == ["all 2 trials failed"] * 2
    assert not any(name.startswith("inbatch-seed") for name in trained)
    cells = table_of(records, comparison)
    assert (cells["uniform"]["trials"], cells["uniform"]["seeds"]) == ("3 (2 failed)", "2")
    assert (cells["inbatch"]["trials"], cells["inbatch"]["seeds"]) == ("2 (2 failed)", "0 of 2")
    write_summary(records, tmp_path, comparison)
    assert "inbatch-seed-1 failed: all 2 trials failed." in (tmp_path / "report.md").read_text()
    # The same call trains nothing and finds the same.
    trained.clear()
    seen: list[Any] = []
    assert compare(comparison, tmp_path, done=seen.append) == records
    assert trained == []
    assert len(seen) == comparison.trainings
    # A failure is tried again once its line is gone.
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(line for line in lines if "inbatch-trial-1" not in line))
    compare(comparison, tmp_path)
    assert trained == ["inbatch-trial-1"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Diverged("the loss is not finite at step 3; lower training.lr"), "the loss is not finite at step 3"),
        (MemoryError(), "too little memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            "too little memory",
        ),
    ],
)
def test_a_seed_that_fails_is_recorded_and_the_others_count(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    real = module.train

    def sometimes(**given: Any) -> Any:
        if given["settings"]["seed"] == 1 and given["settings"]["method"] == "uniform":
            raise error
        return real(**given)

    monkeypatch.setattr(module, "train", sometimes)
    comparison = small(toy_folder, "uniform", "self-adversarial", seeds=3)
    records = compare(comparison, tmp_path)
    failed = [record for record in records if "failed" in record]
    assert [record["name"] for record in failed] == ["uniform-seed-1"]
    assert reason in failed[0]["failed"]
    cells = table_of(records, comparison)
    good = [record["test"]["realistic"]["mrr"] for record in records[:3] if "failed" not in record]
    assert cells["uniform"]["test MRR"] == spread(good)
    assert (cells["uniform"]["seeds"], cells["self-adversarial"]["seeds"]) == ("2 of 3", "3")
    # Differences are of the seeds that both have.
    assert cells["uniform"]["difference"] == paired([records[0], records[2]], records[3:])
    write_summary(records, tmp_path, comparison)
    row = json.loads((tmp_path / "results.json").read_text())[1]
    assert (row["seed"], row["test_mrr"], row["valid_mrr"], row["seconds"]) == (1, None, None, None)
    assert reason in row["failed"]
    assert "uniform-seed-1 failed: " in (tmp_path / "report.md").read_text()


def test_an_error_that_is_no_setting_s_is_not_recorded(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, message in (
        (UsageError("no"), "^uniform-seed-0 .*: no$"),
        (RuntimeError("a fault of ours"), "a fault of ours"),
        (DataError("x", "is gone", "bring it back"), "is gone"),
    ):

        def fail(error: Exception = error, **given: Any) -> None:
            raise error

        monkeypatch.setattr(module, "train", fail)
        with pytest.raises(type(error), match=message):
            compare(small(toy_folder, "uniform"), tmp_path)
        assert read_records(tmp_path) == []


def test_a_comparison_without_test_is_one_by_validation(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    (toy_folder / "test.tsv").write_text("")
    said: list[str] = []
    comparison = small(toy_folder, "uniform", "self-adversarial", seeds=1)
    records = compare(comparison, tmp_path / "empty", note=said.append)
    assert [line for line in said if "no test triples" in line]
    told = small(toy_folder, "uniform", "self-adversarial", seeds=1, settings=SMALL | {"evaluation.test": "no"})
    again = compare(told, tmp_path / "told", note=said.append)
    assert len([line for line in said if "no test triples" in line]) == 1
    assert [r["valid"] for r in again] == [r["valid"] for r in records]
    for record in records:
        assert "test" not in record
        assert load_run(tmp_path / "empty" / "trained" / record["name"]).config.evaluation.test is False
    cells = table_of(records, comparison)
    assert "test MRR" not in cells["uniform"]
    assert cells["uniform"]["Hits@10"] == spread([records[0]["valid"]["realistic"]["hits@10"]])
    write_summary(records, tmp_path, comparison)
    row = json.loads((tmp_path / "results.json").read_text())[0]
    assert row["test_mrr"] is row["hits@10"] is None
    assert row["valid_hits@10"] == records[0]["valid"]["realistic"]["hits@10"]
    report = (tmp_path / "report.md").read_text()
    assert "The test split was not read" in report
    assert "test MRR" not in report


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.dataset": "no-such-dataset"}, "no-such-dataset"),
        ({"sampler.modalities": ["sound"]}, "mmrns: .*sound"),
        ({"model.modalities": ["sound"]}, "sound"),
        ({"device": "cuda"}, "not available"),
        ({"method": "file", "sampler.path": "none.tsv"}, r"none\.tsv"),
    ],
)
def test_what_the_data_or_the_machine_refuses_is_known_before_training(
    toy_folder: Path, tmp_path: Path, trained: list[str], settings: dict[str, Any], message: str
) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("it is")
    common = SMALL | {"data.dataset": str(toy_folder), "model.scorer": "TransE"}
    good, bad = Entry({"method": "uniform"}), Entry({"method": "mmrns"}, listed=[{}, settings])
    with pytest.raises((UsageError, DataError), match=message):
        compare(Comparison(common, {"good": good, "mmrns": bad}), tmp_path / "out")
    assert trained == []


def test_a_folder_has_one_comparison_at_a_time(toy_folder: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def second() -> None:
        try:
            compare(small(toy_folder, "uniform", seeds=1), tmp_path)
        except DataError as error:
            seen.append(str(error))

    def meanwhile(record: Any) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    compare(small(toy_folder, "uniform", seeds=1), tmp_path, done=meanwhile)
    assert len(seen) == 1
    assert "is being written by" in seen[0]


def test_a_folder_belongs_to_one_comparison(toy_folder: Path, tmp_path: Path) -> None:
    compare(small(toy_folder, "uniform", seeds=1), tmp_path)
    other = small(toy_folder, "uniform", seeds=1, settings=SMALL | {"model.dim": 5})
    with pytest.raises(DataError, match=r"comparison\.yaml: was begun with another 'common'"):
        compare(other, tmp_path)
    with pytest.raises(DataError, match="another 'trials'"):
        compare(small(toy_folder, "uniform", trials=2), tmp_path)


STUDY = """
trials: 2
seeds: 4
threads: 1
common: {model.dim: 8}
space: {training.lr: [0.1, 0.2]}
methods:
  uniform: {objective.gamma: [3], sampler.negatives: 7}
  more: [{method: uniform, sampler.negatives: 99}]
  both: [{method: domain-range}, {method: mmrns, sampler.discount: 0.25}]
"""


def test_a_comparison_can_be_written_down(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    found = Comparison.read(path)
    assert found.seeds == 4
    # A single value is a setting, a list is what may be tried.
    assert found.entries["uniform"].space == {"training.lr": [0.1, 0.2], "objective.gamma": [3]}
    assert found.entries["uniform"].settings == {"method": "uniform", "sampler.negatives": 7}
    assert found.entries["more"].listed == [{"method": "uniform", "sampler.negatives": 99}]
    # A list of one has nothing to choose from.
    assert [found.budget(entry) for entry in found.entries.values()] == [2, 0, 2]
    assert found.trainings == 2 + 0 + 2 + 3 * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: {uniform: {training.lr: [1, 2]}}\nseed: 3\n", "unknown key 'seed'"),
        ("common: {}\n", "holds no `methods`"),
        ("methods: {uniform: {training.lr: [1, 2]}}\n", "a space needs trials"),
        ("methods: {mmrn: {}}\n", "unknown method 'mmrn'"),
        ("methods: {one: [{method: uniform}, {sampler.negatives: 3}]}\n", "unknown method 'one'"),
        ("methods: {a: {sampler.name: bernoulli}}\n", "write method: bernoulli"),
        ("methods: {mmrns: {sampler.discount: 0}}\n", "write method: domain-range"),
        ("methods: {'a.b:Mine': {method: uniform}, 'c.d:Mine': {method: uniform}}\n", "names something twice"),
    ],
)
def test_a_study_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises((DataError, UsageError), match=message):
        Comparison.read(path)


def test_a_single_setting_needs_no_trial(toy_folder: Path, tmp_path: Path, trained: list[str]) -> None:
    path = tmp_path / "study.yaml"
    common = SMALL | {"data.dataset": str(toy_folder)}
    methods = {"text-alone": {"method": "mmrns", "sampler.modalities": [["text"]]}}
    path.write_text(json.dumps({"seeds": 1, "common": common, "methods": methods}))
    (record,) = compare(Comparison.read(path), tmp_path / "out")
    assert trained == ["text-alone-seed-0"]
    assert load_run(tmp_path / "out" / "trained" / "text-alone-seed-0").config.sampler.modalities == ["text"]
    assert record["settings"] == {"sampler.modalities": ["text"]}
    assert record["sampler"] == "mmrns"


OWN = """
from mmrns.nn.scorers import TransE
from mmrns.samplers.uniform import Uniform

class Mine(Uniform): ...

class Moved(TransE): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a sampler and a scorer that nobody has registered."""
    (tmp_path / "own_study_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_study_module"


def test_classes_of_ones_own_are_named_by_their_path(toy_folder: Path, tmp_path: Path, own: str) -> None:
    common = SMALL | {"data.dataset": str(toy_folder), "model.scorer": f"{own}:Moved"}
    study = {"seeds": 1, "threads": 1, "common": common, "methods": {f"{own}:Mine": {}, "uniform": {}}}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    mine, uniform = compare(Comparison.read(path), tmp_path / "out", jobs=2)
    assert (mine["name"], mine["label"], mine["sampler"]) == ("Mine-seed-0", "Mine", f"{own}:Mine")
    assert mine["scorer"] == f"{own}:Moved"
    assert mine["test"] == uniform["test"]
    # The same in Python, by path or by class.
    paths = small(toy_folder, f"{own}:Mine", scorers=(f"{own}:Moved", "TransE"))
    classes = Scorer.registry.get(f"{own}:Moved"), Sampler.registry.get(f"{own}:Mine")
    assert small(toy_folder, classes[1], scorers=(classes[0], "TransE")) == paths
    assert [*paths.entries] == ["Moved-Mine", "TransE-Mine"]


ABLATED = Path(__file__).parents[2] / "experiments" / "countries" / "ablations.yaml"


@pytest.mark.parametrize("label", ["without-relation-guidance", "without-the-correction", "mmrns-published"])
def test_an_ablated_run_is_repeated_from_its_configuration(tmp_path: Path, label: str) -> None:
    comparison = Comparison.read(ABLATED)
    # What the relation guides is compared with what was learnt by the step that ends the first lag.
    steps = Mmrns.lag + 2 if label == "without-relation-guidance" else 10
    short = {"training.steps": steps, "training.evaluate_every": steps, "model.dim": 8, "device": "cpu"}
    first = train(
        out=tmp_path / "run", settings=comparison.common | comparison.entries[label].settings | short, plots=False
    )
    again = train(read_config(tmp_path / "run" / "config.yaml"))
    other = train(settings=comparison.common | comparison.entries["complete"].settings | short)
    for module_name in ("model", "sampler"):
        own = getattr(first, module_name).state_dict()
        repeated = getattr(again, module_name).state_dict()
        assert own.keys() == repeated.keys()
        assert all(own[name].equal(repeated[name]) for name in own)
    # And the ablation is one: the complete sampler trains another model.
    assert not first.model.entity.weight.equal(other.model.entity.weight)


@pytest.mark.parametrize("study", sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml")), ids=str)
def test_every_study_of_the_repository_is_one(study: Path) -> None:
    if "methods:" in study.read_text():
        assert Comparison.read(study).entries


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ("mmrn",)}, "unknown method 'mmrn'"),
        ({"scorers": ("TransF",)}, "unknown scorer 'TransF'"),
        ({"settings": {"training.step": 3}}, "unknown configuration key"),
        ({"methods": ()}, "needs a scorer, a method"),
        ({"methods": ("uniform", "uniform")}, "names something twice"),
        ({"space": {"training.lr": 3}, "trials": 1}, "is no space"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(given: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"dataset": "countries", "scorers": ("TransE",), "methods": ("uniform",)} | given
    with pytest.raises(UsageError, match=message):
        Comparison.of(**values)


def test_what_it_came_to_is_written(toy_folder: Path, tmp_path: Path) -> None:
    comparison = small(toy_folder, "self-adversarial", "mmrns")
    records = compare(comparison, tmp_path)
    write_summary(records, tmp_path, comparison)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == rows(records)
    assert {"scorer", "sampler", "seed", "valid_mrr", "test_mrr", "hits@10", "seconds"} <= set(written[0])
    report = (tmp_path / "report.md").read_text()
    assert "| mmrns |" in report
    assert "`model.dim=6`" in report
    for name in ("mrr.png", "time.png"):
        assert f"({name})" in report
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert [row["sampler"] for row in written] == ["self-adversarial"] * 2 + ["mmrns"] * 2
