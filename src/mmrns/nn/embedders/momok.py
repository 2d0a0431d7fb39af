"""Each modality by several experts that the relation chooses among, and a view of all of them fused: MoMoK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.table import EntityVectors
from mmrns.nn.numerics import masked
from mmrns.rng import generator
from mmrns.types import Views

FUSED = "fused"
"""The view that is made of all others."""
_HEADS = 2


class ExpertsEmbedder(ComputedEmbedder, name="momok"):
    """Views of structure and of each modality, each by K experts that a relation chooses among, and the view `fused`.

    MoMoK (Zhang et al., "Multiple Heads are Better than One: Mixture of Modality Knowledge Experts for Entity
    Representation Learning", ICLR 2025). Structure x_s is trained; x_m is projected from the mean of the tokens. Each
    expert sees something else in it, and a gate says how much each of them counts,

        e_m = sum_k g_k L_k (x_m - c_k),     g(e, r) = softmax_k( ( x_m G + noise * softplus(x_m N) ) / sigma(rho_r) )

    where the noise is of steps alone, chosen by seed and step, and rho_r is a trained number of the relation for
    anchors; candidates are seen without a relation, sigma = 1. The fused view pays attention to the others,

        e_f = sum_heads sum_m softmax_m(<a, u_m>) u_m,     u_m = max(0, A_m drop(e_m) + b_m)

    What an entity lacks is left out of its fused view. In the step, `fused_dropout` of the numbers of e_m are dropped.

    Take it with the scorer `TuckER` and the mixture `mean-probability`, which are the rest of the model: own core, own
    relation vectors and own loss of each view. Three things of the published code are left out: it trains the features
    as well; it fuses the relations' vectors for the fused view as it does those of entities, which here are trained
    like any; and it bounds what experts have in common (CLUB, by 1e-4 of its loss, for which one more network is
    trained in turn).

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `EntityVectors`.
        modalities: names of the modalities, in the order of the views; all of them by default.
        experts: K.
        fused_dropout: see above.
    """

    undivided = "the noise of its experts is drawn for all entities of a step in one go"
    takes_tables_whole = True
    has_traits = True

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
        experts: PositiveInt = 3,
        fused_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ):
        super().__init__(graph, features, modalities)
        widths = [modality.width for modality in self.modalities.values()]
        n = 1 + len(widths)
        self.views = (STRUCTURE, *self.modalities, FUSED)
        self.structure = EntityVectors(len(graph.entities), width, init_range, sparse=sparse)
        projections = [nn.Linear(d, width) for d in widths]
        # Of vectors of length 1.
        for projection in projections:
            nn.init.normal_(projection.weight, std=init_range / 3**0.5)
            nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(projections)
        # The mean of K experts, and the sum of the heads' rectified means of n views, start as long as what they see.
        self.experts = nn.Parameter(torch.randn(n, experts, width, width) * (experts / width) ** 0.5)
        self.centres = nn.Parameter(torch.zeros(n, experts, width))
        self.gates, self.noises = (nn.Parameter(torch.zeros(n, width, experts)) for _ in range(2))
        self.fusions = nn.Parameter(torch.randn(n, _HEADS, width, width) * (2 * n / _HEADS / width) ** 0.5)
        self.shifts = nn.Parameter(torch.zeros(n, _HEADS, width))
        self.attention = nn.Parameter(torch.zeros(width))
        self.fused_dropout = fused_dropout

    @property
    def relation_width(self) -> int:
        return 1

    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        found = self.means(ids)
        seen = [projection(x) for projection, (x, _) in zip(self.projections, found, strict=True)]
        x = torch.stack([self.rows_of(self.structure, ids), *seen])
        there = self.known(ids, [has for _, has in found])
        vectors = self._seen(x, there, None)
        # What the experts of anchors see once more is handed on.
        return Views(vectors, torch.cat([there, there[:, :1] | True], dim=1), x.transpose(0, 1).flatten(1))

    def anchor(self, views: Views, relation: Float[Tensor, "B relation_width"]) -> Views:
        assert views.traits is not None, "given by `views_of`"
        x = views.traits.unflatten(-1, (len(self.views) - 1, -1)).transpose(0, 1)
        return views.with_vectors(self._seen(x, views.present[:, :-1], torch.sigmoid(relation[:, -1:])))

    def _seen(
        self, x: Float[Tensor, "U n width"], there: Bool[Tensor, "n U"], temperature: Float[Tensor, "n 1"] | None
    ) -> Float[Tensor, "n V width"]:
        """The views by their experts, and fused; of anchors under a relation's temperature, of candidates without."""
        logits, whose = x @ self.gates, "candidates" if temperature is None else "anchors"
        if self.at is not None:
            stream = generator(self.seed, "experts", self.at, whose, device=x.device)
            noise = torch.randn(logits.shape, generator=stream, device=x.device, dtype=logits.dtype)
            logits = logits + noise * softplus(x @ self.noises)
        weights = torch.softmax(logits if temperature is None else logits / temperature, dim=-1)
        # L (x - c) = L x - L c, of all experts at once.
        by_expert = (x @ self.experts.transpose(1, 2).flatten(2)).unflatten(-1, self.centres.shape[1:])
        offset = (self.centres[:, :, None] @ self.experts).squeeze(2)
        e = (weights[..., None] * (by_expert - offset[:, None])).sum(2)
        return torch.stack([*e, self._fused(e, there, whose)], dim=1)

    def _fused(self, e: Float[Tensor, "U n width"], there: Bool[Tensor, "n U"], whose: str) -> Float[Tensor, "n width"]:
        e = e[:, None].expand(-1, _HEADS, -1, -1)
        if self.at is not None and self.fused_dropout:
            stream = generator(self.seed, "fused dropout", self.at, whose, device=e.device)
            kept = torch.rand(e.shape, generator=stream, device=e.device) >= self.fused_dropout
            e = e * kept / (1 - self.fused_dropout)
        u = torch.relu(e @ self.fusions + self.shifts[:, :, None])
        weights = torch.softmax(masked(u @ self.attention, there.T[:, None].expand(u.shape[:-1])), dim=0)
        return (weights[..., None] * u).sum((0, 1))
