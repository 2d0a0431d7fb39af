"""Pictures: whatever is in names and numbers, they are drawn without a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mmrns.runs.figures import LABEL, TITLE, legend, logarithmic, name_ticks, new_figure, save_figure
from mmrns.runs.record import plot_curves, plot_hardness

NAMES = [
    "us$^$kg",
    r"a_$\frac$",
    "知识图谱",
    "हिन्दी",
    "عربى",
    "😀",
    "a\nb\t\x1b[31m",
    "_hidden",
    "",
    " ",
    "x" * 500,
    "語" * 500,
    "W" * 500,
    "\ufeff\u202e",
]


def drawn(figure: Figure) -> None:
    """Render it; warnings are errors."""
    figure.canvas.draw()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    figure, axes = new_figure(name)
    lines = axes.plot([0, 1], [0, 1])
    name_ticks(axes, [name, "other"])
    legend(figure, lines, [name], "outside right center")
    save_figure(figure, tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
    title = axes.title.get_text()
    if name.isascii() and name.isprintable() and len(name) <= LABEL:
        ticks, entries = axes.get_yticklabels(), figure.legends[0].get_texts()
        assert title == ticks[0].get_text() == entries[0].get_text() == name.strip()
    assert len(title) <= TITLE
    assert title.isprintable()


def test_letters_come_from_another_font_where_one_has_them() -> None:
    # The first is in STIX, which comes with matplotlib, and not in its usual font; the second is in none.
    figure, axes = new_figure("a Ⓐ \U0001e000")
    assert axes.title.get_text() == "a Ⓐ □"
    assert "STIXGeneral" in axes.title.get_fontfamily()
    drawn(figure)


@settings(deadline=None, max_examples=10)
@given(st.text(max_size=30))
def test_any_text_is_a_title(text: str) -> None:
    drawn(new_figure(text)[0])


def hardness(norm: float | None, percentile: float | None = 0.5) -> dict[str, Any]:
    return {"score_percentile": percentile, "effective_sample_size": None, "gradient_norm": {"model": norm}}


@pytest.mark.parametrize("norms", [[], [0.0], [0.0, 0.0], [None], [1.0], [0.0, 1e-30, 3.0], [1e38, 1.0]])
def test_hardness_of_any_gradients(norms: list[float | None]) -> None:
    rows = [{"step": i, "hardness": hardness(norm, None if norm is None else 0.5)} for i, norm in enumerate(norms)]
    figure = plot_hardness(rows, "x")
    drawn(figure)
    assert figure.axes[1].get_yscale() == ("log" if any(norms) else "linear")


@pytest.mark.parametrize("losses", [[], [0.0], [0.0, 0.0], [3e38, -3e38], [1.0]])
@pytest.mark.parametrize("mrrs", [[], [0.0], [0.5], [0.5, 0.5]])
def test_curves_of_any_numbers(losses: list[float], mrrs: list[float]) -> None:
    rows = [{"step": i, "loss": loss} for i, loss in enumerate(losses)]
    rows += [{"step": i, "valid_mrr": mrr} for i, mrr in enumerate(mrrs)]
    figure = plot_curves(rows, "x", 0)
    drawn(figure)
    if len(losses) == 1:
        assert figure.axes[0].lines[0].get_marker() == "o"


def test_many_names_and_many_lines_fit() -> None:
    figure, axes = new_figure("many", height=1e6)
    names = [f"entry {i}" for i in range(90)]
    name_ticks(axes, names)
    drawn(figure)
    figure, axes = new_figure("many")
    legend(figure, axes.plot([[0] * 90, [1] * 90]), names, "outside right center")
    drawn(figure)


def test_an_axis_without_a_positive_value_is_not_logarithmic() -> None:
    _, axes = new_figure("x")
    for values in ([], [0.0]):
        logarithmic(axes, "x", values)
        logarithmic(axes, "y", values)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
