"""Losses: of scores, over one positive and K negatives a row; of similarities, over candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus


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


class Loss(nn.Module, ABC):
    """What the scores of a batch are worth: one positive and K negatives a row, rows weighed by `batch.weight`.

    Args:
        gamma: margin.
        alpha: inverse temperature of self-adversarial weights, where the loss has them.
    """

    shifts: ClassVar[bool] = True
    """True where gamma only moves the scores' zero, which a distance needs and other scores do not."""

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
        """`sum_b w_b L_b / sum_b w_b`; see `Negatives` for `mask` and `logp`."""
        return (weight * self.rows(s_pos, s_neg, mask, logp)).sum() / weight.sum()

    @abstractmethod
    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        """L_b."""


class SelfAdversarialLoss(Loss):
    """The negative-sampling loss with self-adversarial weights (Sun et al., RotatE, 2019, eq. 5 and 6).

        L_b = 1/2 [ -ln sigma(gamma + s+_b) - sum_k p_bk ln sigma(-gamma - s_bk) ]
        p_bk = softmax_k(alpha s_bk - logp_bk), without gradient

    With alpha = 0 and draws that are all as likely this is the plain mean over the negatives. A row with no counting
    negative keeps its positive term.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: inverse temperature of the weights.
    """

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        p = adversarial_weights(s_neg, self.alpha, mask, logp)
        return -(logsigmoid(self.gamma + s_pos) + (p * logsigmoid(-self.gamma - s_neg)).sum(1)) / 2


class SoftplusLoss(Loss):
    """The logistic loss, every triple weighing the same (Trouillon et al., ComplEx, 2016, eq. 10).

        L_b = [ ln(1 + e^-(gamma + s+_b)) + sum_k ln(1 + e^(gamma + s_bk)) ] / (1 + K_b)

    over the K_b negatives that count; `logp` is not used.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: not used.
    """

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        counts = torch.ones_like(s_neg) if mask is None else mask.to(s_neg.dtype)
        negative = (counts * softplus(self.gamma + s_neg)).sum(1)
        return (softplus(-self.gamma - s_pos) + negative) / (1 + counts.sum(1))


class MarginLoss(Loss):
    """The margin ranking loss (Bordes et al., TransE, 2013, eq. 1) with self-adversarial weights.

        L_b = sum_k p_bk max(0, gamma - s+_b + s_bk)

    with p as in `SelfAdversarialLoss`; alpha = 0 is the mean of the published form.

    Args:
        gamma: margin, of every scorer.
        alpha: inverse temperature of the weights.
    """

    shifts = False

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        p = adversarial_weights(s_neg, self.alpha, mask, logp)
        return (p * torch.relu(self.gamma - s_pos[:, None] + s_neg)).sum(1)


class CrossEntropyLoss(Loss):
    """The cross-entropy of the true entity among its negatives (Lacroix et al., 2018).

        L_b = -ln [ e^s+_b / ( e^s+_b + sum_k c_bk e^s_bk ) ],     c_bk ~ e^-logp_bk with mean 1 over the row

    With all entities as negatives this is 1-vs-all training, other true answers left out.

    Args:
        gamma, alpha: not used.
    """

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        lowest = torch.finfo(s_neg.dtype).min
        if logp is not None:
            logp = logp.to(s_neg.dtype)
            rare = -logp if mask is None else (-logp).masked_fill(~mask, lowest)
            count = logp.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
            s_neg = s_neg - logp - (rare.logsumexp(1, keepdim=True) - torch.as_tensor(count).log())
        if mask is not None:
            s_neg = s_neg.masked_fill(~mask, lowest)
        return torch.logaddexp(s_pos, s_neg.logsumexp(1)) - s_pos


class KvsAllLoss(Loss):
    """The cross-entropy of a query's true entities among all entities (Dettmers et al., ConvE, 2018, as a softmax).

        L_b = ln sum_e e^s_be - mean_{e true} s_be

    `s_neg` holds all entities and the mask tells which are not true; `s_pos` is not used.

    Args:
        gamma, alpha: not used.
    """

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        logp: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        assert mask is not None, "the mask tells what is true"
        true = ~mask
        return s_neg.logsumexp(1) - (s_neg * true).sum(1) / true.sum(1).clamp(min=1)


LOSSES: dict[str, type[Loss]] = {
    "self-adversarial": SelfAdversarialLoss,
    "softplus": SoftplusLoss,
    "margin": MarginLoss,
    "cross-entropy": CrossEntropyLoss,
    "k-vs-all": KvsAllLoss,
}
"""By the name in `objective.loss`."""


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
