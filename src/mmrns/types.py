"""The values that walk through the training step: `Batch`, `Views` and `Negatives`.

Shapes: B batch, K negatives, P pool, E entities, V views, R distinct relations of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import linear, pad

SidePolicy = Literal["alternate", "bernoulli"]
"""Which side of its triples a step replaces: tails and heads in turn, or for each row by its relation's coin."""


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
        n_true: how many true answers in train the rows have in all, on the host; None where nobody has counted. With
            it a lookup of all of them waits for no device.
        step: of the training whose batch this is; None for any other.
        place: Int[B], the place of each row's query in the index that was made with this `index` number, so that it
            need not be looked for again; None where nobody has looked.
        mixed: Bool[B], True where the head is replaced, in a step that is recorded for any number of such rows:
            `n_tail` means nothing then, and there are no `sides`. None in any other step.
        given: what the sampler of the training has prepared for a step that is recorded (`Sampler.prepare`).
    """

    h: Int[Tensor, " B"]
    r: Int[Tensor, " B"]
    t: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    n_tail: int
    relations: Int[Tensor, " R"]
    relation_index: Int[Tensor, " B"]
    relation_counts: tuple[int, ...]
    n_true: int | None = None
    step: int | None = None
    place: Int[Tensor, " B"] | None = None
    index: int | None = None
    mixed: Bool[Tensor, " B"] | None = None
    given: Any = None

    @classmethod
    def of(
        cls, triples: Int[Tensor, "B 3"], head: Bool[Tensor, " B"] | bool, weight: Float[Tensor, " B"] | None = None
    ) -> Batch:
        """Build a batch on the host from triples in any order; rows are sorted (stably) tail side first.

        Args:
            triples: (h, r, t).
            head: the side that each row, or every row, has replaced.
            weight: of each row; 1 by default.
        """
        weight = torch.ones(len(triples)) if weight is None else weight
        if isinstance(head, bool):
            n_tail = 0 if head else len(triples)
        else:
            order = torch.argsort(head, stable=True)
            triples, weight, n_tail = triples[order], weight[order], int((~head).sum())
        h, r, t = triples.unbind(1)
        relations, relation_index, counts = torch.unique(r, return_inverse=True, return_counts=True)
        return cls(h, r, t, weight, n_tail, relations, relation_index, tuple(counts.tolist()))

    def __len__(self) -> int:
        return len(self.h)

    @cached_property
    def head(self) -> Bool[Tensor, " B"]:
        """True where the head is replaced."""
        if self.mixed is not None:
            return self.mixed
        return torch.arange(len(self), device=self.h.device) >= self.n_tail

    @cached_property
    def anchor(self) -> Int[Tensor, " B"]:
        """The entity that stays."""
        return self._of_sides(self.h, self.t)

    @cached_property
    def target(self) -> Int[Tensor, " B"]:
        """The entity that is replaced."""
        return self._of_sides(self.t, self.h)

    def _of_sides(self, tail: Int[Tensor, " B"], head: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The first's rows of the tail side, and the second's of the head side."""
        if self.mixed is not None:
            return torch.where(self.mixed, head, tail)
        if self.n_tail in (0, len(self)):
            return tail if self.n_tail else head
        return torch.cat([tail[: self.n_tail], head[self.n_tail :]])

    @property
    def sides(self) -> tuple[tuple[bool, slice], ...]:
        """The sides that have rows, as `(head, rows)`, the tail side first. An empty batch has an empty tail side."""
        if self.mixed is not None:
            raise TypeError("how many rows have their tail replaced differs from step to step")
        both = (False, slice(0, self.n_tail)), (True, slice(self.n_tail, len(self)))
        return tuple(side for side in both if side[1].start < side[1].stop) or both[:1]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; itself where it lies there."""
        if self.h.device == torch.device(device):
            return self
        return self._laid_out(self._memory.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which a device copies while the host goes on."""
        return self._laid_out(self._memory.pin_memory())

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    @cached_property
    def _memory(self) -> UInt8[Tensor, " n"]:
        """All tensors one after the other, each from a multiple of 8 bytes on: what a device copies at once."""
        # A single row counts as contiguous whatever its stride, but not as bytes: hence copies.
        copies = [value.clone(memory_format=torch.contiguous_format) for value in self._tensors.values()]
        parts = [value.view(torch.uint8) for value in copies]
        return torch.cat([pad(part, (0, -len(part) % 8)) for part in parts])

    def _laid_out(self, memory: UInt8[Tensor, " n"]) -> Batch:
        """The same batch, whose tensors are parts of a copy of its memory."""
        found, start = dict[str, Tensor](), 0
        for name, value in self._tensors.items():
            found[name] = memory[start : start + value.nbytes].view(value.dtype)
            start += value.nbytes + -value.nbytes % 8
        batch = replace(self, **found)
        batch.__dict__["_memory"] = memory
        return batch


