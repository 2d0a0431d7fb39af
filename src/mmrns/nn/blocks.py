"""A loss of many scores, block by block of rows: what is made of a block's scores stays in the processor's cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

OfBlock = Callable[[slice, Sequence[Tensor]], Float[Tensor, ""]]
"""A block's part of a loss, of its rows and of the numbers that it has of each tensor."""

_PAIRS = 1 << 19
"""Scores of a block: 2 MiB in single precision, about the cache that a core has for itself. A pass over them takes as
long as the launch of a few tens of operations."""


class _InBlocks(torch.autograd.Function):
    """The sum of the blocks' losses, whose gradients are made at once with it.

    So nothing of a block is kept but the gradient of the scores, in their own precision.
    """

    @staticmethod
    def forward(ctx: Any, of_block: OfBlock, rows: int, n: int, *given: Tensor) -> Float[Tensor, ""]:
        numbers, shared = given[:n], given[n:]
        wanted = [own for own, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        gradients = {own: torch.empty_like(given[own]) if own < n else torch.zeros_like(given[own]) for own in wanted}
        losses: list[Tensor] = []
        for start in range(0, len(numbers[0]), rows):
            block = slice(start, start + rows)
            parts = [tensor[block].detach() for tensor in numbers]
            for own in wanted:
                if own < n:
                    parts[own].requires_grad_()
            with torch.enable_grad():
                # Views of them: what counts operations hooks into the arguments of modules, and may not into leaves.
                loss = of_block(block, [part.view_as(part) if part.requires_grad else part for part in parts])
            losses.append(loss.detach())
            # Which has None where it is not used.
            found: Any = torch.autograd.grad(loss, [(*parts, *shared)[own] for own in wanted], allow_unused=True)
            for own, gradient in zip(wanted, found, strict=True):
                if own < n:
                    gradients[own][block] = 0.0 if gradient is None else gradient
                elif gradient is not None:
                    gradients[own] += gradient
        ctx.gradients, ctx.n = gradients, len(given)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        # A loss is mostly the last of a step: nothing is to be done then, and on a processor to ask costs nothing.
        if outer[0] != 1.0:
            for gradient in gradients.values():
                gradient.mul_(outer[0])
        return (None, None, None, *(gradients.get(own) for own in range(ctx.n)))


def rows_of_block(pairs: int, device: torch.device) -> int:
    """How many rows make a block, by the scores of each.

    On a device there is but one block, whose operations are to be as few as possible.
    """
    whole = device.type != "cpu" or torch.compiler.is_compiling()
    return sys.maxsize if whole else max(1, _PAIRS // pairs)


def in_blocks(
    of_block: OfBlock, rows: int, numbers: Sequence[Tensor], shared: Iterable[Tensor] = ()
) -> Float[Tensor, ""]:
    """The sum over blocks of rows of what each adds to a loss; it can be differentiated once.

    Args:
        of_block: the loss of a block, of which nothing is trained but `numbers` and `shared`.
        rows: of a block, as `rows_of_block` has it.
        numbers: tensors of a row for each row.
        shared: parameters that enter all blocks.
    """
    return cast("Tensor", _InBlocks.apply(of_block, rows, len(numbers), *numbers, *shared))
