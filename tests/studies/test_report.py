from __future__ import annotations

import math
from typing import Any

import pytest

from mmrns.studies.report import interval, paired, reference_of, table


def record(label: str, seed: int, mrr: float) -> dict[str, Any]:
    found = {"mrr": mrr, "hits@1": mrr / 2, "hits@3": mrr, "hits@10": 2 * mrr}
    return {
        "label": label,
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
    labels = ["TransE-mmrns", "TransE-self-adversarial", "RotatE-mmrns", "self-adversarial"]
    assert reference_of("TransE-mmrns", labels) == "TransE-self-adversarial"
    assert reference_of("RotatE-mmrns", labels) == "self-adversarial"
    assert reference_of("TransE-self-adversarial", labels) is None
    assert reference_of("mmrns", ["mmrns", "uniform"]) is None


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
