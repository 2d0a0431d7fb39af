"""What a user may call entities and relations: by id, or by a readable name that only one of them has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError, nearest, note

FEW = 20
"""So many names are listed where none of them was meant."""


class Names:
    """The names of the entities, or of the relations, of a dataset.

    An id is taken before a readable name; where both are there, that is said.

    Args:
        kind: `entity` or `relation`.
        known: the ids' names.
        labels: readable names by id's name.
    """

    def __init__(self, kind: str, known: Vocabulary, labels: Mapping[str, str]):
        self.kind, self.known, self.labels = kind, known, labels

    @cached_property
    def _labelled(self) -> dict[str, list[str]]:
        """Who has each readable name."""
        found: dict[str, list[str]] = {}
        for name, label in self.labels.items():
            found.setdefault(label, []).append(name)
        return found

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
            meant = {
                name: self.known.id(only[0]) if len(only := self._labelled.get(name, [])) == 1 else -1
                for name in names.filter(strange).unique()
            }
            ids[torch.from_numpy(strange.to_numpy())] = torch.tensor([meant[name] for name in names.filter(strange)])
        if len(self.labels):
            self._say_twofold(names, ids)
        return ids

    def _say_twofold(self, names: pl.Series, ids: Int[Tensor, " n"]) -> None:
        """Say which names of ids are also readable names of others."""
        for name in names.filter(names.is_in(list(self._labelled))).unique(maintain_order=True):
            others = [other for other in self._labelled[name] if other != name]
            if name in self.known and others:
                note(f"{name!r} is taken for the id; {others[0]!r} has it as its name")

    def mistake(self, name: str) -> str:
        """What is wrong with a name that stands for nothing, or for several."""
        named = self._labelled.get(name, [])
        if named:
            several = "entities" if self.kind == "entity" else "relations"
            return f"{name!r} names {len(named)} {several}: {', '.join(named[:5])}; give the id"
        hint = nearest(name, [*self.known, *self.labels.values()], limit=3)
        if len(self.known) <= FEW and self.kind == "relation":
            hint = f"{hint or ';'} known: {', '.join(self.known)}"
        return f"unknown {self.kind} {name!r}{hint}"
