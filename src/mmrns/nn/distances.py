"""Distances of queries to candidates: fused on the CPU where Numba is installed (extra `fast`), otherwise in torch.

Torch writes the B x K x width differences to memory and reads them several times; a fused kernel keeps them in
registers, so that it moves nothing but its operands. Both give the same numbers up to the order of the sums.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Queries = Float[Tensor, "B width"]
Candidates = Float[Tensor, "B K width"] | Float[Tensor, "P width"]
Distances = Float[Tensor, "B K"]


def l1(query: Queries, candidates: Candidates) -> Distances:
    """`sum_i |q_i - c_i|`, of each row's own candidates [B K width] or of one pool [P width] for all rows.

    The derivative of |x| at 0 is taken as 0.
    """
    if _fusible(query, candidates):
        return _Fused.apply("l1", query, candidates)  # pyright: ignore[reportReturnType]
    if candidates.ndim == 2:
        return torch.cdist(query, candidates, p=1)
    # The same number as vector_norm(ord=1), in two thirds of its time.
    return (query[:, None] - candidates).abs().sum(-1)


def modulus(query: Queries, candidates: Candidates) -> Distances:
    """`sum_i |q_i - c_i|` over complex numbers; vectors hold all real parts, then all imaginary parts.

    The gradient of |z| at 0 is taken as 0.
    """
    if _fusible(query, candidates):
        return _Fused.apply("modulus", query, candidates)  # pyright: ignore[reportReturnType]
    difference = query[:, None] - candidates
    return torch.linalg.vector_norm(difference.unflatten(-1, (2, -1)), dim=-2).sum(-1)


def pair_width(width: int, device: torch.device | str) -> int:
    """Reals that a comparison of vectors this wide with a pool holds for each pair, beside the distance."""
    # The difference, and what is made of it on the way to the sum.
    return 0 if fused() and torch.device(device).type == "cpu" else 2 * width


@cache
def fused() -> bool:
    """Whether the fused kernels are installed."""
    return find_spec("numba") is not None


def _fusible(query: Tensor, candidates: Tensor) -> bool:
    return (
        fused()
        and query.device.type == candidates.device.type == "cpu"
        and query.dtype == candidates.dtype
        and query.dtype in (torch.float32, torch.float64)
    )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: str, query: Tensor, candidates: Tensor) -> Tensor:
        from mmrns.nn import fused_kernels

        query, candidates = query.contiguous(), candidates.contiguous()
        ctx.kind = kind
        ctx.save_for_backward(query, candidates)
        return fused_kernels.forward(kind, query, candidates)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from mmrns.nn import fused_kernels

        query, candidates = ctx.saved_tensors
        _, of_query, of_candidates = ctx.needs_input_grad
        return None, *fused_kernels.backward(
            ctx.kind, query, candidates, gradients[0].contiguous(), of_query, of_candidates
        )
