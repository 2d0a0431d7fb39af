"""`Vocabulary`: the names of entities or relations, and the ids that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.errors import UsageError, nearest

_FEW = 1_000
"""A vocabulary of so many times the names that are looked up is bisected for each."""


class Vocabulary(Sequence[str]):
    """Names and their ids. An id is the place of its name among all names in code-point order (but see `extended`).

    >>> v = Vocabulary(["b", "a", "b"])
    >>> list(v), v.id("b")
    (['a', 'b'], 1)
    """

    def __init__(self, names: pl.Series | Sequence[str]):
        # Polars sorts strings by their UTF-8 bytes, which is the order of code points.
        self._names = pl.Series("name", names, dtype=pl.String).unique().sort()
        self._sorted = len(self._names)

    @classmethod
    def numbered(cls, names: pl.Series) -> tuple[Vocabulary, Callable[[pl.Series], Int[Tensor, " n"]]]:
        """The vocabulary of many names, and what gives the ids of any of them.

        Of categories, which are numbers already, none is looked up by its letters: only distinct ones are sorted.

        >>> vocabulary, ids = Vocabulary.numbered(pl.Series(["b", "a", "b"], dtype=pl.Categorical))
        >>> list(vocabulary), ids(pl.Series(["b", "a", "b"], dtype=pl.Categorical)).tolist()
        (['a', 'b'], [1, 0, 1])
        """
        if names.dtype != pl.Categorical:
            made = cls(names)
            return made, made.find
        distinct = names.unique()
        order = distinct.cast(pl.String).arg_sort()
        codes = distinct.gather(order).to_physical().to_numpy()
        id_of = np.empty(int(codes.max(initial=0)) + 1, dtype=np.int64)  # Of each category.
        id_of[codes] = np.arange(len(codes))
        made = cls.__new__(cls)
        made._names = distinct.gather(order).cast(pl.String).alias("name")
        made._sorted = len(made._names)
        return made, lambda known: torch.from_numpy(id_of[known.to_physical().to_numpy()])

    @cached_property
    def _categories(self) -> Any:
        """The names as what polars finds others among; it takes more memory than they do, so only if it is needed."""
        return pl.Enum(self._names)

    def extended(self, names: pl.Series) -> Vocabulary:
        """The same names with the same ids, and behind them those of `names` that are new, in code-point order.

        >>> list(Vocabulary(["b", "d"]).extended(pl.Series(["d", "c", "a"])))
        ['b', 'd', 'a', 'c']
        """
        new = Vocabulary(names.filter((self.find(names) < 0).numpy()))
        if not len(new):
            return self
        made = Vocabulary.__new__(Vocabulary)
        made._names = pl.concat([self._names, new._names])
        made._sorted = self._sorted
        return made

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} names)"

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._names[index].to_list() if isinstance(index, slice) else self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.to_list())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and int(self.find(pl.Series([name]))[0]) >= 0

    @property
    def names(self) -> pl.Series:
        """All names in id order."""
        return self._names

    def find(self, names: pl.Series) -> Int[Tensor, " n"]:
        """The ids of many names; -1 stands for a name that is not in the vocabulary."""
        if len(names) * _FEW < self._sorted:
            return self._find_few(names.cast(pl.String))
        codes = names.cast(pl.String).cast(self._categories, strict=False).to_physical()
        return torch.from_numpy(codes.cast(pl.Int64).fill_null(-1).to_numpy(writable=True))

    def _find_few(self, names: pl.Series) -> Int[Tensor, " n"]:
        """The same by bisection, since what looks up many at once reads the whole vocabulary."""
        found = pl.Series([-1], dtype=pl.Int64).new_from_index(0, len(names))
        for part, first in ((self._names[: self._sorted], 0), (self._names[self._sorted :], self._sorted)):
            if len(part):
                place = part.search_sorted(names).clip(upper_bound=len(part) - 1)
                there = (part.gather(place) == names).fill_null(False)
                found = found.zip_with(~there, place.cast(pl.Int64) + first)
        return torch.from_numpy(found.to_numpy(writable=True))

    def id(self, name: str) -> int:
        """The id of one name.

        Raises:
            UsageError: the name is not known; the message offers close ones.
        """
        found = int(self.find(pl.Series([name]))[0])
        if found < 0:
            raise UsageError(f"unknown name {name!r}{nearest(name, self, limit=3)}")
        return found
