"""`mmrns compare` in this process: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrns.cli import app
from mmrns.errors import MmrnsError, UsageError

STUDY = """
seeds: 1
threads: 1
common: {{data.dataset: {dataset}, model.scorer: DistMult, model.dim: 6, training.batch_size: 64, training.steps: 4,
          training.evaluate_every: 2, training.hardness: no, device: cpu, evaluation.test: {test}}}
methods:
{methods}
"""


def study(tmp_path: Path, dataset: Path, *methods: str, test: str = "true") -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(dataset=dataset, test=test, methods="\n".join(f"  {method}" for method in methods)))
    return path


def compare(*arguments: str | Path) -> None:
    app(["compare", *map(str, arguments)], standalone_mode=False)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_what_failed_is_said_and_in_the_table(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(
        tmp_path,
        toy_folder,
        "64: {method: uniform, sampler.negatives: 4}",
        "bad: [{method: uniform, training.lr: 1e30}, {method: uniform, training.lr: 1e29}]",
        "inbatch: [{training.lr: 1e30}, {training.lr: 1e-2}]",
    )
    compare(path)
    told = capsys.readouterr()
    assert "bad-trial-1 failed: the loss is not finite" in told.err
    assert "bad: all 2 trials failed; there are no settings to train with." in told.err
    rows = {line.split()[0]: line for line in told.out.splitlines() if line.strip()}
    assert {"64", "bad", "inbatch"} <= rows.keys()
    assert "2 (1 " in rows["inbatch"]
    assert "0 of 1" in rows["bad"]
    assert "trials" in rows["method"]
    best = tmp_path / "study" / "best.yaml"
    assert f"best   mmrns train {best}" in told.out
    assert best.read_text().startswith(("# 64: the best", "# inbatch: the best"))
    # There is no self-adversarial to differ from.
    assert "difference" not in told.out


def test_by_validation_alone_and_with_nothing_that_worked(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(study(tmp_path, toy_folder, "uniform:", test="off"))
    told = capsys.readouterr().out
    assert "difference" not in told
    assert "test MRR" not in told
    # One entry with no trial: neither column says anything.
    assert "trials" not in told
    path = study(tmp_path, toy_folder, "uniform: {training.lr: 1e30}")
    with pytest.raises(MmrnsError, match="every training failed; the report says how"):
        compare(path, "--out", tmp_path / "other")
    assert not (tmp_path / "other" / "best.yaml").exists()
    assert "uniform-seed-0 failed" in (tmp_path / "other" / "report.md").read_text()


def test_a_label_that_is_none_is_refused_before_anything_is_made(toy_folder: Path, tmp_path: Path) -> None:
    path = study(tmp_path, toy_folder, "uniform:", "d/s: {method: sans}")
    with pytest.raises(UsageError, match=r"study\.yaml:8: d/s: the label holds '/'"):
        compare(path)
    assert not (tmp_path / "study").exists()


def test_a_table_of_many_columns_fits_eighty(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = study(tmp_path, toy_folder, "self-adversarial:", "chosen-of-two: [{method: uniform}, {method: sans}]")
    path.write_text(path.read_text().replace("seeds: 1", "seeds: 2"))
    compare(path)
    told = capsys.readouterr().out
    table, _, rest = told.partition("difference: of the test MRR from self-adversarial")
    assert rest
    assert max(map(len, table.splitlines())) <= 80
    words = table.split()
    assert {"self-adversarial", "chosen-of-two", "relation", "frequency", "Hits@10", "difference"} <= {*words}
    assert any(word.startswith("±") for word in words)
