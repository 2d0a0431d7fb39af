"""The two values that walk through the training step: `Batch` and `Negatives`.

Shapes: B batch, K negatives, P pool, R distinct relations of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Positive triples with the side that each row has replaced.

    Rows are sorted tail side first, and `n_tail` is known on the host, so that each side is one slice.

    Attributes:
        h, r, t: Int[B] ids.
        weight: Float[B], the subsampling weight of each row's positive and negative term.
        n_tail: rows `[:n_tail]` have the tail replaced, rows `[n_tail:]` the head.
        relations: Int[R], the distinct relations, ascending.
        relation_index: Int[B], `relations[relation_index] == r`.
        relation_counts: rows of each distinct relation, on the host.
        n_true: how many true answers in train the tail rows have in all, and the head rows, on the host; None where
            nobody has counted. With it a lookup of all of them waits for no device.
    """

    h: Int[Tensor, " B"]
    r: Int[Tensor, " B"]
    t: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    n_tail: int
    relations: Int[Tensor, " R"]
    relation_index: Int[Tensor, " B"]
    relation_counts: tuple[int, ...]
    n_true: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, triples: Int[Tensor, "B 3"], head: Bool[Tensor, " B"], weight: Float[Tensor, " B"] | None = None
    ) -> Batch:
        """Build a batch on the host from triples in any order; rows are sorted (stably) tail side first."""
        order = torch.argsort(head, stable=True)
        h, r, t = triples[order].unbind(1)
        relations, relation_index, counts = torch.unique(r, return_inverse=True, return_counts=True)
        weight = torch.ones(len(order)) if weight is None else weight[order]
        return cls(h, r, t, weight, int((~head).sum()), relations, relation_index, tuple(counts.tolist()))

    def __len__(self) -> int:
        return len(self.h)

    @property
    def head(self) -> Bool[Tensor, " B"]:
        """True where the head is replaced."""
        return torch.arange(len(self), device=self.h.device) >= self.n_tail

    @property
    def anchor(self) -> Int[Tensor, " B"]:
        """The entity that stays."""
        return torch.cat([self.h[: self.n_tail], self.t[self.n_tail :]])

    @property
    def target(self) -> Int[Tensor, " B"]:
        """The entity that is replaced."""
        return torch.cat([self.t[: self.n_tail], self.h[self.n_tail :]])

    @property
    def sides(self) -> tuple[tuple[bool, slice], tuple[bool, slice]]:
        """The two slices as `(head, rows)`: tail side, then head side; either may be empty."""
        return (False, slice(0, self.n_tail)), (True, slice(self.n_tail, len(self)))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Negatives:
    """What a sampler drew.

    Attributes:
        ids: Int[B K] one list a row, Int[P] one pool for all rows, or None.
        emb: Float[B K width], scored instead of the table's rows when given; `ids` then serve records. With both
            None every entity is a candidate (1-vs-all).
        mask: True = counts; None = all count.
        logp: log of how often each negative is expected among the draws, up to a constant of the row; weights are
            divided by it. None = every negative as it comes.
        trace: what `Sampler.draw` hands to `Sampler.loss`; nobody else reads it.
    """

    ids: Int[Tensor, "B K"] | Int[Tensor, " P"] | None = None
    emb: Float[Tensor, "B K width"] | None = None
    mask: Bool[Tensor, "B K"] | None = None
    logp: Float[Tensor, "B K"] | None = None
    trace: Any = None
