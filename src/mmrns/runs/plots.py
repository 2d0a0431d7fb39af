"""The pictures of a run: its course, how hard its negatives are, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmrns.evaluation.calibration import LISTED
from mmrns.runs.figures import INK, SOFT, caption, grid, magnitudes, new_figure
from mmrns.runs.palette import style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[int, float]]
"""Steps and values."""


@dataclass(frozen=True)
class About:
    """What a run was, for the title of its pictures."""

    dataset: str
    scorer: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}, {self.scorer}, seed {self.seed}"


def plot_curves(rows: Sequence[Mapping[str, Any]], about: About, selected: int) -> Figure:
    """The validation MRR, the selected step marked, and the training loss below, against steps.

    The loss of the model and the sampler's own have axes of their own, since they are of different sizes; of a run that
    recorded their sum alone that is drawn.
    """
    losses = {
        "training loss": _points(rows, "loss"),
        "training loss of the model": _points(rows, "model_loss"),
        "training loss of the sampler": _points(rows, "sampler_loss"),
    }
    if losses["training loss of the model"]:
        losses.pop("training loss")
        if not losses["training loss of the sampler"]:
            losses = {"training loss": losses["training loss of the model"]}
    losses = {name: points for name, points in losses.items() if points} or {"training loss": ()}
    figure, (above, *below) = new_figure(
        f"Training of {about}",
        rows=1 + len(losses),
        height=4.2 + 1.5 * len(losses),
        sharex=True,
        height_ratios=[2, *[1] * len(losses)],
    )
    colour = style_of(about.method).colour
    mrr = [(step, 100 * value) for step, value in _points(rows, "valid_mrr")]
    caption(above, "validation MRR, %")
    _line(above, mrr, colour, marked=True)
    above.set_ylim(bottom=0)
    for step, value in mrr:
        if step == selected:
            _mark_best(above, step, value, colour)
    for axes, (name, points) in zip(below, losses.items(), strict=True):
        caption(axes, name)
        _line(axes, points, colour)
    for axes in (above, *below):
        grid(axes)
        axes.axvline(selected, color=SOFT, linestyle=":", linewidth=1.2)
        axes.ticklabel_format(axis="y", useOffset=False)
    _steps(below[-1])
    return figure


def _mark_best(axes: Axes, step: int, value: float, colour: str) -> None:
    """The selected validation, with its number on the side of it that has room."""
    axes.plot(step, value, "o", color=colour, markersize=11, markeredgecolor="white", markeredgewidth=1.5, zorder=3)
    left, right = axes.get_xlim()
    before = step > (left + right) / 2
    axes.annotate(
        f"best {value:.1f} % at step {step:,}",
        (step, value),
        xytext=(-8 if before else 8, -22),
        textcoords="offset points",
        ha="right" if before else "left",
        color=colour,
        fontsize=12,
        fontweight="bold",
    )


def plot_hardness(rows: Sequence[Mapping[str, Any]], about: About) -> Figure:
    """How hard the negatives were, against steps: a pair of axes for each quantity that was measured.

    They are the score percentile, with that of random negatives; the effective sample size; the share of negatives that
    are true in validation; and the gradient norm of the model.
    """
    measured = [(row["step"], row["hardness"]) for row in rows if "hardness" in row]
    quantities = {
        "score percentile of the negatives": [(s, _percent(h["score_percentile"])) for s, h in measured],
        "effective sample size, % of all entities": [(s, _percent(h["effective_sample_size"])) for s, h in measured],
        "false negatives: true in validation, %": [(s, _percent(h.get("valid_negatives"))) for s, h in measured],
        "gradient norm of the model": [(s, h["gradient_norm"]["model"]) for s, h in measured],
    }
    shown = {
        name: [(step, value) for step, value in points if value is not None]
        for name, points in quantities.items()
        if any(value is not None for _, value in points)
    } or {"nothing was measured": []}
    columns = min(2, len(shown))
    figure, panels = new_figure(
        f"Hardness of the negatives: {about}",
        "means over the last two steps of each log interval",
        rows=-(-len(shown) // columns),
        columns=columns,
        width=10.0,
        height=1.6 + 2.5 * -(-len(shown) // columns),
    )
    colour = style_of(about.method).colour
    for axes, (name, points) in zip(panels, shown.items(), strict=False):
        caption(axes, name)
        grid(axes)
        _line(axes, points, colour)
        if name.startswith("gradient"):
            magnitudes(axes, [value for _, value in points])
        elif points:
            axes.set_ylim(0, 104 if name.startswith("score") else None)
        if name.startswith("score"):
            axes.axhline(50, color=SOFT, linestyle=":", linewidth=1.2)
            look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "color": SOFT, "fontsize": 11}
            axes.annotate("random", (1, 50), xycoords=axes.get_yaxis_transform(), xytext=(-2, 3), **look)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for i, axes in enumerate(panels[: len(shown)]):
        _steps(axes, named=i + columns >= len(shown))
    return figure


def plot_reliability(found: Mapping[str, Any], about: About) -> Figure:
    """The share of answers that is true against their probability, before and after calibration; below, how many.

    Args:
        found: what `Run.calibrate` returns.
        about: the run.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    after, before = found["after"], found["before"]
    figure, (above, below) = new_figure(
        f"Reliability: {about}",
        f"first {LISTED} answers of {found['queries']:,} validation queries, by a calibration on the other half",
        rows=2,
        height=6.2,
        width=9.0,
        sharex=True,
        height_ratios=[3, 1.2],
    )
    caption(above, "share that is true, %")
    above.plot([0, 100], [0, 100], color=SOFT, linestyle=":", linewidth=1.2, label="true as often as it says")
    colour = style_of(about.method).colour
    lines = (("before", before, SOFT, "s", "--"), (found["method"], after, colour, "o", "-"))
    for name, part, shade, mark, dash in lines:
        filled = [row for row in part["bins"] if row["count"]]
        points = [(100 * row["probability"], 100 * row["true"]) for row in filled]
        label = f"{name}: expected calibration error {100 * part['ece']:.1f} %"
        line: dict[str, Any] = {"linestyle": dash, "linewidth": 2, "markersize": 7, "markeredgecolor": "white"}
        above.plot(*zip(*points, strict=True), color=shade, marker=mark, label=label, **line)
    # Where a curve that rises leaves room.
    above.legend(loc="lower right", frameon=True, edgecolor="white", framealpha=0.9, fontsize=12)
    caption(below, "answers in each bin")
    for row in after["bins"]:
        middle, width = 50 * (row["from"] + row["to"]), 92 * (row["to"] - row["from"])
        below.bar(middle, row["count"], width=width, color=colour, alpha=0.85)
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 11, "color": INK}
        below.annotate(f"{row['count']:,}", (middle, max(row["count"], 1)), xytext=(0, 3), **place)
    below.set_yscale("log")
    below.set_ylim(1, 8 * max(row["count"] for row in after["bins"]))
    below.yaxis.set_major_locator(LogLocator(numticks=5))
    below.yaxis.set_minor_locator(NullLocator())
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    below.set_xlabel("probability, %")
    below.set_xlim(-2, 102)
    above.set_ylim(-2, 104)
    for axes in (above, below):
        grid(axes, "both" if axes is above else "y")
    return figure


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in rows if key in row]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _line(axes: Axes, points: Points, colour: str, *, marked: bool = False) -> None:
    if points:
        # A line needs two points to be seen.
        dotted = marked or len(points) == 1
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o" if dotted else None, markersize=5)


def _steps(axes: Axes, *, named: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel("step" if named else "")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
