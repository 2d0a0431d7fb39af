"""Entities by several views: their own vectors, and what is pooled from their modalities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.table import EntityVectors
from mmrns.nn.numerics import masked
from mmrns.rng import among
from mmrns.types import Projected, Views


class AttentionPool(nn.Module):
    """Tokens to one vector: `W LN( sum_j softmax_j(<u, x_j>) x_j ) + b`, over the tokens that are there.

    With a hidden layer it is `W relu( W' LN( .. ) + b' ) + b`.

    Args:
        token_width: D.
        width: of the result.
        init_range: the results start about as long as vectors uniform on `[-init_range, init_range]`.
        hidden: width of the hidden layer; None = none.
    """

    def __init__(self, token_width: int, width: int, init_range: float, hidden: int | None = None):
        super().__init__()
        self.attention = nn.Parameter(torch.zeros(token_width))
        self.norm = nn.LayerNorm(token_width)
        self.projection = nn.Linear(hidden or token_width, width)
        self.hidden = None
        if hidden:
            self.hidden = nn.Linear(token_width, hidden)
            # Half of the squares pass the rectifier, so that those of the hidden layer sum up to its width.
            nn.init.normal_(self.hidden.weight, std=(2 / token_width) ** 0.5)
            nn.init.zeros_(self.hidden.bias)
        # A normalised vector has D entries of variance 1, so that the result's have the variance of the uniform
        # distribution.
        nn.init.normal_(self.projection.weight, std=init_range / (3 * (hidden or token_width)) ** 0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Float[Tensor, "n width"]:
        """The pooled vectors; of an entity without tokens, a constant."""
        return self.projected(values, mask).vectors

    def projected(
        self, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"], *, folded: bool = False
    ) -> Projected:
        """The same, not made yet: normalised tokens, or units of the hidden layer, and the map that follows.

        Args:
            values, mask: as in `forward`.
            folded: what scales and shifts normalised tokens is made part of the map. That takes some operations more;
                but of a single token, which is not trained, nothing has a gradient then but the map.
        """
        if values.shape[1] == 1:
            # Its weight is 1, whatever the attention.
            found = values.squeeze(1) * mask
        else:
            weights = torch.softmax(masked(values @ self.attention, mask), dim=1) * mask
            found = (weights[:, None] @ values).squeeze(1)
        weight, bias = self.projection.weight, self.projection.bias
        if self.hidden is not None:
            return Projected(torch.relu(self.hidden(self.norm(found))), weight, bias)
        if not folded:
            return Projected(self.norm(found), weight, bias)
        normalised = layer_norm(found, found.shape[1:], eps=self.norm.eps)
        return Projected(normalised, weight * self.norm.weight, bias + weight @ self.norm.bias)


class FusedEmbedder(ComputedEmbedder, name="fused"):
    """The view `structure`, and one view for each modality, pooled from its tokens (`AttentionPool`).

    The structural vector of an entity that no train triple mentions is nothing but its initial value. With
    `structure_dropout` it is estimated from the modalities that the entity has instead,

        s(e) = mean_m [ W'_m LN(pooled tokens of m) + b'_m ]

    and a share of the other entities, chosen anew in each step, goes by the same estimate, which is trained so (Volkovs
    et al., "DropoutNet: Addressing Cold Start in Recommender Systems", 2017). Without `structure_dropout` such an
    entity lacks the structural view, so that it is compared by the modalities that both entities have; where they have
    none in common, by its initial value, which says nothing. An entity without any modality has its own structural
    vector always.

    With `modality_dropout` a share of the entities lacks each modality, chosen anew in each step and for each modality,
    as entities will lack it that the graph has not yet: so what a missing view is worth is trained where nearly every
    entity has it (Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition", 2016).

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `EntityVectors`.
        modalities: names of the modalities, in the order of the views; all of them by default.
        structure_dropout: the share of the entities whose structural vectors are estimated in a step; 0 = no estimate.
        modality_dropout: the share of the entities that lack a modality in a step.
        hidden: width of a hidden layer of rectified units between a modality's tokens and its vector; none by default.
        concatenate: all modalities are one view, in which each has its part of the vector; 0 where it is missing.
    """

    undivided = ""
    takes_tables_whole = True

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
        structure_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        hidden: PositiveInt | None = None,
        concatenate: bool = False,
    ):
        super().__init__(graph, features, modalities)
        names = list(self.modalities)
        self.concatenate = concatenate and len(names) > 1
        self.views = (STRUCTURE, "+".join(names)) if self.concatenate else (STRUCTURE, *names)
        self.structure = EntityVectors(len(graph.entities), width, init_range, sparse=sparse)
        # Of the vectors of the modalities, and of the estimates of the structural one.
        parts = range(len(names) if self.concatenate else 1)
        self.widths = [width * (part + 1) // len(parts) - width * part // len(parts) for part in parts] * len(names)
        estimated = width if structure_dropout else 0
        self.pools = nn.ModuleList(
            AttentionPool(m.width, own + estimated, init_range, hidden)
            for own, m in zip(self.widths, self.modalities.values(), strict=False)
        )
        self.structure_dropout, self.modality_dropout = structure_dropout, modality_dropout

    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        structure, known = self.rows_of(self.structure, ids), self.seen[ids]
        tokens = (modality.gather(ids) for modality in self.modalities.values())
        found = [
            (pool.projected(values.to(structure.dtype), mask, folded=self.asks_all(ids)), self._has(name, ids, mask))
            for name, pool, (values, mask) in zip(
                self.modalities, cast("Iterable[AttentionPool]", self.pools), tokens, strict=True
            )
        ]
        there = self.known(ids, [has for _, has in found])
        if not self.structure_dropout and not self.concatenate:
            return Views.apart([structure, *(pooled for pooled, _ in found)], there)
        made = [(pooled.vectors, has) for pooled, has in found]
        if self.structure_dropout:
            if self.at is not None:
                known = known & ~among(
                    self.numbers(ids), self.structure_dropout, self.seed, "structure dropout", self.at
                )
            n = there[:, 1:].sum(1)
            estimates = sum(has[:, None] * pooled[:, -structure.shape[1] :] for pooled, has in made)
            estimated = ~known & (n > 0)
            structure = torch.where(estimated[:, None], estimates / n.clamp(min=1)[:, None], structure)
            made = [(pooled[:, :own], has) for own, (pooled, has) in zip(self.widths, made, strict=False)]
            there[:, 0] |= estimated
        if self.concatenate:
            whole = torch.cat([pooled * has[:, None] for pooled, has in made], dim=1)
            return Views.apart([structure, whole], torch.stack([there[:, 0], there[:, 1:].any(1)], dim=1))
        return Views.apart([structure, *(pooled for pooled, _ in made)], there)

    def _has(self, modality: str, ids: Int[Tensor, " n"], mask: Bool[Tensor, "n L"]) -> Bool[Tensor, " n"]:
        """Which entities have a modality in this step, of those that have tokens of it."""
        there = mask.any(1)
        if not self.modality_dropout or self.at is None:
            return there
        return there & ~among(self.numbers(ids), self.modality_dropout, self.seed, f"no {modality}", self.at)