@dataclass(frozen=True)
class Projected:
    """Vectors of n entities that are a linear map of what is known of them, `e = W x + b`, and are not made yet.

    A product with a query is `<q, e> = <W^T q, x> + <q, b>`: for a few hundred queries and every entity of a graph that
    takes a fraction of the time in which the vectors are made and multiplied.

    Attributes:
        inner: Float[n D], x.
        weight: Float[width D], W.
        bias: Float[width], b.
    """

    inner: Float[Tensor, "n D"]
    weight: Float[Tensor, "width D"]
    bias: Float[Tensor, " width"]

    @property
    def vectors(self) -> Float[Tensor, "n width"]:
        """The vectors, made anew each time."""
        return linear(self.inner, self.weight, self.bias)

    def spares(self, n_queries: int) -> bool:
        """Whether products with so many queries are cheaper through the map than with the vectors."""
        n, (width, d) = len(self.inner), self.weight.shape
        return n_queries * d * (width + n) < n * width * (d + n_queries)

    def products(self, query: Float[Tensor, "B width"]) -> Float[Tensor, "B n"]:
        """`<q, e>` of each query and entity."""
        return torch.addmm((query @ self.bias)[:, None], query @ self.weight, self.inner.T)


@dataclass(frozen=True)
class Views:
    """Entities in each of V views: one vector for each, and whether the entity has that view at all.

    A view is one way to know an entity: its own trained vector (`structure`), or what is read from one of its
    modalities. Most models have the one view `structure`.

    Attributes:
        vectors: Float[n V width].
        present: Bool[n V]. Where it is False the vector means nothing.
        traits: Float[n N], what of each entity beside its vectors decides how a relation sees it; None of embedders
            that show all relations the same vectors (`Embedder.has_traits`).
    """

    vectors: Float[Tensor, "*n V width"]
    present: Bool[Tensor, "*n V"]
    traits: Float[Tensor, "*n N"] | None = None

    def __getitem__(self, rows: Any) -> Views:
        """Some of the entities, by position, slice or mask; or with another axis."""
        return Views(self.vectors[rows], self.present[rows], None if self.traits is None else self.traits[rows])

    @property
    def by_view(self) -> tuple[Float[Tensor, "*n width"], ...]:
        """The vectors of each view."""
        # Of a single view they are the same memory, in the backward pass too.
        return (self.vectors.squeeze(-2),) if self.vectors.shape[-2] == 1 else self.vectors.unbind(-2)

    @property
    def unmade(self) -> tuple[Float[Tensor, "*n width"] | Projected, ...]:
        """The same, but of views that are projected what they are made of, for whoever needs products alone."""
        return self.by_view

    def made(self) -> Views:
        """The same with all vectors made, for whoever needs them more than once."""
        return self

    @staticmethod
    def concatenate(parts: Sequence[Views]) -> Views:
        """All entities of at least one part."""
        traits = [part.traits for part in parts if part.traits is not None]
        vectors, present = torch.cat([part.vectors for part in parts]), torch.cat([part.present for part in parts])
        return Views(vectors, present, torch.cat(traits) if traits else None)

    def split(self, size: int) -> list[Views]:
        """Runs of so many entities."""
        parts = self.vectors.split(size), self.present.split(size)
        traits = [None] * len(parts[1]) if self.traits is None else self.traits.split(size)
        return [Views(*part) for part in zip(*parts, traits, strict=True)]

    def index_select(self, rows: Int[Tensor, "*m"]) -> Views:
        """Some of the entities, by position. Unlike indexing, the gradient is added up in a fixed order."""

        def picked(values: Tensor) -> Tensor:
            return values.index_select(0, rows.flatten()).unflatten(0, rows.shape)

        return Views(picked(self.vectors), picked(self.present), None if self.traits is None else picked(self.traits))

    def where(self, keep: Bool[Tensor, "*n V"], other: Views) -> Views:
        """These in the views that are to be kept, and another's in the rest; the two are broadcast.

        The traits, which are of no single view, are the other's where not all views are kept.
        """
        vectors, traits = torch.where(keep[..., None], self.vectors, other.vectors), None
        if self.traits is not None and other.traits is not None:
            traits = torch.where(keep.all(-1, keepdim=True), self.traits, other.traits)
        return Views(vectors, torch.where(keep, self.present, other.present), traits)

    def placed(self, rows: Int[Tensor, " m"], n: int) -> Views:
        """Of n entities these, by position; the others have vectors of zeros and lack every view."""

        def put(values: Tensor) -> Tensor:
            return values.new_zeros(n, *values.shape[1:]).index_copy(0, rows, values)

        return Views(put(self.vectors), put(self.present), None if self.traits is None else put(self.traits))

    def flatten(self) -> Views:
        """All axes of entities made one."""
        traits = None if self.traits is None else self.traits.flatten(0, -2)
        return Views(self.vectors.flatten(0, -3), self.present.flatten(0, -2), traits)

    def with_vectors(self, vectors: Float[Tensor, "*n V width"]) -> Views:
        """The same entities with other vectors."""
        return Views(vectors, self.present, self.traits)

    @staticmethod
    def apart(by_view: Sequence[Float[Tensor, "n width"] | Projected], present: Bool[Tensor, "n V"]) -> Views:
        """The same of each view's vectors, which are put together when somebody asks for all of them.

        Of every entity they are large, and most mixtures compare each view by itself. Those that are projected are made
        when somebody asks for them.
        """
        return _Apart(by_view, present)


