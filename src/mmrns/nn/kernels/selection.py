"""The largest of each row: by a compiled kernel on the CPU where Numba is there (extra `fast`), otherwise in torch."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.kernels.comparisons import form_of


def largest(values: Float[Tensor, "B C"], k: int) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k largest values of each row, falling, and their columns. No gradient.

    The kernel costs one pass over a row and a sort of little more than the k, where `torch.topk` partitions the row.

    Args:
        values: NaN are neither large nor small; of equal values any may be taken.
        k: at most C.
    """
    if form_of(values) == "numba":
        from mmrns.nn.kernels import compiled

        return compiled.largest(values, k)
    found = values.detach().topk(k, dim=1)
    return found.values, found.indices
