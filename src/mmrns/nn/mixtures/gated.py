"""Means over the views, of scores or of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmrns.nn.lookup import Scores
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures.base import Mixture, loss_of_view, views_that_count
from mmrns.nn.numerics import full, masked
from mmrns.types import Negatives


class Gated(Mixture, name="gated"):
    """f(h, r, t) = sum_v a_v g_v(r) f_v(h, r, t) / sum_v a_v g_v(r), a mean over the views that both entities have.

    a_v is 1 where both entities have view v, else 0, and g(r) the softmax of V numbers of the relation. Without a
    common view the first one counts. Being a mean, the result is on the scale of the scores, whatever is missing.

    Args:
        views: see `Mixture`.
    """

    undivided = ""

    @property
    def relation_width(self) -> int:
        return len(self.views)

    def gate(self, numbers: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        return torch.softmax(numbers, dim=-1)

    def weights(
        self, gate: Float[Tensor, "B V"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = gate[:, None] * views_that_count(own, candidates)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B V"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        # The same as by `weights`, divided once; the views come first, so that sums over them are of whole tensors.
        candidates = candidates[None] if candidates.ndim == 2 else candidates
        common = own.mT[..., None] & candidates.movedim(-1, 0)
        weights = gate.mT[..., None] * common
        alone = ~common.any(0)
        mixed = (weights * torch.stack(list(scores))).sum(0) / weights.sum(0).masked_fill(alone, 1.0)
        return torch.where(alone, scores[0], mixed)


class MeanProbability(Mixture, name="mean-probability"):
    """sigma(f) = mean_v sigma(f_v) over the views that both entities have: models of their own, asked together.

    As MoMoK (2025) ranks: each view has parameters of the formula for itself and is trained alone, all by the same
    loss, L = sum_v L(f_v). Candidates rank by the mean of the probabilities, which is given as its logarithmic odds f.
    Without a common view the first one counts.

    The score is no sum. `weights` are those of the mean.

    Args:
        views: see `Mixture`.
    """

    undivided = ""
    separate = True

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = views_that_count(own, candidates).to(gate.dtype)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        counting = views_that_count(own, candidates).unbind(-1)
        # ln p and ln (1 - p), each times how many there are.
        true, false = (
            torch.stack([masked(logsigmoid(sign * full(s)), c) for s, c in zip(scores, counting, strict=True)])
            for sign in (1, -1)
        )
        return true.logsumexp(0) - false.logsumexp(0)

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        views = range(len(self.views))
        return sum((loss_of_view(view, negatives, objective, weight, true, false) for view in views), 0.0)

    @property
    def n_losses(self) -> int:
        return len(self.views)
