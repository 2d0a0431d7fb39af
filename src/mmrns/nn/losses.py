"""Losses over one positive and K negatives a row."""

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
