"""Draws without replacement that can be differentiated: Gumbel top-K with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.kernels.selection import largest
from mmrns.nn.numerics import FullPrecision


def gumbel_noise(
    shape: torch.Size | tuple[int, ...], stream: torch.Generator, device: torch.device
) -> Float[Tensor, "*shape"]:
    """Standard Gumbel noise, -ln(-ln u) with u uniform on (0, 1)."""
    return gumbel_(torch.rand(shape, generator=stream, device=device))


def gumbel_(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The Gumbel noise of numbers uniform on [0, 1), which it takes the place of."""
    return exponential_(u).log_().neg_()


def exponential_(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The exponential noise -ln u of numbers uniform on [0, 1), which it takes the place of.

    -ln of it is Gumbel noise, so that the noise of `ln w` is added inside the logarithm, `ln(w / noise)`.
    """
    # u = 0 would give infinity; the largest u below 1 is what keeps the noise from 0.
    return u.clamp_(min=torch.finfo(u.dtype).tiny).log_().neg_()


def top_k(perturbed: Float[Tensor, "B C"], k: int) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B 1"]]:
    """Where the k largest of each row are, in falling order, and the largest that is left out, or -inf."""
    n = perturbed.shape[1]
    values, positions = largest(perturbed, min(k + 1, n))
    left_out = values[:, k:] if k < n else values.new_full((len(values), 1), -torch.inf)
    return positions[:, :k], left_out


def log_inclusion(logits: Float[Tensor, "B K"], left_out: Float[Tensor, "B 1"]) -> Float[Tensor, "B K"]:
    """The logarithm of the probability that a draw is among the K, for each of the K that were drawn.

    Given the largest perturbed logit that is left out, kappa, candidate e is among the K where its Gumbel noise lifts
    it above kappa:

        ln P(e drawn | kappa) = ln( 1 - exp(-exp(logit_e - kappa)) )

    A sum over the draws, each divided by its probability, is an unbiased estimate of the sum over all candidates (Kool
    et al., "Stochastic Beams and Where to Find Them", 2019, section 4.2).

    Args:
        logits: of the draws; those that must not be are -inf.
        left_out: of `logits + Gumbel noise` of all candidates, by `top_k`.

    Returns:
        The logarithms. They are 0 where every candidate is drawn, and for draws that must not be.
    """
    found = torch.log(-torch.expm1(-torch.exp(logits - left_out)))
    # Where nothing is left out it is 0 already; for draws that must not be it is -inf, or nothing if both is so.
    return found.nan_to_num_(nan=0.0, neginf=0.0)


def straight_through_top_k(
    perturbed: Float[Tensor, "B C"], positions: Int[Tensor, "B K"], scores: Float[Tensor, "B C"]
) -> Float[Tensor, "B K"]:
    """Zeros, one for each of K draws without replacement from softmax(logits), with a gradient for the logits.

    The K largest entries of `perturbed = logits + Gumbel noise`, in falling order, follow the Plackett-Luce
    distribution: each draw is from the softmax over the candidates that are left (Kool et al., "Stochastic Beams and
    Where to Find Them", 2019). Added to the scores of the draws, the zeros give the logits the gradient that they would
    have if the score of draw k had been its expectation under

        s_k = softmax of perturbed over the candidates left at draw k

    (the straight-through Gumbel-softmax of Jang et al., 2017, at temperature 1, of scores instead of vectors: what
    another candidate would have scored is known and need not be linearised).

    Args:
        perturbed: of the candidates of each row. Those that must not be drawn have -inf. A row with fewer than K others
            draws some of them all the same; the caller masks those.
        positions: where the K largest are, in falling order.
        scores: of all candidates; they get no gradient.
    """
    return _StraightThrough.apply(perturbed, positions, scores.detach())


def straight_through(
    logits: Float[Tensor, "B P"],
    perturbed: Float[Tensor, "K B P"],
    vectors: Float[Tensor, "P width"],
    drawn: Float[Tensor, "B K width"],
) -> Float[Tensor, "B K width"]:
    """The vectors of K draws as they are, with the straight-through gradient for the logits, draw by draw:

        v_k + (s_k - stopgrad(s_k)) @ vectors,    s_k = softmax(perturbed_k)

    Args:
        logits: of the candidates of each row.
        perturbed: what each draw was the largest of: the logits, plus what does not depend on them.
        vectors: of all candidates; they get no gradient.
        drawn: v, which hand theirs on.
    """
    return _StraightThroughVectors.apply(logits, perturbed, vectors.detach(), drawn)


class _StraightThroughVectors(FullPrecision):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, perturbed: Tensor, vectors: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(perturbed, vectors)
        return drawn.view_as(drawn)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        perturbed, vectors = ctx.saved_tensors
        of_logits, size = torch.zeros_like(perturbed[0]), _draws_at_once(perturbed)
        for some, of_some in zip(perturbed.split(size), g.transpose(0, 1).split(size), strict=True):
            soft = torch.softmax(some, dim=2)
            of_soft = of_some.contiguous() @ vectors.T
            found = torch.ops.aten._softmax_backward_data(of_soft, soft, 2, soft.dtype)
            # The sum of one would be two passes more.
            of_logits += found.squeeze(0) if size == 1 else found.sum(0)
        return of_logits, None, None, g


def _draws_at_once(perturbed: Float[Tensor, "K B P"]) -> int:
    """How many draws are taken together: one on a processor, whose cache holds its softmax and the gradient."""
    return 1 if perturbed.is_cpu else len(perturbed)


class _StraightThrough(FullPrecision):
    """The gradient of `straight_through` without its B x K x C tensors.

    With w_p = exp(perturbed_p), Z_k the sum of w over the candidates left at draw k, v the scores and g_k the gradient
    of draw k,

        dL/dz_p = w_p sum_{k: p left at k} g_k (v_p - m_k) / Z_k,    m_k = sum_left w_p v_p / Z_k

    For a candidate that is never drawn the sum runs over all k, so that it needs only `sum_k g_k / Z_k` and
    `sum_k g_k m_k / Z_k`; for those drawn it is a product with the K x K weights `later_km = w_m / Z_k`, m >= k, of the
    draws among themselves. Every ratio is formed from logarithms and is at most 1, so that nothing overflows, cancels,
    or vanishes because the first draws outweigh what they leave.
    """

    @staticmethod
    def forward(ctx: Any, perturbed: Tensor, positions: Tensor, scores: Tensor) -> Tensor:
        ctx.save_for_backward(perturbed, positions, scores)
        return scores.new_zeros(positions.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        perturbed, positions, scores = ctx.saved_tensors
        drawn, of_drawn = perturbed.gather(1, positions), scores.gather(1, positions)
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
        share = (log_rest - log_z).exp_()
        mean = share * (w * scores).sum(1, keepdim=True) + (later @ of_drawn[..., None]).squeeze(2)
        c = g * mean
        grad = w * (scores * (share * g).sum(1, keepdim=True) - (share * c).sum(1, keepdim=True))
        of_later = later.mT @ torch.stack([g, c], dim=2)
        return grad.scatter_(1, positions, of_later[..., 0] * of_drawn - of_later[..., 1]), None, None
