"""The two pictures of a comparison: what each method reaches, and how soon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median_low, stdev
from typing import TYPE_CHECKING, Any

from mmrns.runs.figures import (
    INK,
    SOFT,
    End,
    grid,
    label_ends,
    name_ticks,
    new_figure,
    round_ticks,
    save_figure,
    time_axis,
)
from mmrns.runs.palette import Style, style_of, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[tuple[float, float]]
"""The validations of a training: seconds since it was begun, MRR in percent."""


@dataclass(frozen=True)
class Drawn:
    """An entry of a comparison as it is drawn.

    Attributes:
        label: what the entry is called.
        method: of the trainings, which decides about the colour.
        mrr: in percent, of each seed that did not fail.
        difference: from the reference, in points: the mean over the seeds and half the width of its 95 % interval,
            infinite for a single seed; None for what is compared with nothing.
        reference: whether others are compared with it.
        curves: of each seed that has one.
    """

    label: str
    method: str
    mrr: Sequence[float]
    difference: tuple[float, float] | None = None
    reference: bool = False
    curves: Sequence[Curve] = ()


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Which seeds there are.

    >>> seeds_in_words([0]), seeds_in_words([0, 1, 2]), seeds_in_words([1, 4])
    ('seed 0', 'seeds 0 to 2', 'seeds 1, 4')
    """
    found = sorted(set(seeds))
    if len(found) == 1:
        return f"seed {found[0]}"
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"seeds {found[0]} to {found[-1]}"
    return f"seeds {', '.join(map(str, found))}"


def draw_mrr(entries: Sequence[Drawn], path: Path, *, split: str, about: str, reference: str) -> None:
    """The MRR of each entry over its seeds and, beside it, its difference from the reference.

    Args:
        entries: a row each, from above; one whose trainings all failed has an empty one.
        path: of the PNG.
        split: whose MRR it is, in words.
        about: dataset, scorers and seeds.
        reference: what the differences are from, in words.
    """
    compared = any(entry.difference is not None for entry in entries)
    several = any(len(entry.mrr) > 1 for entry in entries)
    figure, panels = new_figure(
        f"{split.capitalize()} MRR: {about}",
        "filtered, ties at their mean rank; "
        + ("large mark: mean, bar: standard deviation, small marks: seeds" if several else "one training each"),
        columns=1 + compared,
        width=11.0 if compared else 8.0,
        height=1.75 + 0.4 * len(entries),
        sharey=True,
    )
    for place, entry in enumerate(entries):
        style = style_of(entry.method)  # The row says the rest.
        if entry.mrr:
            _bar(panels[0], place, mean(entry.mrr), stdev(entry.mrr) if len(entry.mrr) > 1 else None, style)
            _beside(panels[0], place, f"{mean(entry.mrr):.2f}")
        if len(entry.mrr) > 1:
            # Below the mean, so that none of them is hidden.
            seeds = [place + 0.24] * len(entry.mrr)
            panels[0].plot(entry.mrr, seeds, "|", color=style.colour, markersize=7, markeredgewidth=1.2)
        if entry.difference is not None:
            middle, width = entry.difference
            known = not math.isinf(width)
            _bar(panels[1], place, middle, width if known else None, style)
            _beside(panels[1], place, f"{middle:+.2f}" + (f" ± {width:.2f}" if known else ""))
        elif compared and entry.reference:
            panels[1].text(0, place, "reference", va="center_baseline", ha="center", fontsize=11, color=SOFT, **_PAPER)
    for axes in panels:
        grid(axes, "x")
        axes.tick_params(axis="y", length=0)
        axes.ticklabel_format(axis="x", useOffset=False)
        round_ticks(axes.xaxis)
    name_ticks(panels[0], [entry.label for entry in entries])
    panels[0].set_xlabel(f"{split} MRR, %")
    if compared:
        panels[1].axvline(0, color=INK, linewidth=1.2)
        panels[1].spines["left"].set_visible(False)
        points = "points (95 % interval)" if several else "points"
        # No wider than the axes.
        panels[1].set_xlabel(f"difference from {reference},{' ' if len(reference) < _SHORT else chr(10)}{points}")
    save_figure(figure, path)


_SHORT = 20
_PAPER: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 2}}


def _bar(axes: Axes, place: int, middle: float, width: float | None, style: Style) -> None:
    """A mark with a bar of so much at either side."""
    drawn = axes.errorbar(middle, place, xerr=width, markersize=9, elinewidth=2, capsize=5, **style.marked)
    for cap in drawn.lines[1]:
        cap.set_markeredgewidth(2)


