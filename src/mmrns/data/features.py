"""The features of entities: a modality gives an entity token vectors, matched by name and mapped from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmrns.data.folders import largest_exponent
from mmrns.data.tables import read_lines
from mmrns.data.tokens import Origin, origins_path, parse_origins, read_origins
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError, unknown
from mmrns.files import stamp_of
from mmrns.rng import generator

CHUNK = 1024
"""How many rows are looked at in one go."""
Alteration = Literal["shuffled", "noise"] | float
"""What takes the place of a modality: its tokens, shuffled among the entities that have some; noise like them; or it is
lost by a share of the entities."""


@dataclass(frozen=True)
class Modality:
    """One modality: it gives some of the entities up to L token vectors of width D.

    Attributes:
        values: [n L D] float16 or float32, mapped from the file where there is one; rows are in the file's order.
        mask: Bool[n L], True where a token is present.
        row: Int[E], the row of each entity; -1 where the entity lacks the modality.
        provenance: how the tokens were made (encoder, revision, ...): the file's metadata.
        unmatched: names that have a row but are not entities of the graph.
        source: the file; None for a modality in memory.
        stamp: of the file when it was opened, see `stamp_of`.
    """

    values: Float[Tensor, "n L D"]
    mask: Bool[Tensor, "n L"]
    row: Int[Tensor, " E"]
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    unmatched: Sequence[str] = ()
    source: Path | None = None
    stamp: tuple[int, int, int] = (0, 0, 0)

    def __repr__(self) -> str:
        shape = " x ".join(f"{size:,}" for size in self.values.shape)
        return f"Modality({shape}, {self.covered:,} of {len(self.row):,} entities)"

    @property
    def tokens(self) -> int:
        """L, the number of tokens an entity has room for."""
        return self.values.shape[1]

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.values.shape[2]

    @property
    def covered(self) -> int:
        """How many entities have a token."""
        return int(self.present.sum())

    @cached_property
    def present(self) -> Bool[Tensor, " E"]:
        """True for entities that have a token."""
        return (self.row >= 0) & self.mask.any(1)[self.row.clamp(min=0)]

    def made_of(self, entity: int) -> list[Origin]:
        """What the present tokens of an entity were made of, in their order: words, or cells of a grid over a picture.

        Nothing where it lacks the modality, or where its file says nothing (`features/NAME.tokens.jsonl`).

        Raises:
            DataError: that file is malformed.
        """
        row = int(self.row[entity])
        if row < 0 or self.source is None or self._origins is None:
            return []
        return parse_origins(origins_path(self.source), self._origins, row, int(self.mask[row].sum()))

    @cached_property
    def _origins(self) -> pl.Series | None:
        return None if self.source is None else read_origins(origins_path(self.source), len(self.values))

    def drop(self, fraction: float, seed: int, *purpose: int | str) -> Modality:
        """The modality without a fraction of the entities that have it, drawn at random.

        With the same seed a larger fraction drops all that a smaller one drops, and more, whatever the order of the
        rows.
        """
        have = self.present.cpu().nonzero().squeeze(1)
        when = torch.rand(len(self.row), dtype=torch.float64, generator=generator(seed, "drop", *purpose))
        gone = have[when[have].argsort()[: round(fraction * len(have))]]
        row = self.row.clone()
        row[gone.to(row.device)] = -1
        return replace(self, row=row)

    def altered(self, how: Alteration, seed: int, *purpose: int | str, entities: int | None = None) -> Modality:
        """The modality with other tokens than the true ones, or for fewer entities; see `Alteration`.

        - `shuffled`: an entity that has the modality is given the tokens of another one that has it, each to one.
        - `noise`: every present token is drawn anew, each of its D numbers from a normal distribution with the mean and
          the standard deviation of that number in all present tokens. How many tokens an entity has stays.
        - a share: see `drop`.

        Args:
            how: what is done.
            seed, purpose: of the draws.
            entities: only the first so many are shuffled, or lose it, and tell mean and deviation. None = all.
        """
        first = replace(self, row=self.row[:entities])
        if how == "noise":
            return self._noise(first, seed, *purpose)
        changed = first._shuffled(seed, *purpose) if how == "shuffled" else first.drop(how, seed, *purpose)
        return replace(changed, row=torch.cat([changed.row, self.row[len(first.row) :]]))

    def _shuffled(self, seed: int, *purpose: int | str) -> Modality:
        have = self.present.cpu().nonzero().squeeze(1)
        # Round a circle in random order, so that nobody keeps its own.
        order = have[torch.randperm(len(have), generator=generator(seed, "shuffled", *purpose))].to(self.row.device)
        return replace(self, row=self.row.index_put((order,), self.row[order.roll(1)]))

    def _noise(self, like: Modality, seed: int, *purpose: int | str) -> Modality:
        """Noise as the tokens of `like` are, a row for each entity that has the modality, in the order of ids."""
        have = self.present.nonzero().squeeze(1)
        count, total, squares = 0, torch.zeros(self.width), torch.zeros(self.width)
        for ids in like.present.nonzero().squeeze(1).split(CHUNK):
            tokens = self.values[self.row[ids]][self.mask[self.row[ids]]].double().cpu()
            count, total, squares = count + len(tokens), total + tokens.sum(0), squares + (tokens**2).sum(0)
        mean = total / max(1, count)
        deviation = (squares / max(1, count) - mean**2).clamp(min=0).sqrt()
        parts = [self.values[:0].cpu()]
        for number, ids in enumerate(torch.arange(len(self.row)).split(CHUNK)):
            # For entities that lack it as well, so that each has its own numbers whoever else is there.
            shape = CHUNK, *self.values.shape[1:]
            drawn = torch.randn(shape, generator=generator(seed, "noise", *purpose, number))[: len(ids)]
            drawn = drawn[self.present[ids].cpu()] * deviation + mean
            parts.append(drawn.to(self.values.dtype))
        row = torch.full_like(self.row, -1)
        row[have] = torch.arange(len(have), device=row.device)
        values = torch.cat(parts).to(self.values.device)
        return replace(self, values=values, mask=self.mask[self.row[have]], row=row, source=None)

    def within(self, own: Vocabulary, other: Vocabulary) -> Modality:
        """The same modality for the entities of another vocabulary; `own` is the one whose ids `row` has."""
        ids = own.find(other.names).to(self.row.device)
        return replace(self, row=torch.where(ids >= 0, self.row[ids.clamp(min=0)], -1))

    def part(self, ids: Int[Tensor, " n"]) -> Modality:
        """The same modality for some of the entities, which are numbered anew.

        Values and mask are those of all, in the file where they are mapped. Nothing tells what the tokens were made of.
        """
        return replace(self, row=self.row[ids.to(self.row.device)], source=None)

    def taken(self) -> Modality:
        """The same with no other rows than those of the entities, in memory."""
        rows, row = self.row[self.row >= 0], torch.full_like(self.row, -1)
        row[self.row >= 0] = torch.arange(len(rows), device=row.device)
        return replace(self, values=self.values[rows], mask=self.mask[rows], row=row, source=None)

    def joined(self, more: Modality) -> Modality:
        """The rows of both, of entities in the same ids; where both have one that of `more` counts.

        The values are then in memory, whether or not they were mapped before, and nothing tells any more what the
        tokens were made of.

        Raises:
            UsageError: `more` has tokens of another width, more of them than there is room for, or values that the type
                of these values cannot hold.
        """
        found, wanted = more.values.shape[1:], self.values.shape[1:]
        if found[1] != wanted[1] or found[0] > wanted[0]:
            raise UsageError(f"tokens [L, D] of {list(found)} where L <= {wanted[0]} and D = {wanted[1]} are expected")
        values = more.values.new_zeros(len(more.values), *wanted, dtype=self.values.dtype)
        mask = more.mask.new_zeros(values.shape[:2])
        values[:, : found[0]], mask[:, : found[0]] = more.values.to(values.dtype), more.mask
        device = self.values.device
        row = torch.where(more.row >= 0, more.row + len(self.values), self.row.to(more.row.device))
        made = replace(
            self,
            values=torch.cat([self.values, values.to(device)]),
            mask=torch.cat([self.mask, mask.to(device)]),
            row=row.to(self.row.device),
            source=None,
        )
        if replace(more, values=values, mask=mask).first_unfit() is not None:
            raise UsageError(f"a value that {str(values.dtype).removeprefix('torch.')} cannot hold; scale the values")
        return made

    def gather(
        self, ids: Int[Tensor, " n"], *, fill: bool = True
    ) -> tuple[Float[Tensor, "n L D"], Bool[Tensor, "n L"]]:
        """Values (float32, zeros where absent) and mask of just these entities, on the device of `ids`.

        Where the modality lies on another device than `ids`, the two wait for each other.

        Args:
            ids: the entities.
            fill: write the zeros. Without them what is absent may be anything, NaN too, which is faster where nothing
                is made of it.
        """
        rows = self.row.index_select(0, ids.to(self.row.device))
        found = rows >= 0
        rows = rows.clamp(min=0)
        mask = self.mask.index_select(0, rows) & found[:, None]
        values = self.values.index_select(0, rows).to(torch.float32)
        if fill:
            values.masked_fill_(~mask[..., None], 0.0)
        return values.to(ids.device), mask.to(ids.device)

    def to(self, device: torch.device | str) -> Modality:
        """The same modality on another device, no longer mapped from its file; itself if it lies there already."""
        if self.values.device == torch.device(device):
            return self
        return replace(self, values=self.values.to(device), mask=self.mask.to(device), row=self.row.to(device))

    def first_unfit(self, ids: Int[Tensor, " n"] | None = None) -> tuple[int, str] | None:
        """Read values once to find the first row that no model can use, and what it holds; None if there is none.

        That is NaN, infinity, or a value whose square is beyond single precision once it is summed over a token.

        Args:
            ids: the entities whose rows are read; None = all rows.
        """
        half = self.values.dtype == torch.float16
        bits, exponent = (torch.int16, 0x7C00) if half else (torch.int32, 0x7F80_0000)
        # On the bits, since float16 arithmetic is slow on a CPU; the squares of those are all within bounds.
        limit = exponent if half else (127 + largest_exponent(self.width)) << 23
        for part in self._parts(ids):
            bad = ((self.values[part].view(bits) & exponent) >= limit).any(2) & self.mask[part]
            if bad.any():
                found = int(bad.any(1).nonzero()[0])
                row = part.start + found if isinstance(part, slice) else int(part[found])
                values = self.values[row][self.mask[row]].float()
                if not values.isfinite().all():
                    return row, "holds NaN or infinity"
                largest = float(values.flatten()[values.abs().argmax()])
                return row, f"holds {largest:.3g}, too large to be squared in single precision"
        return None

    def _parts(self, ids: Int[Tensor, " n"] | None) -> Iterable[slice | Int[Tensor, " _"]]:
        """The rows of some entities, or all, in the order of the file and as many as are looked at in one go."""
        if ids is None:
            return (slice(start, start + CHUNK) for start in range(0, len(self.values), CHUNK))
        rows = self.row[ids.to(self.row.device)]
        return rows[rows >= 0].sort().values.split(CHUNK)

    def refuse_changed(self) -> None:
        """Refuse to go on with a file that was written to since it was opened, since it is mapped.

        A file that is gone, or another that has taken the name of the one that is mapped, changes nothing.

        Raises:
            DataError: it was.
        """
        if self.source is None:
            return
        try:
            now = stamp_of(self.source)
        except OSError:
            return
        if now[0] == self.stamp[0] and now != self.stamp:
            remedy = "start anew; write a new file under another name and rename it, as `mmrns encode` does"
            raise DataError(self.source, "was changed while it is in use", remedy)

    @classmethod
    def open(cls, path: Path, entities: Vocabulary) -> Modality:
        """Map `features/NAME.safetensors` and match `features/NAME.entities` with the graph by name.

        Raises:
            DataError: a missing, malformed or ill-fitting file.
        """
        try:
            stamp = stamp_of(path)
            with safe_open(path, framework="pt") as file:
                absent = {"values", "mask"} - set(file.keys())
                if absent:
                    raise DataError(path, f"holds no tensor {sorted(absent)[0]!r}", "write `values` and `mask`")
                values, mask = file.get_tensor("values"), file.get_tensor("mask")
                provenance = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise DataError(path, f"is not a readable safetensors file ({error})", "write it again") from error
        if values.ndim != 3 or values.dtype not in (torch.float16, torch.float32) or 0 in values.shape:
            found = f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
            raise DataError(path, f"values are {found}", "store float16 or float32 of shape [n, L, D]")
        if mask.dtype != torch.bool or mask.shape != values.shape[:2]:
            found = f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
            raise DataError(path, f"mask is {found}", f"store bool of shape {list(values.shape[:2])}")
        listing = path.with_suffix(".entities")
        if not listing.exists():
            raise DataError(listing, "is missing", f"list the entity of each row of {path.name}, one a line")
        names = read_lines(listing)
        if len(names) != len(values):
            message = f"{len(names):,} lines but {path.name} has {len(values):,} rows"
            raise DataError(listing, message, "give one entity a row", min(len(names), len(values)) + 1)
        repeated = (~names.is_first_distinct()).arg_true()
        if len(repeated):
            line = int(repeated[0])
            raise DataError(listing, f"entity {names[line]!r} is listed twice", "keep one row", line + 1)
        row, unmatched = match_rows(names, entities)
        if len(unmatched) == len(names):
            message = f"none of its {len(names):,} entities is in the graph (first: {names[0]!r})"
            raise DataError(listing, message, "use the entity names of the triples", 1)
        return cls(values, mask, row, provenance, unmatched, path, stamp)


def match_rows(names: pl.Series, entities: Vocabulary) -> tuple[Int[Tensor, " E"], list[str]]:
    """The row of each entity in a list of names, -1 where the list lacks it; and the names of no entity."""
    ids = entities.find(names)
    found = ids >= 0
    row = torch.full((len(entities),), -1)
    row[ids[found]] = torch.arange(len(names))[found]
    return row, names.filter((~found).numpy()).to_list()


class Features(Mapping[str, Modality]):
    """The modalities of a dataset by name.

    Args:
        modalities: name to modality.
    """

    def __init__(self, modalities: Mapping[str, Modality] | None = None):
        self._modalities = dict(modalities or {})

    @property
    def at_hand(self) -> Mapping[str, Modality]:
        """Those that can be read: all, but where a run has been parted from its dataset."""
        return self._modalities

    @classmethod
    def open(cls, folder: Path, entities: Vocabulary) -> Features:
        """Map every `NAME.safetensors` of a folder; where there is no folder there are no features."""
        return cls({path.stem: Modality.open(path, entities) for path in sorted(folder.glob("*.safetensors"))})

    def __repr__(self) -> str:
        return f"Features({', '.join(self)})"

    def __getitem__(self, name: str) -> Modality:
        if name not in self._modalities:
            raise unknown("modality", name, self)
        return self._modalities[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modalities

    def __iter__(self) -> Iterator[str]:
        return iter(self._modalities)

    def __len__(self) -> int:
        return len(self._modalities)

    def on(self, device: torch.device, limit_mb: int) -> Features:
        """The modalities for use on a device: those whose values take at most `limit_mb` MiB are moved there."""
        return Features({name: m.to(device) if m.values.nbytes <= limit_mb * 2**20 else m for name, m in self.items()})

    def part(self, ids: Int[Tensor, " n"], device: torch.device, limit_mb: int) -> Features:
        """The modalities for some of the entities, numbered anew; see `Modality.part`.

        Of a modality whose rows of these entities take at most `limit_mb` MiB, they lie on the device; on the CPU they
        stay in the file, from which no others are read.
        """

        def of(modality: Modality) -> Modality:
            own = modality.part(ids)
            size = int((own.row >= 0).sum()) * modality.tokens * modality.width * modality.values.element_size()
            stays = modality.values.device == device or size > limit_mb * 2**20
            return own if stays else own.taken().to(device)

        return Features({name: of(modality) for name, modality in self.items()})

    def within(self, own: Vocabulary, other: Vocabulary) -> Features:
        """The modalities for the entities of another vocabulary; see `Modality.within`."""
        return Features({name: modality.within(own, other) for name, modality in self.items()})

    def altered(self, how: Mapping[str, Alteration], seed: int, entities: int | None = None) -> Features:
        """The modalities, some of them with other tokens than the true ones; see `Modality.altered`.

        Raises:
            UsageError: one is not there.
        """
        made = {name: self[name].altered(one, seed, name, entities=entities) for name, one in how.items()}
        return Features({name: made.get(name, modality) for name, modality in self.items()})

    def joined(self, more: Mapping[str, Modality]) -> Features:
        """The modalities, some with further rows; see `Modality.joined`."""
        return Features({name: m.joined(more[name]) if name in more else m for name, m in self.items()})

    def gather(self, modality: str, ids: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n L D"], Bool[Tensor, "n L"]]:
        """Values and mask of just these entities in one modality."""
        return self[modality].gather(ids)

    def drop(self, fraction: float, seed: int) -> Features:
        """Each modality without a fraction of the entities that have it, drawn at random and independently."""
        return Features({name: modality.drop(fraction, seed, name) for name, modality in self.items()})
