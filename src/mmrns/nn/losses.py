"""Losses of scores: one positive and K negatives a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from mmrns.nn.numerics import masked, ones_where
from mmrns.nn.rows import row_count, row_logsumexp, row_mean, row_softmax, row_sum
from mmrns.registry import Named, Registry

Smoothing = Annotated[float, Field(ge=0, lt=1)]


def adversarial_weights(
    s_neg: Float[Tensor, "B K"],
    alpha: float,
    mask: Bool[Tensor, "B K"] | None = None,
    log_weight: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B K"]:
    """`p_k = softmax_k(alpha s_k + log_weight_k)` over the negatives that count, without gradient; 0 for the others.

    With its importance weight each negative stands for its share of all entities. The p_k then estimate the same
    softmax over all entities, whatever the distribution that the negatives are drawn from.
    """
    logits = alpha * s_neg.detach()
    if log_weight is not None:
        logits = logits + log_weight
    if mask is None:
        return row_softmax(logits)
    return row_softmax(masked(logits, mask)) * mask


class Loss(Named, nn.Module, ABC):
    """The loss of a batch's scores: one positive and K negatives a row, rows weighed by `batch.weight`.

    To add one: subclass it with a `name` and define `rows`. Further keywords of its constructor are its options,
    settable as `objective.OPTION`.

    Args:
        gamma: margin.
        alpha: inverse temperature of self-adversarial weights, where the loss has them.
    """

    registry: ClassVar[Registry[Loss]] = Registry("loss", "mmrns.nn.losses")

    needs_all: ClassVar[bool] = False
    """True where the negatives have to be all entities."""

    takes_weights: ClassVar[bool] = True
    """False where importance weights cannot be used. A sampler that gives negatives unequal ones is then refused."""

    shifts: ClassVar[bool] = True
    """True where gamma only moves the scores' zero, which a distance needs and other scores do not."""

    summed_by_row: ClassVar[bool] = False
    """True where `rows` sums over a row's candidates by `mmrns.nn.rows` alone, so that several processes may have a
    part of the candidates each. A subclass has to say so itself."""

    def __init__(self, *, gamma: float, alpha: float):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        weight: Float[Tensor, " B"],
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, ""]:
        """`sum_b w_b L_b / sum_b w_b`; see `Negatives` for `mask` and `log_weight`."""
        return (weight * self.rows(s_pos, s_neg, mask, log_weight)).sum() / weight.sum()

    @abstractmethod
    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        """L_b."""


class SelfAdversarialLoss(Loss, name="self-adversarial"):
    """The negative-sampling loss with self-adversarial weights (Sun et al., RotatE, 2019, eq. 5 and 6).

        L_b = 1/2 [ -ln sigma(gamma + s+_b) - sum_k p_bk ln sigma(-gamma - s_bk) ]
        p_bk = softmax_k(alpha s_bk + log_weight_bk), without gradient

    With alpha = 0 and draws that are all as likely this is the plain mean over the negatives. A row with no counting
    negative keeps its positive term.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: inverse temperature of the weights.
    """

    summed_by_row = True

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        p = adversarial_weights(s_neg, self.alpha, mask, log_weight)
        return -0.5 * (logsigmoid(self.gamma + s_pos) + row_sum(p * logsigmoid(-self.gamma - s_neg)))


class SoftplusLoss(Loss, name="softplus"):
    """The logistic loss, every triple weighing the same (Trouillon et al., ComplEx, 2016, eq. 10).

        L_b = [ ln(1 + e^-(gamma + s+_b)) + sum_k ln(1 + e^(gamma + s_bk)) ] / (1 + K_b)

    over the K_b negatives that count. It takes no importance weights.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: not used.
    """

    takes_weights = False
    summed_by_row = True

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        counts = torch.ones_like(s_neg) if mask is None else ones_where(mask, s_neg.dtype)
        negative = row_sum(counts * softplus(self.gamma + s_neg))
        return (softplus(-self.gamma - s_pos) + negative) / (1 + row_sum(counts))


class MarginLoss(Loss, name="margin"):
    """The margin ranking loss (Bordes et al., TransE, 2013, eq. 1) with self-adversarial weights.

        L_b = sum_k p_bk max(0, gamma - s+_b + s_bk)

    with p as in `SelfAdversarialLoss`; alpha = 0 is the mean of the published form.

    Args:
        gamma: margin, of every scorer.
        alpha: inverse temperature of the weights.
    """

    shifts = False
    summed_by_row = True

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        p = adversarial_weights(s_neg, self.alpha, mask, log_weight)
        return row_sum(p * torch.relu(self.gamma - s_pos[:, None] + s_neg))