def _beside(axes: Axes, place: int, text: str) -> None:
    """A number at the right of a row."""
    look: dict[str, Any] = {"va": "center_baseline", "fontsize": 12, "color": INK}
    axes.text(1.02, place, text.replace("-", "−"), transform=axes.get_yaxis_transform(), **look)


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float, float, float]]:
    """The course of several seeds: seconds, and the mean, least and greatest MRR of those that have come so far.

    Between two validations the (lower) median of the seeds' seconds goes by: a halt of the machine in one of them says
    nothing of the method. Early stopping may end seeds at different steps.
    """
    found: list[tuple[float, float, float, float]] = []
    seconds = 0.0
    for i in range(max(map(len, curves))):
        here = [curve for curve in curves if i < len(curve)]
        seconds += median_low(curve[i][0] - (curve[i - 1][0] if i else 0.0) for curve in here)
        values = [curve[i][1] for curve in here]
        found.append((seconds, mean(values), min(values), max(values)))
    return found


_SHOWN = 0.6
"""The vertical axis of MRR against time begins at this share of the best MRR, or lower where a method needs it."""


def draw_time(entries: Sequence[Drawn], path: Path, *, about: str, counted: str) -> None:
    """The validation MRR against the seconds since the training was begun, a line for each entry.

    Args:
        entries: those without curves are left out.
        path: of the PNG.
        about: dataset, scorers and seeds.
        counted: what the seconds are of.
    """
    draw_times({about: entries}, path, counted=counted)


def draw_times(studies: Mapping[str, Sequence[Drawn]], path: Path, *, counted: str) -> None:
    """The same of several studies, one below the other.

    Args:
        studies: the entries of each, by what it is about.
        path, counted: as in `draw_time`.
    """
    shown = {about: [entry for entry in entries if entry.curves] for about, entries in studies.items()}
    several = any(len(entry.curves) > 1 for entries in shown.values() for entry in entries)
    marks = "line: mean over the seeds; band: lowest to highest seed; mark and number: best mean"
    alone = len(shown) == 1
    most = max(len(entries) for entries in shown.values())
    figure, panels = new_figure(
        "Validation MRR against time" + (f": {next(iter(shown))}" if alone else ""),
        marks if several else "mark and number: best validation of a training",
        rows=len(shown),
        width=10.0,
        height=max(5.6, 2.2 + 0.25 * most) if alone else len(shown) * max(4.0, 1.6 + 0.25 * most),
    )
    ends: list[list[End]] = []
    for axes, (about, entries) in zip(panels, shown.items(), strict=True):
        if not alone:
            axes.set_title(about, loc="left", fontsize=12, color=INK)
        ends.append(_draw_courses(axes, entries))
    panels[-1].set_xlabel(f"time since the training was begun ({counted})")
    # Names are placed when the axes are as they will be.
    for axes, of_axes in zip(panels, ends, strict=True):
        label_ends(axes, of_axes)
    save_figure(figure, path)


def _draw_courses(axes: Axes, entries: Sequence[Drawn]) -> list[End]:
    """Lines, bands and marks of each entry; gives the names for the ends of the lines."""
    courses = [mean_curve(entry.curves) for entry in entries]
    best = [max(course, key=lambda point: point[1]) for course in courses]
    styles = styles_of([entry.method for entry in entries])
    order = sorted(range(len(entries)), key=lambda i: best[i][1])
    # What is best is drawn last, over the others.
    for i in order:
        seconds, middle, low, high = zip(*courses[i], strict=True)
        style = styles[i]
        if len(entries[i].curves) > 1:
            axes.fill_between(seconds, low, high, color=style.colour, alpha=0.15, linewidth=0)
        alone = len(seconds) == 1  # A line needs two points to be seen.
        axes.plot(seconds, middle, color=style.colour, linestyle=style.line, linewidth=2, marker="." if alone else None)
    for i in order:
        axes.plot(*best[i][:2], linestyle="none", markersize=10, zorder=3, **styles[i].marked)
    time_axis(axes, [point[0] for course in courses for point in course])
    axes.set_ylabel("validation MRR, %")
    axes.ticklabel_format(axis="y", useOffset=False)
    round_ticks(axes.yaxis)
    grid(axes)
    # What is low is about to rise: the room is for where the methods differ.
    axes.set_ylim(bottom=max(axes.get_ylim()[0], min(_SHOWN * best[order[-1]][1], 0.95 * best[order[0]][1])))

    return [
        End(*courses[i][-1][:2], f"{entries[i].label} {best[i][1]:.1f}", best[i][1], styles[i], best=i == order[-1])
        for i in order
    ]
