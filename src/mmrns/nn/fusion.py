"""A scorer of entities with several views."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.nn.scorers import Candidates, Queries, Scorer, Scores


class FusedScorer(Scorer):
    """The views' own scores, mixed by a gate of the relation over the views that both entities have.

        f(h, r, t) = sum_v a_v g_v(r) f_v(h_v, r_v, t_v) / sum_v a_v g_v(r),     g(r) = softmax(gate logits of r)

    a_v is 1 where both h and t have view v, else 0; without a common view the structural one counts. Each view has its
    own vector of the relation. Entity vectors are those of `FusedEmbedder`; relation vectors hold the views' and then
    the V gate logits. Being a mixture, the scores are on the scale of the base scorer, whatever is missing.

    Args:
        base: the formula of a view.
        views: V.
    """

    def __init__(self, base: Scorer, views: int):
        super().__init__(base.dim, base.init_range)
        self.base, self.views = base, views

    @property
    def distance(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the base scorer."""
        return self.base.distance

    @property
    def entity_width(self) -> int:
        return self.views * (self.base.entity_width + 1)

    @property
    def relation_width(self) -> int:
        return self.views * (self.base.relation_width + 1)

    def query(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool
    ) -> Float[Tensor, "B query_width"]:
        entities, flags = self._split(anchor)
        relations, logits = self._split(relation)
        queries = [self.base.query(e, r, head) for e, r in zip(entities, relations, strict=True)]
        return torch.cat([*queries, torch.softmax(logits, dim=-1), flags], dim=-1)

    def compare(self, query: Float[Tensor, "B query_width"], candidates: Candidates) -> Scores:
        entities, flags = self._split(candidates)
        queries, gate, own = query.tensor_split([-2 * self.views, -self.views], dim=-1)
        scores = [self.base.compare(q, e) for q, e in zip(queries.chunk(self.views, dim=-1), entities, strict=True)]
        common = own[:, None] * flags
        alone = common.sum(-1) == 0
        weights = (gate[:, None] * common).unbind(-1)
        mixed = sum((w * s for w, s in zip(weights, scores, strict=True)), torch.zeros_like(scores[0]))
        total = torch.where(alone, 1.0, sum(weights, torch.zeros_like(scores[0])))
        return torch.where(alone, scores[0], mixed / total)

    def pair_width(self, device: torch.device | str) -> int:
        # The views' scores and weights, then their sums.
        return 2 * self.views + 3 + self.base.pair_width(device)

    def _split(self, vectors: Float[Tensor, "*n width"]) -> tuple[tuple[Tensor, ...], Tensor]:
        views, rest = vectors.tensor_split([-self.views], dim=-1)
        return views.chunk(self.views, dim=-1), rest
