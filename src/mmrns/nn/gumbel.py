"""Draws without replacement that can be differentiated: Gumbel top-K with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gumbel_top_k(
    perturbed: Float[Tensor, "B P"], vectors: Float[Tensor, "P width"], k: int
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K width"]]:
    """K draws without replacement from softmax(logits), given `perturbed = logits + Gumbel noise`.

    The K largest perturbed logits, in falling order, follow the Plackett-Luce law: each draw is from the softmax over
    the candidates that are left (Kool et al., "Stochastic Beams and Where to Find Them", 2019). The drawn vectors'
    gradient reaches the vectors as drawn, and the logits as if draw k had been the expectation under

        s_k = softmax of perturbed over the candidates left at draw k

    (the straight-through Gumbel-softmax of Jang et al., 2017, at temperature 1).

    Args:
        perturbed: -inf marks candidates that must not be drawn; a row with fewer than K others draws some all the
            same, and the caller masks them.
        vectors: of the pool.
        k: K <= P.

    Returns:
        Positions in the pool, in the order drawn, and their vectors.
    """
    positions = perturbed.detach().topk(k, dim=1).indices
    return positions, _StraightThrough.apply(perturbed, vectors, positions)  # pyright: ignore[reportReturnType]


def straight_through(
    soft: Float[Tensor, "B K P"], positions: Int[Tensor, "B K"], vectors: Float[Tensor, "P width"]
) -> Float[Tensor, "B K width"]:
    """The same gradient spelled out: `(one_hot + soft - stopgrad(soft)) @ vectors`, for given softmaxes."""
    return vectors[positions] + (soft - soft.detach()) @ vectors.detach()


class _StraightThrough(torch.autograd.Function):
    """`straight_through` without its B x K x P tensors.

    With w_p = exp(perturbed_p), Z_k = sum of w over the candidates left at draw k, V the vectors and G_k the gradient
    of draw k,

        dL/dz_p = w_p sum_{k: p left at k} ( <G_k, V_p> - c_k ) / Z_k
        c_k = <G_k, M_k>,    M_k = sum_left w_p V_p / Z_k

    For a candidate that is never drawn the sum runs over all k, so that it needs only `sum_k G_k / Z_k`; for those
    drawn it is a product with the K x K weights `later_km = w_m / Z_k`, m >= k, of the draws among themselves. Every
    ratio is formed from logarithms and is at most 1, so that nothing overflows, cancels, or vanishes because the first
    draws outweigh what they leave. Cost: two products B x P x width instead of K times as many.
    """

    @staticmethod
    def forward(ctx: Any, perturbed: Tensor, vectors: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(perturbed, vectors, positions)
        return vectors[positions]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (g,) = gradients
        perturbed, vectors, positions = ctx.saved_tensors
        grad_vectors = grad_perturbed = None
        if ctx.needs_input_grad[1]:
            grad_vectors = torch.zeros_like(vectors).index_add_(0, positions.flatten(), g.flatten(0, 1))
        if ctx.needs_input_grad[0]:
            drawn, v_drawn = perturbed.gather(1, positions), vectors[positions]
            rest = perturbed.scatter(1, positions, -torch.inf)
            highest = rest.amax(1, keepdim=True).clamp(min=torch.finfo(rest.dtype).min)
            w = rest.sub_(highest).exp_()
            total = w.sum(1, keepdim=True)
            w = w.div_(total.clamp(min=1))  # The highest weighs 1: a total below it is that of nothing left.
            log_rest = highest + total.log()
            log_z = torch.logaddexp(log_rest, drawn.flip(1).logcumsumexp(1).flip(1))
            # A row that runs out of candidates has nothing left to weigh: its 1/Z is taken as 0.
            log_z = log_z.masked_fill_(log_z == -torch.inf, torch.inf)
            later = (drawn[:, None] - log_z[..., None]).exp_().triu_()
            share = (log_rest - log_z).exp_()[..., None]
            mean = share * (w @ vectors)[:, None] + later @ v_drawn
            c = (g * mean).sum(2, keepdim=True)
            grad_perturbed = w * ((share * g).sum(1) @ vectors.T - (share * c).sum(1))
            grad_drawn = ((later.mT @ g) * v_drawn).sum(2) - (later.mT @ c).squeeze(2)
            grad_perturbed.scatter_(1, positions, grad_drawn)
        return grad_perturbed, grad_vectors, None
