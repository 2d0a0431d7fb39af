"""What processes that train together send is what `ShardedModel` says."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest
from sharded import together

BATCH, POOL = 64, 20
CASES: dict[str, dict[str, Any]] = {
    "structure": {"method": "self-adversarial", "scorer": "TransE", "sampler": {"negatives": 4}},
    "views": {"method": "self-adversarial", "scorer": "RotatE", "sampler": {"negatives": 32}, "modalities": 2},
    "pool": {"method": "hard", "scorer": "RotatE", "sampler": {"negatives": 4, "pool": POOL}},
}


@pytest.fixture(scope="module")
def measured() -> dict[str, list[dict[str, float]]]:
    """What two processes, started once, have measured of each case."""
    sizes = {"entities": 90, "relations": 7, "dim": 10, "batch": BATCH}
    return dict(zip(CASES, together(2, *(sizes | case for case in CASES.values())), strict=True))


@pytest.mark.parametrize(("name", "candidates"), [("structure", 0), ("views", 0), ("pool", POOL)])
def test_bytes_are_those_of_the_formula(
    measured: dict[str, list[dict[str, float]]], name: str, candidates: int
) -> None:
    # Of one process alone it depends on how many of the anchors and candidates are its own.
    counted, formula = (mean(answer[key] for answer in measured[name]) for key in ("counted", "formula"))
    assert counted == pytest.approx(formula + 4 * BATCH * candidates / 2)
