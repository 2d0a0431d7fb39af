"""`mmrns calibrate`, and what `predict` and `evaluate` make of it; `evaluate --negatives`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

from mmrns.cli import main, show


@pytest.fixture(scope="module")
def run(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not calibrated yet."""
    folder = tmp_path_factory.mktemp("calibrate")
    shutil.copytree(calibrated, folder / "run", ignore=shutil.ignore_patterns("calibration.json", "reliability.*"))
    (folder / "false.tsv").write_text("e01\tlikes\te01\nentity 2\tlikes\te02\n")
    (folder / "labelled.tsv").write_text("e01\tlikes\te01\t-1\ne01\tlikes\te05\t1\n")
    return folder / "run"


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0
) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["mmrns", *map(str, arguments)])
    monkeypatch.setattr(show.out, "_width", 250)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code or 0) == code, err + out
    assert "Traceback" not in err
    return out, err


def test_a_run_is_calibrated_and_predicts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["predict", run, "--head", "e04", "--relation", "likes"]
    assert "probability" not in call(monkeypatch, capsys, *ask)[0]
    _, err = call(monkeypatch, capsys, "evaluate", run, "--calibration", code=2)
    assert err == f"mmrns: the run has no calibration; make one by `mmrns calibrate {run}` (run.calibrate())\n"
    out, _ = call(monkeypatch, capsys, "calibrate", run)
    found = json.loads((run / "calibration.json").read_text())
    assert f"{found['after']['ece']:.4f}" in out
    assert f"{found['queries']:,} validation queries" in out
    assert str(run / "plots" / "reliability.png") in out
    again = json.loads(call(monkeypatch, capsys, "calibrate", run, "--json")[0])
    assert again == {key: value for key, value in found.items() if key not in ("curves", "model_sha256")}
    assert "probability" in call(monkeypatch, capsys, *ask)[0].splitlines()[1]
    answers = json.loads(call(monkeypatch, capsys, *ask, "--json")[0])
    assert all(0 <= answer["probability"] <= 1 for answer in answers)
    for name in ("t.csv", "t.parquet", "t.json"):
        call(monkeypatch, capsys, *ask, "--out", tmp_path / name)
    tables = [
        pl.read_csv(tmp_path / "t.csv"),
        pl.read_parquet(tmp_path / "t.parquet"),
        pl.read_json(tmp_path / "t.json"),
    ]
    for table in tables:
        assert table["probability"].to_list() == pytest.approx([answer["probability"] for answer in answers])
    found = json.loads(call(monkeypatch, capsys, "evaluate", run, "--calibration", "--json")[0])
    assert {"ece", "brier", "first", "bins", "queries", "answers"} == found.keys()
    assert f"{found['ece']:.4f}" in call(monkeypatch, capsys, "evaluate", run, "--calibration")[0]


def test_triples_are_classified(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    false, labelled = run.parent / "false.tsv", run.parent / "labelled.tsv"
    found = json.loads(call(monkeypatch, capsys, "evaluate", run, "--negatives", false, "--json")[0])
    assert (found["triples"], found["positives"]) == (27, 25)
    metrics = {"accuracy", "precision", "recall", "f1", "roc_auc", "average_precision"}
    assert metrics <= found.keys() & found["relations"][0].keys() & found["valid"].keys()
    out, _ = call(monkeypatch, capsys, "evaluate", run, "--negatives", false)
    assert f"{found['roc_auc']:.4f}" in out
    assert "relations have a threshold of their own, from made negatives" in out
    out, _ = call(monkeypatch, capsys, "evaluate", run, "--negatives", false, "--by", "relation")
    assert out.count("\n") == 1 + len(found["relations"])
    given = ["--negatives", labelled, "--valid-negatives", labelled]
    out, err = call(monkeypatch, capsys, "evaluate", run, *given, "--out", tmp_path / "t.csv")
    assert "labelled" in out
    assert "from the negatives given" in out
    assert "1 rows in" in err
    assert pl.read_csv(tmp_path / "t.csv")["triples"].to_list() == [2]
    call(monkeypatch, capsys, "evaluate", run, "--by", "side", "--bootstrap", "5", "--out", tmp_path / "s.csv")
    assert {"side", "mrr", "mrr from", "mrr to"} <= set(pl.read_csv(tmp_path / "s.csv").columns)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--negatives", "none.tsv"], 1, "none.tsv: "),
        (["--negatives", "FALSE", "--calibration"], 2, "--calibration and --negatives are two things to measure"),
        (["--negatives", "FALSE", "--by", "side"], 2, "--by is of ranks, not of --negatives"),
        (["--calibration", "--by", "relation"], 2, "--by is of ranks, not of --calibration"),
        (["--negatives", "FALSE", "--candidates", "train"], 2, "--candidates is of ranks, not of --negatives"),
        (["--valid-negatives", "FALSE"], 2, "give --negatives FILE to classify"),
        (["--out", "x.csv"], 2, "--out is of a table: give --by, or --negatives"),
        (["--negatives", "FALSE", "--out", "x.txt"], 2, "--out x.txt: write one of"),
    ],
)
def test_what_does_not_go_together(
    run: Path,
    options: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [str(run.parent / "false.tsv") if option == "FALSE" else option for option in options]
    _, err = call(monkeypatch, capsys, "evaluate", run, *options, code=code)
    assert message in err
    assert err.count("\n") == 1
