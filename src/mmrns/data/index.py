"""Two indexes of triples in compressed sparse rows (CSR), which answer questions about whole batches.

`TripleIndex` knows which triples are true, `DomainRangeIndex` which entities a relation has on either side.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.errors import MmrnsError
from mmrns.rng import below
from mmrns.types import Batch


def ranges(
    first: Int[Tensor, " n"], count: Int[Tensor, " n"], size: int | None = None
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Ranges of positions one after the other: `(row, position)`, which range each is of; `size` is their number if
    known.
    """
    # Without the size torch has to ask the device for it.
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count, output_size=size)
    before = count.cumsum(0) - count
    return row, torch.arange(len(row), device=count.device) + (first - before)[row]


@dataclass(frozen=True)
class _Rows:
    """CSR of both sides: the distinct keys and the targets of each, all ascending.

    The last key is a sentinel that has no targets. It is the place of every key that is not there, so that nothing has
    to be asked twice: neither has the sentinel a target, nor is any entity behind one.
    """

    keys: Int[Tensor, " Q"]
    offsets: Int[Tensor, " Q+1"]
    sizes: Int[Tensor, " Q"]
    targets: Int[Tensor, " M"]
    codes: Int[Tensor, " M"]
    """`place * (E + 1) + target`, ascending over the whole array: for `contains`."""
    absent: Int[Tensor, " M"]
    """`code - rank of the target within its key`, ascending too: for `nth_absent`."""
    n_entities: int

    @classmethod
    def of(cls, parts: Sequence[tuple[Int[Tensor, " n"], Int[Tensor, " n"]]], n_entities: int, shift: int = 0) -> _Rows:
        """From parts (keys, targets), where all keys are less than `shift`, which is added once more to each part.

        Raises:
            MmrnsError: the distinct keys times the entities do not fit 63 bits.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for part, (key, target) in enumerate(parts):
            known = None
            if len(key) and (int(key.max()) + 1) * n_entities >= 2**63:
                # Keys and targets that fit no common number are numbered first, which takes another sort.
                known, key = torch.unique(key, return_inverse=True)
            pairs = torch.unique(key * n_entities + target)
            keys, counts = torch.unique_consecutive(pairs // n_entities, return_counts=True)
            keys = keys if known is None else known
            found.append((keys + part * shift, counts, pairs % n_entities))
        keys, counts, targets = (torch.cat(columns) for columns in zip(*found, strict=True))
        if (len(keys) + 1) * (n_entities + 1) >= 2**63:
            raise MmrnsError(f"{len(keys):,} queries of {n_entities:,} entities are too many for 64-bit numbers")
        keys = torch.cat([keys, keys.new_tensor([torch.iinfo(torch.int64).max])])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0), counts.sum()[None]])
        place = torch.repeat_interleave(torch.arange(len(counts)), counts)
        codes = place * (n_entities + 1) + targets
        absent = codes - torch.arange(len(codes)) + offsets[place]
        return cls(keys, offsets, offsets.diff(), targets, codes, absent, n_entities)

    def to(self, device: torch.device | str) -> _Rows:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def find(self, key: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The place of each key; that of the sentinel where it is not there."""
        place = torch.searchsorted(self.keys, key.contiguous())
        return torch.where(self.keys[place] == key, place, len(self.keys) - 1)

    def flat(self, place: Int[Tensor, " B"], size: int | None = None) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All targets of the keys at these places: `(row, target)`, rows ascending; `size` is their number if known."""
        row, position = ranges(self.offsets[place], self.sizes[place], size)
        return row, self.targets[position]

    def holds(self, place: Int[Tensor, "*n"], target: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether each target belongs to the key at its place; the search costs less where the targets ascend."""
        wanted = place * (self.n_entities + 1) + target
        if not len(self.codes):
            return torch.zeros_like(wanted, dtype=torch.bool)
        # One past the end is the only place outside; it cannot match, so any inside place will do.
        inside = torch.searchsorted(self.codes, wanted.contiguous()).clamp(max=len(self.codes) - 1)
        return self.codes[inside] == wanted

    def nth_absent(self, place: Int[Tensor, " B"], n: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The n-th entity that is no target of the key at each row's place; see `TripleIndex.nth_absent`."""
        wanted = (place * (self.n_entities + 1))[:, None] + n
        return n + torch.searchsorted(self.absent, wanted, right=True) - self.offsets[place][:, None]


_Index = TypeVar("_Index", bound="_TwoSided")

Side = bool | Bool[Tensor, " B"]
"""Which side is asked for: the same for all rows, or for each row; True are the heads."""


class _TwoSided:
    """An index with rows for the tails and rows for the heads."""

    _rows: _Rows

    def to(self: _Index, device: torch.device | str) -> _Index:
        """The same index on another device; itself where it lies there."""
        if self.device == torch.device(device):
            return self
        moved = copy(self)
        moved._rows = self._rows.to(device)
        return moved

    @property
    def device(self) -> torch.device:
        """Where the index lies."""
        return self._rows.keys.device


class DomainRangeIndex(_TwoSided):
    """The domain and the range of each relation: which entities occur as its heads, and which as its tails.

    In all methods `r` are relations, and `head` chooses the side, for all of them or for each: True for the domain
    (heads), False for the range (tails).

    Args:
        triples: Int[n 3] (h, r, t).
        n_entities: size of the vocabulary.
    """

    def __init__(self, triples: Int[Tensor, "n 3"], n_entities: int):
        h, r, t = triples.unbind(1)
        self.n_entities = n_entities
        self._index(torch.cat([self._key(r, False), self._key(r, True)]), torch.cat([t, h]))

    def _index(self, key: Int[Tensor, " n"], entity: Int[Tensor, " n"]) -> None:
        self._rows = _Rows.of([(key, entity)], self.n_entities)
        self._of_entity = _Rows.of([(entity, key)], int(key.max()) + 1 if len(key) else 1)

    def to(self, device: torch.device | str) -> DomainRangeIndex:
        """The same index on another device; itself where it lies there."""
        moved = super().to(device)
        if moved is not self:
            moved._of_entity = self._of_entity.to(device)
        return moved

    def __repr__(self) -> str:
        of_head = self._rows.keys[:-1] % 2 == 1
        tails, heads = (int(self._rows.sizes[:-1][side].sum()) for side in (~of_head, of_head))
        return f"DomainRangeIndex({heads:,} heads and {tails:,} tails of relations)"

    @classmethod
    def listed(
        cls, relation: Int[Tensor, " n"], head: Bool[Tensor, " n"], entity: Int[Tensor, " n"], n_entities: int
    ) -> DomainRangeIndex:
        """An index of a list that names one entity a row; `head` says on which side of the relation it belongs."""
        found = cls(torch.empty(0, 3, dtype=torch.int64), n_entities)
        found._index(cls._key(relation, head), entity)
        return found

    @staticmethod
    def _key(r: Int[Tensor, "*n"], head: Side) -> Int[Tensor, "*n"]:
        return 2 * r + head

    def _find(self, r: Int[Tensor, " R"], head: Side) -> Int[Tensor, " R"]:
        return self._rows.find(self._key(r, head))

    def members(self, r: Int[Tensor, " R"], head: Side) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All entities of each domain or range, flat: `(row of the relation in r, entity)`."""
        return self._rows.flat(self._find(r, head))

    def sample(
        self, r: Int[Tensor, " R"], head: Side, start: Int[Tensor, " R"], width: int
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
        place = self._find(r, head)
        first, size = self._rows.offsets[place][:, None], self._rows.sizes[place]
        taken = size.clamp(max=width)
        column = torch.arange(width, device=r.device)
        # The start is a fraction of the first interval: floor((start + column) size / M), in whole numbers.
        last = (size - 1).clamp(min=0)[:, None]
        nth = (column * size[:, None] + below(start, size)[:, None]) // taken.clamp(min=1)[:, None]
        nth = torch.minimum(nth, last)
        return self._at(first + nth), column < taken[:, None], taken / size.clamp(min=1)

    def _at(self, position: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The targets at some positions; any entity for positions behind the last one."""
        targets = self._rows.targets
        return targets[position.clamp(max=len(targets) - 1)] if len(targets) else torch.zeros_like(position)

    def draw(
        self, r: Int[Tensor, " B"], head: Side, bits: Int[Tensor, "B K"]
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Entities of each domain or range, drawn uniformly and with replacement.

        Args:
            r, head: whose domain or range.
            bits: `random_bits`.

        Returns:
            The entities, which mean nothing where the domain is empty; the size of each row's domain or range.
        """
        place = self._find(r, head)
        size = self._rows.sizes[place]
        return self._at(self._rows.offsets[place][:, None] + below(bits, size[:, None])), size

    def sizes(self, r: Int[Tensor, "*n"], head: bool) -> Int[Tensor, "*n"]:
        """How many entities each domain or range has."""
        return self._rows.sizes[self._find(r.flatten(), head)].view(r.shape)

    def holds(self, entities: Int[Tensor, "*n"], r: Int[Tensor, "*n"], head: bool) -> Bool[Tensor, "*n"]:
        """Whether each entity belongs to the domain or range of its own relation."""
        return self._rows.holds(self._find(r.flatten(), head), entities.flatten()).view(r.shape)

    def occurrences(self) -> Int[Tensor, " E"]:
        """Of how many domains and ranges each entity is."""
        return torch.bincount(self._rows.targets, minlength=self.n_entities)

    def contains(
        self,
        entities: Int[Tensor, "*N P"],
        r: Int[Tensor, " R"],
        head: Side,
        size: int | None = None,
        of: Int[Tensor, " R"] | None = None,
    ) -> Bool[Tensor, "R P"]:
        """Whether each entity belongs to each domain or range.

        Args:
            entities: to ask about, one list or N.
            r, head: whose domains and ranges, all different ones of a list.
            size: the sum of the `occurrences` of the entities. Where it is known, these are listed, which costs less
                than R x P searches.
            of: which of the lists each domain or range is asked about; by default there is one.
        """
        lists = entities if entities.ndim == 2 else entities[None]
        n, n_columns = len(r), lists.shape[1]
        of = torch.zeros_like(r) if of is None else of
        if size is None:
            asked = lists.index_select(0, of)
            return self._rows.holds(self._find(r, head)[:, None].expand_as(asked), asked)
        # Of each list and key the row that asks; one more a list for keys that nothing has, and one row that takes what
        # is not asked about.
        n_keys = self._of_entity.n_entities + 1
        row = torch.full((len(lists) * n_keys,), n, device=r.device)
        asking = of * n_keys + self._key(r, head).clamp(max=n_keys - 1)
        row.index_copy_(0, asking, torch.arange(n, device=r.device))
        place, key = self._of_entity.flat(self._of_entity.find(lists.flatten()), size)
        found = torch.zeros(n + 1, n_columns, dtype=torch.bool, device=r.device)
        answering = row[place // max(1, n_columns) * n_keys + key]
        return found.index_put_((answering, place % max(1, n_columns)), found.new_ones(()))[:-1]


_NUMBERS = itertools.count()


class TripleIndex(_TwoSided):
    """Which triples are true: `(h, r) -> tails` and `(r, t) -> heads` in compressed sparse rows.

    Every query is vectorised and costs O(log n) an element. Duplicate triples count once.

    Args:
        triples: Int[n 3] (h, r, t).
        n_entities, n_relations: sizes of the vocabularies.

    Attributes:
        number: of this index and its copies on other devices, of no other one in the process.

    Raises:
        MmrnsError: `2 * E * R`, or the distinct queries of both sides times E, do not fit 63 bits.
    """

    def __init__(self, triples: Int[Tensor, "n 3"], n_entities: int, n_relations: int):
        if 2 * n_entities * n_relations >= 2**63:
            raise MmrnsError(f"{n_entities:,} entities and {n_relations:,} relations are too many for 64-bit keys")
        self.n_entities, self.n_relations, self.number = n_entities, n_relations, next(_NUMBERS)
        h, r, t = triples.unbind(1)
        parts = [(self._key(h, r, False), t), (self._key(t, r, False), h)]
        self._rows = _Rows.of(parts, n_entities, shift=n_entities * n_relations)

    def __len__(self) -> int:
        """Number of distinct triples."""
        return len(self._rows.targets) // 2

    def __repr__(self) -> str:
        return f"TripleIndex({len(self):,} triples)"

    def _key(self, anchor: Int[Tensor, "*n"], r: Int[Tensor, "*n"], head: Side) -> Int[Tensor, "*n"]:
        key = anchor * self.n_relations + r
        if isinstance(head, bool):
            return key + self.n_entities * self.n_relations if head else key
        return torch.add(key, head, alpha=self.n_entities * self.n_relations)

    def placed(self, batch: Batch) -> Batch:
        """The same batch, which says how many known targets its rows have, and where they are."""
        place = self.places(batch)
        return replace(batch, n_true=int(self._rows.sizes[place].sum()), place=place, index=self.number)

    def counts(self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: Side) -> Int[Tensor, " B"]:
        """Number of known targets of each query."""
        return self._rows.sizes[self._rows.find(self._key(anchor, r, head))]

    def queries(self) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"], Bool[Tensor, " Q"]]:
        """The distinct queries of both sides, `(anchor, relation, head)`, in the order that `places` counts."""
        key = self._rows.keys[:-1]
        anchor = key // self.n_relations
        return anchor % self.n_entities, key % self.n_relations, anchor >= self.n_entities

    def places(self, batch: Batch) -> Int[Tensor, " B"]:
        """The place of each row's query among `queries`; their number where it is not among them."""
        if batch.place is not None and batch.index == self.number:
            return batch.place
        return self._rows.find(self.query_keys(batch))

    def targets(
        self, anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: Side, size: int | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of all queries, flat: `(row of the query, entity)`, rows ascending.

        Args:
            anchor, r, head: the queries.
            size: n, where it is known; otherwise the host waits for the device to say it.
        """
        return self._rows.flat(self._rows.find(self._key(anchor, r, head)), size)

    def degrees(self) -> Int[Tensor, " E"]:
        """How many queries each entity answers, of both sides together."""
        return torch.bincount(self._rows.targets, minlength=self.n_entities)

    def answered(
        self, entities: Int[Tensor, "*N P"], size: int | None = None
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All queries that each entity answers, of both sides, flat: `(place of the entity, key of the query)`.

        Args:
            entities: targets, one list or N of them.
            size: n, the sum of their `degrees`, where it is known; otherwise the host waits for the device to say it.

        Returns:
            Places within a list, list by list, and keys as `query_keys` has them.
        """
        # The queries whose target is e are the targets of all (e, r) on the other side.
        rows, n_columns = self._rows, entities.shape[-1]
        first_key = entities * self.n_relations
        first_key = torch.stack([first_key, first_key + self.n_entities * self.n_relations], dim=-2).flatten()
        bounds = torch.searchsorted(rows.keys, torch.stack([first_key, first_key + self.n_relations]))
        first, end = rows.offsets[bounds].unbind()
        asked, position = ranges(first, end - first, size)
        place = torch.searchsorted(rows.offsets, position, right=True) - 1
        head = asked // max(1, n_columns) % 2 == 0
        key = self._key(rows.targets[position], rows.keys[place] % self.n_relations, head)
        return asked % max(1, n_columns), key

    def query_keys(self, batch: Batch) -> Int[Tensor, " B"]:
        """A number for the query of each row, the same one only where side, anchor and relation are the same."""
        return self._key(batch.anchor, batch.r, batch.head)

    def batch_targets(self, batch: Batch, size: int | None = None) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """All known targets of every row of a batch, flat: `(row, entity)`.

        Args:
            batch: the rows.
            size: how many targets there are, where that is known (`batch.n_true` for the train index).
        """
        return self._rows.flat(self.places(batch), size)

    def batch_mask(self, batch: Batch, size: int | None = None) -> Bool[Tensor, "B E"]:
        """True for the known targets of every row of a batch; see `batch_targets`."""
        mask = torch.zeros(len(batch), self.n_entities, dtype=torch.bool, device=batch.h.device)
        # A value of the device: writing a Python number would copy it there, for which the host waits.
        return mask.index_put_(self.batch_targets(batch, size), mask.new_ones(()))

    def batch_other_positives(
        self, batch: Batch, u: Float[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another positive of each row: a further known target of its query.

        Args:
            batch: known triples.
            u: uniform on [0, 1); each further target is equally likely then.

        Returns:
            The entities (the row's own target where there is no other); whether there is another.
        """
        rows, own, place = self._rows, batch.target, self.places(batch)
        first, others = rows.offsets[place], rows.sizes[place] - 1
        nth = (u * others).long()
        rank = torch.searchsorted(rows.codes, place * (self.n_entities + 1) + own) - first
        several = others > 0
        # The others are counted without the row's own target, so that those from its rank on are one further.
        other = rows.targets[first + nth + ((nth >= rank) & several).long()]
        return torch.where(several, other, own), several

    def sample_absent(
        self,
        anchor: Int[Tensor, " B"],
        r: Int[Tensor, " B"],
        head: Side,
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
        return self._absent(self._rows.find(self._key(anchor, r, head)), bits, among)

    def _absent(
        self, place: Int[Tensor, " B"], bits: Int[Tensor, "B K"], among: Int[Tensor, " B"] | int | None = None
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        free = (self.n_entities if among is None else among) - self._rows.sizes[place]
        ids = self._rows.nth_absent(place, below(bits, free[:, None]))
        return ids.clamp(max=self.n_entities - 1), free

    def batch_absent(self, batch: Batch, bits: Int[Tensor, "B K"]) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """`sample_absent` for every row of a batch."""
        return self._absent(self.places(batch), bits)

    def batch_contains(self, batch: Batch, ids: Int[Tensor, "*B K"]) -> Bool[Tensor, "B K"]:
        """Whether each entity, one list a row or one for all rows, makes a known triple in the place of the target."""
        place = self.places(batch)[:, None]
        shape = (len(batch), ids.shape[-1])
        return self._rows.holds(place.expand(shape), ids.expand(shape))

    def contains(self, h: Int[Tensor, "*n"], r: Int[Tensor, "*n"], t: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether each triple is known."""
        place = self._rows.find(self._key(h.flatten(), r.flatten(), False))
        return self._rows.holds(place, t.flatten()).view(h.shape)

    def nth_absent(
        self, n: Int[Tensor, "B K"], anchor: Int[Tensor, " B"], r: Int[Tensor, " B"], head: Side
    ) -> Int[Tensor, "B K"]:
        """The n-th entity (from 0) that is *not* a known target of each row's query.

        With n uniform on `[0, E - counts)` this is an exact filtered uniform draw without rejection: the n-th absent
        id is `n + j`, where j counts the known targets `v_i` (ascending, from i = 0) with `v_i - i <= n`.
        """
        return self._rows.nth_absent(self._rows.find(self._key(anchor, r, head)), n)
