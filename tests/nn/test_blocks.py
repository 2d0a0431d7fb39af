"""A loss block by block is the loss of the whole, its gradients too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmrns.data.datasets import Dataset
from mmrns.nn import blocks
from mmrns.nn.blocks import in_blocks, rows_of_block
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer


def loss_of(block: slice, numbers: Sequence[Tensor], shared: Sequence[Tensor] = ()) -> Tensor:
    scores, gate = numbers[:2]
    mixed = scores * torch.sigmoid(gate)
    return (mixed.logsumexp(1) * torch.arange(7.0)[block]).sum() + sum(
        ((own * mixed).sum() for own in shared), torch.zeros(())
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
@pytest.mark.parametrize("outer", [1.0, 2.5])
def test_gradients_are_those_of_the_whole(rows: int, outer: float) -> None:
    """Of what has a row for each row, of what all rows have, and none of what is not trained or not used."""
    g = torch.Generator().manual_seed(1)
    scores, gate, shared = (torch.randn(*n, generator=g, requires_grad=True) for n in ((7, 5), (7, 1), (5,)))
    bare, unused = torch.randn(7, 5, generator=g), torch.randn(7, 2, generator=g, requires_grad=True)
    trained = scores, gate, unused, shared
    whole = outer * loss_of(slice(0, 7), (scores, gate), (shared, bare.sum(0)))
    expected = torch.autograd.grad(whole, trained, allow_unused=True)
    parts: list[int] = []

    def of_block(block: slice, numbers: Sequence[Tensor]) -> Tensor:
        parts.append(len(numbers[0]))
        assert [len(own) for own in numbers] == [len(numbers[0])] * 4
        return loss_of(block, numbers, (shared, bare.sum(0)))

    found = outer * in_blocks(of_block, rows, (scores, gate, bare, unused), [shared])
    assert parts == [rows] * (7 // rows) + ([7 % rows] if 7 % rows else [])
    torch.testing.assert_close(found, whole)
    gradients = torch.autograd.grad(found, trained, allow_unused=True)
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, torch.zeros_like(unused) if other is None else other)


def test_a_device_has_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_PAIRS", 12)
    assert rows_of_block(5, torch.device("cpu")) == 2
    assert rows_of_block(50, torch.device("cpu")) == 1
    assert rows_of_block(5, torch.device("meta")) > 10**9


MODELS: dict[str, dict[str, Any]] = {
    "structure": {},
    "residual": {"modalities": ["image", "text"], "mixture": "residual", "structure_loss": 0.3, "view_loss": 0.2},
    "gated": {"modalities": ["image", "text"], "mixture": "gated"},
    "joint": {"modalities": ["text"], "mixture": "joint"},
    "rsme": {"modalities": ["text"], "mixture": "rsme"},
    "mean-probability": {"modalities": ["text"], "mixture": "mean-probability"},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("method", "loss"), [("1-vs-all", "cross-entropy"), ("k-vs-all", "k-vs-all"), ("k-vs-all", "bce")]
)
def test_a_step_is_the_same(monkeypatch: pytest.MonkeyPatch, toy: Dataset, name: str, method: str, loss: str) -> None:
    """The loss and every gradient, in double precision, with one block and with several."""

    def trainer() -> Trainer:
        model = {"scorer": "ComplEx", "dim": 8, "reciprocal": True, **MODELS[name]}
        sections = {"model": model, "objective": {"loss": loss}, "training": {"batch_size": 32}, "device": "cpu"}
        made = build_trainer(make_config({"method": method, **sections}), toy)
        made.model.double()
        return made

    def descended(made: Trainer) -> tuple[Tensor, dict[str, Tensor]]:
        found = made.descend(made.batch(0), 0).loss
        return found, {n: p.grad for n, p in made.model.named_parameters() if p.grad is not None}

    whole, gradients = descended(trainer())
    monkeypatch.setattr(blocks, "_PAIRS", 7 * len(toy.graph.entities))
    with FlopCounterMode(display=False):  # As the benchmarks count; it hooks into every module's arguments.
        found, of_blocks = descended(trainer())
    # The weights of rows, and so the shares of blocks, are of single precision.
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0.0)
    assert {n for n, g in gradients.items() if g.any()} <= set(of_blocks)
    for parameter, gradient in of_blocks.items():
        expected = gradients.get(parameter, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
