"""The compiled kernels behind `mmrns.nn.kernels.comparisons`; importing this module needs Numba.

Each output row is written by one thread, in one order, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from mmrns.nn.kernels.cache import cached

# Numba's threads, which the first question after them starts, are OpenMP's: their number becomes torch's, too.
_given = torch.get_num_threads()
_MOST_THREADS = numba.get_num_threads()
torch.set_num_threads(_given)

_ROWS = 16
"""Rows of queries that are compared with a candidate while it is in the cache."""

_TURNED, _REALS_TURNED = 512, 2**17
"""Candidates, and reals of theirs, that a thread holds transposed."""

_ROWS_TURNED = 32
"""Rows from which transposing the candidates pays."""

_BINS = 512
"""Parts that the range of a row's values is divided into, to find its largest."""

# Sums may be reordered for vector instructions; unlike with all of fastmath, what is not finite stays so.
_RELAXED = {"reassoc", "contract", "nsz", "arcp"}


def _compiled(parallel: bool, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        # Unwrapped, since what checks types at run time cannot be compiled.
        plain = inspect.unwrap(function)
        # What is cached goes by this name: of what is made in a function, each needs its own.
        plain.__qualname__ = name or plain.__name__
        return cached(njit(parallel=parallel, fastmath=_RELAXED, error_model="numpy")(plain))

    return of


# Of each kind: the sum for row n of a and row m of b, symmetric in the two; and its gradient with regard to that row of
# a, times w, added to row n of `out`.


@_compiled(parallel=False)
def _l1(a: Any, n: int, b: Any, m: int) -> Any:
    total = a.dtype.type(0)
    for i in range(a.shape[1]):
        total += abs(a[n, i] - b[m, i])
    return total


@_compiled(parallel=False)
def _l1_gradient(a: Any, n: int, b: Any, m: int, w: Any, out: Any) -> None:
    for i in range(a.shape[1]):
        x = a[n, i] - b[m, i]
        out[n, i] += w if x > 0 else (-w if x < 0 else x * 0)


@_compiled(parallel=False)
def _modulus(a: Any, n: int, b: Any, m: int) -> Any:
    total, d = a.dtype.type(0), a.shape[1] // 2
    for i in range(d):
        re, im = a[n, i] - b[m, i], a[n, d + i] - b[m, d + i]
        # Not `** 0.5`, which is made several times as slow.
        total += math.sqrt(re * re + im * im)
    return total


@_compiled(parallel=False)
def _modulus_gradient(a: Any, n: int, b: Any, m: int, w: Any, out: Any) -> None:
    d = a.shape[1] // 2
    for i in range(d):
        re, im = a[n, i] - b[m, i], a[n, d + i] - b[m, d + i]
        size = math.sqrt(re * re + im * im)
        per = w / size if size != 0 else size
        out[n, i] += per * re
        out[n, d + i] += per * im


@_compiled(parallel=False)
def _dot(a: Any, n: int, b: Any, m: int) -> Any:
    total = a.dtype.type(0)
    for i in range(a.shape[1]):
        total += a[n, i] * b[m, i]
    return total


@_compiled(parallel=False)
def _dot_gradient(a: Any, n: int, b: Any, m: int, w: Any, out: Any) -> None:
    for i in range(a.shape[1]):
        out[n, i] += w * b[m, i]


class _Kernels(NamedTuple):
    pool: Callable[..., None]
    pool_gradient: Callable[..., None]
    rows: Callable[..., None]
    query_gradient: Callable[..., None]
    table_gradient: Callable[..., None]


def _kernels(kind: str, value: Any, gradient: Any) -> _Kernels:
    @_compiled(parallel=True, name=f"{kind}_pool")
    def pool(q: Any, c: Any, out: Any, rows: int) -> None:
        for block in prange((q.shape[0] + rows - 1) // rows):
            for p in range(c.shape[0]):
                for b in range(block * rows, min(q.shape[0], (block + 1) * rows)):
                    out[b, p] = value(q, b, c, p)

    @_compiled(parallel=True, name=f"{kind}_pool_gradient")
    def pool_gradient(a: Any, b: Any, g: Any, of_a: Any) -> None:
        for n in prange(a.shape[0]):
            for m in range(b.shape[0]):
                gradient(a, n, b, m, g[n, m], of_a)

    @_compiled(parallel=True, name=f"{kind}_rows")
    def rows(q: Any, table: Any, ids: Any, out: Any) -> None:
        for b in prange(ids.shape[0]):
            for k in range(ids.shape[1]):
                out[b, k] = value(q, b, table, ids[b, k])

    @_compiled(parallel=True, name=f"{kind}_query_gradient")
    def query_gradient(q: Any, table: Any, ids: Any, g: Any, of_q: Any) -> None:
        for b in prange(ids.shape[0]):
            for k in range(ids.shape[1]):
                gradient(q, b, table, ids[b, k], g[b, k], of_q)

    @_compiled(parallel=True, name=f"{kind}_table_gradient")
    def table_gradient(q: Any, table: Any, g: Any, start: Any, cell: Any, of_table: Any) -> None:
        for e in prange(start.shape[0] - 1):
            for place in range(start[e], start[e + 1]):
                b, k = cell[place] // g.shape[1], cell[place] % g.shape[1]
                gradient(table, e, q, b, g[b, k], of_table)

    return _Kernels(pool, pool_gradient, rows, query_gradient, table_gradient)


# `pool` with some candidates at a time transposed: what lies side by side is summed side by side, so that no vector has
# to be summed up at the end.


@_compiled(parallel=False)
def _turn(c: Any, start: int, n: int, turned: Any) -> None:
    for p in range(n):
        for i in range(c.shape[1]):
            turned[i, p] = c[start + p, i]


@_compiled(parallel=True)
def _l1_turned(q: Any, c: Any, out: Any, rows: int, size: int) -> None:
    # Two rows share what is read.
    width = q.shape[1]
    for block in prange((q.shape[0] + rows - 1) // rows):
        first, last = block * rows, min(q.shape[0], (block + 1) * rows)
        turned, spare = np.empty((width, size), q.dtype), np.empty(size, q.dtype)
        for start in range(0, c.shape[0], size):
            n = min(size, c.shape[0] - start)
            _turn(c, start, n, turned)
            for b in range(first, last, 2):
                other = min(b + 1, last - 1)
                x = out[b, start : start + n]
                y = out[other, start : start + n] if other > b else spare[:n]
                x[:] = 0
                y[:] = 0
                whole = width - width % 4
                for i in range(0, whole, 4):
                    x0, x1, x2, x3 = q[b, i], q[b, i + 1], q[b, i + 2], q[b, i + 3]
                    y0, y1, y2, y3 = q[other, i], q[other, i + 1], q[other, i + 2], q[other, i + 3]
                    c0, c1, c2, c3 = turned[i], turned[i + 1], turned[i + 2], turned[i + 3]
                    for p in range(n):
                        z0, z1, z2, z3 = c0[p], c1[p], c2[p], c3[p]
                        x[p] += abs(x0 - z0) + abs(x1 - z1) + abs(x2 - z2) + abs(x3 - z3)
                        y[p] += abs(y0 - z0) + abs(y1 - z1) + abs(y2 - z2) + abs(y3 - z3)
                for i in range(whole, width):
                    for p in range(n):
                        x[p] += abs(q[b, i] - turned[i, p])
                        y[p] += abs(q[other, i] - turned[i, p])


@_compiled(parallel=True)
def _modulus_turned(q: Any, c: Any, out: Any, rows: int, size: int) -> None:
    d = q.shape[1] // 2
    for block in prange((q.shape[0] + rows - 1) // rows):
        turned = np.empty((q.shape[1], size), q.dtype)
        for start in range(0, c.shape[0], size):
            n = min(size, c.shape[0] - start)
            _turn(c, start, n, turned)
            for b in range(block * rows, min(q.shape[0], (block + 1) * rows)):
                x = out[b, start : start + n]
                x[:] = 0
                for i in range(d):
                    re, im, of_re, of_im = q[b, i], q[b, d + i], turned[i], turned[d + i]
                    for p in range(n):
                        y, z = re - of_re[p], im - of_im[p]
                        x[p] += math.sqrt(y * y + z * z)


_TURNED_OF = {"l1": _l1_turned, "modulus": _modulus_turned}


@_compiled(parallel=False)
def _cells_of_rows(ids: Any, n: int) -> Any:
    """The cells of `ids` that name each of n rows, in ascending order, and where each row's begin: a counting sort."""
    flat = ids.ravel()
    start = np.zeros(n + 1, np.int64)
    for i in range(flat.shape[0]):
        start[flat[i] + 1] += 1
    for e in range(n):
        start[e + 1] += start[e]
    cell, free = np.empty(flat.shape[0], np.int64), start[:-1].copy()
    for i in range(flat.shape[0]):
        cell[free[flat[i]]] = i
        free[flat[i]] += 1
    return start, cell


_OF = {
    "l1": _kernels("l1", _l1, _l1_gradient),
    "modulus": _kernels("modulus", _modulus, _modulus_gradient),
    "dot": _kernels("dot", _dot, _dot_gradient),
}


@_compiled(parallel=True)
def _ranked(scores: Any, query: Any, true: Any, higher: Any, at_least: Any) -> None:
    for n in prange(query.shape[0]):
        row, t = scores[query[n]], true[n]
        above, level = 0, 0
        for e in range(row.shape[0]):
            above += row[e] > t
            level += row[e] >= t
        higher[n], at_least[n] = above, level


def ranked(scores: Tensor, query: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of its query are higher than each true score, and how many are at least as high."""
    _threads()
    higher, at_least = torch.empty_like(query), torch.empty_like(query)
    _ranked(scores.numpy(), query.numpy(), true.numpy(), higher.numpy(), at_least.numpy())
    return higher, at_least


@_compiled(parallel=True)
def _largest(values: Any, k: int, found: Any, place: Any, rows: int) -> None:
    n_columns = values.shape[1]
    inf, zero = values.dtype.type(np.inf), values.dtype.type(0)
    below = values.dtype.type(_BINS)
    for block in prange((values.shape[0] + rows - 1) // rows):
        bins, start = np.empty(n_columns, np.int32), np.empty(_BINS + 1, np.int32)
        kept, column = np.empty(n_columns, values.dtype), np.empty(n_columns, np.int64)
        for b in range(block * rows, min(values.shape[0], (block + 1) * rows)):
            row = values[b]
            high, low = -inf, inf
            for j in range(n_columns):
                high = max(high, row[j] if row[j] < inf else -inf)
                low = min(low, row[j] if row[j] > -inf else inf)
            scale = (below - 1) / (high - low) if high > low else zero
            # Bins from the highest value down; the last one is for what is no number.
            for j in range(n_columns):
                d = (high - row[j]) * scale
                d = zero if row[j] == inf else d if d < below else below
                bins[j] = np.int32(d)
            start[:] = 0
            for j in range(n_columns):
                start[bins[j]] += 1
            n, last = 0, _BINS
            for t in range(_BINS + 1):
                count = start[t]
                start[t] = n
                n += count
                if n >= k:
                    last = t
                    break
            # Sorted by bin they are nearly sorted.
            for j in range(n_columns):
                if bins[j] <= last:
                    at = start[bins[j]]
                    start[bins[j]] += 1
                    kept[at], column[at] = row[j], j
            for i in range(1, n):
                value, of, at = kept[i], column[i], i
                while at > 0 and kept[at - 1] < value:
                    kept[at], column[at] = kept[at - 1], column[at - 1]
                    at -= 1
                kept[at], column[at] = value, of
            found[b], place[b] = kept[:k], column[:k]


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, falling, and where they are."""
    threads = _threads()
    values = values.detach().contiguous()
    found, place = values.new_empty(len(values), k), torch.empty(len(values), k, dtype=torch.int64)
    rows = max(1, -(-len(values) // threads))
    _largest(values.numpy(), k, found.numpy(), place.numpy(), rows)
    return found, place


def forward(kind: str, query: Tensor, candidates: Tensor, ids: Tensor | None) -> Tensor:
    """Sums [B K] or [B P] of contiguous float tensors on the CPU."""
    threads = _threads()
    q = query.detach().numpy()
    if candidates.ndim == 2 and ids is None:
        found = query.new_empty(len(query), len(candidates))
        c = candidates.detach().numpy()
        if kind in _TURNED_OF and len(query) >= _ROWS_TURNED:
            # An even number, so that the rows are paired alike whatever the number of threads.
            rows, size = -(-len(query) // (2 * threads)) * 2, _REALS_TURNED // max(1, query.shape[1])
            _TURNED_OF[kind](q, c, found.numpy(), rows, max(16, min(_TURNED, size)))
            return found
        rows = max(1, min(_ROWS, len(query) // threads))
        _OF[kind].pool(q, c, found.numpy(), rows)
        return found
    table, cells = _as_rows(candidates, ids)
    found = query.new_empty(cells.shape)
    _OF[kind].rows(q, table.detach().numpy(), cells.numpy(), found.numpy())
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
    _threads()
    kernels, q, g = _OF[kind], query.detach().numpy(), gradient.detach().numpy()
    grad_q = torch.zeros_like(query) if of_query else None
    grad_c = torch.zeros_like(candidates) if of_candidates else None
    if candidates.ndim == 2 and ids is None:
        c = candidates.detach().numpy()
        if grad_q is not None:
            kernels.pool_gradient(q, c, g, grad_q.numpy())
        if grad_c is not None:
            kernels.pool_gradient(c, q, gradient.T.contiguous().numpy(), grad_c.numpy())
        return grad_q, grad_c
    table, cells = _as_rows(candidates, ids)
    t = table.detach().numpy()
    if grad_q is not None:
        kernels.query_gradient(q, t, cells.numpy(), g, grad_q.numpy())
    if grad_c is not None:
        start, cell = _cells_of_rows(cells.numpy(), len(table))
        kernels.table_gradient(q, t, g, start, cell, grad_c.view_as(table).numpy())
    return grad_q, grad_c


def _as_rows(candidates: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """A table, and which of its rows each query is compared with; own candidates are a table that is read once."""
    if ids is not None:
        return candidates, ids
    b, k, width = candidates.shape
    return candidates.view(b * k, width), torch.arange(b * k).view(b, k)


def _threads() -> int:
    count = min(torch.get_num_threads(), _MOST_THREADS)
    numba.set_num_threads(count)
    return count


@_compiled(parallel=False)
def _adam(x: Any, moments: Any, e: int, g: Any, numbers: Any) -> None:
    m, v = moments
    length, eps, first, second = numbers
    for j in range(g.shape[0]):
        m[e, j] += first * (g[j] - m[e, j])
        v[e, j] += second * (g[j] * g[j] - v[e, j])
        x[e, j] -= length * m[e, j] / (np.sqrt(v[e, j]) + eps)


@_compiled(parallel=False)
def _adagrad(x: Any, moments: Any, e: int, g: Any, numbers: Any) -> None:
    (s,) = moments
    length, eps = numbers
    for j in range(g.shape[0]):
        s[e, j] += g[j] * g[j]
        x[e, j] -= length * g[j] / (np.sqrt(s[e, j]) + eps)


def _updates(name: str, rule: Any) -> Callable[..., None]:
    @_compiled(parallel=True, name=name)
    def update(x: Any, moments: Any, ids: Any, cell: Any, values: Any, numbers: Any, cells: int) -> None:
        n = ids.shape[0]
        for block in prange((n + cells - 1) // cells):
            total = np.empty(values.shape[1], values.dtype)
            place, end = block * cells, min(n, (block + 1) * cells)
            # The first of a row's cells decides whose it is.
            while 0 < place < end and ids[place] == ids[place - 1]:
                place += 1
            while place < end:
                e = ids[place]
                total[:] = 0
                while place < n and ids[place] == e:
                    total += values[cell[place]]
                    place += 1
                rule(x, moments, e, total, numbers)

    return update


_UPDATES = {2: _updates("adam_rows", _adam), 1: _updates("adagrad_rows", _adagrad)}
"""Rules by how many moments they keep."""


def update_rows(
    table: Tensor, moments: list[Tensor], ids: Tensor, gradient: Tensor, numbers: tuple[float, ...]
) -> None:
    """Adam's or Adagrad's update of the rows that the ids name, each by the sum of its gradients."""
    threads = _threads()
    ids, cell = ids.sort(stable=True)
    number = torch.tensor(0, dtype=table.dtype).numpy().dtype.type
    given = (table.detach().numpy(), tuple(moment.numpy() for moment in moments), ids.numpy(), cell.numpy())
    cells = max(1, -(-len(ids) // threads))
    _UPDATES[len(moments)](*given, gradient.contiguous().numpy(), tuple(map(number, numbers)), cells)
