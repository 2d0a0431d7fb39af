"""Each scorer against values worked out by hand, (h, r, t) and f(h, r, t), and against PyKEEN's formulas."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mmrns.nn.scorers import Scorer, TransD, TransE, TuckER

# By class name: constructor's keywords (`core` and `modulus` are parameters) and rows of h, r, t, f(h, r, t). Every
# registered scorer has an entry, which tests/contracts/test_scorers.py checks.
TABLE: dict[str, list[tuple[dict[str, Any], list[float], list[float], list[float], float]]] = {
    "TransE": [
        # |1 + 3 - 2| + |2 - 1 - 5| = 2 + 4
        ({"dim": 2, "init_range": 1.0}, [1.0, 2.0], [3.0, -1.0], [2.0, 5.0], -6.0),
        ({"dim": 2, "init_range": 1.0, "p": 1}, [1.0, 2.0], [1.0, -1.0], [2.0, 1.0], 0.0),
        # sqrt(3^2 + 4^2)
        ({"dim": 2, "init_range": 1.0, "p": 2}, [1.0, 2.0], [3.0, -1.0], [1.0, 5.0], -5.0),
    ],
    "TransD": [
        # <h_p, h> = 3 * 1 - 2 = 1, h_r = (1, 2) + (1, -1) = (2, 1); <t_p, t> = 2, t_r = (0, 4) + 2 (1, -1) = (2, 2);
        # h_r + r - t_r = (3, -2)
        (
            {"dim": 2, "init_range": 1.0},
            [1.0, 2.0, 3.0, -1.0],
            [3.0, -1.0, 1.0, -1.0],
            [0.0, 4.0, 7.0, 0.5],
            -13.0,
        ),
        # Without projections it is TransE: -(1 + 3 - 2)^2 - (2 - 1 - 5)^2
        ({"dim": 2, "init_range": 1.0}, [1.0, 2.0, 0.0, 0.0], [3.0, -1.0, 9.0, 9.0], [2.0, 5.0, 0.0, 0.0], -20.0),
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
    "ComplEx": [
        # Re (1 + 2i)(3 - i)(2 - 5i) = Re (5 + 5i)(2 - 5i)
        ({"dim": 1, "init_range": 1.0}, [1.0, 2.0], [3.0, -1.0], [2.0, 5.0], 35.0),
        # The same and Re 1 * i * conj(-i) = -1
        ({"dim": 2, "init_range": 1.0}, [1.0, 1.0, 2.0, 0.0], [3.0, 0.0, -1.0, 1.0], [2.0, 0.0, 5.0, -1.0], 34.0),
    ],
    "pRotatE": [
        # Phases pi / 2 * (1 + 0.5 - 2.5) = -pi / 2 and pi / 2 * (0 - 1 - 1) = -pi; C = 1:
        # 2 sin(pi / 4) + 2 sin(pi / 2)
        ({"dim": 2, "init_range": 2.0}, [1.0, 0.0], [0.5, -1.0], [2.5, 1.0], -math.sqrt(2) - 2),
        # A whole turn is none.
        ({"dim": 1, "init_range": 0.5}, [0.5], [0.25], [-0.25], 0.0),
        ({"dim": 1, "init_range": 0.5, "modulus": 3.0}, [0.5], [0.5], [0.5], -6.0),
    ],
    "PairRE": [
        # h / |h| = (0.6, 0.8), t / |t| = (0.8, -0.6): |0.6 * 5 - 0.8 * 2.5| + |0.8 * 10 + 0.6 * 5|
        ({"dim": 2, "init_range": 1.0}, [3.0, 4.0], [5.0, 10.0, 2.5, 5.0], [8.0, -6.0], -12.0),
        # The length of an entity vector does not matter.
        ({"dim": 2, "init_range": 1.0}, [0.3, 0.4], [5.0, 10.0, 2.5, 5.0], [16.0, -12.0], -12.0),
    ],
    "BiQUE": [
        # Real parts of w, x, y, z, then imaginary parts, those with I, the root of -1 that commutes with i, j and k.
        # (1 + j + (i - j)) I k = (1 + i) I k = I k - I j; the product with t = 5 I k + 3 I j + 7 j is 5 - 3.
        (
            {"dim": 1, "init_range": 1.0},
            [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            [0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 3.0, 5.0],
            2.0,
        ),
        # Of complex numbers alone, (1 + 2 I + 1 - I)(3 - I) = 7 + I: the product with 2 + 5 I is that of ComplEx.
        (
            {"dim": 1, "init_range": 1.0},
            [1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0],
            [1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0],
            19.0,
        ),
    ],
    "TuckER": [
        # h = (1, 2) on the left of 3 [[1, 2], [0, -1]] gives 3 (1, 0), whose product with t = (2, 5) is 6.
        (
            {"dim": 2, "init_range": 1.0, "relation_dim": 1, "core": [[[1.0, 2.0]], [[0.0, -1.0]]]},
            [1.0, 2.0],
            [3.0],
            [2.0, 5.0],
            6.0,
        ),
        # 2 (3 * 4 + 7 * 5) * 0.5
        ({"dim": 1, "init_range": 1.0, "relation_dim": 2, "core": [[[3.0], [7.0]]]}, [2.0], [4.0, 5.0], [0.5], 47.0),
    ],
}
CASES = [(name, *row) for name, rows in TABLE.items() for row in rows]


def make(name: str, settings: dict[str, Any]) -> Scorer:
    """A scorer in double precision, those of its parameters that are among the settings set to them."""
    cls = Scorer.registry.get(name)
    parameters = {key: torch.tensor(settings[key]) for key in ("core", "modulus") if key in settings}
    scorer = cls(**{key: value for key, value in settings.items() if key not in parameters})
    scorer.load_state_dict(parameters, strict=False)
    return scorer.double()


def score(scorer: Scorer, h: Tensor, r: Tensor, t: Tensor, head: bool) -> float:
    anchor, target = (t, h) if head else (h, t)
    return scorer.compare(scorer.query(anchor[None], r[None], head), target[None, None]).item()


@pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])
@pytest.mark.parametrize(("name", "options", "h", "r", "t", "expected"), CASES)
def test_score_worked_out_by_hand(
    name: str, options: dict[str, Any], h: list[float], r: list[float], t: list[float], expected: float, head: bool
) -> None:
    scorer = make(name, options)
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
        rotated = Scorer.registry.get("RotatE")(1, init_range).query(h[None], r[None], False)[0]
        angle = math.pi * 0.3 / init_range
        assert rotated.tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)
        assert score(Scorer.registry.get("RotatE")(1, init_range), h, r, t, False) == pytest.approx(-1)


def test_only_distances_take_a_margin() -> None:
    assert {name for name in TABLE if Scorer.registry.get(name).distance} == {
        "TransE",
        "TransD",
        "RotatE",
        "pRotatE",
        "PairRE",
    }


def test_transd_keeps_its_digits_in_a_pool() -> None:
    # The square is multiplied out for a pool: what that loses is small beside the squared lengths, also where a
    # candidate is as good as equal to the query, and no distance turns negative.
    g = torch.Generator().manual_seed(0)
    scorer, vectors = TransD(50, 1.0), torch.randn(200, 100, generator=g)
    relation = torch.cat([torch.full((200, 50), 1e-4), torch.randn(200, 50, generator=g)], dim=1)
    query = scorer.query(vectors, relation, False)
    found, exact = scorer.compare(query, vectors), scorer.compare(query.double(), vectors.double().expand(200, -1, -1))
    assert exact.diagonal().abs().max() < 1e-6
    squares = query[:, :50].square().sum(1, keepdim=True) - exact
    assert ((found - exact).abs() <= 2e-6 * squares).all()
    assert (found <= 0).all()


def test_tucker_relations_are_as_wide_as_entities_unless_told() -> None:
    assert TuckER(3, 1.0).core.shape == (3, 3, 3)
    assert TuckER(3, 1.0, relation_dim=2).core.shape == (3, 2, 3)
    core = TuckER(40, 1.0).core.detach()
    assert -1 <= core.min() < -0.99
    assert 0.99 < core.max() <= 1


def scores(scorer: Scorer, h: Tensor, r: Tensor, t: Tensor, head: bool) -> Tensor:
    """f of n triples."""
    anchor, target = (t, h) if head else (h, t)
    return scorer.compare(scorer.query(anchor, r, head), target[:, None]).squeeze(1)


@pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])
def test_protate_is_rotate_on_a_circle(head: bool) -> None:
    scorer = make("pRotatE", {"dim": 7, "init_range": 0.3, "modulus": 0.75})
    h, r, t = 0.3 * (2 * torch.rand(3, 20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    found = scores(scorer, h, r, t, head)
    turned = [torch.polar(torch.full_like(x, c), x * math.pi / 0.3) for x, c in ((h, 0.75), (r, 1.0), (t, 0.75))]
    torch.testing.assert_close(found, -(turned[0] * turned[1] - turned[2]).abs().sum(1), rtol=1e-12, atol=1e-12)
    sines = torch.sin((h + r - t) * (math.pi / 0.3) / 2)
    torch.testing.assert_close(found, -2 * 0.75 * sines.abs().sum(1), rtol=1e-12, atol=1e-12)


UNITS = ("1", "i", "j", "k")
PRODUCTS = {
    ("i", "j"): (1, "k"),
    ("j", "k"): (1, "i"),
    ("k", "i"): (1, "j"),
    ("j", "i"): (-1, "k"),
    ("k", "j"): (-1, "i"),
    ("i", "k"): (-1, "j"),
    **{(u, u): (-1, "1") for u in "ijk"},
    **{("1", u): (1, u) for u in UNITS},
    **{(u, "1"): (1, u) for u in "ijk"},
}
"""What two units of the quaternions give: a sign and a unit."""


def biquaternions(vectors: Tensor) -> Tensor:
    """Complex [n, 4, numbers] of the layout of vectors."""
    real, imaginary = vectors.unflatten(-1, (2, 4, -1)).unbind(1)
    return torch.complex(real, imaginary)


@pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])
def test_bique_is_the_arithmetic_of_biquaternions(head: bool) -> None:
    """The product, unit by unit, over complex numbers."""
    scorer, g = make("BiQUE", {"dim": 5, "init_range": 1.0}), torch.Generator().manual_seed(0)
    h, t = torch.randn(2, 20, 40, generator=g, dtype=torch.float64)
    r = torch.randn(20, 80, generator=g, dtype=torch.float64)
    shift, turn = biquaternions(r).chunk(2, dim=-1)
    left, product = biquaternions(h) + shift, torch.zeros(20, 4, 5, dtype=torch.complex128)
    for (a, b), (sign, unit) in PRODUCTS.items():
        product[:, UNITS.index(unit)] += sign * left[:, UNITS.index(a)] * turn[:, UNITS.index(b)]
    expected = (product * biquaternions(t).conj()).real.sum((1, 2))
    torch.testing.assert_close(scores(scorer, h, r, t, head), expected, rtol=1e-12, atol=1e-12)


def test_bique_without_shift_and_imaginary_units_is_complex() -> None:
    g = torch.Generator().manual_seed(0)
    small = torch.randn(3, 20, 2, 6, generator=g, dtype=torch.float64)
    h, r, t = torch.zeros(3, 20, 2, 4, 6, dtype=torch.float64)
    h[:, :, 0], r[:, :, 0], t[:, :, 0] = small
    r = torch.stack([torch.zeros_like(r), r], dim=-2)
    found = scores(make("BiQUE", {"dim": 6, "init_range": 1.0}), h.flatten(1), r.flatten(1), t.flatten(1), False)
    wanted = scores(make("ComplEx", {"dim": 6, "init_range": 1.0}), *(x.flatten(1) for x in small), False)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def pykeen_scores(scorer: Any, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """PyKEEN's f of the same triples."""
    from pykeen.nn import modules

    def complex_(x: Tensor) -> Tensor:
        return torch.complex(*x.chunk(2, dim=-1))

    match type(scorer).__name__:
        case "TransE":
            return modules.TransEInteraction(p=scorer.p)(h, r, t)
        case "TransD":
            return modules.TransDInteraction()(*(x.chunk(2, dim=-1) for x in (h, r, t)))
        case "DistMult":
            return modules.DistMultInteraction()(h, r, t)
        case "ComplEx":
            return modules.ComplExInteraction()(complex_(h), complex_(r), complex_(t))
        case "RotatE":
            turn = torch.polar(torch.ones_like(r), r * math.pi / scorer.init_range)
            # Its norm is Euclidean over the d complex numbers; one by one there is no difference.
            one_by_one = [x[..., None] for x in (complex_(h), turn, complex_(t))]
            return modules.RotatEInteraction()(*one_by_one).sum(-1)
        case "PairRE":
            h, t = (x / x.norm(dim=-1, keepdim=True) for x in (h, t))
            return modules.PairREInteraction(p=1)(h, r.chunk(2, dim=-1), t)
        case "TuckER":
            interaction = modules.TuckERInteraction(
                scorer.dim,
                scorer.relation_width,
                head_dropout=0,
                relation_dropout=0,
                head_relation_dropout=0,
                apply_batch_normalization=False,
            )
            interaction.core_tensor = scorer.core
            return interaction(h, r, t)
        case name:
            raise KeyError(name)


