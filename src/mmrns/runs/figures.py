"""Figures in the style of all pictures: legible on a slide, without ornament, with names drawn as they are.

Every picture is a PNG with an SVG beside it. matplotlib is loaded inside the functions, since only the end of a
training draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrns.files import make_folder, replacing
from mmrns.runs.palette import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK, SOFT, LINES = "#1d2126", "#5d6672", "#e3e6ea"
"""Colours of text, of what explains it, and of grids."""
TITLE, LABEL = 100, 40
"""Characters of a title and of a label that are drawn; longer ones would leave no room for the plot."""
_DPI = 120
_INCHES = 200.0
"""Of height at most: the renderer knows no larger pictures than 2^16 dots."""
_FAMILIES = 300
"""How many families of fonts are looked through for the characters that the usual one lacks."""
_LIKELY = ("cjk", "noto sans", "pingfang", "hiragino", "yahei", "simhei", "wenquanyi", "unicode", "unifont", "fallback")
_NO_LETTERS = ("last resort", "emoji", "color", "symbols", "nonunicode")


def new_figure(
    title: str,
    subtitle: str = "",
    *,
    rows: int = 1,
    columns: int = 1,
    width: float = 8.0,
    height: float = 4.5,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with some pairs of axes, row by row.

    Args:
        title: what is drawn of what.
        subtitle: what the marks mean.
        rows, columns: of axes.
        width, height: of the whole, in inches; it becomes wider where a title needs it.
        subplots: what `Figure.subplots` takes besides, as `sharex` and `height_ratios`.
    """
    # Drawn without a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    height = min(height, _INCHES)
    top = 0.72 if subtitle else 0.45
    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    layout: Any = figure.get_layout_engine()
    # The room of the titles, in inches from above.
    layout.set(rect=(0, 0, 1, 1 - top / height), w_pad=0.1, h_pad=0.08)
    for text, below, size, weight, colour in ((title, 0.12, 14, "bold", INK), (subtitle, 0.42, 11, "normal", SOFT)):
        place = figure.transFigure + ScaledTranslation(0.12, -below, figure.dpi_scale_trans)
        shown = figure.text(0, 1, "", transform=place, va="top", fontsize=size, fontweight=weight, color=colour)
        write(shown, text, TITLE)
        needed = shown.get_window_extent().x1 / figure.dpi + 0.12
        figure.set_size_inches(max(figure.get_figwidth(), needed), height)
    found: list[Axes] = [*figure.subplots(rows, columns, squeeze=False, **subplots).flat]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.tick_params(labelsize=12, color=SOFT, labelcolor=INK)
        axes.set_axisbelow(True)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(fontsize=12, color=INK)
    return figure, found


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, and as SVG beside it; their folder is made where it is missing.

    Args:
        figure: the figure.
        path: of the PNG; the SVG differs in its suffix.
    """
    from matplotlib import rc_context
    from PIL import Image

    make_folder(path.parent)
    # Ids that are the same each time, and text that stays text.
    with replacing(path, path.with_suffix(".svg")) as (png, svg), rc_context(_SVG):
        # Not by `savefig`, which draws twice where there is a layout to be found, and encodes what is decoded here.
        canvas: Any = figure.canvas
        canvas.draw()
        pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        # Few colours: a third of the bytes.
        few = pixels.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(png, format="png", optimize=True)
        # The layout was found for the PNG; to search for it again would take longer than to draw.
        figure.set_layout_engine("none")
        figure.savefig(svg, format="svg", metadata={"Creator": None, "Date": None})


_SVG: Any = {"svg.hashsalt": "mmrns", "svg.fonttype": "none"}


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


def caption(axes: Axes, text: str) -> None:
    """What a pair of axes shows, above it at the left."""
    title = axes.set_title("", loc="left", fontsize=12, color=INK)
    write(title, text, TITLE)


def round_ticks(axis: Axis) -> None:
    """Ticks at multiples of 1, 2 or 5, and these as they are."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def grid(axes: Axes, which: Literal["x", "y", "both"] = "y") -> None:
    """Pale lines at the ticks of an axis."""
    axes.grid(axis=which, color=LINES, linewidth=1)


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Names along the vertical axis, from above, with half a row of room at both ends."""
    axes.set_yticks(range(len(names)))
    # The axis writes them once more when it is drawn, into the same texts.
    drawn = [write(text, name) for text, name in zip(axes.get_yticklabels(), names, strict=True)]
    axes.set_yticklabels(drawn)
    axes.set_ylim(len(names) - 0.4, -0.6)
    _widen(axes.figure, axes.get_yticklabels())


@dataclass(frozen=True)
class End:
    """The end of a line, what it is called there, the value that decides where, and whether it is the best of all."""

    x: float
    y: float
    name: str
    value: float
    style: Style
    best: bool = False


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """The names of lines at the right of their axes, behind their marks, from the highest value to the lowest.

    They are level with their values as far as they do not overlap, and joined to the ends of their lines where these
    are near. The limits of the axes must be final.
    """
    if not ends:
        return
    figure: Any = axes.figure
    figure.draw_without_rendering()
    height = axes.get_window_extent().height / figure.dpi
    into = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end.value)
    levels = [float(into.transform((end.x, end.value))[1]) for end in ends]
    texts: list[Text] = []
    for end, level in zip(ends, apart(levels, 0.235 / height), strict=True):
        beside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        line: dict[str, Any] = beside | {"color": end.style.colour}
        across, up = into.transform((end.x, end.y))
        if across > 1 - _NEAR:
            axes.plot([across, 1.01, 1.025], [up, level, level], alpha=0.55, linewidth=0.9, **line)
        axes.plot([1.025, 1.075], [level, level], linestyle=end.style.line, linewidth=2, **line)
        axes.plot(1.05, level, markersize=8, **end.style.marked, **beside)
        look: dict[str, Any] = {"va": "center_baseline", "fontsize": 12, "fontweight": "bold" if end.best else "normal"}
        text = axes.text(1.085, level, "", transform=axes.transAxes, color=end.style.colour, **look)
        write(text, end.name, LABEL + 8)
        texts.append(text)
    _widen(figure, texts)


_NEAR = 0.35
"""Of the width of the axes, from the right: lines that end there are joined to their names."""


def apart(levels: Sequence[float], distance: float) -> list[float]:
    """Ascending numbers moved into [0, 1] by as little as it takes for neighbours to keep a distance (least squares).

    Where there is no room for all they begin at 0 and go beyond 1.

    >>> apart([0.0, 0.5, 0.5, 1.2], 0.2)
    [0.0, 0.4, 0.6, 1.0]
    """
    # Less its place times the distance, each has only to be no smaller than the one before: pool adjacent violators.
    blocks: list[tuple[float, int]] = []
    for i, level in enumerate(levels):
        total, size = level - i * distance, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            before = blocks.pop()
            total, size = total + before[0], size + before[1]
        blocks.append((total, size))
    means = [total / size for total, size in blocks for _ in range(size)]
    top = max(0.0, 1 - (len(levels) - 1) * distance)
    return [min(max(mean, 0.0), top) + i * distance for i, mean in enumerate(means)]


def _widen(figure: Any, texts: Sequence[Text]) -> None:
    """Let a figure grow by what long names take beyond the usual."""
    longest = max((text.get_window_extent().width for text in texts), default=0.0) / figure.dpi
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + max(0.0, longest - 2), height)


def magnitudes(axes: Axes, values: Iterable[float]) -> None:
    """A vertical axis of plain numbers: logarithmic where they differ by more than 30 times, else from 0."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    values = list(values)
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= 30 * min(positive):
        axes.set_ylim(bottom=min([0.0, *values]))
        return
    axes.set_yscale("log")
    many = max(positive) > 1e4 * min(positive)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if many else (1, 3), numticks=8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


