"""How much an entity's pictures and texts, read under a relation, tell of another entity's being an answer too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, pad, softplus

from mmrns.nn.model import ModelSpec
from mmrns.samplers.mmrns.attention import KnowledgeGuidedAttention, Summary, Tokens

_SCALE = 10.0
"""What every dimension of the unit vectors is weighed with at first: an inverse temperature of cosines."""

_TINY = 1e-10
"""Added to norms."""

_FEW = 32
"""Lists up to which a processor multiplies a row with all of them, and chooses the products with its own."""

_ALIGNED = 8
"""Rows and columns of grouped products are multiples of 16 bytes, in every type."""

_AT_ONCE = 2**23
"""Reals that are worked on at a time on a processor, so that they stay in its cache."""

_ROWS, _TILE = 2048, 64
"""Rows, and relations, that a processor reads under at a time: fewer make for slow products and many operations."""

_Module = TypeVar("_Module", bound=nn.Module)
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Given:
    """What is known of n entities before a relation looks at them.

    Attributes:
        tokens: of each modality, values [n L D], zero where absent, and mask [n L].
        structure: Float[n width], the model's own vectors; None where modalities are read.
    """

    tokens: tuple[tuple[Float[Tensor, "n _ _"], Bool[Tensor, "n _"]], ...]
    structure: Float[Tensor, "n width"] | None = None


@dataclass(frozen=True)
class Encoded:
    """The same, as it is compared: summaries of length 1 or 0; with attention as they are, and projected tokens.

    Attributes:
        tokens: of each modality; none where there is no attention.
        vectors: Float[n T w], the summaries (w = a), or the structural vectors.
        present: Bool[n T], the terms that each entity has.
    """

    tokens: list[Tokens]
    vectors: Float[Tensor, "n T w"]
    present: Bool[Tensor, "n T"]

    @cached_property
    def columns(self) -> Float[Tensor, "n WT"]:
        """What is compared where no relation decides what an entity is: see `Information.columns`."""
        return _columns(self.vectors.flatten(1), self.present)

    def index_select(self, rows: Int[Tensor, " m"]) -> Encoded:
        """Some of the entities."""
        tokens = [t.index_select(rows) for t in self.tokens]
        return Encoded(tokens, self.vectors.index_select(0, rows), self.present.index_select(0, rows))

    def split(self, *sizes: int) -> list[Encoded]:
        """The entities in parts of these sizes."""
        tokens = [t.split(sizes) for t in self.tokens]
        vectors, present = self.vectors.split(sizes), self.present.split(sizes)
        return [Encoded([t[i] for t in tokens], vectors[i], present[i]) for i in range(len(sizes))]

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """All entities of some parts."""
        tokens = [Tokens.concatenate(part) for part in zip(*(part.tokens for part in parts), strict=True)]
        return Encoded(tokens, torch.cat([part.vectors for part in parts]), torch.cat([part.present for part in parts]))


@dataclass(frozen=True)
class Rows:
    """Pairs of a relation and a true entity that candidates are read for, sorted by relation.

    Attributes:
        relations: Float[R relation_width], vectors of the distinct relations.
        counts: rows of each, on the host.
        place: Int[U], which of the relations is each row's.
        target: Int[U], the true entities.
        side: Int[U], which of its relation's lists of typed candidates is each row's.
    """

    relations: Float[Tensor, "R relation_width"]
    counts: Sequence[int]
    place: Int[Tensor, " U"]
    target: Int[Tensor, " U"]
    side: Int[Tensor, " U"]

    def ends(self, part: slice, device: torch.device) -> Int[Tensor, " r"]:
        """Where the rows of each of some relations end, counted from the first row of the first of them."""
        ends = torch.tensor(self.counts[part], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return ends.to(device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Compared:
    """What decides the pmi of U true entities and their candidates, where no relation decides what an entity is.

    Attributes:
        weights: Float[U W], w of each row's relation.
        own: Float[U WT], the true entities, as `Encoded.columns`; so are the others.
        pool: Float[P WT], entities for all rows.
        lists: Float[G M WT], G lists of M entities.
        group: Int[U], which of the lists is each row's.
    """

    weights: Float[Tensor, "U W"]
    own: Float[Tensor, "U WT"]
    pool: Float[Tensor, "P WT"]
    lists: Float[Tensor, "G M WT"]
    group: Int[Tensor, " U"]

    def by_row(self) -> Compared | None:
        """The same with a list for each row; None where that is multiplied otherwise, to other last bits."""
        if not by_row(self.lists):
            return None
        lists = self.lists.index_select(0, self.group)
        return replace(self, lists=lists, group=torch.arange(len(lists), device=lists.device))


def by_row(lists: Float[Tensor, "G M WT"]) -> bool:
    """Whether each row is multiplied with its own list alone."""
    return len(lists) > _FEW or not lists.is_cpu


class Information(nn.Module):
    """The pointwise mutual information of "x answers the query" and "e answers it too", as far as their modalities say.

        pmi(r, x, e) = sum_m <w_m(r) * u_m(x), u_m(e)>
        u_m = z_m / stopgrad ||z_m||        w_m(r) = softplus(W_m r + b_m)

    z_m(e) is the `Summary` of the entity's tokens in modality m. With the attention it is z_m(r, e): what the
    `KnowledgeGuidedAttention` reads under the relation is added. Without any modality there is one term, `structure`,
    of the entity's own vector. w_m(r) > 0 says how much each dimension counts under the relation. A term that x lacks
    counts 0. It knows neither features nor model: what it compares is given (`Given`).

    Args:
        modalities: (L, D), tokens and their width, by name; none for the structure.
        spec: widths of the model's vectors.
        width: a, width of the summaries and of the attention.
        attend: False leaves the attention out.
    """

    def __init__(self, modalities: Mapping[str, tuple[int, int]], spec: ModelSpec, *, width: int, attend: bool):
        super().__init__()
        self.attention: KnowledgeGuidedAttention | None = None
        self.summary: Summary | None = None
        self.terms = list(modalities) or ["structure"]
        if modalities:
            tokens, widths = zip(*modalities.values(), strict=True)
            self.summary = Summary(tokens, widths, width)
            if attend:
                self.attention = KnowledgeGuidedAttention(tokens, widths, spec.relation_width, width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter)
        self.term_width = width if modalities else spec.entity_width
        self.scale = nn.Linear(spec.relation_width, self.term_width * len(self.terms))
        nn.init.zeros_(self.scale.weight)
        nn.init.constant_(self.scale.bias, _SCALE)

    @property
    def width(self) -> int:
        """W, the width of all terms; with attention rounded up to what grouped products take."""
        used = self.term_width * len(self.terms)
        return used if self.attention is None else -(-used // _ALIGNED) * _ALIGNED

    def weights(self, relations: Float[Tensor, "*n relation_width"]) -> Float[Tensor, "*n W"]:
        """w, how much each dimension counts under each relation."""
        weights = softplus(self.scale(relations))
        spare = self.width - weights.shape[-1]
        return pad(weights, (0, spare)) if spare else weights

    def encode(self, given: Given) -> Encoded:
        """What does not depend on the relation."""
        if self.summary is None:
            if given.structure is None:
                raise ValueError("without modalities the model's own vectors are compared")
            present = torch.ones(len(given.structure), 1, dtype=torch.bool, device=given.structure.device)
            return Encoded([], _of_length_1(given.structure[:, None], present), present)
        present = torch.stack([mask.any(1) for _, mask in given.tokens], dim=1)
        vectors = self.summary(given.tokens)
        if self.attention is None:
            return Encoded([], _of_length_1(vectors, present), present)
        tokens = [self.attention.encode(m, *raw) for m, raw in enumerate(given.tokens)]
        return Encoded(tokens, vectors, present)

    def rows(self, weighed: Float[Tensor, "n W"], mean: Float[Tensor, "... W"]) -> Float[Tensor, "n WT"]:
        """The side of the true entities: the product with `columns` is the pmi.

        Args:
            weighed: w(r) * u(x) of each.
            mean: what a candidate that lacks a term takes, of each or of all.
        """
        return torch.cat([weighed, self.by_term(weighed * mean)], dim=1)

    def columns(self, vectors: Float[Tensor, "*n W"], present: Bool[Tensor, "*n T"]) -> Float[Tensor, "*n WT"]:
        """The side of the candidates: the vectors, and which terms are not there."""
        return _columns(vectors, present)

    def mean(self, vectors: Float[Tensor, "*R n W"], present: Bool[Tensor, "n T"]) -> Float[Tensor, "*R W"]:
        """Of each term over those that have it."""
        counts = present.sum(0).clamp(min=1).repeat_interleave(self.term_width)
        return vectors.sum(-2) / pad(counts, (0, self.width - len(counts)), value=1)

    def encode_all(self, ids: Int[Tensor, " n"], given: Callable[[Int[Tensor, " n"]], Given], *, limit: int) -> Encoded:
        """Some entities, as many at a time as may be held, without gradient."""
        n_rows = limit // self.reals(1)

        def encoded(part: Int[Tensor, " m"]) -> Encoded:
            return self.encode(given(part))

        return Encoded.concatenate(_parts(encoded, min(n_rows, _ROWS) if ids.is_cpu else n_rows, ids))

    def read(self, relations: Float[Tensor, "n relation_width"], entities: Encoded) -> Float[Tensor, "n W"]:
        """The vectors u, each entity under its own relation."""
        if self.attention is None:
            return entities.vectors.flatten(1)
        ys = self.attention.paired(self.attention.gates(relations), entities.tokens)
        return self._side_by_side(
            [y + v for y, v in zip(ys, entities.vectors.unbind(1), strict=True)], entities.present
        )

    def read_all(self, relations: Float[Tensor, "R relation_width"], entities: Encoded) -> Float[Tensor, "S n W"]:
        """The vectors u of n entities under each relation; without attention, which makes them differ, just once."""
        if self.attention is None:
            return entities.vectors.flatten(1)[None]
        return self._side_by_side(self._reader(entities, len(relations))(relations), entities.present)

    def _reader(self, entities: Encoded, n_relations: int) -> Callable[[Tensor], list[Tensor]]:
        """What reads n entities under relations, of which there will be so many: z of each term, [R n a]."""
        assert self.attention is not None
        attention, vectors = self.attention, entities.vectors.unbind(1)
        terms = attention.terms(entities.tokens, n_relations=n_relations)

        def read(relations: Tensor) -> list[Tensor]:
            return [y + v for y, v in zip(attention.outer(attention.gates(relations), terms), vectors, strict=True)]

        return read

    def pmi_of_few(
        self,
        relations: Float[Tensor, "k relation_width"],
        which: Int[Tensor, " n"],
        entities: Encoded,
        n_listed: int,
    ) -> Float[Tensor, "n C"]:
        """The pmi of n true entities, each under one of k relations, and C = c + m + 1 others, with gradients.

        Args:
            relations: k relations.
            which: of them is each row's.
            entities: one after the other the n true entities; one entity of each row's own, the last column; m of each
                relation's own, the columns before it; c for all rows, the first columns.
            n_listed: m.
        """
        n, k = len(which), len(relations)
        sizes = n, n, k * n_listed, len(entities.present) - 2 * n - k * n_listed
        if self.attention is None:
            own, others, lists, pool = entities.columns.split(sizes)
            rows = self._rows_of(self.weights(relations).index_select(0, which), own, pool)
            found = self._products(rows, pool, lists.unflatten(0, (k, n_listed)), which)
            return torch.cat([found, (rows * others).sum(1, keepdim=True)], dim=1)
        own, others, lists, pool = entities.split(*sizes)
        of_row = relations.index_select(0, which)
        both = Encoded.concatenate([own, others])
        vectors = self.read(torch.cat([of_row, of_row]), both)
        listed = self.read(relations.repeat_interleave(n_listed, dim=0), lists)
        pooled = self.read_all(relations, pool)
        weighed = self.weights(of_row) * vectors[:n]
        rows = self.rows(weighed, self.mean(pooled, pool.present).index_select(0, which))
        present = pool.present.expand(k, -1, -1)
        # Of each row and all that is read, as one product; then of what is read under its own relation.
        found = (rows @ self.columns(pooled, present).flatten(0, 1).mT).unflatten(1, present.shape[:2])
        found = found[torch.arange(n, device=which.device), which]
        in_lists = self.columns(listed, lists.present).unflatten(0, (k, -1)).index_select(0, which)
        last = self.columns(vectors[n:], others.present)
        return torch.cat([found, (in_lists @ rows[:, :, None])[:, :, 0], (rows * last).sum(1, keepdim=True)], dim=1)

    def pmi(self, compared: Compared) -> Float[Tensor, "U C"]:
        """The pmi of U true entities and their C = P + M candidates, where no relation decides what an entity is.

        A candidate that lacks a term takes the mean of those of the pool that have it.
        """
        rows = self._rows_of(compared.weights, compared.own, compared.pool)
        return self._products(rows, compared.pool, compared.lists, compared.group)

    def _rows_of(
        self, weights: Float[Tensor, "U W"], own: Float[Tensor, "U WT"], pool: Float[Tensor, "P WT"]
    ) -> Float[Tensor, "U WT"]:
        """The side of the true entities, where no relation decides what an entity is."""
        total = pool.sum(0)
        present = (len(pool) - total[self.width :].detach()).clamp(min=1)
        mean = total[: self.width] / present.repeat_interleave(self.term_width)
        return self.rows(weights * own[:, : self.width], mean)

    @staticmethod
    def _products(
        rows: Float[Tensor, "U WT"],
        pool: Float[Tensor, "P WT"],
        lists: Float[Tensor, "G M WT"],
        group: Int[Tensor, " U"],
    ) -> Float[Tensor, "U C"]:
        found = rows @ pool.T
        if not lists.shape[1]:
            return found
        if by_row(lists):
            of_list = (lists.index_select(0, group) @ rows[:, :, None])[:, :, 0]
        else:
            products = (rows @ lists.flatten(0, 1).T).unflatten(1, lists.shape[:2])
            of_list = products[torch.arange(len(group), device=group.device), group]
        return torch.cat([found, of_list], dim=1)

    def pmi_read(
        self,
        rows: Rows,
        pool: Int[Tensor, " P"],
        typed: Int[Tensor, "R S M"],
        encoded: Callable[[Int[Tensor, " n"]], Encoded],
        *,
        limit: int,
    ) -> Float[Tensor, "U C"]:
        """The pmi of each row's true entity and its C = P + M candidates as the attention reads them, without gradient.

        A candidate that lacks a term takes the mean of those of the pool that have it, under the row's relation.

        Args:
            rows: U rows.
            pool: P entities for all of them.
            typed: S lists of M entities for each relation.
            encoded: what is known of some entities, encoded.
            limit: reals that may be held at a time beside the result, as far as one entity and one relation permit.
        """
        own, n_pool = self.reals(1), len(pool)
        # What one turn makes stays in a processor's cache.
        at_once = min(limit, _AT_ONCE) if pool.is_cpu else limit
        n_rows = min(limit // own, _ROWS) if pool.is_cpu else limit // own

        def under(place: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, "n W"]:
            relations = rows.relations.index_select(0, place)
            return self.weights(relations) * self.read(relations, encoded(target))

        weighed = torch.cat(_parts(under, n_rows, rows.place, rows.target))
        n_typed = typed.shape[2]
        found = weighed.new_empty(len(rows), n_pool + n_typed)
        total = weighed.new_zeros(len(rows.relations), self.width)
        size = at_once // (min(_TILE, len(total)) * self._reals_per_pair(len(total)))
        size = max(1, min(size, limit // max(1, self._reals_per_entity(len(total)))))
        present: list[Tensor] = []
        room = weighed.new_empty(0)
        for start, part in zip(range(0, n_pool, size), pool.split(size), strict=True):
            part = encoded(part)
            present.append(part.present)
            into = found[:, start : start + len(part.present)]
            room = self._compare(rows, weighed, part, at_once, into, total, room)
        has = torch.cat(present)
        means = self.by_term(weighed * total.index_select(0, rows.place)) / has.sum(0).clamp(min=1)
        found[:, :n_pool].addmm_(means, (~has).T.to(found.dtype))
        if n_typed:
            found[:, n_pool:] = self._typed(rows, weighed, means, typed, encoded, n_rows)
        return found

    def _compare(
        self,
        rows: Rows,
        weighed: Float[Tensor, "U W"],
        entities: Encoded,
        limit: int,
        found: Float[Tensor, "U n"],
        total: Float[Tensor, "R W"],
        room: Tensor,
    ) -> Tensor:
        """Products of the rows with n entities, written to `found`, some relations at a time; sums go to `total`.

        What is read goes to `room`, if it fits; the room that was taken is returned.
        """
        n = len(entities.present)
        size = max(1, limit // (n * self._reals_per_pair(len(total))))
        read, has = self._reader(entities, len(total)), entities.present
        columns = -(-n // _ALIGNED) * _ALIGNED
        shape = min(size, len(total)), columns, self.width
        vectors = room if room.shape == shape else weighed.new_zeros(shape)
        start = 0
        for first in range(0, len(total), size):
            part = slice(first, min(first + size, len(total)))
            here = vectors[: part.stop - first]
            self._side_by_side(read(rows.relations[part]), has, out=here[:, :n])
            # What lies beyond n is room, and may be of before.
            total[part] += here[:, :n].sum(1)
            stop = start + sum(rows.counts[part])
            products = _grouped(weighed[start:stop], here, rows.ends(part, found.device))
            found[start:stop] = products[:, :n]
            start = stop
        return vectors

    def _typed(
        self,
        rows: Rows,
        weighed: Float[Tensor, "U W"],
        means: Float[Tensor, "U T"],
        typed: Int[Tensor, "R S M"],
        encoded: Callable[[Int[Tensor, " n"]], Encoded],
        n_rows: int,
    ) -> Float[Tensor, "U M"]:
        """The pmi of each row's true entity and the typed candidates of its relation and side."""
        n_relations, n_sides, n_typed = typed.shape
        n_read, n_terms = n_sides * n_typed, means.shape[1]
        place = torch.arange(n_relations, device=typed.device).repeat_interleave(n_read)

        def read(under: Int[Tensor, " n"], ids: Int[Tensor, " n"]) -> Float[Tensor, "n WT"]:
            entities = encoded(ids)
            return self.columns(self.read(rows.relations.index_select(0, under), entities), entities.present)

        parts = torch.cat(_parts(read, n_rows, place, typed.flatten())).view(n_relations, n_read, -1)
        # A term that a candidate lacks counts as the mean does: both are one product, for the lists of all sides.
        spare = -n_terms % _ALIGNED
        vectors = pad(parts, (0, spare, 0, -n_read % _ALIGNED))
        both = pad(torch.cat([weighed, means], dim=1), (0, spare))
        products = _grouped(both, vectors, rows.ends(slice(None), both.device))[:, :n_read]
        if n_sides == 1:
            return products
        side = rows.side[:, None, None].expand(-1, 1, n_typed)
        return products.unflatten(1, (n_sides, n_typed)).gather(1, side).squeeze(1)

    def by_term(self, products: Float[Tensor, "*n W"]) -> Float[Tensor, "*n T"]:
        """Sums of each term's part of W."""
        return products[..., : self.term_width * len(self.terms)].unflatten(-1, (len(self.terms), -1)).sum(-1)

    def reals(self, n_relations: int) -> int:
        """Estimate of the reals held at a time to read one entity under so many relations."""
        return self._reals_per_entity(n_relations) + n_relations * self._reals_per_pair(n_relations)

    @property
    def reals_encoded(self) -> int:
        """Reals of an entity that is encoded."""
        if self.attention is None:
            return 2 * self.width + len(self.terms)
        return self.width + sum(self.attention.tokens) * self.term_width

    def _reals_per_entity(self, n_relations: int) -> int:
        return 0 if self.attention is None else self.attention.reals_per_entity(n_relations)

    def _reals_per_pair(self, n_relations: int) -> int:
        return 3 * self.width + (0 if self.attention is None else self.attention.reals_per_pair(n_relations))

    def _side_by_side(
        self, ys: Sequence[Float[Tensor, "*n a"]], present: Bool[Tensor, "n T"], out: Tensor | None = None
    ) -> Float[Tensor, "*n W"]:
        """The terms, each of length 1 or, where it is not there, 0, one beside the other."""
        factors = [present[:, m, None] / _lengths(y) for m, y in enumerate(ys)]
        if out is None:
            spare = self.width - self.term_width * len(ys)
            return pad(torch.cat([y * f for y, f in zip(ys, factors, strict=True)], dim=-1), (0, spare))
        for m, (y, factor) in enumerate(zip(ys, factors, strict=True)):
            torch.mul(y, factor, out=out[..., m * self.term_width : (m + 1) * self.term_width])
        return out


