"""The compiled kernels behind `mmrns.nn.distances`; importing this module needs Numba.

Each output row is written by one thread, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import torch
from numba import njit, prange
from torch import Tensor

# Numba's threads, which the first question after them starts, are OpenMP's: their number becomes torch's, too.
_given = torch.get_num_threads()
_MOST_THREADS = numba.get_num_threads()
torch.set_num_threads(_given)
_ROWS = 16
"""Rows of queries that are compared with a candidate while it is in the cache."""


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    # Sums may be reordered for vector instructions; unlike with all of fastmath, what is not finite stays so.
    # Unwrapped, since what checks types at run time cannot be compiled.
    relaxed = {"reassoc", "contract", "nsz", "arcp"}
    return njit(parallel=True, cache=True, fastmath=relaxed, error_model="numpy")(inspect.unwrap(function))


@_compiled
def _l1_own(q: Any, c: Any, out: Any) -> None:
    for b in prange(c.shape[0]):
        for k in range(c.shape[1]):
            total = q.dtype.type(0)
            for i in range(c.shape[2]):
                total += abs(q[b, i] - c[b, k, i])
            out[b, k] = total


@_compiled
def _l1_own_gradient(q: Any, c: Any, g: Any, of_q: Any, of_c: Any) -> None:
    for b in prange(c.shape[0]):
        for k in range(c.shape[1]):
            w = g[b, k]
            for i in range(c.shape[2]):
                x = q[b, i] - c[b, k, i]
                v = w if x > 0 else (-w if x < 0 else x * 0)
                of_q[b, i] += v
                of_c[b, k, i] = -v


@_compiled
def _l1_pool(q: Any, c: Any, out: Any, rows: int) -> None:
    for block in prange((q.shape[0] + rows - 1) // rows):
        for p in range(c.shape[0]):
            for b in range(block * rows, min(q.shape[0], (block + 1) * rows)):
                total = q.dtype.type(0)
                for i in range(q.shape[1]):
                    total += abs(q[b, i] - c[p, i])
                out[b, p] = total


@_compiled
def _l1_pool_gradient(a: Any, b: Any, g: Any, of_a: Any) -> None:
    for n in prange(a.shape[0]):
        for m in range(b.shape[0]):
            w = g[n, m]
            for i in range(a.shape[1]):
                x = a[n, i] - b[m, i]
                of_a[n, i] += w if x > 0 else (-w if x < 0 else x * 0)


@_compiled
def _modulus_own(q: Any, c: Any, out: Any) -> None:
    d = c.shape[2] // 2
    for b in prange(c.shape[0]):
        for k in range(c.shape[1]):
            total = q.dtype.type(0)
            for i in range(d):
                re, im = q[b, i] - c[b, k, i], q[b, d + i] - c[b, k, d + i]
                total += (re * re + im * im) ** 0.5
            out[b, k] = total


@_compiled
def _modulus_own_gradient(q: Any, c: Any, g: Any, of_q: Any, of_c: Any) -> None:
    d = c.shape[2] // 2
    for b in prange(c.shape[0]):
        for k in range(c.shape[1]):
            w = g[b, k]
            for i in range(d):
                re, im = q[b, i] - c[b, k, i], q[b, d + i] - c[b, k, d + i]
                size = (re * re + im * im) ** 0.5
                per = w / size if size != 0 else size
                of_q[b, i] += per * re
                of_q[b, d + i] += per * im
                of_c[b, k, i] = -per * re
                of_c[b, k, d + i] = -per * im


@_compiled
def _modulus_pool(q: Any, c: Any, out: Any, rows: int) -> None:
    d = q.shape[1] // 2
    for block in prange((q.shape[0] + rows - 1) // rows):
        for p in range(c.shape[0]):
            for b in range(block * rows, min(q.shape[0], (block + 1) * rows)):
                total = q.dtype.type(0)
                for i in range(d):
                    re, im = q[b, i] - c[p, i], q[b, d + i] - c[p, d + i]
                    total += (re * re + im * im) ** 0.5
                out[b, p] = total


@_compiled
def _modulus_pool_gradient(a: Any, b: Any, g: Any, of_a: Any) -> None:
    d = a.shape[1] // 2
    for n in prange(a.shape[0]):
        for m in range(b.shape[0]):
            w = g[n, m]
            for i in range(d):
                re, im = a[n, i] - b[m, i], a[n, d + i] - b[m, d + i]
                size = (re * re + im * im) ** 0.5
                per = w / size if size != 0 else size
                of_a[n, i] += per * re
                of_a[n, d + i] += per * im


_OWN = {"l1": _l1_own, "modulus": _modulus_own}
_OWN_GRADIENT = {"l1": _l1_own_gradient, "modulus": _modulus_own_gradient}
_POOL = {"l1": _l1_pool, "modulus": _modulus_pool}
_POOL_GRADIENT = {"l1": _l1_pool_gradient, "modulus": _modulus_pool_gradient}


def forward(kind: str, query: Tensor, candidates: Tensor) -> Tensor:
    """Distances [B K] or [B P] of contiguous float tensors on the CPU."""
    threads = _threads()
    found = query.new_empty(len(query), candidates.shape[-2])
    arrays = query.detach().numpy(), candidates.detach().numpy(), found.numpy()
    if candidates.ndim == 3:
        _OWN[kind](*arrays)
    else:
        _POOL[kind](*arrays, max(1, min(_ROWS, len(query) // threads)))
    return found


def backward(
    kind: str, query: Tensor, candidates: Tensor, gradient: Tensor, of_query: bool, of_candidates: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the query and of the candidates, those that are asked for."""
    _threads()
    q, c, g = query.detach().numpy(), candidates.detach().numpy(), gradient.detach().numpy()
    if candidates.ndim == 3:
        grad_q, grad_c = torch.zeros_like(query), torch.empty_like(candidates)
        _OWN_GRADIENT[kind](q, c, g, grad_q.numpy(), grad_c.numpy())
        return grad_q, grad_c
    # A distance is a function of the difference, so that either operand may come first.
    grad_q = torch.zeros_like(query) if of_query else None
    if grad_q is not None:
        _POOL_GRADIENT[kind](q, c, g, grad_q.numpy())
    grad_c = torch.zeros_like(candidates) if of_candidates else None
    if grad_c is not None:
        _POOL_GRADIENT[kind](c, q, gradient.T.contiguous().numpy(), grad_c.numpy())
    return grad_q, grad_c


def _threads() -> int:
    count = min(torch.get_num_threads(), _MOST_THREADS)
    numba.set_num_threads(count)
    return count
