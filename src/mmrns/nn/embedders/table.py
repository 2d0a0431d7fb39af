"""Embedders: ids to vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Modality


class Table(nn.Module):
    """A vector per id, uniform on `[-init_range, init_range]` at first.

    Args:
        n: number of ids.
        width: reals per vector.
        init_range: half-width of the initial distribution.
        sparse: gradients hold only the rows that were looked up, for a row-wise optimizer.
    """

    def __init__(self, n: int, width: int, init_range: float, *, sparse: bool = False):
        super().__init__()
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty(n, width).uniform_(-init_range, init_range))

    def forward(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        return nn.functional.embedding(ids, self.weight, sparse=self.sparse)

    def all(self) -> Float[Tensor, "E width"]:
        """The vectors of every id, in id order."""
        return self.weight


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
        # A normalised vector has D entries of variance 1, so that the result's have the variance of the uniform law.
        nn.init.normal_(self.projection.weight, std=init_range / (3 * token_width) ** 0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Float[Tensor, "n width"]:
        """The pooled vectors; of an entity without tokens, a constant."""
        affinity = (values @ self.attention).masked_fill(~mask, torch.finfo(values.dtype).min)
        weights = torch.softmax(affinity, dim=1) * mask
        return self.projection(self.norm((weights[:, None] @ values).squeeze(1)))


class FusedEmbedder(nn.Module):
    """Entities by several views: a structural vector, and one pooled from each modality's tokens.

    A vector holds the V views one after the other, structure first, then V flags: 1 where the entity has that view. The
    structural view of an entity that no train triple mentions is nothing but its initial value, so that its flag is 0,
    unless it has no other view. `FusedScorer` reads them.

    Args:
        n: number of entities.
        width: reals of a view.
        init_range: half-width of the initial distribution.
        modalities: by name, in the order of the views.
        seen: Bool[n], the entity occurs in train.
        sparse: see `Table`.
    """

    def __init__(
        self,
        n: int,
        width: int,
        init_range: float,
        modalities: Mapping[str, Modality],
        seen: Bool[Tensor, " n"],
        *,
        sparse: bool = False,
    ):
        super().__init__()
        self.table = Table(n, width, init_range, sparse=sparse)
        self.modalities = dict(modalities)
        self.pools = nn.ModuleList(AttentionPool(m.width, width, init_range) for m in modalities.values())
        self.seen: Tensor
        self.register_buffer("seen", seen, persistent=False)
        self._all: tuple[list[int], Tensor] | None = None

    def forward(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        if ids.is_cpu:
            distinct, place = torch.unique(ids, return_inverse=True)
        elif ids.numel() < (n := len(self.table.weight)):
            # How many are distinct would have to be asked of the device.
            distinct, place = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        else:
            distinct, place = torch.arange(n, device=ids.device), ids
        return nn.functional.embedding(place, self._views(distinct))

    def all(self) -> Float[Tensor, "E width"]:
        """The vectors of every id; without gradients they are kept until a parameter changes or `forget`."""
        ids = torch.arange(len(self.table.weight), device=self.table.weight.device)
        if torch.is_grad_enabled():
            return self._views(ids)
        state = [number for p in self.parameters() for number in (p.data_ptr(), p._version)]
        if self._all is None or self._all[0] != state:
            # In parts, so that the tokens of all entities are never in memory at once.
            self._all = state, torch.cat([self._views(part) for part in ids.split(4096)])
        return self._all[1]

    def forget(self) -> None:
        """Let go of what `all` keeps; for optimizers that change parameters without a trace."""
        self._all = None

    def _views(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        views, there = [self.table(ids)], [self.seen[ids]]
        for modality, pool in zip(self.modalities.values(), self.pools, strict=True):
            values, mask = modality.gather(ids)
            views.append(pool(values.to(self.table.weight.dtype), mask))
            there.append(mask.any(1))
        flags = torch.stack(there, dim=1)
        flags[:, 0] |= ~flags.any(1)
        return torch.cat([*views, flags.to(views[0].dtype)], dim=1)
