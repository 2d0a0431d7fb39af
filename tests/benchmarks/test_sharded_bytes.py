"""What processes that train together send is what `ShardedModel` says."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest
from sharded import together

BATCH, POOL = 64, 20


@pytest.mark.parametrize(
    ("method", "scorer", "sampler", "candidates", "modalities"),
    [
        ("self-adversarial", "TransE", {"negatives": 4}, 0, 0),
        ("self-adversarial", "RotatE", {"negatives": 32}, 0, 2),
        ("hard", "RotatE", {"negatives": 4, "pool": POOL}, POOL, 0),
    ],
)
def test_bytes_are_those_of_the_formula(
    method: str, scorer: str, sampler: dict[str, Any], candidates: int, modalities: int
) -> None:
    settings = {"entities": 90, "relations": 7, "dim": 10, "batch": BATCH, "modalities": modalities}
    found = together(2, settings | {"method": method, "scorer": scorer, "sampler": sampler})
    # Of one process alone it depends on how many of the anchors and candidates are its own.
    counted, formula = (mean(answer[key] for answer in found) for key in ("counted", "formula"))
    assert counted == pytest.approx(formula + 4 * BATCH * candidates / 2)
