"""Vectors in a table, one row an id."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import Embedder
from mmrns.types import Views

_BLOCK = 2**16
"""Rows that are drawn at a time where only some of them are kept."""


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


class TableEmbedder(Embedder, name="table"):
    """One view, `structure`: a trained vector for every entity, uniform on `[-init_range, init_range]` at first.

    Args:
        graph: whose entities they are.
        features: not read.
        width, init_range, sparse: see `Table`.
    """

    undivided = ""
    rows = ("weight",)

    here: Tensor

    def __init__(
        self, graph: KnowledgeGraph, features: Features, *, width: int, init_range: float, sparse: bool = False
    ):
        super().__init__(len(graph.entities))
        self._fill(width, init_range, sparse)

    @classmethod
    def of(cls, n: int, width: int, init_range: float, *, sparse: bool = False) -> TableEmbedder:
        """For so many entities, without a graph."""
        made = cls.__new__(cls)
        Embedder.__init__(made, n)
        made._fill(width, init_range, sparse)
        return made

    def part(self, ids: Int[Tensor, " n"]) -> TableEmbedder:
        return self._of_rows(self.weight.detach()[ids], self.sparse)

    @classmethod
    def of_part(
        cls,
        ids: Int[Tensor, " n"],
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        **options: Any,
    ) -> TableEmbedder:
        """The same numbers as for a part of the whole table, which is never in memory as a whole."""
        rows, order = torch.empty(len(ids), width), torch.argsort(ids)
        ascending = ids[order]
        for block in torch.arange(len(graph.entities)).split(_BLOCK):
            drawn = torch.empty(len(block), width).uniform_(-init_range, init_range)
            first, end = torch.searchsorted(ascending, torch.stack([block[0], block[-1] + 1])).tolist()
            rows[order[first:end]] = drawn[ascending[first:end] - block[0]]
        return cls._of_rows(rows, sparse)

    @classmethod
    def _of_rows(cls, rows: Float[Tensor, "n width"], sparse: bool) -> TableEmbedder:
        made = cls.of(0, rows.shape[1], 0.0, sparse=sparse)
        made.n_entities, made.weight = len(rows), nn.Parameter(rows)
        return made

    def _fill(self, width: int, init_range: float, sparse: bool) -> None:
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty(self.n_entities, width).uniform_(-init_range, init_range))
        self.register_buffer("here", torch.ones(1, dtype=torch.bool), persistent=False)

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        vectors = nn.functional.embedding(ids, self.weight, sparse=self.sparse)
        return Views(vectors.unsqueeze(-2), self._present(ids.shape))

    def all(self) -> Views:
        return Views(self.weight.unsqueeze(-2), self._present(self.weight.shape[:1]))

    @property
    def table(self) -> Float[Tensor, "E width"] | None:
        # Kernels that read rows give the table a dense gradient.
        return None if self.sparse else self.weight

    def _present(self, shape: torch.Size) -> Bool[Tensor, "*n 1"]:
        return self.here.expand(*shape, 1)
