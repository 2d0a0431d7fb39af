from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmrns.studies import report as module
from mmrns.studies.comparison import Comparison, Entry
from mmrns.studies.plots import Drawn
from mmrns.studies.report import (
    PUBLISHED,
    by_label,
    draw,
    interval,
    paired,
    ranked_split,
    reference_of,
    report,
    rows,
    standing_told,
    standings,
    table,
    write_summary,
)


def record(label: str, seed: int, mrr: float) -> dict[str, Any]:
    found = {"mrr": mrr, "hits@1": mrr / 2, "hits@3": mrr, "hits@10": 2 * mrr}
    return {
        "name": f"{label}-seed-{seed}",
        "label": label,
        "scorer": "TransE",
        "sampler": "mmrns",
        "settings": {},
        "seed": seed,
        "valid_mrr": mrr + 0.01,
        "test": {"realistic": found},
        "baseline": {"realistic": {"mrr": 0.1, "hits@1": 0.05, "hits@3": 0.1, "hits@10": 0.2}},
        "seconds": {"train": 2.0, "evaluate": 1.0},
    }


def test_interval_by_hand() -> None:
    # Standard deviation 1, 3 values: 4.303 / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert interval([1.0]) == math.inf
    assert interval([0.0, 1.0] * 40) == pytest.approx(1.96 * 0.503155 / math.sqrt(80), rel=1e-4)


def test_differences_are_paired_by_seed() -> None:
    a = [record("mmrns", seed, 0.30 + 0.1 * seed + 0.01) for seed in range(3)]
    b = [record("self-adversarial", seed, 0.30 + 0.1 * seed) for seed in range(3)]
    # The seeds differ by far more than the methods, the differences not at all.
    assert paired(a, b) == "+1.00 ± 0.00"
    assert paired(a[:1], b) == "+1.00"
    assert paired(a[2:], b[:1]) == ""


def test_reference_is_of_the_same_scorer() -> None:
    scorers = {"TransE-mmrns": "TransE", "TransE-self-adversarial": "TransE", "RotatE-mmrns": "RotatE"}
    groups = by_label([record(label, 0, 0.1) | {"scorer": scorer} for label, scorer in scorers.items()])
    assert reference_of("TransE-mmrns", groups) == "TransE-self-adversarial"
    assert reference_of("RotatE-mmrns", groups) is None
    assert reference_of("TransE-self-adversarial", groups) is None
    # Under any label, and by the scorer that is recorded.
    groups |= by_label([record(label, 0, 0.1) | {"scorer": "RotatE"} for label in ("self-adversarial", "text-alone")])
    groups |= by_label([record("other", 0, 0.1) | {"scorer": "TransE"}])
    assert reference_of("RotatE-mmrns", groups) == reference_of("text-alone", groups) == "self-adversarial"
    assert reference_of("other", groups) == "TransE-self-adversarial"
    assert reference_of("TransE-mmrns", by_label([record("TransE-mmrns", 0, 0.1)])) is None


def test_a_comparison_may_say_its_reference_and_what_is_published(tmp_path: Path) -> None:
    """Another scorer's, too; an entry of which nothing is published has an empty cell, and null in `results.json`."""
    records = [
        record(label, seed, value + 0.02 * seed) | {"scorer": scorer}
        for label, value, scorer in (("structure", 0.2, "ComplEx"), ("momok", 0.3, "TuckER"), ("own", 0.1, "TuckER"))
        for seed in (0, 1)
    ]
    comparison = replace(study("structure", "momok", "own"), reference="structure", published={"momok": 39.54})
    _, structure, momok, own = table(records, comparison)
    assert [row["difference"] for row in (structure, momok, own)] == ["", "+10.00 ± 0.00", "-10.00 ± 0.00"]
    assert [row["published MRR"] for row in (structure, momok, own)] == ["", "39.54", ""]
    text = report(records, comparison)
    assert "MRR from `structure`, paired by seed" in text
    assert PUBLISHED in text
    write_summary(records, tmp_path, comparison)
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(row["model"], row["published_mrr"]) for row in found[::2]] == [
        ("structure", None),
        ("momok", 0.3954),
        ("own", None),
    ]
    write_summary(records, tmp_path, replace(comparison, published={}))
    assert {row["published_mrr"] for row in json.loads((tmp_path / "results.json").read_text())} == {None}
    # Otherwise neither is told.
    assert PUBLISHED not in report(records, study("structure", "momok", "own"))
    assert not {"model", "published_mrr"} & set(rows(records)[0])


