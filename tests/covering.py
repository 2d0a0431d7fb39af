"""Covering arrays: few combinations of options in which every pair of values occurs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any


def covering(factors: Mapping[str, Sequence[Hashable]]) -> list[dict[str, Any]]:
    """Rows that have every two values of different factors together at least once, made greedily, always the same ones.

    Each row begins with a pair that has not occurred; every other factor then takes the value that makes most new
    pairs, of several the one that has been used least.

    >>> rows = covering({"a": [1, 2], "b": [1, 2], "c": [1, 2]})
    >>> len(rows)
    4
    """
    names = list(factors)
    missing = {(a, x, b, y): None for a, b in combinations(names, 2) for x in factors[a] for y in factors[b]}
    used = {(name, value): 0 for name in names for value in factors[name]}

    def pair(a: str, x: Any, b: str, y: Any) -> tuple[str, Any, str, Any]:
        return (a, x, b, y) if names.index(a) < names.index(b) else (b, y, a, x)

    rows: list[dict[str, Any]] = []
    while missing:
        a, x, b, y = next(iter(missing))
        row = {a: x, b: y}
        for name in names:
            if name in row:
                continue

            def worth(value: Any, name: str = name, row: dict[str, Any] = row) -> tuple[int, int]:
                new = sum(pair(name, value, other, chosen) in missing for other, chosen in row.items())
                return new, -used[name, value]

            row[name] = max(factors[name], key=worth)
        for (a, x), (b, y) in combinations(row.items(), 2):
            missing.pop(pair(a, x, b, y), None)
        for name, value in row.items():
            used[name, value] += 1
        rows.append(row)
    return rows
