"""Which of several processes this is, as `torchrun` tells it; loads nothing."""

from __future__ import annotations

import os

_TOLD = frozenset({"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


def launched() -> tuple[int, int]:
    """The number of this process among those that `torchrun` has started, and how many these are: 0 and 1 without."""
    return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if os.environ.keys() >= _TOLD else (0, 1)


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarts() -> int:
    """How often `torchrun` has started the processes anew since one of them has failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if launched()[1] > 1 else 0
