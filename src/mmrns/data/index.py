"""Two indexes of triples in compressed sparse rows (CSR), which answer questions about whole batches.

`TripleIndex` knows which triples are true, `DomainRangeIndex` which entities a relation has on either side.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.errors import MmrnsError
from mmrns.rng import below
from mmrns.types import Batch


@dataclass(frozen=True)
class _Side:
    """CSR of one side: the distinct `(anchor, relation)` keys and the targets of each, all ascending.

    The last key is a sentinel that has no targets, so that a search never runs off the end.
    """

    keys: Int[Tensor, " Q"]
    offsets: Int[Tensor, " Q+1"]
    targets: Int[Tensor, " M"]
    codes: Int[Tensor, " M"]
    """`place * (E + 1) + target`, ascending over the whole array: for `contains`."""
    absent: Int[Tensor, " M"]
    """`code - rank of the target within its key`, ascending too: for `nth_absent`."""

    @classmethod
    def of(cls, key: Int[Tensor, " n"], target: Int[Tensor, " n"], n_entities: int) -> _Side:
        pairs = torch.unique(key * n_entities + target)
        keys, place, counts = torch.unique_consecutive(pairs // n_entities, return_inverse=True, return_counts=True)
        keys = torch.cat([keys, keys.new_tensor([torch.iinfo(torch.int64).max])])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0), counts.sum()[None]])
        targets = pairs % n_entities
        codes = place * (n_entities + 1) + targets
        return cls(keys, offsets, targets, codes, codes - torch.arange(len(codes)) + offsets[place])

    def to(self, device: torch.device | str) -> _Side:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def find(self, key: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """The place of each key among `keys`, and whether the key is there."""
        place = torch.searchsorted(self.keys, key.contiguous())
        return place, self.keys[place] == key

    def counts(self, key: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Number of targets of each key."""
        place, found = self.find(key)
        return torch.where(found, self.offsets[place + 1] - self.offsets[place], 0)

    def flat(self, key: Int[Tensor, " B"], size: int | None = None) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All targets of all keys: `(row of the key, target)`, rows ascending; `size` is their number, if known."""
        place, found = self.find(key)
        start = self.offsets[place]
        count = torch.where(found, self.offsets[place + 1] - start, 0)
        # Without the size torch has to ask the device for it.
        row = torch.repeat_interleave(torch.arange(len(place), device=place.device), count, output_size=size)
        first = count.cumsum(0) - count
        position = torch.arange(len(row), device=place.device) - first[row] + start[row]
        return row, self.targets[position]

    def contains(self, key: Int[Tensor, " B"], target: Int[Tensor, " B"], n_entities: int) -> Bool[Tensor, " B"]:
        """Whether each target belongs to its key."""
        place, found = self.find(key)
        return found & self.holds(place, target, n_entities)

    def holds(self, place: Int[Tensor, "*n"], target: Int[Tensor, "*n"], n_entities: int) -> Bool[Tensor, "*n"]:
        """Whether each target belongs to the key at its place; the search costs less where the targets ascend."""
        wanted = place * (n_entities + 1) + target
        if not len(self.codes):
            return torch.zeros_like(wanted, dtype=torch.bool)
        # One past the end is the only place outside; it cannot match, so any inside place will do.
        inside = torch.searchsorted(self.codes, wanted.contiguous()).clamp(max=len(self.codes) - 1)
        return self.codes[inside] == wanted


_Index = TypeVar("_Index", bound="_TwoSided")


class _TwoSided:
    """An index with one `_Side` for the tails that answer a query, and one for the heads."""

    _sides: tuple[_Side, _Side]

    def to(self: _Index, device: torch.device | str) -> _Index:
        """The same index on another device; itself where it lies there."""
        if self.device == torch.device(device):
            return self
        moved = copy(self)
        moved._sides = (self._sides[0].to(device), self._sides[1].to(device))
        return moved

    @property
    def device(self) -> torch.device:
        """Where the index lies."""
        return self._sides[0].keys.device


class DomainRangeIndex(_TwoSided):
    """The domain and the range of each relation: which entities occur as its heads, and which as its tails.

    In all methods `r` are relations, and `head` chooses the side: True for the domain (heads), False for the range
    (tails).

    Args:
        triples: Int[n 3] (h, r, t).
        n_entities: size of the vocabulary.
    """

    def __init__(self, triples: Int[Tensor, "n 3"], n_entities: int):
        h, r, t = triples.unbind(1)
        self.n_entities = n_entities
        self._sides = (_Side.of(r, t, n_entities), _Side.of(r, h, n_entities))

    def __repr__(self) -> str:
        tails, heads = (len(side.targets) for side in self._sides)
        return f"DomainRangeIndex({heads:,} heads and {tails:,} tails of relations)"

    @classmethod
    def listed(
        cls, relation: Int[Tensor, " n"], head: Bool[Tensor, " n"], entity: Int[Tensor, " n"], n_entities: int
    ) -> DomainRangeIndex:
        """An index of a list that names one entity a row; `head` says on which side of the relation it belongs."""
        found = cls(torch.empty(0, 3, dtype=torch.int64), n_entities)
        found._sides = (
            _Side.of(relation[~head], entity[~head], n_entities),
            _Side.of(relation[head], entity[head], n_entities),
        )
        return found

    def members(self, r: Int[Tensor, " R"], head: bool) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All entities of each domain or range, flat: `(row of the relation in r, entity)`."""
        return self._sides[head].flat(r)

    def sample(
        self, r: Int[Tensor, " R"], head: bool, start: Int[Tensor, " R"], width: int
    ) -> tuple[Int[Tensor, "R M"], Bool[Tensor, "R M"], Float[Tensor, " R"]]:
        """M distinct entities of each domain or range by systematic sampling.

        From a random start every (size / M)-th entity is taken, so that each of them is equally likely to be drawn.

        Args:
            r, head: whose domain or range.
            start: `random_bits`.
            width: M.

        Returns:
            The entities; which of them count (a domain of fewer than M entities gives all of them, and the other
            columns do not count); the probability with which each entity of the domain is drawn.
        """
        side = self._sides[head]
        place, found = side.find(r)
        first = side.offsets[place][:, None]
        size = torch.where(found, side.offsets[place + 1] - side.offsets[place], 0)
        taken = size.clamp(max=width)
        column = torch.arange(width, device=r.device)
        # The start is a fraction of the first interval: floor((start + column) size / M), in whole numbers.
        last = (size - 1).clamp(min=0)[:, None]
        nth = (column * size[:, None] + below(start, size)[:, None]) // taken.clamp(min=1)[:, None]
        nth = torch.minimum(nth, last)
        entities = side.targets[(first + nth).clamp(max=len(side.targets) - 1)]
        return entities, column < taken[:, None], taken / size.clamp(min=1)

    def draw(
        self, r: Int[Tensor, " B"], head: bool, bits: Int[Tensor, "B K"]
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Entities of each domain or range, drawn uniformly and with replacement.

        Args:
            r, head: whose domain or range.
            bits: `random_bits`.

        Returns:
            The entities, which mean nothing where the domain is empty; the size of each row's domain or range.
        """
        side = self._sides[head]
        if not len(side.targets):
            return torch.zeros_like(bits), torch.zeros_like(r)
        place, found = side.find(r)
        size = torch.where(found, side.offsets[place + 1] - side.offsets[place], 0)
        drawn = side.offsets[place][:, None] + below(bits, size[:, None])
        return side.targets[drawn.clamp(max=len(side.targets) - 1)], size

    def sizes(self, r: Int[Tensor, "*n"], head: bool) -> Int[Tensor, "*n"]:
        """How many entities each domain or range has."""
        return self._sides[head].counts(r.flatten()).view(r.shape)

    def holds(self, entities: Int[Tensor, "*n"], r: Int[Tensor, "*n"], head: bool) -> Bool[Tensor, "*n"]:
        """Whether each entity belongs to the domain or range of its own relation."""
        return self._sides[head].contains(r.flatten(), entities.flatten(), self.n_entities).view(r.shape)

    def contains(self, entities: Int[Tensor, " P"], r: Int[Tensor, " R"], head: bool) -> Bool[Tensor, "R P"]:
        """Whether each entity belongs to each domain or range."""
        side = self._sides[head]
        place, found = side.find(r)
        shape = (len(r), len(entities))
        return found[:, None] & side.holds(place[:, None].expand(shape), entities.expand(shape), self.n_entities)


class TripleIndex(_TwoSided):
    """Which triples are true: `(h, r) -> tails` and `(r, t) -> heads` in compressed sparse rows.

    Every query is vectorised and costs O(log n) an element. Duplicate triples count once.

    Args:
        triples: Int[n 3] (h, r, t).
        n_entities, n_relations: sizes of the vocabularies.

    Raises:
        MmrnsError: `E * E * R` does not fit 63 bits.
    """

    def __init__(self, triples: Int[Tensor, "n 3"], n_entities: int, n_relations: int):
        if n_entities * n_entities * n_relations >= 2**63:
            raise MmrnsError(
                f"{n_entities:,} entities and {n_relations:,} relations are too many for 64-bit triple keys"
            )
        self.n_entities, self.n_relations = n_entities, n_relations
        h, r, t = triples.unbind(1)
        self._sides = (
            _Side.of(h * n_relations + r, t, n_entities),
            _Side.of(t * n_relations + r, h, n_entities),
        )

    def __len__(self) -> int:
        """Number of distinct triples."""
        return len(self._sides[0].targets)

    def __repr__(self) -> str:
        return f"TripleIndex({len(self):,} triples)"

    def _key(self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        return anchor * self.n_relations + r

    def counts(self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: bool) -> Int[Tensor, " B"]:
        """Number of known targets of each query."""
        return self._sides[head].counts(self._key(anchor, r))

    def queries(self, head: bool) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
        """The distinct queries of a side: `(anchor, relation)`, in the order that `places` counts."""
        key = self._sides[head].keys[:-1]
        return key // self.n_relations, key % self.n_relations

    def places(self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: bool) -> Int[Tensor, " B"]:
        """The place of each query among `queries`; their number where it is not among them."""
        side = self._sides[head]
        place, found = side.find(self._key(anchor, r))
        return torch.where(found, place, len(side.keys) - 1)

    def targets(
        self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: bool, size: int | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of all queries, flat: `(row of the query, entity)`, rows ascending.

        Args:
            anchor, r, head: the queries.
            size: n, where it is known; otherwise the host waits for the device to say it.
        """
        return self._sides[head].flat(self._key(anchor, r), size)

    def degrees(self, head: bool) -> Int[Tensor, " E"]:
        """How many queries of a side each entity answers."""
        return torch.bincount(self._sides[head].targets, minlength=self.n_entities)

    def answered(
        self, entities: Int[Tensor, " P"], head: bool, size: int | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All queries of a side that each entity answers, flat: `(row of the entity, key of the query)`.

        Args:
            entities: targets.
            head: the side.
            size: n, the sum of their `degrees`, where it is known; otherwise the host waits for the device to say it.

        Returns:
            Rows, ascending, and keys as `query_keys` has them.
        """
        # The queries whose target is e are the targets of all (e, r) on the other side.
        side = self._sides[not head]
        first = side.offsets[torch.searchsorted(side.keys, entities * self.n_relations)]
        count = side.offsets[torch.searchsorted(side.keys, (entities + 1) * self.n_relations)] - first
        row = torch.repeat_interleave(torch.arange(len(entities), device=entities.device), count, output_size=size)
        position = torch.arange(len(row), device=row.device) + (first - (count.cumsum(0) - count))[row]
        place = torch.searchsorted(side.offsets, position, right=True) - 1
        return row, self._key(side.targets[position], side.keys[place] % self.n_relations)

    def query_keys(self, batch: Batch) -> Int[Tensor, " B"]:
        """A number for the query of each row; rows of one side have the same one only where their query is the same."""
        return self._key(batch.anchor, batch.r)

    def batch_targets(
        self, batch: Batch, sizes: tuple[int, int] | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of every row of a batch, whichever side it replaces, flat: `(row, entity)`.

        Args:
            batch: the rows.
            sizes: how many targets there are on each side, where that is known (`batch.n_true` for the train index).
        """
        anchor = batch.anchor
        parts = [
            (rows.start, *self.targets(anchor[rows], batch.r[rows], head, None if sizes is None else sizes[head]))
            for head, rows in batch.sides
        ]
        return torch.cat([start + row for start, row, _ in parts]), torch.cat([entity for _, _, entity in parts])

    def batch_mask(self, batch: Batch, sizes: tuple[int, int] | None = None) -> Bool[Tensor, "B E"]:
        """True for the known targets of every row of a batch; see `batch_targets`."""
        mask = torch.zeros(len(batch), self.n_entities, dtype=torch.bool, device=batch.h.device)
        # A value of the device: writing a Python number would copy it there, for which the host waits.
        return mask.index_put_(self.batch_targets(batch, sizes), mask.new_ones(()))

    def batch_counts(self, batch: Batch) -> tuple[int, int]:
        """How many known targets the tail rows of a batch have in all, and the head rows, as numbers of the host."""
        anchor = batch.anchor
        tails, heads = (int(self.counts(anchor[rows], batch.r[rows], head).sum()) for head, rows in batch.sides)
        return tails, heads

    def batch_other_positives(
        self, batch: Batch, u: Float[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another positive of each row: a further known target of its query, whichever side the row replaces.

        Args:
            batch: known triples.
            u: uniform on [0, 1); each further target is equally likely then.

        Returns:
            The entities (the row's own target where there is no other); whether there is another.
        """
        anchor, target = batch.anchor, batch.target
        found: list[Tensor] = []
        several: list[Tensor] = []
        for head, rows in batch.sides:
            side, own = self._sides[head], target[rows]
            place, _ = side.find(self._key(anchor[rows], batch.r[rows]))
            first = side.offsets[place]
            others = side.offsets[place + 1] - first - 1
            nth = (u[rows] * others).long()
            rank = torch.searchsorted(side.codes, place * (self.n_entities + 1) + own) - first
            # The others are counted without the row's own target, so that those from its rank on are one further.
            other = side.targets[first + nth + ((nth >= rank) & (others > 0)).long()]
            found.append(torch.where(others > 0, other, own))
            several.append(others > 0)
        return torch.cat(found), torch.cat(several)

    def sample_absent(
        self,
        anchor: Int[Tensor, " B"],
        r: Int[Tensor, " B"],
        head: bool,
        bits: Int[Tensor, "B K"],
        among: Int[Tensor, " B"] | int | None = None,
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Entities that are *not* known targets, each as likely as the others, without rejection.

        Args:
            anchor, r, head: the queries.
            bits: `random_bits`.
            among: for each row, draw from the first so many entities only, which must hold all its known targets; by
                default all entities.

        Returns:
            The entities, which mean nothing where none is absent; how many absent entities each row is drawn from.
        """
        free = (self.n_entities if among is None else among) - self.counts(anchor, r, head)
        ids = self.nth_absent(below(bits, free[:, None]), anchor, r, head)
        return ids.clamp(max=self.n_entities - 1), free

    def batch_absent(self, batch: Batch, bits: Int[Tensor, "B K"]) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """`sample_absent` for every row of a batch, whichever side it replaces."""
        anchor = batch.anchor
        parts = [self.sample_absent(anchor[rows], batch.r[rows], head, bits[rows]) for head, rows in batch.sides]
        return torch.cat([ids for ids, _ in parts]), torch.cat([free for _, free in parts])

    def batch_contains(self, batch: Batch, ids: Int[Tensor, "*B K"]) -> Bool[Tensor, "B K"]:
        """Whether each entity, one list a row or one for all rows, makes a known triple in the place of the target."""
        head, shape = batch.head[:, None], (len(batch), ids.shape[-1])
        h, t = torch.where(head, ids, batch.h[:, None]), torch.where(head, batch.t[:, None], ids)
        return self.contains(h, batch.r[:, None].expand(shape), t)

    def contains(self, h: Int[Tensor, "*n"], r: Int[Tensor, "*n"], t: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether each triple is known."""
        key = self._key(h.flatten(), r.flatten())
        return self._sides[0].contains(key, t.flatten(), self.n_entities).view(h.shape)

    def nth_absent(
        self, n: Int[Tensor, "B K"], anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: bool
    ) -> Int[Tensor, "B K"]:
        """The n-th entity (from 0) that is *not* a known target of each row's query.

        With n uniform on `[0, E - counts)` this is an exact filtered uniform draw without rejection: the n-th absent
        id is `n + j`, where j counts the known targets `v_i` (ascending, from i = 0) with `v_i - i <= n`.
        """
        side = self._sides[head]
        place, found = side.find(self._key(anchor, r))
        wanted = place[:, None] * (self.n_entities + 1) + n
        below = torch.searchsorted(side.absent, wanted, right=True) - side.offsets[place][:, None]
        return n + torch.where(found[:, None], below, 0)
