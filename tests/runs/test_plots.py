"""The pictures of a run: what they draw of its rows."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmrns.runs.palette import style_of
from mmrns.runs.plots import About, plot_curves, plot_hardness, plot_reliability

ABOUT = About("us$^$kg", "TransE", "mmrns", 3)


def panels(figure: Figure) -> dict[str, Axes]:
    """The axes that are shown, by what stands above them."""
    figure.canvas.draw()
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def points(axes: Axes, line: int = 0) -> list[tuple[float, float]]:
    x, y = axes.lines[line].get_data()
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def test_the_course_has_the_losses_apart_and_the_best_marked() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 5, "loss": 3.0, "model_loss": 2.0, "sampler_loss": 4.0},
        {"step": 10, "loss": 2.5, "model_loss": 1.5},
        {"step": 1500, "valid_mrr": 0.25},
        {"step": 3000, "valid_mrr": 0.2},
    ]
    figure = plot_curves(rows, ABOUT, 1500)
    assert figure.texts[0].get_text() == "Training of mmrns on us$^$kg, TransE, seed 3"
    found = panels(figure)
    assert [*found] == ["validation MRR, %", "training loss of the model", "training loss of the sampler"]
    mrr, model, sampler = found.values()
    assert points(mrr) == [(1500, 25), (3000, 20)]
    assert points(mrr, 1) == [(1500, 25)]
    assert [text.get_text() for text in mrr.texts] == ["best 25.0 % at step 1,500"]
    assert points(model) == [(5, 2), (10, 1.5)]
    assert points(sampler) == [(5, 4)]
    assert sampler.lines[0].get_marker() == "o"
    assert mrr.lines[0].get_color() == style_of("mmrns").colour
    assert sampler.get_xlabel() == "step"


def test_a_sampler_without_a_loss_has_no_axes() -> None:
    rows: list[dict[str, Any]] = [{"step": s, "loss": 2.0, "model_loss": 2.0} for s in (5, 10)]
    assert [*panels(plot_curves(rows, ABOUT, 0))] == ["validation MRR, %", "training loss"]
    # An older run recorded the sum alone.
    found = panels(plot_curves([{"step": 5, "loss": 3.0}], ABOUT, 0))
    assert points(found["training loss"]) == [(5, 3)]


@pytest.mark.parametrize("losses", [[], [0.0], [0.0, 0.0], [3e38, -3e38], [1.0]])
@pytest.mark.parametrize("mrrs", [[], [0.0], [0.5], [0.5, 0.5]])
def test_curves_of_any_numbers(losses: list[float], mrrs: list[float]) -> None:
    rows = [{"step": i, "loss": loss} for i, loss in enumerate(losses)]
    rows += [{"step": i, "valid_mrr": mrr} for i, mrr in enumerate(mrrs)]
    assert len(panels(plot_curves(rows, ABOUT, 0))) == 2


def hardness(norm: float | None, percentile: float | None = 0.5, **more: float) -> dict[str, Any]:
    known = {"score_percentile": percentile, "effective_sample_size": None, "gradient_norm": {"model": norm}}
    return known | more


def test_each_quantity_of_hardness_has_axes_of_its_own() -> None:
    rows = [{"step": i, "hardness": hardness(0.1, 0.8, valid_negatives=0.01 * i)} for i in (1, 2)]
    figure = plot_hardness(rows, ABOUT)
    assert "mmrns on us$^$kg, TransE, seed 3" in figure.texts[0].get_text()
    found = panels(figure)
    score, false, gradient = "score percentile of the negatives", "false negatives: true in validation, %", "gradient"
    assert [*found] == [score, false, f"{gradient} norm of the model"]
    assert points(found[score]) == [(1, pytest.approx(80)), (2, pytest.approx(80))]
    assert points(found[false]) == [(1, pytest.approx(1)), (2, pytest.approx(2))]
    assert [text.get_text() for text in found[score].texts] == ["random"]
    # The last of each column says what is along it.
    assert [axes.get_xlabel() for axes in found.values()] == ["", "step", "step"]


@pytest.mark.parametrize("norms", [[], [0.0], [0.0, 0.0], [None], [1.0], [0.0, 1e-30, 3.0], [1e38, 1.0]])
def test_hardness_of_any_gradients(norms: list[float | None]) -> None:
    rows = [{"step": i, "hardness": hardness(norm, None if norm is None else 0.5)} for i, norm in enumerate(norms)]
    found = panels(plot_hardness(rows, ABOUT))
    if any(norms):
        large = len([norm for norm in norms if norm]) > 1
        assert found["gradient norm of the model"].get_yscale() == ("log" if large else "linear")


def test_reliability_is_drawn_of_the_bins_that_are_filled() -> None:
    bins = [{"from": i / 10, "to": (i + 1) / 10, "count": 0, "probability": None, "true": None} for i in range(10)]
    after = [bins[0] | {"count": 90, "probability": 0.02, "true": 0.03}, *bins[1:9]]
    after += [bins[9] | {"count": 10, "probability": 0.95, "true": 0.9}]
    before = [bins[0] | {"count": 100, "probability": 0.01, "true": 0.117}, *bins[1:]]
    found = {
        "method": "isotonic",
        "queries": 1234,
        "before": {"ece": 0.107, "bins": before},
        "after": {"ece": 0.014, "bins": after},
    }
    figure = plot_reliability(found, ABOUT)
    assert figure.texts[0].get_text() == "Reliability: mmrns on us$^$kg, TransE, seed 3"
    assert "first 10 answers of 1,234 validation queries" in figure.texts[1].get_text()
    above, below = panels(figure).values()
    assert points(above, 1) == [(1, pytest.approx(11.7))]
    assert points(above, 2) == [(2, 3), (95, 90)]
    legend = above.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "true as often as it says",
        "before: expected calibration error 10.7 %",
        "isotonic: expected calibration error 1.4 %",
    ]
    assert [bar.get_height() for bar in below.patches] == [90, *[0] * 8, 10]  # pyright: ignore[reportAttributeAccessIssue]
