"""Vectors of the views joined as the relation weighs them, before they are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmrns.nn.joint import joined, joint_weights
from mmrns.nn.lookup import Query, Scores
from mmrns.nn.mixtures.base import Ask, Mixture
from mmrns.nn.numerics import full, masked
from mmrns.nn.scorers import Scorer
from mmrns.types import Views


class Joint(Mixture, name="joint"):
    """f(h, r, t) of the joint vectors of h and t, each the mean of its entity's views as the relation weighs them.

        joint(e, r) = sum_v p_v(e, r) e_v        p(e, r) = softmax_v( <w, tanh(e_v)> / sigma(g_r) )

    over the views that the entity has, of heads and candidates alike. g_r is a number of the relation, whose sigma is
    the temperature of the softmax. It is the joint representation of NativE (Zhang et al., "NativE: Multi-modal
    Knowledge Graph Completion in the Wild", 2024), whose projections have a hidden layer (`model.hidden`). w starts at
    0, so that at first all views weigh the same. The relation has one vector. Left out is the authors' adversarial
    training of the views.

    Of products the score is that of the views by these weights, as exact and at the cost of one product for each view.
    Of distances the joint vectors of the candidates are made for each row, as B x K x width numbers also of a pool.

    Args:
        views: see `Mixture`.
    """

    undivided = ""
    one_relation = True
    attention: nn.Parameter | None

    def __init__(self, views: Sequence[str]):
        super().__init__(views)
        self.register_parameter("attention", None)

    @property
    def relation_width(self) -> int:
        return 1

    def start(self, scorer: Scorer) -> None:
        if self.attention is None:
            self.attention = nn.Parameter(torch.zeros(scorer.entity_width))
        self._width = 0 if scorer.linear else scorer.entity_width

    @property
    def asks_each_view(self) -> bool:
        return False

    def gate(self, numbers: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        return torch.sigmoid(numbers)

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B 1"]
    ) -> tuple[Tensor, ...]:
        return (asks[0](self.factors(anchor, gate), relation),)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        candidates = candidates.made()
        if not scorers[0].linear:
            mixed = scorers[0].compare(query.vectors[0], joined(self.shares(query, candidates), candidates.vectors))
            return Scores((), query.present, candidates.present, full(mixed))
        by_view, weights = self.by_view(scorers, query, candidates), self._by_view(query, candidates)
        mixed = sum((w * s for w, s in zip(weights, by_view, strict=True)), torch.zeros_like(by_view[0]))
        mixed = mixed / sum(weights, torch.zeros_like(weights[0]))
        return Scores(by_view, query.present, candidates.present, full(mixed))

    def _by_view(self, query: Query, candidates: Views) -> list[Float[Tensor, "B K"]]:
        """`shares` before they are divided by their sum, one tensor for each view: a softmax of so few is slow."""
        assert self.attention is not None, "made by `start`"
        assert query.gate is not None, "of several views"
        logits = torch.stack([torch.tanh(vectors) @ self.attention for vectors in candidates.by_view], dim=-1)
        top = masked(logits.detach(), candidates.present).amax(-1, keepdim=True)
        below = (logits - top).masked_fill(~candidates.present, 0.0)
        views = zip(below.unbind(-1), candidates.present.unbind(-1), strict=True)
        return [torch.exp(logit / query.gate) * has for logit, has in views]

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of each view's vectors where the anchor is the joint one."""
        return tuple(scorers[0].compare(query.vectors[0], vectors) for vectors in candidates.by_view)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        assert query.gate is not None, "of several views"
        return self._weights(candidates, query.gate[:, None])

    def factors(self, views: Views, gate: Float[Tensor, "B 1"]) -> Float[Tensor, "B width"]:
        return joined(self._weights(views, gate), views.vectors)

    def _weights(self, views: Views, temperature: Float[Tensor, "*#n 1"]) -> Float[Tensor, "*n V"]:
        assert self.attention is not None, "made by `start`"
        return joint_weights(views, self.attention, temperature)

    @property
    def reals_per_pair(self) -> int:
        # The joint vector and what a comparison with one's own candidates makes of it.
        return super().reals_per_pair + 3 * self._width
