"""Vectors in a table, one row an id."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import Embedder, entities_at_hand
from mmrns.nn.embedders.hosted import Rows
from mmrns.types import Views

_BLOCK = 2**16
"""Rows that are drawn at a time where only some of them are kept."""


class Table(Rows):
    """A vector per id, uniform on `[-init_range, init_range]` at first.

    Args:
        n: number of ids.
        width: reals per vector.
        init_range: half-width of the initial distribution.
        sparse: see `Rows`.
    """

    def __init__(self, n: int, width: int, init_range: float, *, sparse: bool = False):
        super().__init__()
        self.sparse = sparse
        self.weight = nn.Parameter(self._drawn(n, width, init_range))

    @staticmethod
    def _drawn(n: int, width: int, init_range: float) -> Float[Tensor, "n width"]:
        return torch.empty(n, width).uniform_(-init_range, init_range)

    def forward(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        return self.look_up(ids)

    def all(self) -> Float[Tensor, "E width"]:
        """The vectors of every id, in id order."""
        return self.weight


class EntityVectors(Table):
    """A table whose rows are entities; in an embedder of some of them it has their rows only.

    Args:
        n: E, how many entities there are in all.
        width, init_range, sparse: see `Table`.
    """

    @staticmethod
    def _drawn(n: int, width: int, init_range: float) -> Float[Tensor, "m width"]:
        return of_entities(n, width, init_range)


def of_entities(n: int, width: int, init_range: float) -> Float[Tensor, "m width"]:
    """Vectors uniform on `[-init_range, init_range]`, of all n entities or, in an embedder that has some, of those.

    They have the numbers that they have in the whole table, which is never in memory then.
    """
    ids = entities_at_hand()
    if ids is None:
        return torch.empty(n, width).uniform_(-init_range, init_range)
    rows, order = torch.empty(len(ids), width), torch.argsort(ids)
    ascending = ids[order]
    for block in torch.arange(n).split(_BLOCK):
        drawn = torch.empty(len(block), width).uniform_(-init_range, init_range)
        first, end = torch.searchsorted(ascending, torch.stack([block[0], block[-1] + 1])).tolist()
        rows[order[first:end]] = drawn[ascending[first:end] - block[0]]
    return rows


class TableEmbedder(Rows, Embedder, name="table"):
    """One view, `structure`: a trained vector for every entity, uniform on `[-init_range, init_range]` at first.

    Args:
        graph: whose entities they are.
        features: not read.
        width, init_range, sparse: see `Table`.
    """

    undivided = ""

    here: Tensor

    def __init__(
        self, graph: KnowledgeGraph, features: Features, *, width: int, init_range: float, sparse: bool = False
    ):
        super().__init__(len(graph.entities))
        self._fill(len(graph.entities), width, init_range, sparse)

    @classmethod
    def of(cls, n: int, width: int, init_range: float, *, sparse: bool = False) -> TableEmbedder:
        """For so many entities, without a graph."""
        made = cls.__new__(cls)
        Embedder.__init__(made, n)
        made._fill(n, width, init_range, sparse)
        return made

    @property
    def rows(self) -> tuple[str, ...]:
        return ("weight",)

    def part(self, ids: Int[Tensor, " n"]) -> TableEmbedder:
        rows = self.weight.detach()[ids]
        made = self.of(0, rows.shape[1], 0.0, sparse=self.sparse)
        made.n_entities, made.ids, made.weight = len(rows), ids, nn.Parameter(rows)
        return made

    def _fill(self, n: int, width: int, init_range: float, sparse: bool) -> None:
        self.sparse = sparse
        self.weight = nn.Parameter(of_entities(n, width, init_range))
        self.register_buffer("here", torch.ones(1, dtype=torch.bool), persistent=False)

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        return Views(self.look_up(ids).unsqueeze(-2), self._present(ids.shape))

    def all(self) -> Views:
        if self.weight.device != self.here.device:
            return self(torch.arange(len(self.weight), device=self.here.device))
        return Views(self.weight.unsqueeze(-2), self._present(self.weight.shape[:1]))

    def compared_whole(self, whole: bool) -> None:
        self.all_too = whole and not self.sparse

    @property
    def table(self) -> Float[Tensor, "E width"] | None:
        # Kernels that read rows give the table a dense gradient.
        return None if self.sparse else self.weight

    def _present(self, shape: torch.Size) -> Bool[Tensor, "*n 1"]:
        return self.here.expand(*shape, 1)


def keep_on_host(embedder: Embedder) -> None:
    """Have the sparse tables of an embedder whose rows are entities stay in the machine's memory, wherever it goes."""
    for module in embedder.modules():
        if isinstance(module, TableEmbedder | EntityVectors) and module.sparse:
            module.on_host = True
