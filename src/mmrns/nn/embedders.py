"""Embedders: ids to vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


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
