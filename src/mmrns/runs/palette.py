"""One colour and one mark a method, the same in every picture.

The colours of the eight methods that are compared most stay apart for eyes that lack one kind of cones; no two methods
have both the colour and the mark in common.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Dash = str | tuple[int, tuple[float, ...]]
"""A line style of matplotlib: a name, or an offset and the lengths of dashes and gaps."""
METHODS: dict[str, tuple[str, str]] = {
    "mmrns": ("#c8320a", "o"),
    "self-adversarial": ("#0c3a96", "s"),
    "domain-range": ("#cf8d1c", "D"),
    "nscaching": ("#12685b", "^"),
    "sans": ("#5a1648", "v"),
    "uniform": ("#8a8a8a", "X"),
    "bernoulli": ("#2a9fe0", "P"),
    "mmrns-published": ("#7b0a0a", "p"),
    "hard": ("#e8508f", "<"),
    "frequency": ("#6a7d1e", ">"),
    "inbatch": ("#8f6134", "h"),
    "shared-pool": ("#7f74d8", "d"),
    "kbgan": ("#111111", "o"),
    "igan": ("#a8267c", "s"),
    "1-vs-all": ("#2c5530", "D"),
    "k-vs-all": ("#35a853", "^"),
    "file": ("#53687e", "v"),
    "dhns": ("#3f6fb5", "h"),
    "mans": ("#d1495b", "<"),
}
"""Colour and mark by the name of a method."""
_OTHERS = ("#7f74d8", "#8f6134", "#35a853", "#e8508f", "#53687e", "#6a7d1e", "#a8267c", "#2a9fe0")
_MARKS = ("*", "H", "8", "P", "X")
_LENGTHS = ((5.0, 1.5), (1.5, 1.5), (6.0, 1.5, 1.5, 1.5), (9.0, 2.0), (3.0, 1.5, 1.5, 1.5, 1.5, 1.5))
_DASHES: tuple[Dash, ...] = ("-", *((0, lengths) for lengths in _LENGTHS))


@dataclass(frozen=True)
class Style:
    """How something of a method is drawn, in matplotlib's words; the mark may be hollow."""

    colour: str
    mark: str
    line: Dash = "-"
    hollow: bool = False

    @property
    def marked(self) -> dict[str, Any]:
        """The mark in matplotlib's words."""
        return {
            "color": self.colour,
            "marker": self.mark,
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour if self.hollow else "white",
            "markeredgewidth": 2 if self.hollow else 1,
        }


def style_of(method: str) -> Style:
    """The style of a method; that of one without a colour of its own depends on its name alone.

    >>> style_of("mmrns").colour == style_of("mmrns").colour != style_of("uniform").colour
    True
    """
    if method in METHODS:
        return Style(*METHODS[method])
    code = zlib.crc32(method.encode("utf-8", "surrogatepass"))
    return Style(_OTHERS[code % len(_OTHERS)], _MARKS[code // len(_OTHERS) % len(_MARKS)])


def styles_of(methods: Sequence[str]) -> list[Style]:
    """The styles of what is drawn in one picture: of several with one colour, the further ones have dashed lines, and
    every other one a hollow mark.
    """
    drawn: Counter[str] = Counter()
    found: list[Style] = []
    for style in map(style_of, methods):
        before = drawn[style.colour]
        found.append(Style(style.colour, style.mark, _DASHES[before % len(_DASHES)], before % 2 == 1))
        drawn[style.colour] += 1
    return found
