"""Comparisons of queries with candidates: fused on the CPU where Numba is installed (extra `fast`), otherwise in torch.

Torch writes the B x K x width vectors or differences to memory and reads them several times; a fused kernel keeps them
in registers, so that it moves nothing but its operands. Both give the same numbers up to the order of the sums.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from mmrns.errors import note
from mmrns.nn.numerics import FullPrecision

Kind = Literal["l1", "l2", "modulus", "dot"]
"""What is summed over the coordinates of query q and candidate c.

`l1`: |q_i - c_i|; `l2`: (q_i - c_i)^2, of whose sum the root is taken; `modulus`: the first over complex numbers, of
which vectors hold all real parts, then all imaginary parts; `dot`: q_i c_i. The derivatives of |x| and |z| at 0 are
taken as 0.
"""


def compare(
    kind: Kind, query: Float[Tensor, "B width"], candidates: Float[Tensor, "B K width"] | Float[Tensor, "P width"]
) -> Float[Tensor, "B K"]:
    """Each row's query with its own candidates [B K width], or with one pool [P width] for all rows."""
    # A product with a pool is what libraries are best at.
    if kind != "l2" and fusible(query, candidates) and not (kind == "dot" and candidates.ndim == 2):
        return _Fused.apply(kind, query, candidates, None)
    return _in_torch(kind, query, candidates)


def compare_rows(
    kind: Kind, query: Float[Tensor, "B width"], table: Float[Tensor, "E width"], ids: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Each row's query with rows of a table, which the fused kernel reads where they are."""
    if kind != "l2" and fusible(query, table):
        return _Fused.apply(kind, query, table, ids)
    return _in_torch(kind, query, embedding(ids, table))


def pair_width(width: int, device: torch.device | str) -> int:
    """Reals that a comparison of vectors this wide with a pool holds for each pair, beside the result."""
    # The difference, and what is made of it on the way to the sum.
    return 0 if torch.device(device).type == "cpu" and fused() else 2 * width


LOADING = 2**28
"""So many pairs of reals torch compares in the time, most of a second, that loading the fused kernels takes."""

_COMPILED = "mmrns.nn.kernels.compiled"
_few: ContextVar[bool] = ContextVar("few", default=False)


@contextmanager
def comparing(pairs: int) -> Generator[None]:
    """Within it so many pairs of reals are compared in all: for few of them the fused kernels are not loaded.

    Kernels that are loaded are used. Not for training, whose numbers must not depend on it.
    """
    token = _few.set(pairs < LOADING)
    try:
        yield
    finally:
        _few.reset(token)


def fused() -> bool:
    """Whether the fused kernels are used: where they are installed, and loading them pays (`comparing`)."""
    return False if _few.get() and _COMPILED not in sys.modules else _loaded()


@cache
def _loaded() -> bool:
    """Whether the fused kernels are installed; a Numba that does not load is as good as none, which a note says."""
    if find_spec("numba") is None:
        return False
    try:
        import_module(_COMPILED)
    except Exception as error:  # A Numba that does not fit NumPy or its LLVM may raise anything.
        reason = str(error).partition("\n")[0] or type(error).__name__
        message = f"Numba cannot be loaded ({reason}), so that comparisons run in torch, several times slower"
        note(f"{message}; install a Numba that fits, or none")
        return False
    return True


def _in_torch(kind: Kind, query: Tensor, candidates: Tensor) -> Tensor:
    if kind == "dot":
        return query @ candidates.T if candidates.ndim == 2 else (candidates @ query[:, :, None]).squeeze(-1)
    if kind == "l1" and candidates.ndim == 2:
        return torch.cdist(query, candidates, p=1)
    if kind == "l2" and candidates.ndim == 2:
        # "donot_use_mm": the matrix-product form of the Euclidean distance loses half of the digits.
        return torch.cdist(query, candidates, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")
    difference = query[:, None] - candidates
    if kind == "l2":
        return torch.linalg.vector_norm(difference, dim=-1)
    if kind == "l1":
        # The same number as vector_norm(ord=1), in two thirds of its time.
        return difference.abs().sum(-1)
    return torch.linalg.vector_norm(difference.unflatten(-1, (2, -1)), dim=-2).sum(-1)


def fusible(*operands: Tensor) -> bool:
    """Whether the fused kernels are used and take these: on the CPU, all of one type with 32 or 64 bits."""
    first = operands[0].dtype
    return (
        first in (torch.float32, torch.float64)
        and all(x.device.type == "cpu" and x.dtype == first for x in operands)
        and fused()
    )


class _Fused(FullPrecision):
    @staticmethod
    def forward(ctx: Any, kind: Kind, query: Tensor, candidates: Tensor, ids: Tensor | None) -> Tensor:
        from mmrns.nn.kernels import compiled

        query, candidates = query.contiguous(), candidates.contiguous()
        ids = None if ids is None else ids.contiguous()
        ctx.kind = kind
        ctx.save_for_backward(query, candidates, ids)
        return compiled.forward(kind, query, candidates, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from mmrns.nn.kernels import compiled

        query, candidates, ids = ctx.saved_tensors
        _, of_query, of_candidates, _ = ctx.needs_input_grad
        found = compiled.backward(ctx.kind, query, candidates, ids, gradients[0].contiguous(), of_query, of_candidates)
        return None, *found, None
