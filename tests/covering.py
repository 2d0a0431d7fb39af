"""Covering arrays: few combinations of options in which every pair of values occurs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any


def covering(factors: Mapping[str, Sequence[Hashable]]) -> list[dict[str, Any]]:
    """Rows that have every two values of different factors together at least once, made greedily, always the same ones.

    Each row begins with a pair that has not occurred; every other factor then takes the value that makes most new
    pairs, of several any.

    >>> rows = covering({"a": [1, 2], "b": [1, 2], "c": [1, 2]})
    >>> len(rows)
    4
    """
    names = list(factors)
    missing = {(a, x, b, y): None for a, b in combinations(names, 2) for x in factors[a] for y in factors[b]}
    # By chance, which is the same every time: in turn, factors of as many values would go in step.
    chance = Random(0)

    def pair(a: str, x: Any, b: str, y: Any) -> tuple[str, Any, str, Any]:
        return (a, x, b, y) if names.index(a) < names.index(b) else (b, y, a, x)

    rows: list[dict[str, Any]] = []
    while missing:
        a, x, b, y = next(iter(missing))
        row = {a: x, b: y}
        for name in names:
            if name in row:
                continue

            def worth(value: Any, name: str = name, row: dict[str, Any] = row) -> tuple[int, float]:
                new = sum(pair(name, value, other, chosen) in missing for other, chosen in row.items())
                return new, chance.random()

            row[name] = max(factors[name], key=worth)
        for (a, x), (b, y) in combinations(row.items(), 2):
            missing.pop(pair(a, x, b, y), None)
        rows.append(row)
    return rows
