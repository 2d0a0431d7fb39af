"""Probabilities and classification of a run: what is learned of which split, kept, carried and refused."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.errors import DataError, Note, UsageError
from mmrns.evaluation import answers


@pytest.fixture
def run(calibrated: Path, tmp_path: Path) -> mmrns.Run:
    shutil.copytree(calibrated, tmp_path / "run")
    return mmrns.load_run(tmp_path / "run")


def test_training_calibrates_where_it_is_asked_to(calibrated: Path) -> None:
    found = json.loads((calibrated / "calibration.json").read_text())
    assert found["method"] == "isotonic"
    assert (calibrated / "plots" / "reliability.png").exists()
    assert (calibrated / "plots" / "reliability.svg").exists()
    assert found["after"]["ece"] < found["before"]["ece"] < 1
    sums = dict(line.split("  ")[::-1] for line in (calibrated / "SHA256SUMS").read_text().splitlines())
    assert found["model_sha256"] == sums["model.safetensors"]


def test_predictions_have_a_probability(run: mmrns.Run, tmp_path: Path) -> None:
    frame = run.predict(queries=[("e04", "likes", None), (None, "likes", "e04"), ("e04", None, "e05")], top=40)
    assert frame.columns[3:5] == ["score", "probability"]
    assert frame["probability"].is_between(0, 1).all()
    for (_, asked), part in frame.group_by("query", "asked"):
        if asked != "relation":
            assert part.sort("rank")["probability"].diff().drop_nulls().max() <= 0  # pyright: ignore
        else:
            # A relation is judged by what else belongs behind the head.
            again = run.probability(part.select("head", "relation", "tail"))
            assert part["probability"].to_list() == pytest.approx(again["probability"].to_list())
    for side in ("head", "tail"):
        part = frame.filter(pl.col("asked") == side)
        found = run.probability(part.select("head", "relation", "tail"), side=side)
        assert found["probability"].to_list() == pytest.approx(part["probability"].to_list(), abs=1e-6)
        assert found["score"].to_list() == pytest.approx(part["score"].to_list(), rel=1e-4)
    # Neither what is left out nor what else is asked makes an answer more or less probable.
    few = run.predict("e04", "likes", top=40, known="drop", candidates="train")
    both = few.join(frame.filter(pl.col("query") == 1), on=["head", "relation", "tail"])
    assert 0 < len(both) == len(few)
    assert both["probability"].to_list() == pytest.approx(both["probability_right"].to_list())
    with pytest.warns(Note, match="train lacks the entity 'e39'"):
        run.export_predictions(tmp_path / "all.parquet", run.every_query(), top=2)
    assert pl.read_parquet(tmp_path / "all.parquet")["probability"].is_between(0, 1).all()
    run.export_predictions(tmp_path / "none.parquet", run.every_query().triples[:0].tolist(), top=2)
    assert pl.read_parquet(tmp_path / "none.parquet").columns == frame.columns


def test_without_a_calibration_there_is_none(run: mmrns.Run) -> None:
    assert run.folder is not None
    (run.folder / "calibration.json").unlink()
    bare = mmrns.load_run(run.folder)
    assert "probability" not in bare.predict("e04", "likes").columns
    for use in (lambda: bare.probability([("e04", "likes", "e05")]), bare.calibration, bare.plot_reliability):
        with pytest.raises(
            UsageError, match=r"no calibration; make one by `mmrns calibrate .*run` \(run.calibrate\(\)\)"
        ):
            use()


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_what_is_read_again_is_what_was_written(run: mmrns.Run, method: Any, tmp_path: Path) -> None:
    found = run.calibrate(method)
    assert found["split"] == "valid"
    before = run.predict("e04", "likes")
    assert run.folder is not None
    again = mmrns.load_run(run.folder)
    assert again.predict("e04", "likes").equals(before)
    assert again.calibration() == run.calibration()


def test_a_calibration_is_carried_along(run: mmrns.Run, tmp_path: Path) -> None:
    before = run.predict("e04", "likes")
    # A bundle carries it, and so does a run that is saved elsewhere.
    run.export_bundle(tmp_path / "bundle")
    run.save(tmp_path / "saved")
    for folder in (tmp_path / "bundle", tmp_path / "saved"):
        assert mmrns.load_run(folder).predict("e04", "likes").equals(before)
        assert (folder / "plots" / "reliability.png").exists()


def test_calibration_does_not_read_the_test_split(run: mmrns.Run, toy: Dataset) -> None:
    assert run.folder is not None
    other = replace(toy, graph=replace(toy.graph, test=toy.graph.train[:3]), folder=None, files={})
    with pytest.warns(Note):
        without = mmrns.load_run(run.folder, dataset=other)
    about = run.calibrate()
    written = (run.folder / "calibration.json").read_bytes()
    assert without.calibrate() == about
    assert (run.folder / "calibration.json").read_bytes() == written


def test_how_good_it_is_elsewhere(run: mmrns.Run) -> None:
    graph = run.dataset.graph
    found = run.calibration()
    fresh = graph.test[~run.dataset.graph.train_index.contains(*graph.test.T)]
    queries = {(h, r, 0) for h, r, _ in fresh.tolist()} | {(t, r, 1) for _, r, t in fresh.tolist()}
    assert found["queries"] == len(queries)
    assert found["answers"] == 10 * len(queries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "0" * 64}, "is of another model than the run's"),
        ({"method": "beta"}, r"is not what a run writes there \(method:"),
        ({"curves": []}, "has no curve of all relations together"),
        ({"curves": [{"relation": None, "temperature": 1.0, "log_share": [-1.0, -2.0], "probability": [0.1, 0.2]}]},
         "the curve of all relations together is no probability that never falls"),
        ({"curves": [{"relation": None, "temperature": 0.0}]}, r"curves.0.temperature"),
    ],
)  # fmt: skip
def test_a_calibration_that_is_not_fit(run: mmrns.Run, change: dict[str, Any], message: str) -> None:
    assert run.folder is not None
    path = run.folder / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        mmrns.load_run(run.folder).predict("e04", "likes")
    assert "calibration.json" in str(caught.value)
    assert "mmrns calibrate RUN" in str(caught.value)


def test_nothing_to_calibrate_on(run: mmrns.Run, toy: Dataset) -> None:
    assert run.folder is not None
    leaked = replace(toy, graph=replace(toy.graph, valid=toy.graph.train[:3]), folder=None, files={})
    with pytest.warns(Note):
        opened = mmrns.load_run(run.folder, dataset=leaked)
    with pytest.raises(DataError, match="valid: has no triple that train lacks, to calibrate on"):
        opened.calibrate()
    with pytest.raises(DataError, match="valid: has no triple to learn thresholds of"):
        opened.classify(_false(run, run.folder / "false.tsv"))


def _names(run: mmrns.Run, ids: torch.Tensor) -> list[tuple[str, str, str]]:
    graph = run.dataset.graph
    return [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in ids.tolist()]


def _false(run: mmrns.Run, path: Path) -> Path:
    """A file of a false triple for each test triple."""
    graph = run.dataset.graph
    h, r, _ = graph.test.unbind(1)
    everyone = torch.arange(40)
    held = torch.stack([graph.known_index.contains(h, r, e.expand(len(h))) for e in everyone], dim=1)
    rows = torch.stack([h, r, (~held).long().argmax(1)], dim=1)
    path.write_text("".join("\t".join(row) + "\n" for row in _names(run, rows)))
    return path


def test_classification_by_negatives_and_by_labels_is_the_same(run: mmrns.Run, tmp_path: Path) -> None:
    false = _false(run, tmp_path / "false.tsv")
    found = run.classify(false)
    assert (found["split"], found["triples"], found["positives"]) == ("test", 50, 25)
    assert found["valid"]["made"]
    assert found["accuracy"] > 0.5 < found["roc_auc"]
    assert sum(row["triples"] for row in found["relations"]) == 50
    # By hand: right is what is at least as high as its relation's threshold.
    threshold = {row["relation"]: row["threshold"] for row in found["relations"]}
    true = run.score(_names(run, run.dataset.graph.test)).rows()
    wrong = run.score(pl.read_csv(false, separator="\t", has_header=False)).rows()
    right = [score >= threshold[r] for _, r, _, score in true] + [score < threshold[r] for _, r, _, score in wrong]
    assert found["accuracy"] == sum(right) / 50
    lines = ["\t".join(row) + "\t1\n" for row in _names(run, run.dataset.graph.test)]
    lines += [
        f"{line}\t{label}\n" for line, label in zip(false.read_text().splitlines(), ["-1", "0"] * 13, strict=False)
    ]
    (tmp_path / "labelled.tsv").write_text("".join(lines))
    labelled = run.classify(tmp_path / "labelled.tsv")
    assert labelled["split"] is None
    assert {key: value for key, value in labelled.items() if key != "split"} == {
        key: value for key, value in found.items() if key != "split"
    }
    # Thresholds of the same triples are at least as good on them as those of others.
    own = run.classify(tmp_path / "labelled.tsv", valid_negatives=tmp_path / "labelled.tsv")
    assert not own["valid"]["made"]
    assert own["valid"]["accuracy"] == own["accuracy"] >= found["accuracy"]
    assert run.classify(false, split="valid", valid_negatives=false)["positives"] == 25


def test_true_triples_of_train_are_told(run: mmrns.Run, tmp_path: Path) -> None:
    row = "\t".join(_names(run, run.dataset.graph.train[:1])[0])
    (tmp_path / "l.tsv").write_text(f"{row}\t1\ne00\tlikes\te00\t-1\n")
    with pytest.warns(Note, match="1 of the true triples are in train"):
        run.classify(tmp_path / "l.tsv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f\.tsv: holds no triple"),
        ("e01\tlikes\te01\n\ne99\tlikes\te01\n", r"f\.tsv:3: unknown entity 'e99'; did you mean"),
        ("e01\tlikes\te01\ne01\tlike\te01\n", r"f\.tsv:2: unknown relation 'like'; did you mean 'likes'"),
        ("e01\tlikes\te01\ne01\tlikes\n", r"f\.tsv:2: 2 columns where head TAB relation TAB tail is expected"),
        ("e01\tlikes\te01\t1\ne01\tlikes\te02\n", r"f\.tsv:2: 3 columns where head TAB relation TAB tail TAB label"),
        ("e01\tlikes\te01\t1\ne01\tlikes\te01\tyes\n", r"f\.tsv:2: the label 'yes' is none; write 1 for true"),
        ("e01\tlikes\te01\te01\n", r"f\.tsv:1: the label 'e01' is none"),
        ("e01\tlikes\te01\t-1\n", r"f\.tsv: none of its triples is true"),
        ("e01\tlikes\te01\t1\n", r"f\.tsv: none of its triples is false"),
        ("TEST\t0\n", r"f\.tsv:1: the triple is said to be false, but test holds it"),
        ("TEST\n", r"f\.tsv:1: the triple is said to be false, but test holds it"),
    ],
)
def test_a_file_that_is_not_fit(run: mmrns.Run, text: str, message: str, tmp_path: Path) -> None:
    text = text.replace("TEST", "\t".join(_names(run, run.dataset.graph.test[:1])[0]))
    (tmp_path / "f.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        run.classify(tmp_path / "f.tsv")
    with pytest.raises(DataError, match=message):
        run.classify(_false(run, tmp_path / "fit.tsv"), valid_negatives=tmp_path / "f.tsv")


def test_the_experiment_that_compares_ways_to_calibrate(run: mmrns.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that some of the 40 entities are random false answers.
    monkeypatch.setattr(answers, "LISTED", 3)
    path = Path(__file__).parents[2] / "experiments" / "calibration.py"
    run.calibrate()
    found = runpy.run_path(str(path), run_name="experiment")["compared"](run)
    assert {row["answers"] for row in found.values()} == {run.calibration()["answers"]}
    assert found["share, isotonic"]["ece"] == pytest.approx(run.calibration()["ece"])
    # Against random corruptions a listed answer seems far more probable than it is.
    assert (
        found["score, against corruptions"]["first"]["probability"] > found["share, isotonic"]["first"]["probability"]
    )