class _Apart(Views):
    """Views whose vectors lie apart, and may not be made yet."""

    _unmade: tuple[Tensor | Projected, ...]

    def __init__(self, by_view: Sequence[Tensor | Projected], present: Tensor):
        object.__setattr__(self, "_unmade", tuple(by_view))
        object.__setattr__(self, "present", present)
        object.__setattr__(self, "traits", None)

    @property
    def vectors(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        # What is projected is made anew: a part of a step that the backward pass makes again has to make it again.
        unmade = any(isinstance(part, Projected) for part in self._unmade)
        return torch.stack(self.by_view, dim=-2) if unmade else self._put_together

    @cached_property
    def _put_together(self) -> Tensor:
        return torch.stack(self.by_view, dim=-2)

    @property
    def by_view(self) -> tuple[Tensor, ...]:
        return tuple(part.vectors if isinstance(part, Projected) else part for part in self._unmade)

    @property
    def unmade(self) -> tuple[Tensor | Projected, ...]:
        return self._unmade

    def made(self) -> Views:
        return _Apart(self.by_view, self.present)


@dataclass(frozen=True)
class Negatives:
    """What a sampler gives each row of a batch to be told from its true entity.

    It comes in one of three forms, each a class: a list of its own for every row (`OwnNegatives`), one list that all
    rows share (`PoolNegatives`), or every entity of the graph (`AllNegatives`).

    Attributes:
        mask: Bool[B K], True where a negative counts. None means that all count.
        log_weight: Float[B K], the logarithm of each negative's importance weight: one over how often it is expected
            among the draws, up to a factor that the negatives of a row share. A loss multiplies the weight that it
            gives a negative by the importance weight, so that what is drawn often does not count often. None means
            that every negative weighs the same.
        trace: what `Sampler.draw` hands on to `Sampler.loss` and to whoever explains the draw.
    """

    mask: Bool[Tensor, "B K"] | None = field(default=None, kw_only=True)
    log_weight: Float[Tensor, "B K"] | None = field(default=None, kw_only=True)
    trace: Any = field(default=None, kw_only=True)

    def entities(self, rows: int) -> Int[Tensor, "B K"]:
        """The entities that each of so many rows is compared with."""
        raise TypeError("negatives are of one of the three forms")

    def counts(self, rows: int) -> Bool[Tensor, "B K"]:
        """`mask`, spelled out where it is None."""
        return self.mask if self.mask is not None else torch.ones_like(self.entities(rows), dtype=torch.bool)


@dataclass(frozen=True)
class OwnNegatives(Negatives):
    """K negatives for each row.

    Attributes:
        ids: Int[B K].
        views: their vectors, given by a draw through which a gradient flows. They are scored in place of the model's
            own vectors of `ids`, to which they are equal. None means that the model looks the entities up itself.
        kept: Bool[B K V], True where a negative is no whole entity: it has the row's true entity's vector in that view,
            and of `ids` what is not kept. None means that nothing is.
        through: Float[B K], zeros that are added to the scores, given by a draw through which a gradient flows; None
            where none does.
    """

    ids: Int[Tensor, "B K"]
    views: Views | None = None
    through: Float[Tensor, "B K"] | None = None
    kept: Bool[Tensor, "B K V"] | None = None

    def entities(self, rows: int) -> Int[Tensor, "B K"]:
        return self.ids


@dataclass(frozen=True)
class PoolNegatives(Negatives):
    """One list of P negatives for all rows.

    Attributes:
        ids: Int[P].
    """

    ids: Int[Tensor, " P"]

    def entities(self, rows: int) -> Int[Tensor, "B K"]:
        return self.ids.expand(rows, -1)


@dataclass(frozen=True)
class AllNegatives(Negatives):
    """Every entity, in the order of ids; the mask says which are false.

    Attributes:
        n_entities: E.
        device: where `entities` lie.
        views: their vectors, where they are at hand. None means that the model looks everyone up itself.
    """

    n_entities: int
    device: torch.device
    views: Views | None = None

    def entities(self, rows: int) -> Int[Tensor, "B K"]:
        return torch.arange(self.n_entities, device=self.device).expand(rows, -1)

    def __getitem__(self, rows: slice) -> AllNegatives:
        """The same for some of the rows."""
        mask, log_weight = (None if own is None else own[rows] for own in (self.mask, self.log_weight))
        return replace(self, mask=mask, log_weight=log_weight)
