"""The fused kernels against torch, and both against the definition."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.nn.kernels import comparisons

FORMS = pytest.mark.parametrize("pooled", [False, True], ids=["rows", "pool"])
KINDS = pytest.mark.parametrize("kind", ["l1", "modulus", "dot"])


def operands(b: int, k: int, d: int, pooled: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Vectors of 2 d reals; one candidate equals its query, another shares one coordinate with it."""
    g = torch.Generator().manual_seed(b * 100 + k * 10 + d)
    query = torch.randn(b, 2 * d, generator=g, dtype=dtype)
    candidates = torch.randn(*((k, 2 * d) if pooled else (b, k, 2 * d)), generator=g, dtype=dtype)
    if b and k:
        first = candidates if pooled else candidates[0]
        first[0] = query[0]
        first[-1, 0] = query[0, 0]
    return query, candidates


def evaluate(kind: comparisons.Kind, query: Tensor, candidates: Tensor) -> list[Tensor]:
    """Distances, and the gradients of a sum with unequal weights."""
    query, candidates = query.clone().requires_grad_(), candidates.clone().requires_grad_()
    found = comparisons.compare(kind, query, candidates)
    weight = torch.arange(found.numel(), dtype=found.dtype).view(found.shape) / max(found.numel(), 1) - 0.3
    return [found.detach(), *torch.autograd.grad((weight * found).sum(), (query, candidates))]


def definition(kind: comparisons.Kind, query: Tensor, candidates: Tensor) -> Tensor:
    if kind == "dot":
        return (query[:, None] * candidates).sum(-1)
    difference = query[:, None] - candidates
    d = query.shape[1] // 2
    return difference.abs().sum(-1) if kind == "l1" else torch.complex(*difference.split(d, -1)).abs().sum(-1)


@KINDS
@FORMS
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (33, 17, 40), (35, 530, 3), (0, 3, 2), (3, 0, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_fused_and_plain_are_equal(
    kind: comparisons.Kind,
    pooled: bool,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert comparisons.fused()
    query, candidates = operands(*shape, pooled, dtype)
    found = evaluate(kind, query, candidates)
    torch.testing.assert_close(found[0], definition(kind, query, candidates))
    monkeypatch.setattr(comparisons, "fused", lambda: False)
    for a, b in zip(found, evaluate(kind, query, candidates), strict=True):
        torch.testing.assert_close(a, b)


@KINDS
@FORMS
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_gradients(kind: comparisons.Kind, pooled: bool, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "fused", lambda: fused)
    query, candidates = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in
                         ((3, 4), (5, 4) if pooled else (3, 5, 4)))  # fmt: skip
    assert torch.autograd.gradcheck(lambda q, c: comparisons.compare(kind, q, c), (query, candidates))
    # One operand alone.
    frozen = query.detach()
    assert torch.autograd.gradcheck(lambda c: comparisons.compare(kind, frozen, c), (candidates,))


@KINDS
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.booleans())
def test_the_number_of_threads_changes_no_bit(kind: comparisons.Kind, b: int, k: int, d: int, pooled: bool) -> None:
    # A product with a pool is torch's.
    assume(not (kind == "dot" and pooled))
    given_threads = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(evaluate(kind, *operands(b, k, d, pooled, torch.float32)))
    finally:
        torch.set_num_threads(given_threads)
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


@KINDS
@FORMS
def test_operands_need_not_be_contiguous(kind: comparisons.Kind, pooled: bool) -> None:
    query, candidates = operands(6, 4, 3, pooled)
    turned = query.T.contiguous().T, candidates.mT.contiguous().mT
    assert not turned[0].is_contiguous()
    for a, b in zip(evaluate(kind, query, candidates), evaluate(kind, *turned), strict=True):
        torch.testing.assert_close(a, b)


@KINDS
@FORMS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [5, 40])
def test_what_is_not_finite_stays_so(kind: comparisons.Kind, pooled: bool, bad: float, n: int) -> None:
    query, candidates = operands(n, 3, 9, pooled)
    candidates[..., 1, 4] = bad
    found = comparisons.compare(kind, query, candidates)
    assert not torch.isfinite(found[:, 1]).any()
    assert torch.isfinite(found[:, [0, 2]]).all()


def test_loading_the_kernels_leaves_the_number_of_threads_alone() -> None:
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from mmrns.nn.kernels.comparisons import compare\n"
        "x = torch.randn(8, 4)\n"
        "for _ in range(2): compare('l1', x, x); compare('modulus', x, x[:, None])\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"NUMBA_NUM_THREADS": "2"})


@KINDS
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_rows_of_a_table_are_as_good_as_gathered(
    kind: comparisons.Kind, fused: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "fused", lambda: fused)
    g = torch.Generator().manual_seed(1)
    query, table = torch.randn(30, 6, generator=g, dtype=dtype), torch.randn(9, 6, generator=g, dtype=dtype)
    ids = torch.randint(8, (30, 5), generator=g)
    weight = torch.randn(30, 5, generator=g, dtype=dtype)
    found, expected = [], []
    for results, gathers in ((found, False), (expected, True)):
        q, t = query.clone().requires_grad_(), table.clone().requires_grad_()
        if gathers:
            scores = definition(kind, q, torch.nn.functional.embedding(ids, t))
        else:
            scores = comparisons.compare_rows(kind, q, t, ids)
        results += [scores, *torch.autograd.grad((weight * scores).sum(), (q, t))]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    # Row 8 is named nowhere.
    assert (found[2][8] == 0).all()


def test_for_few_pairs_the_kernels_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmrns.nn.kernels.compiled", raising=False)
    monkeypatch.setattr(comparisons, "_loaded", lambda: True)
    with comparisons.comparing(comparisons.LOADING - 1):
        assert not comparisons.fused()
        with comparisons.comparing(comparisons.LOADING):
            assert comparisons.fused()
        assert not comparisons.fused()
    assert comparisons.fused()
    monkeypatch.setitem(sys.modules, "mmrns.nn.kernels.compiled", object())
    with comparisons.comparing(1):
        assert comparisons.fused()
