"""Sums, means and softmaxes over the candidates of each row, also where several processes have a part of them each."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.nn.numerics import logsumexp, ones_where


@runtime_checkable
class Shares(Protocol):
    """Those who have a part of each row's candidates each."""

    def sum(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The sum of what each of them has, with the gradient of all of them."""
        ...

    def max(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The largest of what each of them has, without gradient."""
        ...


_SHARES: ContextVar[Shares | None] = ContextVar("shares", default=None)


@contextmanager
def shared_rows(shares: Shares) -> Generator[None]:
    """Inside, the candidates at hand are a part of each row's, and what is summed up below is summed over all parts."""
    before = _SHARES.set(shares)
    try:
        yield
    finally:
        _SHARES.reset(before)


def row_sum(values: Float[Tensor, "B K"] | Bool[Tensor, "B K"]) -> Tensor:
    """`sum_k x_bk`; of what is true or false, how many are true."""
    shares, own = _SHARES.get(), (ones_where(values) if values.dtype == torch.bool else values).sum(1)
    return own if shares is None else shares.sum(own)


def row_count(values: Float[Tensor, "B K"]) -> Tensor | int:
    """K, the same for every row or, where they are parted, by row."""
    return values.shape[1] if _SHARES.get() is None else row_sum(torch.ones_like(values.detach()))


def row_mean(values: Float[Tensor, "B K"], some: Bool[Tensor, "#B K"] | None = None) -> Float[Tensor, " B"]:
    """The mean of each row, or of some of its values; 0 where there are none."""
    if some is not None:
        # As factors: a product with what is true or false converts it anew, in the backward pass too.
        counts = ones_where(some, values.dtype)
        return row_sum(values * counts) / row_sum(counts).clamp(min=1)
    return values.mean(1) if _SHARES.get() is None else row_sum(values) / row_count(values)


def row_of_any(values: Float[Tensor, "m *w"], rows: Int[Tensor, " m"], n: int) -> Float[Tensor, "n *w"]:
    """Of n rows, each of which one of those who share them knows what it is: all of them.

    Args:
        values: of the rows that are known here.
        rows: which these are.
        n: how many there are in all.
    """
    shares, found = _SHARES.get(), values.new_zeros(n, *values.shape[1:]).index_copy(0, rows, values)
    return found if shares is None else shares.sum(found)


def row_logsumexp(values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """`ln sum_k e^x_bk`."""
    if _SHARES.get() is None:
        return logsumexp(values)
    highest = _row_max(values)
    return row_sum((values - highest[:, None]).exp()).log() + highest


def row_softmax(values: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """`e^x_bk / sum_j e^x_bj`."""
    if _SHARES.get() is None:
        return torch.softmax(values, dim=1)
    raised = (values - _row_max(values)[:, None]).exp()
    return raised / row_sum(raised)[:, None]


def _row_max(values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """The largest of each row, without gradient, and no less than the lowest finite number; a part may be empty."""
    shares, values = _SHARES.get(), values.detach()
    assert shares is not None
    lowest = values.new_full((len(values), 1), torch.finfo(values.dtype).min)
    return shares.max(torch.cat([values, lowest], dim=1).amax(1))