class CrossEntropyLoss(Loss, name="cross-entropy"):
    """The cross-entropy of the true entity among its negatives (Lacroix et al., 2018).

        L_b = -ln [ e^s+_b / ( e^s+_b + sum_k c_bk e^s_bk ) ],     c_bk ~ e^log_weight_bk with mean 1 over the row

    With all entities as negatives this is 1-vs-all training, other true answers left out.

    Args:
        gamma, alpha: not used.
    """

    summed_by_row = True

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        if log_weight is not None:
            log_weight = log_weight.to(s_neg.dtype)
            counting = log_weight if mask is None else masked(log_weight, mask)
            count = row_count(log_weight) if mask is None else row_sum(mask).clamp(min=1)
            s_neg = s_neg + log_weight - (row_logsumexp(counting) - torch.as_tensor(count).log())[:, None]
        if mask is not None:
            s_neg = masked(s_neg, mask)
        return torch.logaddexp(s_pos, row_logsumexp(s_neg)) - s_pos


class KvsAllLoss(Loss, name="k-vs-all"):
    """The cross-entropy of a query's true entities among all entities (Dettmers et al., ConvE, 2018, as a softmax).

        L_b = ln sum_e e^s_be - (1 - epsilon) mean_{e true} s_be - epsilon mean_e s_be

    `s_neg` holds all entities and the mask tells which are not true; `s_pos` is not used. Entities whose importance
    weight is 0 are no candidates.

    Args:
        gamma, alpha: not used.
        smoothing: epsilon, the share of the label that all entities have in common (Szegedy et al., 2016).
    """

    needs_all = True
    takes_weights = False
    summed_by_row = True

    def __init__(self, *, gamma: float, alpha: float, smoothing: Smoothing = 0.0):
        super().__init__(gamma=gamma, alpha=alpha)
        self.smoothing = smoothing

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        assert mask is not None, "the mask tells what is true"
        there = None if log_weight is None else candidates_of(log_weight)
        label = row_mean(s_neg, ~mask if there is None else there & ~mask)
        if self.smoothing:
            label = (1 - self.smoothing) * label + self.smoothing * row_mean(s_neg, there)
        if there is None:
            return row_logsumexp(s_neg) - label
        # Added, for a mask of pairs is slower; a row without any candidate has no sum then.
        everyone = row_logsumexp(s_neg + masked(torch.zeros_like(there, dtype=s_neg.dtype), there))
        return everyone.masked_fill(row_sum(there) == 0, 0.0) - label


class BinaryCrossEntropyLoss(Loss, name="bce"):
    """The binary cross-entropy of every entity, true for the query or not (Dettmers et al., ConvE, 2018, eq. 4).

        L_b = mean_e [ ln(1 + e^(gamma + s_be)) - y_be (gamma + s_be) ]
        y_be = (1 - epsilon) [e is true] + epsilon / E

    `s_neg` holds all E entities and the mask tells which are not true; `s_pos` is not used. Entities whose importance
    weight is 0 are no candidates, and not counted in E. ConvE's and TuckER's code add 1 / E instead of epsilon / E.

    Args:
        gamma: margin added to bare distance scores; 0 for the other scorers.
        alpha: not used.
        smoothing: epsilon, the share of the label that all entities have in common (Szegedy et al., 2016).
    """

    needs_all = True
    takes_weights = False
    summed_by_row = True

    def __init__(self, *, gamma: float, alpha: float, smoothing: Smoothing = 0.0):
        super().__init__(gamma=gamma, alpha=alpha)
        self.smoothing = smoothing

    def rows(
        self,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K"] | None,
        log_weight: Float[Tensor, "B K"] | None,
    ) -> Float[Tensor, " B"]:
        assert mask is not None, "the mask tells what is true"
        s, there = self.gamma + s_neg, None if log_weight is None else candidates_of(log_weight)
        n = row_count(s) if there is None else row_sum(there).clamp(min=1)
        label = (1 - self.smoothing) * row_sum(s * ones_where(~mask if there is None else there & ~mask, s.dtype))
        if self.smoothing:
            label = label + self.smoothing * row_mean(s, there)
        return row_mean(softplus(s), there) - label / n


def candidates_of(log_weight: Float[Tensor, "B K"]) -> Bool[Tensor, "#B K"]:
    """Which entities are candidates of a loss that needs all: not those whose importance weight is 0.

    Of weights that are the same for all rows, which are expanded, one row is told.
    """
    return (log_weight if log_weight.stride(0) else log_weight[:1]) > -torch.inf
