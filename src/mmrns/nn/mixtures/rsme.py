"""Views joined in fixed shares, and how alike the modalities of the two entities are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.joint import joined
from mmrns.nn.kernels import comparisons
from mmrns.nn.lookup import Query, Scores
from mmrns.nn.mixtures.base import Ask, Mixture, Share
from mmrns.nn.numerics import full
from mmrns.nn.scorers import Scorer
from mmrns.types import Views


class RSME(Mixture, name="rsme"):
    """f(h, r, t) = balance f(e_h, r, e_t) + (1 - balance) sigma(g_r) cos(m_h, m_t), of views joined in fixed shares.

        e = (1 - share) e_s + share mean_m e_m        cos = mean_m cos(m_h, m_t), over the modalities m of both

    The score is of structure and modalities together, and of how similar h and t are by their modalities where the
    relation cares (Wang et al., "Is Visual Context Really Helpful for Knowledge Graph? A Representation Learning
    Perspective", 2021). A view that an entity lacks leaves its share to the others. The relation has one vector,
    and g_r is a number of its own that is trained. The authors' gate is 0 or 1 by how the pictures of the triples
    compare, those of valid and test among them, and their cosine, of the bare features, has no part in training.
    Here it is of the projections, as in the port by which RSME is usually compared.

    Args:
        views: see `Mixture`.
        share: a, of the modalities in the vector of an entity.
        balance: b, of the formula beside the cosine.
    """

    undivided = ""
    one_relation = True
    base: Tensor

    def __init__(self, views: Sequence[str], *, share: Share = 0.7, balance: Share = 0.5):
        super().__init__(views)
        self.share, self.balance = share, balance
        self.modalities = [view for view, name in enumerate(self.views) if name != STRUCTURE]
        of_views = [1 - share if name == STRUCTURE else share / len(self.modalities) for name in self.views]
        self.register_buffer("base", torch.tensor(of_views), persistent=False)

    @property
    def relation_width(self) -> int:
        return 1

    @property
    def asks_each_view(self) -> bool:
        return False

    def gate(self, numbers: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        return (1 - self.balance) * torch.sigmoid(numbers)

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B 1"]
    ) -> tuple[Tensor, ...]:
        query = asks[0](self.factors(anchor, gate), relation)
        return query, *(normalize(anchor.by_view[m], dim=-1) for m in self.modalities)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        candidates = candidates.made()
        by_view, weights = (), self._weights(candidates.present)
        if scorers[0].linear:
            by_view = self.by_view(scorers, query, candidates)
            found = sum((w * s for w, s in zip(weights.unbind(-1), by_view, strict=True)), torch.zeros_like(by_view[0]))
        else:
            found = scorers[0].compare(query.vectors[0], joined(weights, candidates.vectors))
        assert query.gate is not None, "of several views"
        mixed = self.balance * full(found) + query.gate * self._cosine(query, candidates)
        return Scores(by_view, query.present, candidates.present, full(mixed))

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of each view's vectors where the anchor is the whole one."""
        return tuple(scorers[0].compare(query.vectors[0], vectors) for vectors in candidates.by_view)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        weights = self.balance * self._weights(candidates.present)
        return weights if weights.ndim == 3 else weights.expand(len(query.present), -1, -1)

    def factors(self, views: Views, gate: Float[Tensor, "B 1"]) -> Float[Tensor, "B width"]:
        return joined(self._weights(views.present), views.vectors)

    def _weights(self, present: Bool[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
        there = self.base * present
        return there / there.sum(-1, keepdim=True).clamp(min=1e-9)

    def _cosine(self, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        """The mean over the modalities that both have; 0 where there are none."""
        total, n = torch.zeros((), device=self.base.device), torch.zeros((), device=self.base.device)
        for m, own in zip(self.modalities, query.vectors[1:], strict=True):
            common = query.present[:, m, None] & candidates.present[..., m]
            total = total + common * comparisons.compare("dot", own, normalize(candidates.by_view[m], dim=-1))
            n = n + common
        return total / n.clamp(min=1)

    @property
    def reals_per_pair(self) -> int:
        return super().reals_per_pair + 4