_TICKS: tuple[tuple[float, ...], ...] = (
    (*(m * 10.0**e for e in range(-4, 1) for m in (1, 2, 5)), *(10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)),
    (*(m * 10.0**e for e in range(-4, 1) for m in (1, 3)), *(10, 30, 60, 300, 900, 3600)),
    (*(10.0**e for e in range(-4, 1)), *(10, 60, 600, 3600)),
)
_HOURS: tuple[tuple[int, ...], ...] = ((2, 5, 10, 24, 48, 120, 240), (3, 10, 24, 72, 240), (10, 100, 1000))


def time_axis(axes: Axes, seconds: Sequence[float | int]) -> None:
    """A horizontal axis of durations: logarithmic, with the names that people have for them.

    Args:
        axes: whose limits become those of the values.
        seconds: what is drawn; what is not positive has no place on the axis.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def name(value: Any, place: int | None = None) -> str:
        return duration(float(value))

    axes.xaxis.set_major_formatter(FuncFormatter(name))
    positive = [value for value in seconds if value > 0]
    if not positive:
        return
    low, high = min(positive) / 1.1, max(positive) * 1.1
    sets = [[*s, *(3600.0 * h for h in hours)] for s, hours in zip(_TICKS, _HOURS, strict=True)]
    ticks = [[tick for tick in one if low <= tick <= high] for one in sets]
    if len(ticks[0]) < 3:
        axes.locator_params(axis="x", nbins=5)
        return
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(next((one for one in ticks if len(one) <= 8), ticks[-1])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(name))


def duration(seconds: float | int) -> str:
    """Seconds in the largest units that fit.

    >>> duration(0.5), duration(90), duration(3600), duration(100_000)
    ('0.5 s', '1 min 30 s', '1 h', '1 d 4 h')
    """
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    seconds = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    (large, size), (small, part) = next(pair for pair in pairwise(units) if seconds >= pair[0][1])
    count, rest = divmod(round(seconds / part), size // part)
    return f"{count} {large}" + (f" {rest} {small}" if rest else "")


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
