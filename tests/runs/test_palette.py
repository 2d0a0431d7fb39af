"""One colour a method: fixed for ours, told apart by eyes of every kind, stable for others."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from mmrns.runs.methods import method_names
from mmrns.runs.palette import METHODS, style_of, styles_of

MAIN = ("mmrns", "self-adversarial", "domain-range", "nscaching", "sans", "uniform", "bernoulli", "mmrns-published")
# What eyes without one kind of cones make of linear RGB (Machado et al., 2009, severity 1).
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
Array = npt.NDArray[np.float64]


def linear(colour: str) -> Array:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def oklab(rgb: Array) -> Array:
    """Of linear RGB (Ottosson, 2020): differences that are as large as they look."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(lab) @ np.cbrt(np.array(cones) @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("eyes", EYES)
def test_the_methods_that_are_compared_most_are_told_apart(eyes: str) -> None:
    seen = {name: oklab(np.array(EYES[eyes]) @ linear(style_of(name).colour)) for name in MAIN}
    for a, b in combinations(MAIN, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 0.075, (a, b)


def test_every_method_has_a_colour_and_a_mark_of_its_own() -> None:
    assert set(METHODS) == set(method_names()), "give a new method a colour in mmrns.runs.palette"
    assert len(set(METHODS.values())) == len(METHODS)
    assert len({colour for colour, _ in METHODS.values()}) == len(METHODS)
    for colour, _ in METHODS.values():
        # Against white; three to one is what graphics should have, amber and sky blue nearly do.
        assert 1.05 / (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05) > 2.7, colour


def test_other_methods_keep_their_colour_too() -> None:
    assert style_of("mine") == style_of("mine")
    assert len({style_of(f"own {i}").colour for i in range(60)}) > 4
    assert style_of("\udcff").colour.startswith("#")


def test_what_has_one_colour_in_a_picture_has_other_lines() -> None:
    plain, dashed, other = styles_of(["mmrns", "mmrns", "uniform"])
    assert plain.colour == dashed.colour != other.colour
    assert (plain.line, other.line) == ("-", "-")
    assert dashed.line != "-"
    assert [style.hollow for style in (plain, dashed, other)] == [False, True, False]
