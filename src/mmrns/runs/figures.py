"""Figures in the style of all plots, with names drawn as they are.

matplotlib is loaded inside the functions, since only the end of a training plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrns.files import make_folder, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

TITLE, LABEL = 80, 40
"""Characters of a title and of a label that are drawn; longer ones would leave no room for the plot."""
_INCHES = 200.0
"""Of height at most: the renderer knows no larger pictures than 2^16 dots."""
_FAMILIES = 300
"""How many families of fonts are looked through for the characters that the usual one lacks."""
_LIKELY = ("cjk", "noto sans", "pingfang", "hiragino", "yahei", "simhei", "wenquanyi", "unicode", "unifont", "fallback")
_NO_LETTERS = ("last resort", "emoji", "color", "symbols", "nonunicode")


def new_figure(title: str, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, of so many inches height."""
    # Drawn without a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, min(height, _INCHES)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    write(axes.set_title(""), title, TITLE)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; its folder is made where it is missing."""
    make_folder(path.parent)
    with replacing(path) as (file,):
        figure.savefig(file, format="png", metadata={"Software": None})


def write(text: Text, content: str, longest: int = LABEL) -> str:
    """Put a name into a picture as it is: no formula, and letters of whatever font has them.

    A line break or another character without a shape is drawn as a blank, one that no font has as a box.

    Returns:
        What is drawn.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in content).split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    families, without = _fonts_for(frozenset(line))
    line = "".join("□" if c in without else c for c in line)
    text.set_text(line)
    text.set_parse_math(False)
    if families:
        text.set_fontfamily([*text.get_fontfamily(), *families])
    return line


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Names along the vertical axis, from above."""
    axes.set_yticks(range(len(names)))
    # The axis writes them once more when it is drawn, into the same texts.
    drawn = [write(text, name) for text, name in zip(axes.get_yticklabels(), names, strict=True)]
    axes.set_yticklabels(drawn)
    axes.invert_yaxis()
    _make_room(axes.figure, axes.get_yticklabels(), 0)


def legend(figure: Figure, lines: Sequence[Any], names: Sequence[str], place: Any, columns: int = 1) -> None:
    """What the lines of a figure are, beside its axes."""
    if not lines:
        return
    # Written afterwards: matplotlib leaves out what begins with an underscore.
    drawn = figure.legend(lines, [f"{i}" for i in range(len(lines))], loc=place, ncols=columns, frameon=False)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        write(text, name)
    _make_room(figure, drawn.get_texts(), -(-len(lines) // columns))


def _make_room(figure: Any, texts: Sequence[Text], rows: int) -> None:
    """Let a figure grow by what long names, and so many rows of them, take beyond the usual."""
    width, height = figure.get_size_inches()
    longest = max((text.get_window_extent().width for text in texts), default=0.0) / figure.dpi
    figure.set_size_inches(width + max(0.0, longest - 2), max(height, min(0.25 * rows + 0.5, _INCHES)))


def logarithmic(axes: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """A logarithmic axis, where some value has a logarithm."""
    if any(value > 0 for value in values):
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")


@lru_cache(maxsize=64)
def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of fonts that have characters which the usual one lacks, and the characters that none has."""
    from matplotlib import font_manager

    missing = {c for c in characters if ord(c) not in _charmap(font_manager.findfont(font_manager.FontProperties()))}
    if not missing:
        return (), frozenset()
    names = {entry.name for entry in font_manager.fontManager.ttflist}
    names = [name for name in names if not any(word in name.casefold() for word in _NO_LETTERS)]
    names.sort(key=lambda name: (not any(word in name.casefold() for word in _LIKELY), name))
    families: list[str] = []
    for name in names[:_FAMILIES]:
        try:
            path = font_manager.findfont(font_manager.FontProperties(family=name), fallback_to_default=False)
            has = {c for c in missing if ord(c) in _charmap(path)}
        except (ValueError, RuntimeError, OSError):
            continue  # The list of fonts is kept from earlier: some may have gone, some are of no use.
        if has:
            families.append(name)
            missing -= has
        if not missing:
            break
    return tuple(families), frozenset(missing)


@lru_cache(maxsize=_FAMILIES)
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(path).get_charmap())
