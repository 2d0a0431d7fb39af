"""The Triton kernels behind `mmrns.nn.kernels.comparisons`, for CUDA devices; importing this module needs Triton.

Each number that is written belongs to one program, which adds up in one order, so that results are the same in every
run. Grids follow from shapes alone: the host waits for nothing. With `TRITON_INTERPRET=1` in the environment before
Triton is imported the kernels run on CPU tensors, in NumPy.

A vector of `WIDTH` reals has `TERMS` terms to be summed: all its reals or, of `modulus`, half as many complex numbers.
What is said of bytes leaves out what is read once a row: ids, gradients of the sums, the sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
"""Reals of candidates that a program of 128 threads holds at a time: 16 a thread, enough to have loads under way."""

_WIDE = 128
"""Of these so many side by side: four a thread, which one instruction loads."""

_SQUARE = 64
"""Queries, and candidates of a pool, that a program compares: a thread reads 12 numbers for 32 pairs of them."""

_OWNED, _OWNED_WIDE = 32, 64
"""Rows of a pool's gradient, and coordinates of theirs, that a program adds up."""

_COUNTED = 2048
"""Scores of a row that a program counts at a time: 16 a thread."""

_PROGRAMS = 1024
"""So many programs keep a large device busy; where rows give fewer, what is added up is divided among several."""


def _kernel(function: Callable[..., Any]) -> Any:
    # Unwrapped, since what checks types at run time cannot be compiled.
    return triton.jit(inspect.unwrap(function))


@_kernel
def _load(KIND: tl.constexpr, at: tl.tensor, mask: "tl.tensor | None", imaginary: tl.tensor) -> Any:
    """Reals at some places, 0 where masked; of `modulus` the imaginary parts, too, which lie `imaginary` further on."""
    other = None if mask is None else 0
    re = tl.load(at, mask=mask, other=other)
    return re, tl.load(at + imaginary, mask=mask, other=other) if KIND == "modulus" else re


@_kernel
def _term(KIND: tl.constexpr, a: tl.tensor, a_im: tl.tensor, b: tl.tensor, b_im: tl.tensor) -> Any:
    """What is summed over the coordinates."""
    if KIND == "l1":
        found = tl.abs(a - b)
    elif KIND == "dot":
        found = a * b
    else:
        re, im = a - b, a_im - b_im
        found = tl.sqrt(re * re + im * im)
    return found


@_kernel
def _slope(KIND: tl.constexpr, a: tl.tensor, a_im: tl.tensor, b: tl.tensor, b_im: tl.tensor) -> Any:
    """The derivative of `_term` with regard to a, and to its imaginary part."""
    if KIND == "l1":
        x = a - b
        # At 0 it is 0, and what is no number stays so.
        re = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
        im = re
    elif KIND == "dot":
        re, im = b, b
    else:
        re, im = a - b, a_im - b_im
        square = re * re + im * im
        # Devices flush what is smaller to 0, whose inverse is infinite.
        per = tl.where(square < 1.2e-38, 0.0, tl.rsqrt(square))
        re, im = re * per, im * per
    return re, im


