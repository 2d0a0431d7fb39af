"""What keeps numbers in range: full precision where autocast asks for less, and masks that stay finite."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)


def full(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The same in at least single precision, for sums of many and for what is drawn from."""
    return values.float() if values.dtype in _HALVES else values


def summed(first: Float[Tensor, "*n"], *others: Float[Tensor, "*n"] | float) -> Float[Tensor, "*n"]:
    """The sum, of terms that are often nothing: the number 0 is not added, which a device would wait for."""
    return reduce(torch.add, (term for term in others if isinstance(term, Tensor) or term), first)


def ones_where(mask: Bool[Tensor, "*n"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*n"]:
    """1 where something is true, else 0: of bytes, which a processor converts six times as fast as booleans."""
    return mask.view(torch.uint8).to(dtype)


def masked(values: Float[Tensor, "*n"], keep: Bool[Tensor, "*#n"]) -> Float[Tensor, "*n"]:
    """The values, and where they are not to be kept the lowest finite number of their own type.

    Unlike with -inf a softmax over nothing has a gradient: 0.
    """
    return values.masked_fill(~keep, torch.finfo(values.dtype).min)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast changes no type."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


class FullPrecision(torch.autograd.Function):
    """A function with a gradient of its own, whose arithmetic is in full precision, also under autocast.

    Its tensors come in types that autocast has chosen one by one; they are all given the widest of them, at least
    single precision. Gradients come back in the types that the tensors had. Every function of the package with a
    hand-written gradient is one of these.
    """

    @classmethod
    def apply(cls, *given: Any) -> Any:
        """The function; see its `forward`."""
        # What is compiled by hand torch need not compile. To say so imports its compiler, which takes seconds.
        in_full = torch.compiler.disable(_in_full) if torch.compiler.is_compiling() else _in_full
        return in_full(cls, *given)


def _in_full(function: type[FullPrecision], *given: Any) -> Any:
    floats = [x for x in given if isinstance(x, Tensor) and x.is_floating_point()]
    wide = reduce(torch.promote_types, (x.dtype for x in floats))
    if wide in _HALVES:
        wide = torch.float32
    given = tuple(x.to(wide) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
    apply = super(FullPrecision, function).apply
    with without_autocast(floats[0].device):
        return apply(*given)


class _LogSumExp(FullPrecision):
    @staticmethod
    def forward(ctx: Any, values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        p = torch.softmax(values, dim=1)
        ctx.save_for_backward(p)
        return values.amax(1) - p.amax(1).log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Float[Tensor, "B K"]:
        (p,) = ctx.saved_tensors
        return p * gradients[0][:, None]


def logsumexp(values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """`ln sum_k e^values` of each row of at least one finite number, by way of the softmax, which is its gradient.

    Torch's own takes the exponential twice, on processors by a routine that is ten times as slow where the result is 0,
    as it is for what is `masked` or far below the highest.
    """
    # The compiler makes one pass of torch's own.
    return values.logsumexp(1) if torch.compiler.is_compiling() else _LogSumExp.apply(values)
