"""Indexes of triples, in compressed sparse rows: what is true, and which entities a relation has on either side."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.errors import MmrnsError
from mmrns.types import Batch


@dataclass(frozen=True)
class _Side:
    """CSR of one side: the distinct `(anchor, relation)` keys and the targets of each, all ascending.

    The last key is a sentinel without targets, so that a search never runs off the end.
    """

    keys: Int[Tensor, " Q"]
    offsets: Int[Tensor, " Q+1"]
    targets: Int[Tensor, " M"]
    codes: Int[Tensor, " M"]
    """`slot * (E + 1) + target`, ascending over the whole array: for `contains`."""
    absent: Int[Tensor, " M"]
    """`code - rank of the target within its key`, ascending too: for `nth_absent`."""

    @classmethod
    def of(cls, key: Int[Tensor, " n"], target: Int[Tensor, " n"], n_entities: int) -> _Side:
        pairs = torch.unique(key * n_entities + target)
        keys, slot, counts = torch.unique_consecutive(pairs // n_entities, return_inverse=True, return_counts=True)
        keys = torch.cat([keys, keys.new_tensor([torch.iinfo(torch.int64).max])])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0), counts.sum()[None]])
        targets = pairs % n_entities
        codes = slot * (n_entities + 1) + targets
        return cls(keys, offsets, targets, codes, codes - torch.arange(len(codes)) + offsets[slot])

    def to(self, device: torch.device | str) -> _Side:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def find(self, key: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """The slot of each key, and whether the key is there."""
        slot = torch.searchsorted(self.keys, key.contiguous())
        return slot, self.keys[slot] == key

    def counts(self, key: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Number of targets of each key."""
        slot, found = self.find(key)
        return torch.where(found, self.offsets[slot + 1] - self.offsets[slot], 0)

    def flat(self, key: Int[Tensor, " B"], size: int | None = None) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All targets of all keys: `(place of the key, target)`, places ascending; `size` is their number, if known."""
        slot, found = self.find(key)
        start = self.offsets[slot]
        count = torch.where(found, self.offsets[slot + 1] - start, 0)
        # Without the size torch has to ask the device for it.
        row = torch.repeat_interleave(torch.arange(len(slot), device=slot.device), count, output_size=size)
        first = count.cumsum(0) - count
        position = torch.arange(len(row), device=slot.device) - first[row] + start[row]
        return row, self.targets[position]

    def contains(self, key: Int[Tensor, " B"], target: Int[Tensor, " B"], n_entities: int) -> Bool[Tensor, " B"]:
        """Whether each target belongs to its key."""
        slot, found = self.find(key)
        return found & self.holds(slot, target, n_entities)

    def holds(self, slot: Int[Tensor, "*n"], target: Int[Tensor, "*n"], n_entities: int) -> Bool[Tensor, "*n"]:
        """Whether each target belongs to the key at its slot; a search costs less where the targets ascend."""
        wanted = slot * (n_entities + 1) + target
        if not len(self.codes):
            return torch.zeros_like(wanted, dtype=torch.bool)
        # One past the end is the only place outside; it cannot match, so any inside place will do.
        inside = torch.searchsorted(self.codes, wanted.contiguous()).clamp(max=len(self.codes) - 1)
        return self.codes[inside] == wanted


_Index = TypeVar("_Index", bound="_TwoSided")


class _TwoSided:
    """What has a `_Side` for the tails that a question can have, and one for the heads."""

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


class SlotIndex(_TwoSided):
    """Which entities fill a slot: for a relation, its heads and its tails, in compressed sparse rows.

    Args:
        triples: Int[n 3] (h, r, t).
        n_entities: size of the vocabulary.
    """

    def __init__(self, triples: Int[Tensor, "n 3"], n_entities: int):
        h, r, t = triples.unbind(1)
        self.n_entities = n_entities
        self._sides = (_Side.of(r, t, n_entities), _Side.of(r, h, n_entities))

    @classmethod
    def listed(
        cls, relation: Int[Tensor, " n"], head: Bool[Tensor, " n"], entity: Int[Tensor, " n"], n_entities: int
    ) -> SlotIndex:
        """Of slots that are listed one entity a row, `head` telling the side."""
        found = cls(torch.empty(0, 3, dtype=torch.int64), n_entities)
        found._sides = (
            _Side.of(relation[~head], entity[~head], n_entities),
            _Side.of(relation[head], entity[head], n_entities),
        )
        return found

    def members(self, r: Int[Tensor, " R"], head: bool) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All entities of all slots, flat: `(place of the relation, entity)`."""
        return self._sides[head].flat(r)

    def sample(
        self, r: Int[Tensor, " R"], head: bool, start: Float[Tensor, " R"], width: int
    ) -> tuple[Int[Tensor, "R M"], Bool[Tensor, "R M"], Float[Tensor, " R"]]:
        """M distinct fillers of each slot by systematic sampling: every (size / M)-th from a random start.

        Args:
            r, head: the slots.
            start: uniform on [0, 1), float64.
            width: M.

        Returns:
            The fillers; which of them count (a slot of fewer than M gives all that it has); the probability with which
            each entity of a slot is among them.
        """
        side = self._sides[head]
        slot, found = side.find(r)
        first = side.offsets[slot][:, None]
        size = torch.where(found, side.offsets[slot + 1] - side.offsets[slot], 0)
        taken = size.clamp(max=width)
        column = torch.arange(width, device=r.device)
        every = (size / taken.clamp(min=1)).to(torch.float64)[:, None]
        last = (size - 1).clamp(min=0)[:, None]
        nth = torch.minimum(((start[:, None] + column) * every).long(), last)
        fillers = side.targets[(first + nth).clamp(max=len(side.targets) - 1)]
        return fillers, column < taken[:, None], taken / size.clamp(min=1)

    def draw(
        self, r: Int[Tensor, " B"], head: bool, u: Float[Tensor, "B K"]
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Fillers of each slot, uniform with replacement.

        Args:
            r, head: the slots.
            u: uniform on [0, 1), float64.

        Returns:
            The fillers, any entity where there is none; from how many each row is drawn.
        """
        side = self._sides[head]
        if not len(side.targets):
            return torch.zeros_like(u, dtype=torch.int64), torch.zeros_like(r)
        slot, found = side.find(r)
        size = torch.where(found, side.offsets[slot + 1] - side.offsets[slot], 0)
        place = side.offsets[slot][:, None] + (u * size[:, None]).long()
        return side.targets[place.clamp(max=len(side.targets) - 1)], size

    def contains(self, entities: Int[Tensor, " P"], r: Int[Tensor, " R"], head: bool) -> Bool[Tensor, "R P"]:
        """Whether each entity fills each slot."""
        side = self._sides[head]
        slot, found = side.find(r)
        shape = (len(r), len(entities))
        return found[:, None] & side.holds(slot[:, None].expand(shape), entities.expand(shape), self.n_entities)


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
        slot, found = side.find(self._key(anchor, r))
        return torch.where(found, slot, len(side.keys) - 1)

    def targets(
        self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: bool, size: int | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of all queries, flat: `(row of the query, entity)`, rows ascending.

        Args:
            anchor, r, head: the queries.
            size: n, where it is known; otherwise the device is asked, which waits for it.
        """
        return self._sides[head].flat(self._key(anchor, r), size)

    def batch_targets(
        self, batch: Batch, sizes: tuple[int, int] | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of every row of a batch, whichever side it replaces, flat: `(row, entity)`.

        Args:
            batch: the rows.
            sizes: how many there are on each side, where it is known: of the train index `batch.n_true`.
        """
        anchor = batch.anchor
        parts = [
            (rows.start, *self.targets(anchor[rows], batch.r[rows], head, None if sizes is None else sizes[head]))
            for head, rows in batch.sides
        ]
        return torch.cat([start + row for start, row, _ in parts]), torch.cat([entity for _, _, entity in parts])

    def batch_counts(self, batch: Batch) -> tuple[int, int]:
        """How many known targets the tail rows of a batch have in all, and the head rows, as numbers of the host."""
        anchor = batch.anchor
        tails, heads = (int(self.counts(anchor[rows], batch.r[rows], head).sum()) for head, rows in batch.sides)
        return tails, heads

    def batch_fellows(self, batch: Batch, u: Float[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another known target of each row's query, whichever side it replaces.

        Args:
            batch: known triples.
            u: uniform on [0, 1), which makes each other target as likely.

        Returns:
            The entities, the row's own where it is the only one; whether there is another.
        """
        anchor, target = batch.anchor, batch.target
        found: list[Tensor] = []
        several: list[Tensor] = []
        for head, rows in batch.sides:
            side, own = self._sides[head], target[rows]
            slot, _ = side.find(self._key(anchor[rows], batch.r[rows]))
            first = side.offsets[slot]
            others = side.offsets[slot + 1] - first - 1
            nth = (u[rows] * others).long()
            rank = torch.searchsorted(side.codes, slot * (self.n_entities + 1) + own) - first
            # Counted among the others, which the row's own does not belong to.
            other = side.targets[first + nth + ((nth >= rank) & (others > 0)).long()]
            found.append(torch.where(others > 0, other, own))
            several.append(others > 0)
        return torch.cat(found), torch.cat(several)

    def sample_absent(
        self,
        anchor: Int[Tensor, " B"],
        r: Int[Tensor, " B"],
        head: bool,
        u: Float[Tensor, "B K"],
        among: Int[Tensor, " B"] | int | None = None,
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Entities that are *not* known targets, each as likely as the others, without rejection.

        Args:
            anchor, r, head: the queries.
            u: uniform on [0, 1), float64.
            among: draw from the first so many entities, which hold all known targets; all of them by default.

        Returns:
            The entities, any where there is none; from how many each row is drawn.
        """
        free = (self.n_entities if among is None else among) - self.counts(anchor, r, head)
        ids = self.nth_absent((u * free[:, None]).long(), anchor, r, head)
        return ids.clamp(max=self.n_entities - 1), free

    def batch_absent(self, batch: Batch, u: Float[Tensor, "B K"]) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """`sample_absent` for every row of a batch, whichever side it replaces."""
        anchor = batch.anchor
        parts = [self.sample_absent(anchor[rows], batch.r[rows], head, u[rows]) for head, rows in batch.sides]
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
        slot, found = side.find(self._key(anchor, r))
        wanted = slot[:, None] * (self.n_entities + 1) + n
        below = torch.searchsorted(side.absent, wanted, right=True) - side.offsets[slot][:, None]
        return n + torch.where(found[:, None], below, 0)
