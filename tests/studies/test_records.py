from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmrns.errors import DataError
from mmrns.studies import compare as module
from mmrns.studies.compare import Comparison, compare
from mmrns.studies.records import Records, read_records
from mmrns.studies.report import report, rows


def test_what_was_added_is_found_again_in_its_order(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert read_records(tmp_path) == []
    added = [{"name": f"mmrns-seed-{seed}", "seed": seed, "valid_mrr": 0.1 * seed} for seed in (1, 0)]
    for record in added:
        records.add(record)
    assert records.get("mmrns-seed-0") == added[1]
    assert records.get("mmrns-seed-2") is None
    assert read_records(tmp_path) == added
    assert len(records.path.read_text(encoding="utf-8").splitlines()) == 2
    assert Records(tmp_path).get("mmrns-seed-1") == added[0]


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_last_line_that_was_cut_off_is_dropped_and_said(tmp_path: Path, kept: int) -> None:
    Records(tmp_path).add({"name": "a"})
    path = tmp_path / "records.jsonl"
    line = json.dumps({"name": "b"})
    with path.open("a", encoding="utf-8") as file:
        file.write(line[:kept])
    said: list[str] = []
    records = Records(tmp_path, said.append)
    assert len(said) == 1
    assert "records.jsonl: the last line was cut off" in said[0]
    records.add({"name": "c"})
    assert read_records(tmp_path) == [{"name": "a"}, {"name": "c"}]
    Records(tmp_path, said.append)
    assert len(said) == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"label": "a"}', "", "3"])
def test_another_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "records.jsonl").write_text(f'{{"name": "a"}}\n{line}\n{{"name": "b"}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"records\.jsonl:2: is no record"):
        Records(tmp_path)


STUDIES = [
    p for p in sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml")) if p.with_suffix("").is_dir()
]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recorded_study_of_the_repository_trains_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(training: module.Training) -> None:
        raise AssertionError(f"{training.name} is not recorded")

    monkeypatch.setattr(module, "train_once", refuse)
    folder = tmp_path / study.stem
    shutil.copytree(study.with_suffix(""), folder, ignore=shutil.ignore_patterns("trained"))
    before = {name: (folder / name).read_text(encoding="utf-8") for name in ("comparison.yaml", "records.jsonl")}
    comparison = Comparison.read(study)
    records = compare(comparison, folder)
    assert {name: (folder / name).read_text(encoding="utf-8") for name in before} == before
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == rows(records)
    trials = max(comparison.budget(entry) for entry in comparison.entries.values())
    assert (folder / "report.md").read_text(encoding="utf-8") == report(records, comparison.common, trials)
