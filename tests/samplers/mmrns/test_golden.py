"""The MMRNS step against recorded ones: the authors' (beside the repository) and our own (in it)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_step import AUTHORS, DEFAULT, SCORERS, Step, compare, reproduce_authors, small, take_step
from mmrns.files import read_tensors

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("name", AUTHORS)
def test_published_reproduces_the_authors_step(shared: Path, name: str) -> None:
    path = shared / "golden" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs the recorded step {path.name}")
    reproduce_authors(path)


def _recorded(name: str, step: Step) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a step of ours comes to now, and what it came to."""
    tensors, _ = read_tensors(GOLDEN / f"{name}.safetensors")
    given, expected = (
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)} for prefix in ("in.", "out.")
    )
    prefix = "parameter."
    parameters = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    return take_step(step, given, parameters), expected


@pytest.mark.parametrize("side", ["head", "tail"])
@pytest.mark.parametrize("scorer", SCORERS)
def test_published_step(scorer: str, side: str) -> None:
    found, expected = _recorded(f"{scorer}_{side}", small(scorer, side))
    compare(found, expected)
    # The inputs are such that everything takes part: what is true is in the pool, and every parameter has a gradient.
    assert (expected["logits_masked"] < -80).any()
    assert all(g.abs().max() > 0 for name, g in expected.items() if name.startswith("grad."))


def test_step_of_mmrns() -> None:
    compare(*_recorded("default", DEFAULT))


@pytest.mark.parametrize("name", ["drawn_positions", "loss", "grad.model.entity.weight", "sim_image"])
def test_the_comparison_notices(name: str) -> None:
    found, expected = _recorded("TransE_head", small("TransE", "head"))
    other = found[name].roll(1, 0) if found[name].ndim else found[name] * 1.001
    assert not torch.equal(other, found[name])
    with pytest.raises(AssertionError):
        compare(found | {name: other}, expected)
