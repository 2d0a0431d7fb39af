"""What a user may call entities and relations: by id, or by a readable name that only one of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError, close_names, note

FEW = 20
"""So many names are listed where none of them was meant."""


class Names:
    """The names of the entities, or of the relations, of a dataset.

    An id is taken before a readable name; where both are there, that is said. What is neither is taken with letters of
    another case, where only one of them is called so.

    Args:
        kind: `entity` or `relation`.
        known: the ids' names.
        labels: readable names by id's name.
        strangers: names of the dataset that the model has no vector for, and why not, in words.

    Attributes:
        other: the names of the other kind, which are offered where they are close.
    """

    def __init__(
        self,
        kind: str,
        known: Vocabulary,
        labels: Mapping[str, str],
        strangers: tuple[pl.Series, str] | None = None,
    ):
        self.kind, self.known = kind, known
        self._all_labels = labels
        self._strangers, self._why = strangers or (pl.Series(dtype=pl.String), "")
        self.other: Names | None = None

    @cached_property
    def labels(self) -> pl.Series:
        """The readable name of each id, null where there is none."""
        return pl.Series("name", [self._all_labels.get(name) for name in self.known], dtype=pl.String)

    @cached_property
    def _labelled(self) -> dict[str, list[str]]:
        """Who has each readable name."""
        found: dict[str, list[str]] = {}
        for name, label in zip(self.known, self.labels, strict=True):
            if label is not None:
                found.setdefault(label, []).append(name)
        return found

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        """Who has each name of either sort, in whatever case."""
        found: dict[str, dict[str, None]] = {}
        for name, label in zip(self.known, self.labels, strict=True):
            for called in (name, label):
                if called is not None:
                    found.setdefault(called.casefold(), {})[name] = None
        return {called: list(names) for called, names in found.items()}

    @cached_property
    def _twofold(self) -> dict[str, str]:
        """Names of ids that are also readable names of others, and one of those."""
        labels = list(self._labelled)
        ids = self.known.find(pl.Series(labels, dtype=pl.String))
        also = (label for label, i in zip(labels, ids.tolist(), strict=True) if i >= 0)
        others = {label: [name for name in self._labelled[label] if name != label] for label in also}
        return {label: names[0] for label, names in others.items() if names}

    def id(self, name: str) -> int:
        """The id that a name stands for.

        Raises:
            UsageError: none (close names are offered), or several.
        """
        return int(self.ids(pl.Series([name], dtype=pl.String))[0])

    def ids(self, names: pl.Series) -> Int[Tensor, " n"]:
        """The ids that many names stand for; see `id`."""
        ids = self.find(names)
        strange = (ids < 0).nonzero()
        if len(strange):
            raise UsageError(self.mistake(names[int(strange[0])]))
        return ids

    def find(self, names: pl.Series) -> Int[Tensor, " n"]:
        """The ids that many names stand for; -1 for a null, and where `mistake` says what is wrong."""
        ids = self.known.find(names)
        strange = pl.Series((ids < 0).numpy()) & names.is_not_null()
        if strange.any():
            meant = {name: self._meant(name) for name in names.filter(strange).unique()}
            ids[torch.from_numpy(strange.to_numpy())] = torch.tensor([meant[name] for name in names.filter(strange)])
        if self._twofold:
            for name in names.unique(maintain_order=True):
                if name in self._twofold:
                    note(f"{name!r} is taken for the id; {self._twofold[name]!r} has it as its name")
        return ids

    def owners(self, name: str) -> Sequence[str]:
        """Who is called so: by a readable name, or else by any name in another case."""
        return self._labelled.get(name) or self._folded.get(name.casefold(), [])

    def _meant(self, name: str) -> int:
        """The id of what no id is called; -1 where that is none, or several."""
        if name in self._strangers:
            return -1
        owners = self.owners(name)
        return self.known.id(owners[0]) if len(owners) == 1 else -1

    def mistake(self, name: str) -> str:
        """What is wrong with a name that stands for nothing, or for several."""
        if name in self._strangers:
            return f"{self.kind} {name!r} {self._why}"
        owners = self.owners(name)
        if owners:
            several = "entities" if self.kind == "entity" else "relations"
            return f"{name!r} names {len(owners)} {several}: {', '.join(owners[:5])}; give the id"
        called = next((stranger for stranger in self._strangers if self._all_labels.get(stranger) == name), None)
        if called is not None:
            return f"{self.kind} {called!r} {self._why}"
        close = [repr(other) for other in close_names(name, [*self.known, *self._labelled], limit=3)]
        if self.other is not None:
            # Only what is nearly the same, since names of the other kind are rarely meant.
            others = [*self.other.known, *self.other._labelled]
            close += [f"the {self.other.kind} {other!r}" for other in close_names(name, others, cutoff=0.85)]
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        if len(self.known) <= FEW and self.kind == "relation":
            hint = f"{hint or ';'} known: {', '.join(self.known)}"
        return f"unknown {self.kind} {name!r}{hint}"
