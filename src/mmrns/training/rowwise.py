"""Optimizers of tables of which a step touches some rows: those are updated, in one pass over them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.kernels.comparisons import form_of


class _RowWise(torch.optim.Optimizer, ABC):
    """Updates the rows that sparse gradients name, and what it keeps of them; all else stays as it is.

    A row that is named several times moves once, by the sum of its gradients in the order in which they come.
    """

    moments: tuple[str, ...]
    """What is kept of a parameter, in its shape."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows of all gradients.

        Args:
            closure: see torch; none is called.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(group, parameter, parameter.grad)

    def _update(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state.update({name: torch.zeros_like(parameter) for name in self.moments})
        state["step"] = int(state["step"]) + 1
        numbers, moments = self.numbers(group, state["step"]), [state[name] for name in self.moments]
        if form_of(parameter) == "numba":
            from mmrns.nn.kernels import compiled

            compiled.update_rows(parameter, moments, gradient._indices()[0], gradient._values(), numbers)
            return
        gradient = gradient.coalesce()
        self.rows(parameter, moments, gradient.indices()[0], gradient.values(), numbers)

    @abstractmethod
    def numbers(self, group: dict[str, Any], step: int) -> tuple[float, ...]:
        """What the rule takes beside the gradient; the first is the length of the step."""

    @abstractmethod
    def rows(
        self,
        table: Float[Tensor, "E w"],
        moments: list[Float[Tensor, "E w"]],
        ids: Int[Tensor, " n"],
        gradient: Float[Tensor, "n w"],
        numbers: tuple[float, ...],
    ) -> None:
        """Update some rows, each named once."""


class RowAdam(_RowWise):
    """Adam (Kingma and Ba, 2015), row by row: the rule of `torch.optim.SparseAdam`, "lazy Adam".

        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
        x = x - lr m sqrt(1 - beta2^t) / ((1 - beta1^t) (sqrt(v) + eps))

    t counts the steps of the table, not those of the row.

    Args:
        params: tables, or groups of them; of each gradients are sparse in their first dimension.
        lr, betas, eps: see the formula.
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def numbers(self, group: dict[str, Any], step: int) -> tuple[float, ...]:
        first, second = group["betas"]
        length = group["lr"] * math.sqrt(1 - second**step) / (1 - first**step)
        return length, group["eps"], 1 - first, 1 - second

    def rows(
        self,
        table: Float[Tensor, "E w"],
        moments: list[Float[Tensor, "E w"]],
        ids: Int[Tensor, " n"],
        gradient: Float[Tensor, "n w"],
        numbers: tuple[float, ...],
    ) -> None:
        length, eps, first, second = numbers
        m, v = (moment.index_select(0, ids) for moment in moments)
        m.lerp_(gradient, first)
        v.lerp_(gradient.square(), second)
        for moment, rows in zip(moments, (m, v), strict=True):
            moment.index_copy_(0, ids, rows)
        table.index_add_(0, ids, m.div_(v.sqrt_().add_(eps)), alpha=-length)


class RowAdagrad(_RowWise):
    """Adagrad (Duchi et al., 2011), row by row: s = s + g^2, x = x - lr g / (sqrt(s) + eps).

    Args:
        params: see `RowAdam`.
        lr, eps: see the formula.
    """

    moments = ("sum",)

    def __init__(self, params: Iterable[Any], lr: float = 0.01, eps: float = 1e-10):
        super().__init__(params, {"lr": lr, "eps": eps})

    def numbers(self, group: dict[str, Any], step: int) -> tuple[float, ...]:
        return group["lr"], group["eps"]

    def rows(
        self,
        table: Float[Tensor, "E w"],
        moments: list[Float[Tensor, "E w"]],
        ids: Int[Tensor, " n"],
        gradient: Float[Tensor, "n w"],
        numbers: tuple[float, ...],
    ) -> None:
        length, eps = numbers
        s = moments[0].index_select(0, ids).addcmul_(gradient, gradient)
        moments[0].index_copy_(0, ids, s)
        table.index_add_(0, ids, gradient.div(s.sqrt_().add_(eps)), alpha=-length)
