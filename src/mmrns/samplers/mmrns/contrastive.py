"""The contrastive losses of similarities: positives alike, others diverse; and what they estimate."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmrns.nn.numerics import masked, without_autocast

_TINY = 1e-20
"""Least sum of which a mean is taken."""


def info_nce(
    pmi: Float[Tensor, "B C"],
    log_density: Float[Tensor, "B C"],
    excluded: Bool[Tensor, "B C"],
    positive: Float[Tensor, " B"],
    has_positive: Bool[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Mean of `-ln [ e^positive / (e^positive + sum_e e^pmi(e) / pi(e)) ]` over the rows that have a positive.

    InfoNCE (van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018) with candidates of
    unequal probability.

    Args:
        pmi: of each candidate to the row's true entity.
        log_density: ln pi, of the probability with which each came to be a candidate.
        excluded: candidates that are left out.
        positive: pmi of another true entity.
        has_positive: rows that have one; without any the loss is 0.
    """
    others = masked(pmi - log_density, ~excluded).logsumexp(1)
    rows = torch.logaddexp(others, positive) - positive
    return torch.where(has_positive, rows, 0.0).sum() / has_positive.sum().clamp(min=1)


def density_ratio(
    pmi: Float[Tensor, "B C"],
    per_density: Float[Tensor, "B C"],
    n_entities: int,
) -> Float[Tensor, "B C"]:
    """`rho(e) = e^pmi(e) / mean over all entities of e^pmi`, the optimum of `info_nce` without its constant of the row.

    Args:
        pmi: as in `info_nce`.
        per_density: 1 / pi, and 0 of candidates that are left out. Sums over the others, each divided by pi, estimate
            those over all entities.
        n_entities: how many there are.
    """
    # Finite whatever the weights have learned, and where nothing is left to take the mean of.
    found = (pmi - pmi.amax(1, keepdim=True)).exp_()
    total = (found * per_density).sum(1, keepdim=True)
    return found.div_(total.clamp(min=_TINY) / n_entities)


def contrastive(
    similarity: Float[Tensor, "*T B P"], true: Bool[Tensor, "B P"], weight: Float[Tensor, "B P"]
) -> Float[Tensor, "*T"]:
    """`-ln [ sum_true w e^sim / sum_other w e^sim ]` over all pairs of the batch, by term; 0 where a sum is empty."""
    of_true = weight * true
    # Cosines are at most 1, so that nothing overflows.
    with without_autocast(similarity.device):
        mass = similarity.exp().flatten(-2) @ torch.stack([of_true, weight - of_true], dim=-1).flatten(0, 1)
    positive, negative = mass.masked_fill((mass <= 0).any(-1, keepdim=True), 1.0).log().unbind(-1)
    return negative - positive
