"""Losses: of scores, over one positive and K negatives a row; of similarities, over candidates."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


def adversarial_weights(
    s_neg: Float[Tensor, "B K"],
    alpha: float,
    mask: Bool[Tensor, "B K"] | None = None,
    logp: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B K"]:
    """`p_k = softmax_k(alpha s_k - logp_k)` over the negatives that count, detached; rows without any are all zero.

    Divided by how often it is drawn, each negative stands for its share of all entities, so that the weights estimate
    the same softmax over all of them whatever the law of the draw.
    """
    logits = alpha * s_neg.detach()
    if logp is not None:
        logits = logits - logp
    if mask is None:
        return torch.softmax(logits, dim=1)
    weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=1)
    return weights * mask


class SelfAdversarialLoss(nn.Module):
    """The negative-sampling loss with self-adversarial weights (Sun et al., RotatE, 2019, eq. 5 and 6).

        L = 1/2 [ -sum_b w_b log sigma(gamma + s+_b) - sum_b w_b sum_k p_bk log sigma(-gamma - s_bk) ] / sum_b w_b
        p_bk = softmax_k(alpha s_bk - logp_bk), without gradient

    With alpha = 0 and draws that are all as likely this is the plain mean over the negatives. A row with no counting
    negative keeps its positive term.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: inverse temperature of the weights.
    """

    def __init__(self, *, gamma: float, alpha: float):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        weight: Float[Tensor, " B"],
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, ""]:
        """Scalar loss; see `Negatives` for `mask` and `logp`."""
        p = adversarial_weights(s_neg, self.alpha, mask, logp)
        positive = -logsigmoid(self.gamma + s_pos)
        negative = -(p * logsigmoid(-self.gamma - s_neg)).sum(1)
        return (weight * (positive + negative)).sum() / (2 * weight.sum())


def info_nce(
    likeness: Float[Tensor, "B C"],
    log_density: Float[Tensor, "B C"],
    excluded: Bool[Tensor, "B C"],
    fellow: Float[Tensor, " B"],
    has_fellow: Bool[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Mean of `-ln [ e^fellow / (e^fellow + sum_e e^likeness(e) / pi(e)) ]` over the rows that have a fellow.

    InfoNCE (van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018) with candidates of
    unequal probability.

    Args:
        likeness: of each candidate to the row's true entity.
        log_density: ln pi, of the probability with which each came to be a candidate.
        excluded: candidates that are left out.
        fellow: likeness of another true entity.
        has_fellow: rows that have one; without any the loss is 0.
    """
    lowest = torch.finfo(likeness.dtype).min
    others = (likeness - log_density).masked_fill(excluded, lowest).logsumexp(1)
    rows = torch.logaddexp(others, fellow) - fellow
    return torch.where(has_fellow, rows, 0.0).sum() / has_fellow.sum().clamp(min=1)


def contrastive(
    similarity: Float[Tensor, "B P"], true: Bool[Tensor, "B P"], weight: Float[Tensor, "B P"]
) -> Float[Tensor, ""]:
    """`-ln [ sum_true w e^sim / sum_other w e^sim ]` over all pairs of the batch; 0 where a sum is empty."""
    # Cosines are at most 1, so that nothing overflows.
    mass = similarity.exp() * weight
    positive, every = (mass * true).sum(), mass.sum()
    both = (positive > 0) & (every > positive)
    negative = torch.where(both, every - positive, 1.0)
    return torch.where(both, negative.log() - torch.where(both, positive, 1.0).log(), 0.0)