def _columns(vectors: Float[Tensor, "*n W"], present: Bool[Tensor, "*n T"]) -> Float[Tensor, "*n WT"]:
    return torch.cat([vectors, (~present).to(vectors.dtype)], dim=-1)


def _lengths(vectors: Float[Tensor, "*n a"]) -> Float[Tensor, "*n 1"]:
    # No gradient through the norms, as in the authors' code.
    return torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True) + _TINY


def _of_length_1(vectors: Float[Tensor, "n T a"], present: Bool[Tensor, "n T"]) -> Float[Tensor, "n T a"]:
    """The vectors of length 1 or, where a term is not there, 0."""
    return vectors * (present[..., None] / _lengths(vectors))


def _grouped(
    rows: Float[Tensor, "n W"], vectors: Float[Tensor, "R P W"], ends: Int[Tensor, " R"]
) -> Float[Tensor, "n P"]:
    """Products of each row with the vectors of its group, rows being sorted by group, which end at `ends`."""
    # Made for bfloat16 on a device, and for single precision on a processor.
    dtype = torch.float32 if rows.is_cpu else torch.bfloat16
    return grouped_mm(rows.to(dtype), vectors.to(dtype).mT, offs=ends).to(rows.dtype)


def _parts(function: Callable[..., _Part], size: int, *given: Tensor) -> list[_Part]:
    """What a function makes of so many rows at a time, of one at least."""
    return [function(*part) for part in zip(*(x.split(max(1, size)) for x in given), strict=True)]


def frozen(module: _Module) -> _Module:
    """A copy that is not trained: its parameters are buffers."""
    found = copy.deepcopy(module)
    for part in found.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone())
    return found
