"""How much memory some work holds at its peak, counted tensor by tensor, so that it is the same every time."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Inside, counts the bytes of the storages that operations make and that still are there.

    Attributes:
        peak: the most bytes at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.tensors: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What came from outside is no part of the work.
        outside = {_storage(x)[0] for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        outside -= self.tensors.keys()
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and not tensor.is_sparse:
                place, size = _storage(tensor)
                if place not in outside:
                    self._hold(tensor, place, size)
        return made

    def _hold(self, tensor: Tensor, place: int, size: int) -> None:
        if not self.tensors[place]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.tensors[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self.tensors[place] -= 1
        if not self.tensors[place]:
            del self.tensors[place]
            self.now -= size


def _storage(tensor: Tensor) -> tuple[int, int]:
    if tensor.is_sparse:
        return 0, 0
    storage = tensor.untyped_storage()
    return storage._cdata, storage.nbytes()
