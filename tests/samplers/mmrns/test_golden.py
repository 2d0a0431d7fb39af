"""The MMRNS step against recorded ones: the authors' (beside the repository) and our own (in it)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_step import Step, take_step
from mmrns.files import read_tensors

AUTHORS = ["TransE_head", "TransE_tail", "RotatE_tail", "DistMult_head"]
LAYERS = {
    "attention.project.0": "linear_img",
    "attention.project.1": "linear_text",
    "attention.gate.0": "linear_rel1",
    "attention.gate.1": "linear_rel2",
    "attention.out.0": "linear_img_project",
    "attention.out.1": "linear_text_project",
    "attention.norm": "layernorm",
    "gate.hidden": "linear1",
    "gate.gate": "linear3",
}
PARAMETERS = {
    "model.entity.weight": "kge.entity_embedding",
    "model.relation.weight": "kge.relation_embedding",
    **{
        f"sampler.similarity.{ours}.{k}": f"kca.{theirs}.{k}"
        for ours, theirs in LAYERS.items()
        for k in ("weight", "bias")
    },
}


def _compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Similarities and logits to 1e-5, losses to 1e-5 relative, gradients to 1e-4 of each tensor's largest entry."""
    for name in (name for name in expected if name.startswith("sim_") or name == "pmi"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["logits_masked"], expected["logits_masked"], rtol=1e-5, atol=1e-5)
    assert torch.equal(found["drawn_positions"], expected["drawn_positions"])
    for name in ("positive_scores", "negative_scores", "score_loss", "loss"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    gradients = [name for name in expected if name.startswith("grad.")]
    assert len(gradients) == sum(name.startswith("grad.") for name in found)
    for name in gradients:
        error = (found[name] - expected[name]).abs().max()
        assert error <= 1e-4 * expected[name].abs().max(), name


@pytest.mark.parametrize("name", AUTHORS)
def test_published_reproduces_the_authors_step(shared: Path, name: str) -> None:
    path = shared / "golden" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs the recorded step {path.name}")
    with np.load(path) as file:
        z = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
    scorer, side = name.split("_")
    step = Step(
        scorer,
        dim=12,
        gamma=float(z["kge.gamma"]),
        init_range=float(z["kge.embedding_range"]),
        head=side == "head",
        published=True,
    )
    expected = {k: v for k, v in z.items() if not k.startswith("grad.")}
    expected |= {f"grad.{ours}": z[f"grad.{theirs}"] for ours, theirs in PARAMETERS.items()}
    expected["score_loss"] = (z["positive_loss"] + z["negative_loss"]) / 2
    _compare(take_step(step, z, {ours: z[theirs] for ours, theirs in PARAMETERS.items()}), expected)


@pytest.mark.parametrize("name", ["published", "default"])
def test_our_own_recorded_step(name: str) -> None:
    tensors, _ = read_tensors(Path(__file__).parents[2] / "golden" / f"{name}.safetensors")
    given = {k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")}
    expected = {k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")}
    prefix = "parameter."
    parameters = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    step = Step("TransE", dim=6, gamma=6.0, init_range=8 / 6, head=False, published=name == "published", width=5)
    _compare(take_step(step, given, parameters), expected)
