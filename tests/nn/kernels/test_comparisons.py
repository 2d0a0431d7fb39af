"""The fused kernels and torch against the definition, wherever they can run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.nn.kernels import comparisons

POOLED = pytest.mark.parametrize("pooled", [False, True], ids=["rows", "pool"])
KINDS = pytest.mark.parametrize("kind", ["l1", "modulus", "dot"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
CUDA = torch.cuda.is_available()
# Without a GPU Triton's kernels run on the CPU, interpreted in NumPy; see conftest.py.
INTERPRETED = bool(find_spec("triton")) and os.environ.get("TRITON_INTERPRET") == "1"
PLACES = {
    "numba": ("cpu", "numba", ()),
    "torch": ("cpu", "torch", ()),
    "triton": ("cpu", "triton", pytest.mark.skipif(not INTERPRETED, reason="needs an interpreting Triton")),
    "cuda": ("cuda", "triton", (pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs a CUDA device"))),
}


@pytest.fixture(params=[pytest.param(place[:2], id=name, marks=place[2]) for name, place in PLACES.items()])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[torch.device]:
    """Where to compare; how is one of the forms, each in its turn."""
    place, form = request.param
    monkeypatch.setattr(comparisons, "form_on", lambda device: form)
    # The interpreter warns of infinities as NumPy does.
    with np.errstate(all="ignore"):
        yield torch.device(place)


def operands(
    b: int,
    k: int,
    d: int,
    pooled: bool,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Vectors of 2 d reals; one candidate equals its query, another shares one coordinate with it."""
    g = torch.Generator().manual_seed(b * 100 + k * 10 + d)
    query = torch.randn(b, 2 * d, generator=g, dtype=dtype)
    candidates = torch.randn(*((k, 2 * d) if pooled else (b, k, 2 * d)), generator=g, dtype=dtype)
    if b and k:
        first = candidates if pooled else candidates[0]
        first[0] = query[0]
        first[-1, 0] = query[0, 0]
    return query.to(device), candidates.to(device)


def evaluate(kind: comparisons.Kind, query: Tensor, candidates: Tensor, ids: Tensor | None = None) -> list[Tensor]:
    """Distances, and the gradients of a sum with unequal weights."""
    query, candidates = query.clone().requires_grad_(), candidates.clone().requires_grad_()
    if ids is None:
        found = comparisons.compare(kind, query, candidates)
    else:
        found = comparisons.compare_rows(kind, query, candidates, ids)
    return [found.detach(), *gradients(found, query, candidates)]


