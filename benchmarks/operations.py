"""How many operations of a training step a device would be given to launch."""

from __future__ import annotations

from math import lcm
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from mmrns.training.trainer import Trainer

NOT_LAUNCHED = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "detach_",
    "diagonal",
    "empty",
    "empty_like",
    "empty_strided",
    "expand",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "permute",
    "promote_types",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unfold",
    "unsqueeze",
    "view",
}
"""Operations that change what is known of a tensor, and read or write none of its numbers."""


class Operations(TorchDispatchMode):
    """Counts the operations of ATen that are dispatched inside and have numbers to work on.

    Those of backward passes and optimizers are among them. What is done on the host counts as what a device does, since
    on a processor nothing tells them apart; what the package's own kernels do counts nothing.
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Marks for a profiler are operations of another namespace.
        self.count += func.namespace == "aten" and func.overloadpacket.__name__ not in NOT_LAUNCHED
        return func(*args, **(kwargs or {}))


def cycle(trainer: Trainer) -> int:
    """Steps, two at least, after which blocks and lessons begin together and both sides have had their turn.

    Those of `mmrns` have the encoding of all entities once in a cycle.
    """
    held = getattr(trainer.sampler, "lag", 1)
    return lcm(2, held, getattr(trainer.sampler, "hold", 1), getattr(trainer.sampler, "refresh", 1))


def operations(trainer: Trainer) -> float:
    """Of a step, forward, backward and optimizer together, in the mean over its second cycle."""
    steps = cycle(trainer)
    for step in range(steps):
        trainer.step(step)
    with Operations() as counted:
        for step in range(steps, 2 * steps):
            trainer.step(step)
    return counted.count / steps
