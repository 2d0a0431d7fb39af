"""Entities by one vector, in which their structure and their modalities are joined by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.fused import FusedEmbedder
from mmrns.nn.joint import joined, joint_weights
from mmrns.types import Views


class AdaMFEmbedder(ComputedEmbedder, name="adamf"):
    """The view `joint`: `sum_v p_v(e) e_v` with `p(e) = softmax_v <w, tanh(e_v)>` over structure and modalities.

    Zhang et al., "Unleashing the Power of Imbalanced Modality Information for Multi-modal Knowledge Graph Completion"
    (AdaMF-MAT), 2024. The vectors e_v are those of `fused`, its own and one pooled from each modality. A
    view that an entity lacks has no weight, and neither has the structure of an entity that no train triple mentions
    and that has a modality. The attention starts at 0, so that at first all views weigh the same.

    Left out are the adversarial triples (MAT): every published script sets their weight to 0. The authors go on
    training the features themselves, 52 million numbers for DB15K; here they stay as they are.

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `EntityVectors`.
        modalities: names of the modalities; all of them by default.
        hidden: see `FusedEmbedder`.
    """

    undivided = ""
    views = ("joint",)

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
        hidden: PositiveInt | None = None,
    ):
        super().__init__(graph, features, modalities)
        names = list(self.modalities)
        # A mean of V vectors is shorter by the root of V.
        wider = init_range * (1 + len(names)) ** 0.5
        self.parts = FusedEmbedder(
            graph, features, width=width, init_range=wider, sparse=sparse, modalities=names, hidden=hidden
        )
        self.attention = nn.Parameter(torch.zeros(width))

    def weights(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        """p(e): how much structure and each modality count, in the order `structure`, then that of `reads`."""
        return joint_weights(self.parts.views_of(ids), self.attention)

    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        parts = self.parts.views_of(ids).made()
        vectors = joined(joint_weights(parts, self.attention), parts.vectors)
        return Views(vectors[:, None], torch.ones_like(ids, dtype=torch.bool)[:, None])