@_kernel
def _rows(
    q: tl.tensor,
    c: tl.tensor,
    ids: tl.tensor,
    out: tl.tensor,
    K: tl.tensor,
    KIND: tl.constexpr,
    OWN: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> None:
    """One query with some of its candidates: rows `ids` of c, or with OWN those at its place.

    Reads B K width reals of candidates, of a table mostly from the cache, and each query once for BLOCK_K of them.
    """
    blocks = tl.cdiv(K, BLOCK_K)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    k = (tl.program_id(0) % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    there, cell = k < K, b * K + k
    row = cell if OWN else tl.load(ids + cell, mask=there, other=0).to(tl.int64)
    total = tl.zeros((BLOCK_K, BLOCK_W), out.dtype.element_ty)
    for start in range(0, TERMS, BLOCK_W):
        i = start + tl.arange(0, BLOCK_W)[None, :]
        x, x_im = _load(KIND, q + b * WIDTH + i, i < TERMS, TERMS)
        y, y_im = _load(KIND, c + row[:, None] * WIDTH + i, there[:, None] & (i < TERMS), TERMS)
        total += _term(KIND, x, x_im, y, y_im)
    tl.store(out + cell, tl.sum(total, axis=1), mask=there)


@_kernel
def _own_gradient(
    q: tl.tensor,
    c: tl.tensor,
    g: tl.tensor,
    out: tl.tensor,
    K: tl.tensor,
    KIND: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> None:
    """The gradient of some own candidates of one query. Reads and writes B K width reals."""
    blocks = tl.cdiv(K, BLOCK_K)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    k = (tl.program_id(0) % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    cell = (b * K + k)[:, None]
    w = tl.load(g + cell, mask=k[:, None] < K, other=0)
    for start in range(0, TERMS, BLOCK_W):
        i = start + tl.arange(0, BLOCK_W)[None, :]
        mask, at = (k[:, None] < K) & (i < TERMS), cell * WIDTH + i
        x, x_im = _load(KIND, q + b * WIDTH + i, i < TERMS, TERMS)
        y, y_im = _load(KIND, c + at, mask, TERMS)
        re, im = _slope(KIND, y, y_im, x, x_im)
        tl.store(out + at, w * re, mask=mask)
        if KIND == "modulus":
            tl.store(out + at + TERMS, w * im, mask=mask)


@_kernel
def _sum_of_cells(
    a: tl.tensor,
    b: tl.tensor,
    g: tl.tensor,
    cells: tl.tensor,
    start: tl.tensor,
    out: tl.tensor,
    K: tl.tensor,
    KIND: tl.constexpr,
    OF: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> None:
    """The gradient of some coordinates of one row n of a: the sum over its cells of [B K].

    Those of a query are its K, and name the rows `cells` of b (OF "query") or those at their own place (OF "own").
    Those of row n of a table (OF "table") are `cells[start[n]:start[n + 1]]`, each of the query whose it is.

    Reads B K width reals, one row of b for each cell; writes each row of a once, also where it has no cell.
    """
    blocks: tl.constexpr = (TERMS + BLOCK_W - 1) // BLOCK_W
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    inside = i < TERMS
    x, x_im = _load(KIND, a + n * WIDTH + i, inside, TERMS)
    re, im = tl.zeros((BLOCK_M, BLOCK_W), x.dtype), tl.zeros((BLOCK_M, BLOCK_W), x.dtype)
    if OF == "table":
        first, last = tl.load(start + n), tl.load(start + n + 1)
    else:
        first, last = n * K, n * K + K
    for place in range(first, last, BLOCK_M):
        at = place + tl.arange(0, BLOCK_M)[:, None]
        there = at < last
        if OF == "table":
            cell = tl.load(cells + at, mask=there, other=0)
            other = cell // K
        elif OF == "query":
            cell = at
            other = tl.load(cells + cell, mask=there, other=0).to(tl.int64)
        else:
            cell = at
            other = at
        w = tl.load(g + cell, mask=there, other=0)
        y, y_im = _load(KIND, b + other * WIDTH + i, there & inside, TERMS)
        of_re, of_im = _slope(KIND, x, x_im, y, y_im)
        re += w * of_re
        im += w * of_im
    at = out + n * WIDTH + i
    tl.store(at, tl.sum(re, axis=0)[None, :], mask=inside)
    if KIND == "modulus":
        tl.store(at + TERMS, tl.sum(im, axis=0)[None, :], mask=inside)


@_kernel
def _pool(
    q: tl.tensor,
    turned: tl.tensor,
    out: tl.tensor,
    B: tl.tensor,
    P: tl.tensor,
    stride: tl.tensor,
    KIND: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Some queries with some candidates of a pool, which is given transposed, [width stride] with stride >= P.

    A coordinate of all of them is read, then compared pair by pair in registers: B P width / BLOCK reals of each
    operand in all, from the cache but for the first time.
    """
    blocks = tl.cdiv(B, BLOCK)
    # As [4 BLOCK BLOCK / 4], so that a thread has four candidates and as many queries as that leaves.
    b = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[None, :, None]
    p = tl.arange(0, 4)[:, None, None] * (BLOCK // 4) + tl.arange(0, BLOCK // 4)[None, None, :]
    p += (tl.program_id(0) // blocks) * BLOCK
    imaginary = tl.cast(stride, tl.int64) * TERMS
    # Rows beyond the last are the last again, and are not written; columns there are, as many as the stride.
    x_at, y_at = q + tl.minimum(b, B - 1) * WIDTH, turned + p
    total = tl.zeros((4, BLOCK, BLOCK // 4), out.dtype.element_ty)
    for _ in tl.range(0, TERMS, loop_unroll_factor=4):
        x, x_im = _load(KIND, x_at, None, TERMS)
        y, y_im = _load(KIND, y_at, None, imaginary)
        total += _term(KIND, x, x_im, y, y_im)
        x_at += 1
        y_at += stride
    tl.store(out + b * P + p, total, mask=(b < B) & (p < P))


@_kernel
def _pool_gradient(
    a: tl.tensor,
    b: tl.tensor,
    g: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    M: tl.tensor,
    of_n: tl.tensor,
    of_m: tl.tensor,
    each: tl.tensor,
    KIND: tl.constexpr,
    WIDTH: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> None:
    """The gradient of some coordinates of some rows of a, each compared with all of b, of which this adds up `each`.

    The gradient of the sum for row n of a and row m of b lies at `g + n of_n + m of_m`. Reads N M width / BLOCK_N
    reals of b from the cache; writes one table [N width] for each part of b.
    """
    blocks: tl.constexpr = (TERMS + BLOCK_W - 1) // BLOCK_W
    rows = tl.cdiv(N, BLOCK_N)
    i = (tl.program_id(0) % blocks) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    n = (((tl.program_id(0) // blocks) % rows) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)[:, None]
    part = (tl.program_id(0) // (blocks * rows)).to(tl.int64)
    first, last = part * each, tl.minimum(part * each + each, M)
    mask = (n < N) & (i < TERMS)
    x, x_im = _load(KIND, a + n * WIDTH + i, mask, TERMS)
    re, im = tl.zeros((BLOCK_N, BLOCK_W), x.dtype), tl.zeros((BLOCK_N, BLOCK_W), x.dtype)
    w_at, y_at = g + n * of_n + first * of_m, b + first * WIDTH + i
    for _ in tl.range(first, last, loop_unroll_factor=4):
        w = tl.load(w_at, mask=n < N, other=0)
        y, y_im = _load(KIND, y_at, i < TERMS, TERMS)
        of_re, of_im = _slope(KIND, x, x_im, y, y_im)
        re += w * of_re
        im += w * of_im
        w_at += of_m
        y_at += WIDTH
    at = out + (part * N + n) * WIDTH + i
    tl.store(at, re, mask=mask)
    if KIND == "modulus":
        tl.store(at + TERMS, im, mask=mask)


@_kernel
def _ranked(
    scores: tl.tensor,
    query: tl.tensor,
    true: tl.tensor,
    higher: tl.tensor,
    at_least: tl.tensor,
    E: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """How many scores of a row are higher than one number, and how many are at least as high. Reads the row once."""
    n = tl.program_id(0).to(tl.int64)
    row = scores + tl.load(query + n) * E
    mine = tl.load(true + n)
    above, level = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
    for start in tl.range(0, E, BLOCK):
        e = start + tl.arange(0, BLOCK)
        there = e < E
        s = tl.load(row + e, mask=there, other=0)
        above += (there & (s > mine)).to(tl.int32)
        level += (there & (s >= mine)).to(tl.int32)
    tl.store(higher + n, tl.sum(above, axis=0).to(tl.int64))
    tl.store(at_least + n, tl.sum(level, axis=0).to(tl.int64))


def ranked(scores: Tensor, query: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of its query are higher than each true score, and how many are at least as high."""
    higher, at_least = torch.empty_like(query), torch.empty_like(query)
    if len(query):
        operands = scores.contiguous(), query.contiguous(), true.contiguous(), higher, at_least
        with torch.cuda.device_of(scores):
            _ranked[(len(query),)](*operands, scores.shape[1], BLOCK=_COUNTED)
    return higher, at_least


def forward(kind: str, query: Tensor, candidates: Tensor, ids: Tensor | None) -> Tensor:
    """Sums [B K] or [B P] of contiguous tensors of one type, of single or double precision."""
    if candidates.ndim == 2 and ids is None:
        return _forward_of_pool(kind, query, candidates)
    found = query.new_empty((candidates if ids is None else ids).shape[:2])
    sizes = _sizes(kind, query)
    k, across = found.shape[1], _across(sizes["TERMS"])
    if found.numel():
        block = min(_power(k), _TILE // across)
        operands = query, candidates, candidates if ids is None else ids, found
        grid = (len(query) * _blocks(k, block),)
        with torch.cuda.device_of(query):
            _rows[grid](*operands, k, kind, ids is None, **sizes, BLOCK_K=block, BLOCK_W=across)
    return found


def _forward_of_pool(kind: str, query: Tensor, pool: Tensor) -> Tensor:
    found = query.new_empty(len(query), len(pool))
    if found.numel():
        blocks = _blocks(len(pool), _SQUARE)
        turned = pool.new_empty(pool.shape[1], blocks * _SQUARE)
        turned[:, : len(pool)] = pool.T
        grid = (_blocks(len(query), _SQUARE) * blocks,)
        with torch.cuda.device_of(query):
            _pool[grid](query, turned, found, *found.shape, turned.shape[1], kind, **_sizes(kind, query), BLOCK=_SQUARE)
    return found


def backward(
    kind: str,
    query: Tensor,
    candidates: Tensor,
    ids: Tensor | None,
    gradient: Tensor,
    of_query: bool,
    of_candidates: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the query and of the candidates, those that are asked for."""
    if not gradient.numel() or not query.shape[1]:
        nothing = torch.zeros_like(query), torch.zeros_like(candidates)
        return nothing[0] if of_query else None, nothing[1] if of_candidates else None
    grad_q = grad_c = None
    with torch.cuda.device_of(query):
        if candidates.ndim == 2 and ids is None:
            grad_q = _gradient_of_pool(kind, query, candidates, gradient) if of_query else None
            grad_c = _gradient_of_pool(kind, candidates, query, gradient.T) if of_candidates else None
            return grad_q, grad_c
        if of_query:
            grad_q = _gradient_of_query(kind, query, candidates, ids, gradient)
        if of_candidates and ids is None:
            grad_c = _gradient_of_own(kind, query, candidates, gradient)
        elif of_candidates and ids is not None:
            grad_c = _gradient_of_table(kind, query, candidates, ids, gradient)
    return grad_q, grad_c


def _gradient_of_pool(kind: str, a: Tensor, b: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a, each row of which was compared with each of b; that of the sums [N M]."""
    sizes, (n, m) = _sizes(kind, a), gradient.shape
    across = min(_power(sizes["TERMS"]), _OWNED_WIDE)
    programs = _blocks(n, _OWNED) * _blocks(sizes["TERMS"], across)
    each = _blocks(m, max(1, min(_PROGRAMS // programs, m // _OWNED)))
    parts = _blocks(m, each)
    found = a.new_empty(parts, *a.shape)
    operands = a, b, gradient, found, n, m, *gradient.stride(), each
    _pool_gradient[(programs * parts,)](*operands, kind, **sizes, BLOCK_N=_OWNED, BLOCK_W=across)
    return found[0] if parts == 1 else found.sum(0)


def _gradient_of_query(kind: str, query: Tensor, candidates: Tensor, ids: Tensor | None, gradient: Tensor) -> Tensor:
    if ids is None:
        return _summed(kind, query, candidates, gradient, candidates, None, "own")
    return _summed(kind, query, candidates, gradient, ids, None, "query")


def _gradient_of_own(kind: str, query: Tensor, candidates: Tensor, gradient: Tensor) -> Tensor:
    sizes, found = _sizes(kind, query), torch.empty_like(candidates)
    k, across = gradient.shape[1], _across(sizes["TERMS"])
    block = min(_power(k), _TILE // across)
    grid = (len(query) * _blocks(k, block),)
    operands = query, candidates, gradient, found, k
    _own_gradient[grid](*operands, kind, **sizes, BLOCK_K=block, BLOCK_W=across)
    return found


def _gradient_of_table(kind: str, query: Tensor, table: Tensor, ids: Tensor, gradient: Tensor) -> Tensor:
    # 32 bits are sorted in half of the passes.
    named, order = ids.flatten().int().sort(stable=True)
    every = torch.arange(len(table) + 1, dtype=torch.int32, device=ids.device)
    start = torch.searchsorted(named, every)
    return _summed(kind, table, query, gradient, order, start, "table")


def _summed(kind: str, a: Tensor, b: Tensor, gradient: Tensor, cells: Tensor, start: Tensor | None, of: str) -> Tensor:
    """The gradient of a by `_sum_of_cells`; see there for `cells` and `start`."""
    sizes, found = _sizes(kind, a), torch.empty_like(a)
    across = _across(sizes["TERMS"])
    grid = (len(a) * _blocks(sizes["TERMS"], across),)
    operands = a, b, gradient, cells, cells if start is None else start, found, gradient.shape[1]
    _sum_of_cells[grid](*operands, kind, of, **sizes, BLOCK_M=_TILE // _WIDE, BLOCK_W=across)
    return found


def _sizes(kind: str, vectors: Tensor) -> dict[str, int]:
    width = vectors.shape[1]
    return {"WIDTH": width, "TERMS": width // 2 if kind == "modulus" else width}


def _across(terms: int) -> int:
    """Terms that a program has side by side."""
    return min(_power(terms), _WIDE)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _power(n: int) -> int:
    """The power of two from n on, at least 1."""
    return 1 << max(0, n - 1).bit_length()


def _try() -> None:
    """Run a kernel, which raises where Triton finds no C compiler, or cannot compile for the device."""
    one = torch.zeros(1, 1, device="cuda")
    forward("l1", one, one, None)


# So that whoever imports this learns of it here, and not in the middle of a training.
if torch.cuda.is_available():
    _try()