def gradients(found: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    weight = torch.arange(found.numel(), dtype=found.dtype, device=found.device).view(found.shape)
    return torch.autograd.grad((weight / max(found.numel(), 1) - 0.3).mul(found).sum(), of)


def definition(kind: comparisons.Kind, query: Tensor, candidates: Tensor, ids: Tensor | None = None) -> list[Tensor]:
    """What `evaluate` is to give, by plain operations; torch takes the derivative of |x| and |z| at 0 as 0."""
    query, candidates = query.clone().requires_grad_(), candidates.clone().requires_grad_()
    own = candidates if ids is None else torch.nn.functional.embedding(ids, candidates)
    difference, d = query[:, None] - own, query.shape[1] // 2
    if kind == "dot":
        found = (query[:, None] * own).sum(-1)
    elif kind == "l1":
        found = difference.abs().sum(-1)
    else:
        found = torch.complex(*difference.split(d, -1)).abs().sum(-1)
    return [found.detach(), *gradients(found, query, candidates)]


@KINDS
@POOLED
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 7), (2, 70, 3), (66, 2, 5), (2, 3, 150), (0, 3, 2), (3, 0, 2)])
@DTYPES
def test_every_form_is_the_definition(
    kind: comparisons.Kind, pooled: bool, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    query, candidates = operands(*shape, pooled, dtype, device)
    found = evaluate(kind, query, candidates)
    for a, b in zip(found, definition(kind, query, candidates), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@KINDS
@POOLED
@DTYPES
@pytest.mark.parametrize("shape", [(33, 17, 40), (35, 530, 3)])
def test_more_than_are_transposed_at_a_time(
    kind: comparisons.Kind, pooled: bool, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    assert comparisons.form_on("cpu") == "numba"
    query, candidates = operands(*shape, pooled, dtype)
    found = evaluate(kind, query, candidates)
    for a, b in zip(found, definition(kind, query, candidates), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@KINDS
@POOLED
def test_gradients(kind: comparisons.Kind, pooled: bool, device: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    query, candidates = (
        torch.randn(*shape, generator=g, dtype=torch.float64).to(device).requires_grad_()
        for shape in ((3, 4), (5, 4) if pooled else (3, 5, 4))
    )
    # The interpreter is slow, so that fewer derivatives are asked of it: along random directions.
    fast = device.type == "cpu" and comparisons.form_on(device) == "triton"
    check = partial(torch.autograd.gradcheck, fast_mode=fast)
    assert check(lambda q, c: comparisons.compare(kind, q, c), (query, candidates))
    # One operand alone.
    frozen = query.detach()
    assert check(lambda c: comparisons.compare(kind, frozen, c), (candidates,))


@KINDS
@POOLED
def test_where_they_are_equal_the_gradient_is_zero(kind: comparisons.Kind, pooled: bool, device: torch.device) -> None:
    if kind == "dot":
        pytest.skip("a product has no kink")
    query = torch.tensor([[1.0, -2.0, 0.5, 3.0]], device=device)
    close = query.clone()
    # A difference whose square is below the smallest number that devices do not flush to 0.
    close[0, 2] = 1e-21
    query[0, 2] = 0
    for other in (query, close) if kind == "modulus" else (query,):
        candidates = other.clone() if pooled else other[None].clone()
        found = evaluate(kind, query, candidates)
        assert all(torch.isfinite(x).all() for x in found)
        assert found[0].abs().max() <= 1e-20
        if other is query:
            assert not any(x.any() for x in found)


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
@POOLED
def test_operands_need_not_be_contiguous(kind: comparisons.Kind, pooled: bool, device: torch.device) -> None:
    query, candidates = operands(6, 4, 3, pooled, device=device)
    turned = query.T.contiguous().T, candidates.mT.contiguous().mT
    assert not turned[0].is_contiguous()
    for a, b in zip(evaluate(kind, query, candidates), evaluate(kind, *turned), strict=True):
        torch.testing.assert_close(a, b)


@KINDS
@POOLED
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [5, 40])
def test_what_is_not_finite_stays_so(
    kind: comparisons.Kind, pooled: bool, bad: float, n: int, device: torch.device
) -> None:
    query, candidates = operands(n, 3, 9, pooled, device=device)
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
@DTYPES
def test_rows_of_a_table_are_as_good_as_gathered(
    kind: comparisons.Kind, dtype: torch.dtype, device: torch.device
) -> None:
    g = torch.Generator().manual_seed(1)
    query, table = torch.randn(20, 6, generator=g, dtype=dtype), torch.randn(9, 6, generator=g, dtype=dtype)
    # Row 8 is named nowhere, row 3 more often than a program takes at a time, side by side and apart.
    ids = torch.randint(8, (20, 5), generator=g)
    ids[:12, 1:3] = 3
    given = query.to(device), table.to(device), ids.to(device)
    found = evaluate(kind, *given)
    for a, b in zip(found, definition(kind, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert (found[2][8] == 0).all()
    assert (found[2][:8] != 0).any(1).all()


@KINDS
@pytest.mark.parametrize("form", ["rows", "own", "pool"])
def test_the_same_is_the_same_to_the_last_bit(kind: comparisons.Kind, form: str, device: torch.device) -> None:
    query, candidates = operands(6, 40, 9, form != "own", torch.float32, device)
    ids = torch.randint(7, (6, 11), generator=torch.Generator().manual_seed(2)).to(device) if form == "rows" else None
    once, again = (evaluate(kind, query, candidates, ids) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("kind", ["l1", "dot"])
@POOLED
@pytest.mark.parametrize("other", [torch.float16, torch.float32], ids=["halves", "mixed"])
def test_halves_are_summed_in_full(
    kind: comparisons.Kind, pooled: bool, other: torch.dtype, device: torch.device
) -> None:
    if comparisons.form_on(device) != "triton":
        pytest.skip("takes no halves")
    if kind == "dot" and pooled:
        pytest.skip("is torch's")
    # From 2,048 on float16 has even numbers alone: ones that are added one by one change nothing.
    query = torch.tensor([[2048.0, *[1.0] * 50]], dtype=torch.float16, device=device, requires_grad=True)
    candidates = torch.full_like(query, kind == "dot", dtype=other, requires_grad=True)
    found = comparisons.compare(kind, query, candidates if pooled else candidates[None])
    assert found.tolist() == [[2098.0]]
    assert found.dtype == other
    of_query, of_candidates = torch.autograd.grad(found.sum(), (query, candidates))
    assert (of_query.dtype, of_candidates.dtype) == (torch.float16, other)
    assert (of_query == 1).all()
    assert torch.equal(of_candidates, query.to(other) if kind == "dot" else torch.full_like(candidates, -1))
    with torch.autocast(device.type, torch.bfloat16):
        assert comparisons.compare(kind, query, candidates[None]).dtype == torch.float32


@KINDS
@pytest.mark.parametrize("form", ["rows", "own", "pool"])
@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
def test_the_host_reads_no_value(kind: comparisons.Kind, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrns.nn.kernels import gpu

    grids: list[int] = []
    for kernel in ("_rows", "_own_gradient", "_sum_of_cells", "_pool", "_pool_gradient"):
        monkeypatch.setattr(getattr(gpu, kernel), "run", lambda *_, grid, **__: grids.extend(grid))
    # Tensors of the device `meta` have shapes alone.
    query, candidates = operands(6, 70, 90, form != "own", torch.float32, "meta")
    ids = torch.empty(6, 40, dtype=torch.int64, device="meta") if form == "rows" else None
    found = gpu.forward(kind, query, candidates, ids)
    assert found.shape == (6, 40 if form == "rows" else 70)
    of_query, of_candidates = gpu.backward(kind, query, candidates, ids, found, True, True)
    assert of_query is not None
    assert of_candidates is not None
    assert (of_query.shape, of_candidates.shape) == (query.shape, candidates.shape)
    assert len(grids) == 3
    assert min(grids) > 0


@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
def test_counting_reads_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrns.nn.kernels import gpu

    grids: list[int] = []
    monkeypatch.setattr(gpu._ranked, "run", lambda *_, grid, **__: grids.extend(grid))
    scores, query = torch.empty(3, 5000, device="meta"), torch.empty(7, dtype=torch.int64, device="meta")
    assert [x.shape for x in gpu.ranked(scores, query, scores[query, 0])] == [(7,), (7,)]
    assert [x.shape for x in gpu.ranked(scores, query[:0], scores[query[:0], 0])] == [(0,), (0,)]
    assert grids == [7]


def test_for_few_pairs_the_kernels_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "_loads", {"numba": True, "triton": True})
    for device, form in (("cpu", "numba"), ("cuda", "triton")):
        monkeypatch.delitem(sys.modules, comparisons._MODULES[form], raising=False)
        with comparisons.comparing(comparisons.LOADING - 1):
            assert comparisons.form_on(device) == "torch"
            with comparisons.comparing(comparisons.LOADING):
                assert comparisons.form_on(device) == form
            assert comparisons.form_on(device) == "torch"
        assert comparisons.form_on(device) == form
        monkeypatch.setitem(sys.modules, comparisons._MODULES[form], object())
        with comparisons.comparing(1):
            assert comparisons.form_on(device) == form


def test_the_form_goes_by_device_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "_loads", {"numba": True, "triton": True})
    single, double, half = (torch.ones(2, 3, dtype=x) for x in (torch.float32, torch.float64, torch.bfloat16))
    assert comparisons.form_of(single, single) == comparisons.form_of(double, double) == "numba"
    assert comparisons.form_of(single, double) == comparisons.form_of(half, half) == "torch"
    assert comparisons.form_of(single.to("meta")) == comparisons.form_of(single, single.to("meta")) == "torch"
    assert comparisons.pair_width(6, "cuda") == comparisons.pair_width(6, "cpu") == 0
    monkeypatch.setattr(comparisons, "_loads", {"numba": False, "triton": False})
    assert comparisons.form_of(single, single) == "torch"
    assert comparisons.pair_width(6, "cuda") == comparisons.pair_width(6, "cpu") == 12


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
def test_the_kernels_for_a_gpu_compile_without_one(tmp_path: Path) -> None:
    # The interpreter takes much that the compiler refuses.
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compiling.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert names == {"_pool", "_pool_gradient", "_rows", "_sum_of_cells", "_own_gradient", "_ranked"}
