from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmrns.errors import DataError
from mmrns.studies import compare as module
from mmrns.studies.compare import compare
from mmrns.studies.comparison import Comparison
from mmrns.studies.records import Records, read_records
from mmrns.studies.report import report, rows, write_summary


def record(name: str, **more: Any) -> dict[str, Any]:
    """A record as a training leaves it."""
    seconds = {"pretrain": 0.0, "train": 1.5, "evaluate": 1}
    whole = {"name": name, "label": "mmrns", "scorer": "TransE", "sampler": "mmrns", "settings": {}, "seed": 0}
    return whole | {"valid_mrr": 0.5, "selected_step": 3, "seconds": seconds, "commit": None} | more


def test_what_was_added_is_found_again_in_its_order(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert read_records(tmp_path) == []
    added = [record(f"mmrns-seed-{seed}", seed=seed, valid_mrr=0.1 * seed) for seed in (1, 0)]
    for one in added:
        records.add(one)
    assert records.get("mmrns-seed-0") == added[1]
    assert records.get("mmrns-seed-2") is None
    assert read_records(tmp_path) == added
    assert len(records.path.read_text(encoding="utf-8").splitlines()) == 2
    assert Records(tmp_path).get("mmrns-seed-1") == added[0]


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_last_line_that_was_cut_off_is_dropped_and_said(tmp_path: Path, kept: int) -> None:
    Records(tmp_path).add(record("a"))
    path = tmp_path / "records.jsonl"
    line = json.dumps(record("b"))
    with path.open("a", encoding="utf-8") as file:
        file.write(line[:kept])
    said: list[str] = []
    records = Records(tmp_path, said.append)
    assert len(said) == 1
    assert "records.jsonl: the last line was cut off" in said[0]
    records.add(record("c"))
    assert read_records(tmp_path) == [record("a"), record("c")]
    Records(tmp_path, said.append)
    assert len(said) == 1


def test_a_record_of_a_failure_has_a_reason_and_no_metric(tmp_path: Path) -> None:
    training = {key: record("a")[key] for key in ("name", "label", "scorer", "sampler", "settings", "seed")}
    failed = training | {"valid_mrr": None, "failed": "the loss is not finite"}
    Records(tmp_path).add(failed)
    assert read_records(tmp_path) == [failed]
    for wrong in (failed | {"valid_mrr": 0.5}, failed | {"failed": 3}, training | {"valid_mrr": None}):
        (tmp_path / "records.jsonl").write_text(f"{json.dumps(wrong)}\n")
        with pytest.raises(DataError, match=r":1: is no record"):
            read_records(tmp_path)


MANGLED = {"label": 3, "seed": "0", "valid_mrr": 10**400, "seconds": [], "test": {"realistic": {"mrr": 0.1}},
           "curve": [[1, 2]], "baseline": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *((line, "") for line in ("{", "[]", '{"label": "a"}', "", "3", "[" * 5000, '{"valid_mrr": NaN}', "\udcff")),
        *((json.dumps(record("b") | {key: value}), key) for key, value in MANGLED.items()),
        *((json.dumps(record("b") | {key: None}), key) for key in ("test", "valid", "curve", "seconds")),
        *((json.dumps({k: v for k, v in record("b").items() if k != key}), key) for key in record("b")),
    ],
)
def test_another_line_that_is_no_record_is_named(tmp_path: Path, line: str, reason: str) -> None:
    whole = json.dumps(record("a"))
    (tmp_path / "records.jsonl").write_bytes(f"{whole}\n{line}\n{whole}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=rf"records\.jsonl:2: is no record.*{reason}"):
        Records(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").symlink_to("records.jsonl")
    with pytest.raises(DataError, match=r"records\.jsonl: cannot be read"):
        Records(tmp_path)


STUDIES = [
    path
    for path in sorted((Path(__file__).parents[2] / "experiments").glob("*/*.yaml"))
    if (path.with_suffix("") / "records.jsonl").exists()
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
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    comparison = Comparison.read(study)
    records = compare(comparison, folder)
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == rows(records, comparison)
    assert (folder / "report.md").read_text(encoding="utf-8") == report(records, comparison)
    # Nothing is written anew, nothing is linked that is not there, and what is missing is made.
    plots = write_summary(records, folder, comparison)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    linked = re.findall(r"\]\(([^)]+)\)", before["report.md"].decode())
    assert {*linked} == {plot.name for plot in plots} <= before.keys()
    plots[0].unlink()
    write_summary(records, folder, comparison)
    assert plots[0].read_bytes().startswith(b"\x89PNG")