def test_the_table_has_means_spreads_and_the_baseline() -> None:
    records = [
        record(label, seed, value + 0.02 * seed)
        for label, value in (("self-adversarial", 0.2), ("mmrns", 0.3))
        for seed in (0, 1)
    ]
    baseline, reference, mmrns = table(records)
    assert baseline["method"] == "relation frequency"
    assert baseline["test MRR"] == "10.00"
    assert reference["difference"] == ""
    assert mmrns["test MRR"] == "31.00 ± 1.41"
    assert mmrns["valid MRR"] == "32.00 ± 1.41"
    assert mmrns["Hits@10"] == "62.00 ± 2.83"
    assert mmrns["difference"].startswith("+10.00 ± ")
    assert mmrns["seconds"] == "3"


def test_standings_are_told_by_the_paired_interval() -> None:
    values = {
        "best": [0.30, 0.40, 0.50],
        # Below by 1, 2 and 3 points: 2 ± 2.48; and by 1.0, 1.2 and 1.4: 1.2 ± 0.50, though the seeds differ by more.
        "near": [0.29, 0.38, 0.47],
        "far": [0.290, 0.388, 0.486],
        "once": [0.10],
    }
    records = [record(label, seed, mrr) for label, mrrs in values.items() for seed, mrr in enumerate(mrrs)]
    found = {"best": "best", "near": "within noise", "far": "below", "once": "?"}
    assert standings(records) == found
    assert [row["standing"] for row in table(records)] == ["", *found.values()]
    assert standing_told(records) == (
        "Standing: best is the highest mean test MRR; others are within noise where the 95 % interval of their "
        "difference from it, paired by seed, contains 0, and ? where they have too few seeds in common."
    )
    assert standing_told(records) in report(records, study())
    # Equal seed by seed is no difference; a constant one is.
    pair = [record(label, seed, 0.25 + 0.125 * seed) for label in ("a", "b") for seed in (0, 1)]
    assert standings(pair) == {"a": "best", "b": "within noise"}
    assert standings([*pair[:2], *(record("b", seed, 0.125 + 0.125 * seed) for seed in (0, 1))])["b"] == "below"
    assert "too few" not in standing_told(pair)


def test_of_one_seed_nothing_is_told_and_of_one_entry_there_is_nothing_to_tell() -> None:
    single = [record("a", 0, 0.3), record("b", 0, 0.2), failed("c", 0)]
    assert standings(single) == {"a": "best", "b": "?", "c": ""}
    assert standing_told(single).endswith(
        "best is the highest mean test MRR; from one seed nothing can be told of noise (?)."
    )
    alone = [record("a", seed, 0.3) for seed in (0, 1)]
    assert (standings(alone), standing_told(alone)) == ({"a": ""}, "")
    assert standing_told([*alone, failed("b", 0)]) == ""
    valid = [{key: value for key, value in one.items() if key != "test"} for one in [*alone, record("b", 0, 0.1)]]
    assert "highest mean validation MRR" in standing_told(valid)


def failed(label: str, seed: int) -> dict[str, Any]:
    known = {key: record(label, seed, 0.0)[key] for key in ("name", "label", "scorer", "sampler", "settings", "seed")}
    return known | {"valid_mrr": None, "failed": "the loss is not finite"}


def study(*labels: str, trials: int = 0, **entries: Entry) -> Comparison:
    return Comparison({"data.dataset": "my|data_set"}, {label: Entry({}) for label in labels} | entries, trials)


def test_the_report_says_where_settings_are_from_and_how_many_trials_each_had() -> None:
    records = [record(label, seed, 0.3) for label in ("given", "listed", "searched") for seed in (0, 1)]
    space, listed = {"training.lr": [1, 2, 3]}, [{"training.lr": 1}, {"training.lr": 2}]
    entries = {"listed": Entry({}, listed=listed), "searched": Entry({}, space)}
    found = report(records, study("given", trials=3, **entries))
    header, _, *lines = [line.split("|")[1:-1] for line in found.splitlines() if line.startswith("|")]
    place = [name.strip() for name in header].index("trials")
    assert [line[place].strip() for line in lines[1:4]] == ["0", "2", "3"]
    assert "for each entry among its own trials; those of an entry without trials are as the comparison" in found
    assert "the numbers of trials differ" in found
    assert "beforehand" not in found
    # A list alone is chosen from, too, though the comparison has no trials.
    assert "chosen on validation" in report(records[2:4], study(listed=Entry({}, listed=listed)))
    assert "No settings were searched" in report(records[:2], study("given"))


