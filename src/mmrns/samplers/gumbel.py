"""Draws without replacement that can be differentiated: Gumbel top-K with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.numerics import FullPrecision


def gumbel_noise(
    shape: torch.Size | tuple[int, ...], stream: torch.Generator, device: torch.device
) -> Float[Tensor, "*shape"]:
    """Standard Gumbel noise, -ln(-ln u) with u uniform on (0, 1)."""
    u = torch.rand(shape, generator=stream, device=device)
    # u = 0 would give -inf; the largest u below 1 is what bounds the noise from above.
    return u.clamp_(min=torch.finfo(u.dtype).tiny).log_().neg_().log_().neg_()


def log_inclusion(
    logits: Float[Tensor, "B C"], perturbed: Float[Tensor, "B C"], positions: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The logarithm of the probability that a draw is among the K, for each of the K that were drawn.

    Given the largest perturbed logit that is left out, kappa, candidate e is among the K where its Gumbel noise lifts
    it above kappa:

        ln P(e drawn | kappa) = ln( 1 - exp(-exp(logit_e - kappa)) )

    A sum over the draws, each divided by its probability, is an unbiased estimate of the sum over all candidates (Kool
    et al., "Stochastic Beams and Where to Find Them", 2019, section 4.2).

    Args:
        logits: those of candidates that must not be drawn are -inf.
        perturbed: `logits + Gumbel noise`.
        positions: where its K largest entries are.

    Returns:
        The logarithms. They are 0 where every candidate is drawn, and for draws that must not be.
    """
    left_out = perturbed.scatter(1, positions, -torch.inf).amax(1, keepdim=True)
    excess = logits.gather(1, positions) - left_out
    found = torch.log(-torch.expm1(-torch.exp(excess)))
    return torch.where(torch.isfinite(excess), found, 0.0)


def straight_through_top_k(
    drawn: Float[Tensor, "B K width"],
    perturbed: Float[Tensor, "B C"],
    positions: Int[Tensor, "B K"],
    pool: Float[Tensor, "P width"],
    own: Float[Tensor, "B M width"] | None = None,
) -> Float[Tensor, "B K width"]:
    """The vectors of K draws without replacement from softmax(logits), with a gradient for the logits.

    The K largest entries of `perturbed = logits + Gumbel noise`, in falling order, follow the Plackett-Luce
    distribution: each draw is from the softmax over the candidates that are left (Kool et al., "Stochastic Beams and
    Where to Find Them", 2019). The gradient reaches the drawn vectors as they are, and the logits as if draw k had been
    the expectation under

        s_k = softmax of perturbed over the candidates left at draw k

    (the straight-through Gumbel-softmax of Jang et al., 2017, at temperature 1).

    Args:
        drawn: the vectors of the draws, which are returned.
        perturbed: of the P candidates that all rows share, then of the M of each row's own. Candidates that must not be
            drawn have -inf. A row with fewer than K others draws some of them all the same; the caller masks those.
        positions: where the K largest are, in falling order.
        pool: vectors of the shared candidates.
        own: vectors of each row's own candidates.
    """
    fixed = pool.detach(), None if own is None else own.detach()
    return _StraightThrough.apply(drawn, perturbed, positions, *fixed)


def straight_through(
    soft: Float[Tensor, "B K P"], positions: Int[Tensor, "B K"], vectors: Float[Tensor, "P width"]
) -> Float[Tensor, "B K width"]:
    """The straight-through gradient spelled out, for given softmaxes: `(one_hot + soft - stopgrad(soft)) @ vectors`."""
    return vectors[positions] + (soft - soft.detach()) @ vectors.detach()


class _StraightThrough(FullPrecision):
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
    def forward(
        ctx: Any, drawn: Tensor, perturbed: Tensor, positions: Tensor, pool: Tensor, own: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(drawn, perturbed, positions, pool, own)
        return drawn.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        vectors, perturbed, positions, pool, own = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return g, None, None, None, None
        drawn = perturbed.gather(1, positions)
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
        expected = w[:, : len(pool)] @ pool
        if own is not None:
            expected += (w[:, None, len(pool) :] @ own).squeeze(1)
        mean = share * expected[:, None] + later @ vectors
        c = (g * mean).sum(2, keepdim=True)
        shared = (share * g).sum(1)
        along = shared @ pool.T
        if own is not None:
            along = torch.cat([along, (own @ shared[..., None]).squeeze(2)], dim=1)
        grad_perturbed = w * (along - (share * c).sum(1))
        grad_drawn = ((later.mT @ g) * vectors).sum(2) - (later.mT @ c).squeeze(2)
        return g, grad_perturbed.scatter_(1, positions, grad_drawn), None, None, None
