"""The optimizer of a training: named groups, dense or row by row, with a schedule of their learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmrns.nn.embedders import Rows
from mmrns.training.rowwise import RowAdagrad, RowAdam

Kind = Literal["adam", "adagrad"]
Schedule = Callable[[int], float]
"""What a step (from 0) multiplies the learning rates with."""


_MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.Adagrad: ("sum",),
    RowAdam: RowAdam.moments,
    RowAdagrad: RowAdagrad.moments,
}
"""What each rule keeps of a parameter, in its shape, beside the number of steps."""

_FUSED_ADAGRAD = ("cpu", "cuda")
"""Devices that torch has the fused Adagrad for."""


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        name: `model`, `tables` or `sampler`.
        parameters: all with dense gradients or, where `sparse`, all with sparse ones.
        lr: the learning rate before the schedule.
        sparse: gradients hold the rows of the step only.
    """

    name: str
    parameters: list[nn.Parameter]
    lr: float
    sparse: bool = False


class Optimizer:
    """Adam (Kingma and Ba, 2015) or Adagrad (Duchi et al., 2011).

    Sparse groups are updated row by row: a row that the step does not touch keeps its value and its moments (lazy
    Adam), so that a step costs what it touches and not what there is.

    Args:
        groups: the parameters; empty groups are left out.
        kind: the rule.
        schedule: of all learning rates.
    """

    def __init__(self, groups: Sequence[Group], *, kind: Kind = "adam", schedule: Schedule | None = None):
        self.schedule = schedule or schedule_of("constant", 1)
        self.parts: list[torch.optim.Optimizer] = []
        for sparse in (False, True):
            own = [group for group in groups if group.parameters and group.sparse is sparse]
            if not own:
                continue
            chosen = [
                {"name": group.name, "params": group.parameters, "lr": group.lr, "base_lr": group.lr} for group in own
            ]
            # Fused: one pass over each table instead of one for each of its moments.
            if sparse:
                self.parts.append(RowAdagrad(chosen) if kind == "adagrad" else RowAdam(chosen))
            elif kind == "adagrad":
                there = all(p.device.type in _FUSED_ADAGRAD for group in own for p in group.parameters)
                self.parts.append(torch.optim.Adagrad(chosen, fused=there))
            else:
                self.parts.append(torch.optim.Adam(chosen, fused=True))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups as torch keeps them: `name`, `params`, `lr` (of the last step), `base_lr`, ..."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self, step: int) -> None:
        """Update all parameters, at the learning rates of this step."""
        factor = self.schedule(step)
        for group in self.groups:
            group["lr"] = group["base_lr"] * factor
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What a resume needs, part by part."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, parts: Sequence[dict[str, Any]]) -> None:
        """Put back what `state_dict` gave, but for the learning rates, which are those that it was made with.

        Raises:
            ValueError: see `refuse_misfit`; nothing is put back then.
        """
        self.refuse_misfit(parts)
        rates = [group["base_lr"] for group in self.groups]
        for part, state in zip(self.parts, parts, strict=True):
            part.load_state_dict(state)
        for group, rate in zip(self.groups, rates, strict=True):
            group["base_lr"] = rate

    def refuse_misfit(self, parts: Sequence[dict[str, Any]]) -> None:
        """Hold a state against the parameters: torch's fused Adam writes beyond moments that are too short.

        Raises:
            ValueError: it is of other groups, or what it keeps of a parameter has another name, shape or dtype.
        """
        if len(parts) != len(self.parts):
            raise ValueError(f"{len(parts)} optimizers where there are {len(self.parts)}")
        for part, state in zip(self.parts, parts, strict=True):
            sizes = (
                [len(group["params"]) for group in groups] for groups in (state["param_groups"], part.param_groups)
            )
            found, own = sizes
            if found != own:
                raise ValueError(f"groups of {found} parameters where there are {own}")
            parameters: list[Tensor] = [parameter for group in part.param_groups for parameter in group["params"]]
            moments = _MOMENTS[type(part)]
            for index, kept in state["state"].items():
                if index not in range(len(parameters)) or kept.keys() != {"step", *moments}:
                    raise ValueError(f"the optimizer's state of parameter {index} is of another kind")
                if isinstance(kept["step"], Tensor) and kept["step"].shape != ():
                    raise ValueError(f"the step of parameter {index} is no number")
                for name in moments:
                    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in (kept[name], parameters[index])]
                    if shapes[0] != shapes[1]:
                        (shape, dtype), (wanted, kind) = shapes
                        message = f"{name} of parameter {index} is {dtype} {list(shape)}, not {kind} {list(wanted)}"
                        raise ValueError(message.replace("torch.", ""))


def sparse_tables(module: nn.Module) -> list[nn.Parameter]:
    """The weights whose gradients are sparse."""
    kinds = (Rows, nn.Embedding, nn.EmbeddingBag)
    weights = (table.weight for table in module.modules() if isinstance(table, kinds) and table.sparse)
    return [weight for weight in weights if isinstance(weight, nn.Parameter)]


def schedule_of(name: Literal["constant", "linear", "cosine"], steps: int, warmup: int = 0) -> Schedule:
    """A schedule: a linear rise over the first `warmup` steps, then constant, or a fall to 0 after the last step.

    >>> [round(schedule_of("linear", 4, 1)(i), 3) for i in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        done = step / steps
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]
        return rise * fall

    return factor
