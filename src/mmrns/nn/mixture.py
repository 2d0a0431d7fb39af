"""Mixtures: one score from the scores of several views, and the losses that views have of their own.

A mixture takes the scores of the views and some numbers of the relation. To add one: subclass `Mixture` with a `name`
and define `weights`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.lookup import Scores, common_views
from mmrns.nn.losses import Loss
from mmrns.nn.numerics import full, masked
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named, Registry
from mmrns.types import Negatives


class Mixture(Named, nn.Module, ABC):
    """One score from the scores of several views, by numbers of the relation.

    To add one: subclass it with a `name` and define `weights`. Its constructor is called with the names of the views;
    further keywords are its options, settable as `model.OPTION`. Parameters of its own are trained and stored with the
    model's.

    Args:
        views: names of the views, in the order of their scores.
    """

    registry: ClassVar[Registry[Mixture]] = Registry("mixture", "mmrns.nn.mixture")

    linear: ClassVar[bool] = True
    """True where the mixed score is a sum of the views' scores by `weights`, and of what depends on none of them."""

    separate: ClassVar[bool] = False
    """True where each view is a model of its own: with parameters of the formula that no other view has, and trained by
    its own scores alone. `loss` is then the whole loss, and the mixed scores have none."""

    def __init__(self, views: Sequence[str]):
        super().__init__()
        self.views = tuple(views)

    @property
    def relation_width(self) -> int:
        """Trained numbers of each relation that it takes, beside the relation's vectors; they start as these do."""
        return 0

    def start(self, scorer: Scorer) -> None:
        """Told of the formula of the views' scores, once, before anything is trained. By default nothing."""

    def gate(self, numbers: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B N"]:
        """What is made of the relation's numbers once for each query; by default they are taken as they are."""
        return numbers

    @abstractmethod
    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts; 0 where one of the two entities lacks it.

        Args:
            gate: of the relation.
            own: which views the anchor has.
            candidates: which views the candidates have, [B K V] or of one pool [P V].
        """

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        """The mixed score: by default the sum of the views' scores by their weights.

        A subclass may write it otherwise, or add what depends on no score.
        """
        return (self.weights(gate, own, candidates) * torch.stack(list(scores), dim=-1)).sum(-1)

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        """A term of the step's loss beside that of the mixed scores, such as a loss of each view. By default 0.

        Of `separate` views it is the whole loss of the scores.

        Args:
            negatives: what was drawn.
            objective: the loss of the mixed scores.
            weight: of each row.
            true, false: the scores of the true entities (K = 1) and of the negatives.
        """
        return 0.0

    @property
    def n_losses(self) -> int:
        """How many losses of a view's own scores `loss` adds up."""
        return 0

    @property
    def reals_per_pair(self) -> int:
        """Reals that it holds for each pair: the views' scores and weights, and their sums."""
        return 2 * len(self.views) + 3


class Gated(Mixture, name="gated"):
    """f(h, r, t) = sum_v a_v g_v(r) f_v(h, r, t) / sum_v a_v g_v(r), a mean over the views that both entities have.

    a_v is 1 where both entities have view v, else 0, and g(r) the softmax of V numbers of the relation. Without a
    common view the first one counts. Being a mean, the result is on the scale of the scores, whatever is missing.

    Args:
        views: see `Mixture`.
    """

    @property
    def relation_width(self) -> int:
        return len(self.views)

    def gate(self, numbers: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        return torch.softmax(numbers, dim=-1)

    def weights(
        self, gate: Float[Tensor, "B V"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = gate[:, None] * _counting(own, candidates)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B V"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        # The same as by `weights`, divided once.
        common = own.to(gate.dtype)[:, None] * candidates.to(gate.dtype)
        alone = common.sum(-1) == 0
        weights = (gate[:, None] * common).unbind(-1)
        mixed = sum((w * s for w, s in zip(weights, scores, strict=True)), torch.zeros_like(scores[0]))
        total = torch.where(alone, 1.0, sum(weights, torch.zeros_like(scores[0])))
        return torch.where(alone, scores[0], mixed / total)


class MeanProbability(Mixture, name="mean-probability"):
    """sigma(f) = mean_v sigma(f_v) over the views that both entities have: models of their own, asked together.

    As MoMoK (2025) ranks: each view has parameters of the formula for itself and is trained alone, all by the same
    loss, L = sum_v L(f_v). Candidates rank by the mean of the probabilities, which is given as its logarithmic odds f.
    Without a common view the first one counts.

    The score is no sum. `weights` are those of the mean.

    Args:
        views: see `Mixture`.
    """

    linear = False
    separate = True

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = _counting(own, candidates).to(gate.dtype)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        counting = _counting(own, candidates).unbind(-1)
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


class Residual(Mixture, name="residual"):
    """f(h, r, t) = f_s + sum_m a_m scale sigma(g_m(r)) c_m ( f_m - b_m(r) ): structure, and what modalities add to it.

    a_m is 1 where both entities have modality m, else 0; g_m(r) and b_m(r) are numbers of the relation, c_m > 0 one of
    the modality. A term that is not there is 0, which is what a score of b_m(r) adds: so b_m is trained to be what a
    missing modality is worth. It starts at b_0, the mean score of vectors that are not trained, and where one of the
    two entities lacks structure itself f_s is b_0. The relation's numbers start near 0 and c_m at 1, so that at first a
    modality has half of `scale` for a weight.

    Beside the loss of f each view has one of its own, so that structure is trained as it would be alone, and modalities
    before their weight has grown:

        L(f) + structure_loss L(f_s) + view_loss sum_m L(f_m)

    SACRF (2026) weighs alike, but holds each f_m against the scores of all other candidates (their mean and standard
    deviation). Here b_m and c_m stand for these, so that a triple has a score by itself.

    Args:
        views: see `Mixture`. `structure` is f_s, wherever it stands, or the first one where there is none.
        scale: the most that a relation may weigh a modality's score, before c_m.
        structure_loss: weight of the loss of the structural scores alone; 0 = none.
        view_loss: weight of the loss of each modality's scores alone; 0 = none.
    """

    untrained: Tensor

    def __init__(
        self,
        views: Sequence[str],
        *,
        scale: PositiveFloat = 0.2,
        structure_loss: NonNegativeFloat = 0.5,
        view_loss: NonNegativeFloat = 0.05,
    ):
        super().__init__(views)
        self.base = self.views.index(STRUCTURE) if STRUCTURE in self.views else 0
        self.added = [view for view in range(len(self.views)) if view != self.base]
        self.scale, self.structure_loss, self.view_loss = scale, structure_loss, view_loss
        self.log_c = nn.Parameter(torch.zeros(len(self.added)))
        self.register_buffer("untrained", torch.zeros(()))

    @property
    def relation_width(self) -> int:
        return 2 * len(self.added)

    def start(self, scorer: Scorer) -> None:
        self.untrained.fill_(scorer.untrained_mean())

    def gate(self, numbers: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B N"]:
        """The weights of the modalities, then b_m(r)."""
        openness, b = numbers.chunk(2, dim=-1)
        return torch.cat([self.scale * torch.sigmoid(openness) * self.log_c.exp(), self.untrained + b], dim=-1)

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        weights, _ = gate.chunk(2, dim=-1)
        before, after = weights.tensor_split([self.base], dim=-1)
        of_views = torch.cat([before, torch.ones_like(gate[:, :1]), after], dim=-1)
        return of_views[:, None] * common_views(own, candidates)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        weights, b = gate.chunk(2, dim=-1)
        lacking = [~(has[:, None] & candidates[..., view]) for view, has in enumerate(own.unbind(-1))]
        mixed = scores[self.base].masked_fill(lacking[self.base], self.untrained)
        for m, view in enumerate(self.added):
            term = (scores[view] - b[:, m, None]).masked_fill(lacking[view], 0.0)
            mixed = torch.addcmul(mixed, weights[:, m, None], term)
        return mixed

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        shares = {self.base: self.structure_loss} | dict.fromkeys(self.added, self.view_loss)
        return sum(
            (
                share * loss_of_view(view, negatives, objective, weight, true, false)
                for view, share in shares.items()
                if share
            ),
            0.0,
        )

    @property
    def n_losses(self) -> int:
        return bool(self.structure_loss) + len(self.added) * bool(self.view_loss)


def _counting(own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]) -> Bool[Tensor, "B K V"]:
    """The views that both entities have; without any, the first one."""
    common = common_views(own, candidates)
    return torch.cat([common[..., :1] | ~common.any(-1, keepdim=True), common[..., 1:]], dim=-1)


def loss_of_view(
    view: int, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
) -> Float[Tensor, ""]:
    """The loss of one view's own scores, of the rows and the negatives that have it.

        sum_b w_b a_b L_b / sum_b w_b

    a_b is 1 where the row's anchor and its true entity (of a loss that needs all entities, one of the true ones) have
    the view, else 0. Candidates that lack it are no negatives of L_b. Divided by the weight of all rows, a view counts
    by how often it is there, and the loss of a batch is the same in parts.

    Args:
        view: its position.
        negatives: what was drawn.
        objective: the loss of the mixed scores.
        weight: of each row.
        true, false: the scores of the true entities (K = 1) and of the negatives.
    """
    s_pos, s_neg = (full(scores.by_view[view]) for scores in (true, false))
    common, mask, log_weight = false.common(view), negatives.mask, negatives.log_weight
    if objective.needs_all:
        assert mask is not None, "the mask tells what is true"
        # Who lacks the view is no candidate, neither a true nor a false one.
        counts = (~mask & common).any(1)
        log_weight = torch.zeros_like(s_neg).masked_fill(~common, -torch.inf)
    else:
        counts = true.common(view).squeeze(1)
        mask = common if mask is None else mask & common
    rows = objective.rows(s_pos.squeeze(1), s_neg, mask, log_weight)
    return (weight * counts * rows).sum() / weight.sum()
