"""The model's vectors of a batch, looked up once: the value that the step hands to whatever scores its rows."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from mmrns.types import Batch, Views


@dataclass(frozen=True)
class Query:
    """What the model makes of the known part of each row, the anchor and the relation, to compare candidates with.

    Attributes:
        vectors: one Float[B query_width] for each view.
        present: Bool[B V], the views that the anchor has.
        gate: Float[B V], how much the relation weighs each view; None with a single view.
    """

    vectors: tuple[Float[Tensor, "B query_width"], ...]
    present: Bool[Tensor, "B V"]
    gate: Float[Tensor, "B V"] | None


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
        query = self.query
        gate = None if query.gate is None else query.gate[rows]
        of_rows = Query(tuple(vectors[rows] for vectors in query.vectors), query.present[rows], gate)
        return Lookup(batch, self.anchor[rows], self.target[rows], self.relation[rows], of_rows)
