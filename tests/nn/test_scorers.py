"""Each scorer against values worked out by hand: (h, r, t) and f(h, r, t)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmrns.nn.scorers import Scorer, TransE
from mmrns.registry import scorer_class

# By class name: constructor's keywords and rows of h, r, t, f(h, r, t). Every registered scorer has an entry, which
# tests/contracts/test_scorers.py checks.
TABLE: dict[str, list[tuple[dict[str, float], list[float], list[float], list[float], float]]] = {
    "TransE": [
        # |1 + 3 - 2| + |2 - 1 - 5| = 2 + 4
        ({"dim": 2, "init_range": 1.0}, [1.0, 2.0], [3.0, -1.0], [2.0, 5.0], -6.0),
        ({"dim": 2, "init_range": 1.0, "p": 1}, [1.0, 2.0], [1.0, -1.0], [2.0, 1.0], 0.0),
        # sqrt(3^2 + 4^2)
        ({"dim": 2, "init_range": 1.0, "p": 2}, [1.0, 2.0], [3.0, -1.0], [1.0, 5.0], -5.0),
    ],
    "DistMult": [
        # 1 * 3 * 2 - 2 * 1 * 5
        ({"dim": 2, "init_range": 1.0}, [1.0, 2.0], [3.0, -1.0], [2.0, 5.0], -4.0),
        ({"dim": 3, "init_range": 1.0}, [1.0, 2.0, 0.5], [2.0, 2.0, 2.0], [1.0, 2.0, 4.0], 14.0),
    ],
    "RotatE": [
        # h = (1 + 3i, 2 + 4i), phases pi / 2 and pi: h e^(i phi) = (-3 + i, -2 - 4i); minus t = (1 + 4i, -2 - i)
        # leaves (-4 - 3i, -3i) of moduli 5 and 3.
        ({"dim": 2, "init_range": 0.5}, [1.0, 2.0, 3.0, 4.0], [0.25, 0.5], [1.0, -2.0, 4.0, -1.0], -8.0),
        # A rotation by -pi / 2 takes i to 1.
        ({"dim": 1, "init_range": 2.0}, [0.0, 1.0], [-1.0], [1.0, 0.0], 0.0),
    ],
}
CASES = [(name, *row) for name, rows in TABLE.items() for row in rows]


def score(scorer: Scorer, h: Tensor, r: Tensor, t: Tensor, head: bool) -> float:
    anchor, target = (t, h) if head else (h, t)
    return scorer.compare(scorer.query(anchor[None], r[None], head), target[None, None]).item()


@pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])
@pytest.mark.parametrize(("name", "options", "h", "r", "t", "expected"), CASES)
def test_score_worked_out_by_hand(
    name: str, options: dict[str, float], h: list[float], r: list[float], t: list[float], expected: float, head: bool
) -> None:
    scorer = scorer_class(name)(**options)
    vectors = [torch.tensor(x, dtype=torch.float64) for x in (h, r, t)]
    assert score(scorer, *vectors, head) == pytest.approx(expected, abs=1e-12)


def test_transe_l2_keeps_its_digits_in_a_pool() -> None:
    # With the matrix-product form of the distance 1e-3 would drown in the 1e6 of the squared norms.
    scorer = TransE(2, 1.0, p=2)
    query = torch.tensor([[1000.0, 1000.0]])
    pool = torch.cat([query + torch.tensor([[0.0, 2.0**-10]])] * 40)
    assert scorer.compare(query, pool).tolist() == [[-(2.0**-10)] * 40]


def test_rotate_phases_are_scaled_by_the_range() -> None:
    h, r, t = torch.tensor([1.0, 0.0]), torch.tensor([0.3]), torch.tensor([0.0, 0.0])
    for init_range in (0.3, 0.6):
        rotated = scorer_class("RotatE")(1, init_range).query(h[None], r[None], False)[0]
        angle = math.pi * 0.3 / init_range
        assert rotated.tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)
        assert score(scorer_class("RotatE")(1, init_range), h, r, t, False) == pytest.approx(-1)


def test_only_distances_take_a_margin() -> None:
    assert {name for name in TABLE if scorer_class(name).distance} >= {"TransE", "RotatE"}
    assert not scorer_class("DistMult").distance
