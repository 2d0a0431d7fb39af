"""The pictures of a comparison: what they draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmrns.runs.palette import style_of
from mmrns.studies import plots as module
from mmrns.studies.plots import Curve, Drawn, draw_mrr, draw_time, mean_curve


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, rendered in place of being written."""
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        drawn.append(figure)

    monkeypatch.setattr(module, "save_figure", keep)
    return drawn


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def bars(axes: Axes) -> list[tuple[float, float, str]]:
    """Middle, half the width (0 without a bar) and colour of each row's bar."""
    found: list[tuple[float, float, str]] = []
    for container in axes.containers:
        mark, _, lines = container.lines  # type: ignore[attr-defined]
        ends = lines[0].get_segments()[0][:, 0] if lines else [0.0, 0.0]
        found.append((float(mark.get_xdata()[0]), float(ends[1] - ends[0]) / 2, mark.get_color()))
    return found


def mrr_of(entries: list[Drawn]) -> None:
    draw_mrr(entries, Path("x.png"), split="test", about="db, TransE, seeds 0 to 2", reference="self-adversarial")


def test_mrr_has_a_row_an_entry_and_its_difference_beside_it(figures: list[Figure]) -> None:
    entries = [
        Drawn("self-adversarial", "self-adversarial", [30.0, 31.0, 32.0], None, True),
        Drawn("many", "self-adversarial", [31.0, 32.0, 33.0], (1.0, 0.5)),
        Drawn("mmrns", "mmrns", [28.0, 29.0, 30.0], (-2.0, 0.25)),
        Drawn("failed", "uniform", []),
    ]
    mrr_of(entries)
    (figure,) = figures
    assert figure.texts[0].get_text() == "Test MRR: db, TransE, seeds 0 to 2"
    left, right = figure.axes
    blue, red = style_of("self-adversarial").colour, style_of("mmrns").colour
    assert bars(left) == [(31, pytest.approx(1), blue), (32, pytest.approx(1), blue), (29, pytest.approx(1), red)]
    assert bars(right) == [(1, pytest.approx(0.5), blue), (-2, pytest.approx(0.25), red)]
    assert texts(left) == ["31.00", "32.00", "29.00"]
    assert texts(right) == ["reference", "+1.00 ± 0.50", "−2.00 ± 0.25"]
    assert left.get_xlabel() == "test MRR, %"
    assert right.get_xlabel() == "difference from self-adversarial, points (95 % interval)"
    assert [label.get_text() for label in left.get_yticklabels()] == [entry.label for entry in entries]
    # No row lies on the frame.
    assert left.get_ylim()[0] > len(entries) - 1
    assert left.get_ylim()[1] < 0


def test_what_is_along_the_axes_is_within_the_picture(figures: list[Figure]) -> None:
    entries = [Drawn("a", "mmrns", [30.0, 31.0], (1.0, 0.5)), Drawn("b", "self-adversarial", [29.0, 30.0], None, True)]
    for reference in ("self-adversarial", "self-adversarial with the same scorer"):
        draw_mrr(entries, Path("x.png"), split="test", about="x", reference=reference)
    for figure in figures:
        box = figure.axes[1].xaxis.label.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert box.x0 > figure.axes[0].xaxis.label.get_window_extent().x1
    assert len(figures) == 2


def test_one_seed_has_no_bars_and_no_reference_no_differences(figures: list[Figure]) -> None:
    mrr_of([Drawn("a", "mmrns", [30.0]), Drawn("b", "uniform", [20.0])])
    mrr_of([Drawn("a", "mmrns", [30.0], (1.0, math.inf)), Drawn("b", "self-adversarial", [29.0], None, True)])
    mrr_of([Drawn("a", "mmrns", [])])
    alone, compared, none = figures
    assert len(alone.axes) == len(none.axes) == 1
    assert [width for _, width, _ in bars(alone.axes[0])] == [0, 0]
    assert "one training each" in alone.texts[1].get_text()
    assert texts(compared.axes[1]) == ["+1.00", "reference"]
    assert bars(none.axes[0]) == []


