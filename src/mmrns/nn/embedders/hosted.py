"""Tables that stay in the machine's memory while a device computes with their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_Rows = TypeVar("_Rows", bound="Rows")


class Rows(nn.Module):
    """What looks up rows of a weight, which may stay in the machine's memory while all else is on a device.

    Attributes:
        weight: the rows.
        sparse: gradients hold only the rows that were looked up, for a row-wise optimizer.
        on_host: the weight does not go where the module goes, and neither do its gradients; needs `sparse`.
        at_hand: those of its rows that the device has in this step (`RowsAtHand`); None = none.
        all_too: every step takes all rows besides, so that the gradient of rows that are looked up, which is added to a
            dense one, need hold no others.
    """

    weight: nn.Parameter
    sparse: bool
    on_host: bool = False
    at_hand: RowsAtHand | None = None
    all_too: bool = False

    def look_up(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        """The rows of some ids, where the ids are."""
        if self.at_hand is not None:
            return self.at_hand.look_up(ids)
        if self._within_reach(ids):
            # To add up what is sparse, a device would sort it first, and wait for how much it is.
            beside = self.all_too and ids.is_cpu
            return nn.functional.embedding(ids, self.weight, sparse=self.sparse or beside)
        wanted = ids.flatten().to(self.weight.device)
        found = self.weight.detach().index_select(0, wanted).to(ids.device)
        return handed(self.weight, wanted, found).unflatten(0, ids.shape)

    def _within_reach(self, ids: Int[Tensor, "*n"]) -> bool:
        """Whether whoever asks is where the weight is."""
        return ids.device == self.weight.device

    def _apply(self: _Rows, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Rows:
        """What stays on the host takes on another precision, but goes nowhere."""
        if not self.on_host:
            return super()._apply(fn, recurse)
        weight = self._parameters.pop("weight")
        assert weight is not None
        super()._apply(fn, recurse)
        weight.data = weight.data.to(fn(weight.detach().new_empty(0)).dtype)
        self._parameters["weight"] = weight
        return self


class RowsAtHand:
    """Copies of some rows of a weight, on a device, through which their gradients reach the weight.

    Args:
        weight: in the machine's memory.
        ids: of the rows, ascending, where the weight is.
        there: the same on the device.
        rows: copies of the rows, on the device.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        ids: Int[Tensor, " n"],
        there: Int[Tensor, " n"],
        rows: Float[Tensor, "n width"],
    ):
        self._ids = there
        # An optimizer also moves rows whose gradient is 0, but none that only the sampler has looked at.
        self._trained = torch.zeros(len(ids), dtype=torch.bool, device=rows.device)
        self._rows = handed(weight, ids, rows, self._trained)

    def look_up(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        """The rows of some of these ids; of any other the lookup fails."""
        n = len(self._ids)
        place = torch.searchsorted(self._ids, ids.contiguous())
        known = self._ids[place.clamp(max=n - 1)] == ids
        place.masked_fill_(~known, n)
        if torch.is_grad_enabled():
            self._trained.index_fill_(0, place.flatten(), True)
        return nn.functional.embedding(place, self._rows)


class _Handed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Float[Tensor, "E width"],
        ids: Int[Tensor, " n"],
        rows: Float[Tensor, "n width"],
        trained: Bool[Tensor, " n"] | None,
    ) -> Float[Tensor, "n width"]:
        ctx.ids, ctx.shape, ctx.trained = ids, weight.shape, trained
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "n width"]) -> tuple[Tensor, None, None, None]:
        ids, values = ctx.ids, gradients[0].to(ctx.ids.device)
        if ctx.trained is not None:
            chosen = ctx.trained.to(ids.device).nonzero().squeeze(1)
            ids, values = ids[chosen], values.index_select(0, chosen)
        return torch.sparse_coo_tensor(ids[None], values, ctx.shape, check_invariants=False), None, None, None


def handed(
    weight: nn.Parameter,
    ids: Int[Tensor, " n"],
    rows: Float[Tensor, "n width"],
    trained: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, "n width"]:
    """Rows of a weight that are on another device: what comes back is their gradient, sparse, where the weight is.

    Args:
        weight: where the rows are from.
        ids: of the rows, where the weight is.
        rows: on the device.
        trained: those of them whose gradient comes back, as it is known after the forward pass; None = all.
    """
    made: Any = _Handed.apply(weight, ids, rows, trained)
    return made


def on_host(module: nn.Module) -> list[Rows]:
    """The parts of a module whose weights stay in the machine's memory."""
    return [part for part in module.modules() if isinstance(part, Rows) and part.on_host]
