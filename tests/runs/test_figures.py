"""Pictures: whatever is in names and numbers, they are drawn without a warning."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmrns.runs.figures import (
    LABEL,
    TITLE,
    End,
    apart,
    duration,
    label_ends,
    magnitudes,
    name_ticks,
    new_figure,
    save_figure,
    time_axis,
)
from mmrns.runs.palette import Style, style_of, styles_of

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


def title_of(figure: Figure) -> str:
    return figure.texts[0].get_text()


def ends_of(*names: str) -> list[End]:
    return [
        End(1.0, float(i), name, float(i), style)
        for i, (name, style) in enumerate(zip(names, styles_of(names), strict=True))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    figure, (axes,) = new_figure(name, name)
    axes.plot([0, 1], [0, 1])
    name_ticks(axes, [name, "other"])
    label_ends(axes, ends_of(name))
    save_figure(figure, tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plots" / "a.svg").read_text(encoding="utf-8")
    title = title_of(figure)
    if name.isascii() and name.isprintable() and len(name) <= LABEL:
        assert title == axes.get_yticklabels()[0].get_text() == axes.texts[0].get_text() == name.strip()
    assert len(title) <= TITLE
    assert title.isprintable()
    # However long a title is, all of it is within the picture.
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in figure.texts)


def test_a_picture_is_the_same_each_time_and_its_text_is_text(tmp_path: Path) -> None:
    found: list[tuple[bytes, bytes]] = []
    for name in ("a", "b"):
        figure, (axes,) = new_figure("Sense & <sound>")
        axes.plot([0, 1], [0, 1], color=style_of("mmrns").colour)
        save_figure(figure, tmp_path / f"{name}.png")
        found.append(tuple((tmp_path / f"{name}.{kind}").read_bytes() for kind in ("png", "svg")))  # type: ignore[arg-type]
    assert found[0] == found[1]
    assert "Sense &amp; &lt;sound&gt;</text>" in found[0][1].decode()
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colour = [int(style_of("mmrns").colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(pixels - colour).max(axis=2) < 12).sum() > 300


def test_letters_come_from_another_font_where_one_has_them() -> None:
    # The first is in STIX, which comes with matplotlib, and not in its usual font; the second is in none.
    figure, _ = new_figure("a Ⓐ \U0001e000")
    assert title_of(figure) == "a Ⓐ □"
    assert "STIXGeneral" in figure.texts[0].get_fontfamily()
    drawn(figure)


@settings(deadline=None, max_examples=10)
@given(st.text(max_size=30))
def test_any_text_is_a_title(text: str) -> None:
    drawn(new_figure(text)[0])


def test_many_names_fit() -> None:
    figure, (axes,) = new_figure("many", height=1e6)
    names = [f"entry {i}" for i in range(90)]
    name_ticks(axes, names)
    label_ends(axes, ends_of(*names))
    drawn(figure)
    # Rows keep off the frame.
    assert axes.get_ylim() == (89.6, -0.6)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 2), max_size=12), st.floats(0.01, 0.2))
def test_labels_keep_apart_in_their_order_and_within(levels: list[float], distance: float) -> None:
    levels = sorted(levels)
    found = apart(levels, distance)
    assert all(b - a >= distance - 1e-9 for a, b in pairwise(found))
    assert all(value >= -1e-9 for value in found)
    if (len(levels) - 1) * distance <= 1:
        assert all(value <= 1 + 1e-9 for value in found)
    if all(b - a >= distance for a, b in pairwise(levels)) and all(0 <= x <= 1 for x in levels):
        assert found == pytest.approx(levels)


def test_a_line_is_named_level_with_its_value() -> None:
    figure, (axes,) = new_figure("x")
    axes.set_ylim(0, 10)
    ends = [
        End(1.0, 2.0, "low", 2.0, Style("#c8320a", "o")),
        End(1.0, 7.0, "high", 7.0, Style("#0c3a96", "s"), best=True),
    ]
    label_ends(axes, ends)
    drawn(figure)
    below, above = axes.texts
    assert [below.get_text(), above.get_text()] == ["low", "high"]
    assert [below.get_position()[1], above.get_position()[1]] == pytest.approx([0.2, 0.7])
    assert (below.get_fontweight(), above.get_fontweight()) == ("normal", "bold")
    assert below.get_color() == "#c8320a"


def ticks_of(axes: Axes) -> list[str]:
    axes.figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    return [label.get_text() for place, label in ticks if low <= place <= high]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.7, 40], ["2 s", "5 s", "10 s", "20 s", "30 s"]),
        ([9, 400], ["10 s", "20 s", "30 s", "1 min", "2 min", "5 min"]),
        ([1, 4000], ["1 s", "3 s", "10 s", "30 s", "1 min", "5 min", "15 min", "1 h"]),
        ([0.001, 4000], ["0.001 s", "0.01 s", "0.1 s", "1 s", "10 s", "1 min", "10 min", "1 h"]),
        ([90_000, 900_000], ["1 d", "2 d", "5 d", "10 d"]),
    ],
)
def test_time_is_in_plain_words(seconds: list[float], expected: list[str]) -> None:
    _, (axes,) = new_figure("x")
    axes.plot(seconds, seconds)
    time_axis(axes, seconds)
    assert ticks_of(axes) == expected
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("seconds", [[], [0.0], [3.0], [100.0, 101.0], [0.0, 5.0]])
def test_times_of_any_kind_have_an_axis(seconds: list[float]) -> None:
    _, (axes,) = new_figure("x")
    axes.plot(seconds, seconds)
    time_axis(axes, seconds)
    assert all(re.fullmatch(r"-?[\d.e-]+ (s|min|h|d)( \d+ (s|min|h))?", text) for text in ticks_of(axes))


def test_durations_carry() -> None:
    assert [duration(s) for s in (0, 59.94, 59.96, 3599.9, 86399.9)] == ["0 s", "59.9 s", "1 min", "1 h", "1 d"]


def test_an_axis_is_logarithmic_where_sizes_differ() -> None:
    for values, scale in (([], "linear"), ([0.0], "linear"), ([1.0, 3.0], "linear"), ([0.0, 1e-30, 3.0], "log")):
        figure, (axes,) = new_figure("x")
        axes.plot(values)
        magnitudes(axes, values)
        assert axes.get_yscale() == scale
        assert scale == "log" or axes.get_ylim()[0] == 0
        drawn(figure)


def test_drawn_labels_hold_no_markup(tmp_path: Path) -> None:
    figure, (axes,) = new_figure("x")
    label_ends(axes, ends_of("<b>&</b>"))
    save_figure(figure, tmp_path / "a.png")
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_any_style_can_be_drawn() -> None:
    figure, (axes,) = new_figure("x")
    for style in styles_of(["mmrns"] * 9 + [f"own {i}" for i in range(60)]):
        kept: dict[str, Any] = style.marked
        axes.plot([0, 1], [0, 1], linestyle=style.line, **kept)
    drawn(figure)