def test_a_halt_in_one_seed_is_not_the_methods() -> None:
    steady: Curve = [(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]
    halted: Curve = [(1.0, 14.0), (602.0, 24.0), (603.0, 34.0)]
    short: Curve = [(1.0, 12.0), (2.0, 25.0)]
    assert mean_curve([steady, halted, short]) == [
        (1.0, 12.0, 10.0, 14.0),
        (2.0, 23.0, 20.0, 25.0),
        (3.0, 32.0, 30.0, 34.0),
    ]
    # Of two the quicker one.
    assert [point[0] for point in mean_curve([steady, halted])] == [1.0, 2.0, 3.0]
    assert mean_curve([halted]) == [(seconds, mrr, mrr, mrr) for seconds, mrr in halted]


def time_of(entries: list[Drawn]) -> None:
    draw_time(entries, Path("x.png"), about="db, TransE, seeds 0, 1", counted="training")


def drawn_lines(axes: Axes) -> dict[str, list[Any]]:
    """The lines over the data by colour: not the marks, and not those beside the axes."""
    found: dict[str, list[Any]] = {}
    for line in axes.lines:
        if line.get_transform() == axes.transData and line.get_linestyle() != "None":
            found.setdefault(line.get_color(), []).append(line)
    return found


def test_time_has_a_line_a_band_and_a_name_for_each_entry(figures: list[Figure]) -> None:
    entries = [
        Drawn(
            "self-adversarial",
            "self-adversarial",
            [],
            curves=[[(2.0, 20.0), (20.0, 30.0)], [(2.0, 22.0), (20.0, 28.0)]],
        ),
        Drawn("many", "self-adversarial", [], curves=[[(3.0, 18.0), (30.0, 31.0)], [(3.0, 18.0), (30.0, 31.0)]]),
        Drawn("mmrns", "mmrns", [], curves=[[(1.0, 35.0), (10.0, 34.0)], [(1.0, 33.0), (10.0, 34.0)]]),
        Drawn("none", "uniform", []),
    ]
    time_of(entries)
    (figure,) = figures
    assert figure.texts[0].get_text() == "Validation MRR against time: db, TransE, seeds 0, 1"
    axes = figure.axes[0]
    lines = drawn_lines(axes)
    (red,) = lines.pop(style_of("mmrns").colour)
    assert [*zip(*red.get_data(), strict=True)] == [(1, 34), (10, 34)]
    ((blue, dashed),) = lines.values()
    assert [*blue.get_ydata()] == [21, 29]
    assert (blue.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    bands = [collection.get_paths()[0].get_extents() for collection in axes.collections]
    assert sorted((band.x0, band.y0, band.x1, band.y1) for band in bands) == [
        (1, 33, 10, 35),
        (2, 20, 20, 30),
        (3, 18, 30, 31),
    ]
    # From the lowest to the highest best mean, which is in bold.
    assert texts(axes) == ["self-adversarial 29.0", "many 31.0", "mmrns 34.0"]
    assert [text.get_fontweight() for text in axes.texts] == ["normal", "normal", "bold"]
    assert axes.get_xlabel() == "time since the training was begun (training)"
    assert axes.get_ylabel() == "validation MRR, %"
    assert "2 s" in [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize(
    "curves",
    [[[(0.0, 0.0)]], [[(5.0, 1.0)]], [[(0.0, 10.0), (2.0, 20.0)]], [[(1.0, 0.0), (2.0, 0.0)], [(1.0, 0.0)]]],
)
def test_curves_of_any_numbers(figures: list[Figure], curves: list[Curve]) -> None:
    time_of([Drawn("a", "mmrns", [], curves=curves)])
    assert len(drawn_lines(figures[0].axes[0])) == 1


def test_the_room_is_for_where_methods_differ(figures: list[Figure]) -> None:
    slow: Curve = [(1.0, 1.0), (10.0, 40.0)]
    time_of([Drawn("a", "mmrns", [], curves=[slow])])
    assert figures[0].axes[0].get_ylim()[0] == pytest.approx(24)
    # But for no method's best to be out of sight.
    time_of([Drawn("a", "mmrns", [], curves=[slow]), Drawn("b", "kbgan", [], curves=[[(1.0, 5.0), (9.0, 10.0)]])])
    assert figures[1].axes[0].get_ylim()[0] == pytest.approx(9.5)
