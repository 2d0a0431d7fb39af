"""Scores of all pairs of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmrns.nn.joint import joined
from mmrns.nn.lookup import Query, Scores
from mmrns.nn.mixtures.base import Ask, Mixture, compared
from mmrns.nn.numerics import full
from mmrns.nn.scorers import Scorer
from mmrns.types import Views


class Cross(Mixture, name="cross"):
    """f(h, r, t) = sum_{u, v} f(h_u, r, t_v) over all pairs of views, with one vector of the relation.

    Of structure and image these are the four energies of IKRL (Xie et al., "Image-embodied Knowledge Representation
    Learning", 2017) and, with RotatE, of VBKGC (Zhang and Zhang, 2022). With `sums` the score of the entities' summed
    views is added, as TBKGC (Mousselly-Sergieh et al., "A Multimodal Translation-Based Approach for Knowledge Graph
    Representation Learning", 2018) does, whose only view beside structure is of all modalities (`model.concatenate`).

    A pair counts where h has u and t has v. The sum is scaled up by V^2 over the number of these pairs, so that it is
    on the same scale whatever is missing. Of products it costs one for each view, of distances V^2 comparisons.

    Args:
        views: see `Mixture`.
        sums: add f(sum_u h_u, r, sum_v t_v).
    """

    undivided = ""
    one_relation = True

    def __init__(self, views: Sequence[str], *, sums: bool = False):
        super().__init__(views)
        self.sums = sums

    @property
    def asks_each_view(self) -> bool:
        return not self.sums

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B N"]
    ) -> tuple[Tensor, ...]:
        vectors = (*anchor.by_view, *([_summed(anchor)] if self.sums else []))
        return tuple(asks[0](of_view, relation) for of_view in vectors)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        if not self.sums:
            return super().compare(scorers, query, candidates)
        candidates = candidates.made()
        found = super().compare(scorers, query, candidates)
        return replace(found, given=found.mixed + full(scorers[0].compare(query.vectors[-1], _summed(candidates))))

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """For each view of the candidates V times the mean of its scores with the views that the anchor has."""
        n, scorer, own = len(self.views), scorers[0], query.present.to(query.vectors[0].dtype)
        weights = (n * own / own.sum(-1, keepdim=True).clamp(min=1)).unbind(-1)
        pairs = list(zip(weights, query.vectors[:n], strict=True))
        if scorer.linear:
            # A sum of products is the product of the sum.
            total = sum((w[:, None] * q for w, q in pairs), torch.zeros_like(query.vectors[0]))
            return tuple(compared(scorer, total, vectors) for vectors in candidates.unmade)

        def of_view(vectors: Tensor) -> Tensor:
            of_pairs = [w[:, None] * scorer.compare(q, vectors) for w, q in pairs]
            return torch.stack(of_pairs).sum(0)

        return tuple(of_view(vectors) for vectors in candidates.by_view)

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        there = candidates.to(gate.dtype)
        weights = len(self.views) * there / there.sum(-1, keepdim=True).clamp(min=1)
        return weights if candidates.ndim == 3 else weights.expand(len(own), -1, -1)


def _summed(views: Views) -> Float[Tensor, "*n width"]:
    """The sum of the views that each entity has."""
    return joined(views.present.to(views.vectors.dtype), views.vectors)
