"""What the model hands on of a batch: its vectors, looked up once, and the scores that are made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.types import Batch, Views


@dataclass(frozen=True)
class Query:
    """What the model makes of the known part of each row, the anchor and the relation, to compare candidates with.

    Attributes:
        vectors: one Float[B query_width] for each view, or what else the mixture compares candidates with.
        present: Bool[B V], the views that the anchor has.
        gate: Float[B N], what the mixture makes of the relation's numbers; None with a single view.
        under: Float[B M], what of the relation decides how it sees the candidates; None of embedders that show all
            relations the same vectors.
    """

    vectors: tuple[Float[Tensor, "B _"], ...]
    present: Bool[Tensor, "B V"]
    gate: Float[Tensor, "B N"] | None
    under: Float[Tensor, "B M"] | None = None

    def __getitem__(self, rows: slice | Int[Tensor, " n"]) -> Query:
        """Some of the rows."""
        gate, under = (None if numbers is None else numbers[rows] for numbers in (self.gate, self.under))
        return Query(tuple(vectors[rows] for vectors in self.vectors), self.present[rows], gate, under)


@dataclass(frozen=True)
class Lookup:
    """A batch and the model's vectors of it, looked up once, so that their gradients are added up once.

    Attributes:
        batch: the rows.
        anchor, target: the two entities of each row, by view.
        relation: Float[B relation_width], the relation's vector; with reciprocal relations that of the inverse where a
            head is asked for.
        query: what candidates are compared with.
    """

    batch: Batch
    anchor: Views
    target: Views
    relation: Float[Tensor, "B relation_width"]
    query: Query

    def part(self, batch: Batch, rows: slice) -> Lookup:
        """Some of the rows, of which `batch` is made."""
        return Lookup(batch, self.anchor[rows], self.target[rows], self.relation[rows], self.query[rows])


@dataclass(frozen=True)
class Scores:
    """The scores of each row's candidates: of each view, and mixed.

    Attributes:
        mixed: Float[B K], the model's scores.
        by_view: Float[B K] of each view, in the precision of the scorer. Where one of the two entities lacks the view
            it means nothing. Empty where the views' vectors are mixed before they are scored.
        anchors: Bool[B V], the views that the anchors have.
        candidates: Bool[B K V], the views that the candidates have, or of one pool Bool[P V]; None for the only view,
            which everyone has.
    """

    mixed: Float[Tensor, "B K"]
    by_view: tuple[Float[Tensor, "B K"], ...]
    anchors: Bool[Tensor, "B V"]
    candidates: Bool[Tensor, "*K V"] | None

    def common(self, view: int) -> Bool[Tensor, "B K"]:
        """Where both entities have the view."""
        if self.candidates is None:
            return torch.ones_like(self.mixed, dtype=torch.bool)
        return self.anchors[:, view, None] & self.candidates[..., view]


def common_views(own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]) -> Bool[Tensor, "B K V"]:
    """The views that both entities have, the anchor of each row and its candidates or those of one pool."""
    return own[:, None] & candidates
