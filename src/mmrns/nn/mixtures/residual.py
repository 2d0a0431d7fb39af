"""Structure, and what modalities add to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.lookup import Scores, common_views
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures.base import Mixture, loss_of_view
from mmrns.nn.numerics import full
from mmrns.nn.scorers import Scorer
from mmrns.types import Negatives


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

    undivided = ""
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
        has, there = own.to(gate.dtype), candidates.to(gate.dtype)
        base = (full(scores[self.base]) - self.untrained) * there[..., self.base]
        mixed = torch.addcmul(self.untrained, has[:, self.base, None], base)
        for m, view in enumerate(self.added):
            # What one of the two lacks is left out by factors of a row and of a candidate: masks of pairs are slower.
            term = (full(scores[view]) - b[:, m, None]) * there[..., view]
            mixed = torch.addcmul(mixed, (has[:, view] * weights[:, m])[:, None], term)
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
