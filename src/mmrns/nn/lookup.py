"""What the model hands on of a batch: its vectors, looked up once, and the scores that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.nn.numerics import full
from mmrns.types import Batch, Views

Mix = Callable[
    [Sequence[Float[Tensor, "B K"]], Float[Tensor, "B N"], Bool[Tensor, "B V"], Bool[Tensor, "*K V"]],
    Float[Tensor, "B K"],
]
"""Makes one score of those of the views; see `Mixture.forward`."""


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

    They are mixed when somebody asks for it, so that of rows that are worth being mixed by themselves nothing is mixed
    before they are taken.

    Attributes:
        by_view: Float[B K] of each view, in the precision of the scorer. Where one of the two entities lacks the view
            it means nothing. Empty where the views' vectors are mixed before they are scored.
        anchors: Bool[B V], the views that the anchors have.
        candidates: Bool[B K V], the views that the candidates have, or of one pool Bool[P V]; None for the only view,
            which everyone has.
        given: Float[B K], the mixed scores where they are at hand.
        mix: makes them of `by_view` otherwise; None of a single view.
        gate: Float[B N], what `mix` takes of the relation.
    """

    by_view: tuple[Float[Tensor, "B K"], ...]
    anchors: Bool[Tensor, "B V"]
    candidates: Bool[Tensor, "*K V"] | None
    given: Float[Tensor, "B K"] | None = None
    mix: Mix | None = None
    gate: Float[Tensor, "B N"] | None = None

    @cached_property
    def mixed(self) -> Float[Tensor, "B K"]:
        """The model's scores, of at least single precision."""
        if self.given is not None:
            return self.given
        if self.mix is None:
            return full(self.by_view[0])
        assert self.gate is not None, "of several views"
        assert self.candidates is not None, "of several views"
        return full(self.mix(self.by_view, self.gate, self.anchors, self.candidates))

    def common(self, view: int) -> Bool[Tensor, "B K"]:
        """Where both entities have the view."""
        if self.candidates is None:
            return torch.ones_like(self.by_view[view], dtype=torch.bool)
        return self.anchors[:, view, None] & self.candidates[..., view]

    @property
    def by_row(self) -> list[Tensor]:
        """The numbers that it is made of, a row of each for each row."""
        return [numbers for numbers in (*self.by_view, self.given, self.gate) if numbers is not None]

    def of(self, rows: slice, numbers: Sequence[Tensor]) -> Scores:
        """Some of the rows, of whose numbers (`by_row`) these are at hand, in at least single precision."""
        left = (full(values) for values in numbers)
        by_view = tuple(next(left) for _ in self.by_view)
        given, gate = (None if own is None else next(left) for own in (self.given, self.gate))
        own = self.candidates is not None and self.candidates.ndim == 3
        candidates = self.candidates[rows] if own and self.candidates is not None else self.candidates
        return replace(self, by_view=by_view, given=given, gate=gate, anchors=self.anchors[rows], candidates=candidates)


def common_views(own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]) -> Bool[Tensor, "B K V"]:
    """The views that both entities have, the anchor of each row and its candidates or those of one pool."""
    return own[:, None] & candidates
