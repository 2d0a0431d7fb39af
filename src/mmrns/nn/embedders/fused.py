"""Entities by several views: their own vectors, and what is pooled from their modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import STRUCTURE, Embedder
from mmrns.nn.embedders.table import Table
from mmrns.nn.numerics import masked
from mmrns.types import Views


class AttentionPool(nn.Module):
    """Tokens to one vector: `W LN( sum_j softmax_j(<u, x_j>) x_j ) + b`, over the tokens that are there.

    Args:
        token_width: D.
        width: of the result.
        init_range: the results start about as long as vectors uniform on `[-init_range, init_range]`.
    """

    def __init__(self, token_width: int, width: int, init_range: float):
        super().__init__()
        self.attention = nn.Parameter(torch.zeros(token_width))
        self.norm = nn.LayerNorm(token_width)
        self.projection = nn.Linear(token_width, width)
        # A normalised vector has D entries of variance 1, so that the result's have the variance of the uniform
        # distribution.
        nn.init.normal_(self.projection.weight, std=init_range / (3 * token_width) ** 0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Float[Tensor, "n width"]:
        """The pooled vectors; of an entity without tokens, a constant."""
        weights = torch.softmax(masked(values @ self.attention, mask), dim=1) * mask
        return self.projection(self.norm((weights[:, None] @ values).squeeze(1)))


class FusedEmbedder(Embedder, name="fused"):
    """The view `structure`, and one view for each modality, pooled from its tokens (`AttentionPool`).

    An entity that no train triple mentions lacks the structural view, whose vector is nothing but its initial value,
    unless it has no other view.

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `Table`.
        modalities: names of the modalities, in the order of the views; all of them by default.
    """

    seen: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
    ):
        super().__init__(len(graph.entities))
        names = list(features) if modalities is None else list(modalities)
        self.modalities = {name: features[name] for name in names}
        self.views = (STRUCTURE, *names)
        self.structure = Table(len(graph.entities), width, init_range, sparse=sparse)
        self.pools = nn.ModuleList(AttentionPool(m.width, width, init_range) for m in self.modalities.values())
        self.register_buffer("seen", graph.seen_entities, persistent=False)
        self._all: tuple[list[int], Views] | None = None

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        if ids.is_cpu:
            distinct, place = torch.unique(ids, return_inverse=True)
        elif ids.numel() < self.n_entities:
            # How many are distinct would have to be asked of the device.
            distinct, place = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        else:
            distinct, place = torch.arange(self.n_entities, device=ids.device), ids
        views = self._views(distinct)
        flat = nn.functional.embedding(place, views.vectors.flatten(1))
        return Views(flat.unflatten(-1, views.vectors.shape[1:]), views.present[place])

    def all(self) -> Views:
        """The views of every entity. Without gradients they are kept until a parameter changes or `constrain`."""
        ids = torch.arange(self.n_entities, device=self.structure.weight.device)
        if torch.is_grad_enabled():
            return self._views(ids)
        state = [number for p in self.parameters() for number in (p.data_ptr(), p._version)]
        if self._all is None or self._all[0] != state:
            # In parts, so that the tokens of all entities are never in memory at once.
            self._all = state, Views.concatenate([self._views(part) for part in ids.split(4096)])
        return self._all[1]

    def constrain(self) -> None:
        """Let go of what `all` keeps: some optimizers change parameters without a trace."""
        self._all = None

    def _views(self, ids: Int[Tensor, " n"]) -> Views:
        vectors, there = [self.structure(ids)], [self.seen[ids]]
        for modality, pool in zip(self.modalities.values(), self.pools, strict=True):
            values, mask = modality.gather(ids)
            vectors.append(pool(values.to(self.structure.weight.dtype), mask))
            there.append(mask.any(1))
        present = torch.stack(there, dim=1)
        present[:, 0] |= ~present.any(1)
        return Views(torch.stack(vectors, dim=1), present)