def test_seconds_say_what_they_are_of() -> None:
    old, new = [record("a", seed, 0.3) for seed in (0, 1)], [record("b", seed, 0.3) for seed in (0, 1)]
    for one in new:
        one["seconds"] = {"build": 7.0, "pretrain": 30.0} | one["seconds"]
    assert "building, pretraining, training and evaluation." in report(new, study("b"))
    assert "building was not recorded." in report(old, study("a"))
    assert "building only where it was recorded." in report(old + new, study("a", "b"))
    # A seed that failed has none, and changes nothing of that.
    assert "building, pretraining, training and evaluation." in report([*new, failed("b", 2)], study("b"))
    assert table(new)[1]["seconds"] == "40"
    assert rows(new)[0]["seconds"] == 40.0


def test_time_counts_what_came_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[Drawn], str]] = []
    monkeypatch.setattr(module, "draw_time", lambda entries, path, *, about, counted: told.append((entries, counted)))
    curve = {"curve": [[1, 0.0, 0.1], [2, 2.0, 0.2]]}
    old = record("a", 0, 0.3) | curve | {"seconds": {"pretrain": 30.0, "train": 2.0, "evaluate": 1.0}}
    new = record("b", 0, 0.3) | curve | {"seconds": {"build": 7.0, "pretrain": 0.0, "train": 2.0, "evaluate": 1.0}}
    for records in ([new], [old, new], [record("c", 0, 0.3) | curve], [failed("d", 0), new]):
        draw(records, tmp_path, study())
    assert told[0][0][0].curves == [[(7.0, 10.0), (9.0, 20.0)]]
    assert told[0][1] == "building, pretraining and training"
    assert told[1][0][0].curves == [[(30.0, 10.0), (32.0, 20.0)]]
    # Where one lacks it, it is not said to be counted.
    assert told[1][1] == "pretraining and training"
    assert told[2][0][0].curves == [[(0.0, 10.0), (2.0, 20.0)]]
    assert told[3][0][0].curves == []


def test_what_is_drawn_is_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "draw_mrr", lambda entries, path, **more: told.append({"entries": entries, **more}))
    records = [
        record(label, seed, value + 0.02 * seed + 0.01 * (label == "mmrns") * seed)
        for label, value in (("self-adversarial", 0.2), ("mmrns", 0.3))
        for seed in (0, 1, 2)
    ]
    draw(records, tmp_path, study())
    reference, mmrns = told[0]["entries"]
    assert (reference.label, reference.reference, reference.difference) == ("self-adversarial", True, None)
    assert mmrns.mrr == pytest.approx([30, 33, 36])
    # Differences of 10, 11 and 12 points.
    assert mmrns.difference == pytest.approx((11, 4.303 / math.sqrt(3)), rel=1e-3)
    assert table(records)[2]["difference"] == "+11.00 ± 2.48"
    assert told[0]["about"] == "my|data_set, TransE, seeds 0 to 2"
    assert (told[0]["split"], told[0]["reference"]) == ("test", "self-adversarial")
    draw([*records, record("other", 0, 0.1) | {"scorer": "RotatE"}], tmp_path, study())
    assert told[1]["entries"][2].difference is None
    assert not told[1]["entries"][2].reference
    assert told[1]["reference"] == "self-adversarial with the same scorer"


def test_whatever_failed_or_has_a_strange_name_is_reported(tmp_path: Path) -> None:
    label = "a_*b*[c]$x$"
    for records in ([failed(label, 0)], [failed(label, 0), record(label, 1, 0.2), record("x", 0, 0.1)]):
        write_summary(records, tmp_path, study(label, "x"))
        text = (tmp_path / "report.md").read_text()
        assert "a\\_\\*b\\*\\[c\\]\\$x\\$" in text
        assert "my\\|data\\_set" in text
        # Each row of the table has as many cells as its header.
        rows_of = text.split("\n\n")[2].splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows_of}) == 1
        assert (tmp_path / "mrr.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "mrr.svg").read_text(encoding="utf-8")
    assert [row["test_mrr"] for row in rows(records)] == [None, 0.2, 0.1]
    assert ranked_split([failed(label, 0)]) == "valid"
