from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
import torch
from torch import Tensor

import mmrns
from mmrns.nn.blocks import _InBlocks
from mmrns.nn.embedders.hosted import _Handed
from mmrns.nn.numerics import FullPrecision, full, logsumexp, masked, ones_where


class Product(FullPrecision):
    seen: list[torch.dtype]

    @staticmethod
    def forward(ctx: Any, n: int, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        # Under autocast the first would be of bfloat16, and the second an error.
        out = torch.empty(len(a), b.shape[1], dtype=a.dtype)
        return n * (a @ b) + 0 * torch.mm(a, b, out=out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        return None, 2 * gradients[0] @ b.T, 2 * a.T @ gradients[0]


@pytest.mark.parametrize(
    ("one", "other", "wide"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_a_function_of_its_own_gradient_is_in_full_precision(
    one: torch.dtype, other: torch.dtype, wide: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(3, 40, generator=g).to(one).requires_grad_()
    b = torch.randn(40, 2, generator=g).to(other).requires_grad_()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = Product.apply(2, a, b)
        assert found.dtype == wide
        torch.testing.assert_close(found, 2 * (a.to(wide) @ b.to(wide)))
        of_a, of_b = torch.autograd.grad(found.sum(), (a, b))
        assert (of_a.dtype, of_b.dtype) == (one, other)
        torch.testing.assert_close(of_a, (2 * b.sum(1)).expand_as(a).to(one), rtol=0.02, atol=0.02)


def test_every_function_of_its_own_gradient_is_one_of_these() -> None:
    for module in pkgutil.walk_packages(mmrns.__path__, "mmrns."):
        if module.name.startswith(("mmrns.nn", "mmrns.samplers", "mmrns.training")):
            importlib.import_module(module.name)

    def below(cls: type[Any]) -> list[type[Any]]:
        return [cls, *(found for sub in cls.__subclasses__() for found in below(sub))]

    ours = [cls for cls in below(torch.autograd.Function) if cls.__module__.startswith("mmrns.")]
    assert len(ours) >= 5
    # What goes block by block, or hands rows on, has no arithmetic of its own.
    others = {cls for cls in ours if not issubclass(cls, FullPrecision)}
    assert others == {_InBlocks, _Handed}, "derive it from FullPrecision, so that autocast is off"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_masked_is_finite_in_its_own_type(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    keep = torch.tensor([[True, False], [False, False]])
    found = masked(values, keep)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert found.argmax(1).tolist() == [0, 0]
    assert torch.softmax(found, dim=1)[0].tolist() == [1.0, 0.0]
    torch.softmax(found, dim=1)[:, 0].sum().backward()
    assert values.grad is not None
    assert not values.grad.any()
    assert full(values).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_logsumexp_is_that_of_torch() -> None:
    g = torch.Generator().manual_seed(1)
    values = 200 * torch.randn(5, 9, generator=g, dtype=torch.float64)
    values = masked(values, torch.rand(5, 9, generator=g) < 0.7)
    values[4] = 2.0
    given = values.requires_grad_()
    torch.testing.assert_close(logsumexp(given), given.logsumexp(1))
    weight = torch.randn(5, generator=g, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((weight * f).sum(), given)[0] for f in (logsumexp(given), given.logsumexp(1))
    )
    torch.testing.assert_close(found, expected)
    # Torch's gradient of a row without anything to keep adds up to K.
    nothing = masked(given.detach(), torch.zeros_like(given, dtype=torch.bool)).requires_grad_()
    assert torch.allclose(torch.autograd.grad(logsumexp(nothing).sum(), nothing)[0], torch.full_like(nothing, 1 / 9))
    half = torch.randn(2, 4000, generator=g, dtype=torch.bfloat16).requires_grad_()
    single = logsumexp(half)
    torch.testing.assert_close(single, half.float().logsumexp(1))
    assert torch.autograd.grad(single.sum(), half)[0].dtype == torch.bfloat16


def test_ones_where_something_is_true() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = ones_where(mask, dtype)
        assert found.dtype == dtype
        assert found.tolist() == [[1, 0, 1], [0, 0, 1]]
    # Of views of any strides, too.
    assert ones_where(mask.T[1:]).tolist() == [[0, 0], [1, 1]]
    assert ones_where(mask[:1].expand(2, 3)).tolist() == [[1, 0, 1], [1, 0, 1]]