@pytest.mark.parametrize("head", [False, True], ids=["tail", "head"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TransE", {}),
        ("TransE", {"p": 2}),
        ("TransD", {}),
        ("DistMult", {}),
        ("ComplEx", {}),
        ("RotatE", {}),
        ("PairRE", {}),
        ("TuckER", {}),
        ("TuckER", {"relation_dim": 5}),
    ],
)
@torch.no_grad()
def test_scores_equal_those_of_pykeen(name: str, options: dict[str, int], head: bool) -> None:
    scorer = make(name, {"dim": 8, "init_range": 0.5, **options})
    g = torch.Generator().manual_seed(0)
    # Entities so short that PyKEEN's bound of 1 on the length of TransD's projections takes no effect.
    h, t = 0.2 * torch.randn(2, 30, scorer.entity_width, generator=g, dtype=torch.float64)
    r = 0.5 * torch.randn(30, scorer.relation_width, generator=g, dtype=torch.float64)
    found = scores(scorer, h, r, t, head)
    assert found.std() > 1e-3
    torch.testing.assert_close(found, pykeen_scores(scorer, h, r, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_transe_of_vectors_of_length_1_by_hand(p: Literal[1, 2]) -> None:
    scorer = TransE(3, 0.5, p=p, normalize=True)
    h, r, t = torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, -7.0]])
    # (0.6, 0, 0.8) + (0, 1, 0) - (0, 0, -1), whatever side is asked for.
    expected = -(0.6 + 1 + 1.8) if p == 1 else -((0.36 + 1 + 3.24) ** 0.5)
    for found in (
        scorer.compare(scorer.query(h, r, False), t),
        scorer.compare(scorer.query(t, r, True), h),
        scorer.compare(scorer.query(h, r, False), t[None]),
        scorer.compare_rows(scorer.query(h, r, False), torch.cat([h, t]), torch.tensor([[1]])),
    ):
        assert found.item() == pytest.approx(expected)
