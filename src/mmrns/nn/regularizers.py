"""Regularizers of the model."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mmrns.nn.model import Model
from mmrns.types import Batch


class LpRegularizer(nn.Module):
    """`weight * mean_b (||h_b||_p^p + ||r_b||_p^p + ||t_b||_p^p)` over the batch's own vectors.

    The authors' codes of RotatE and MMRNS penalise the whole tables with p = 3 instead; the batch's vectors are what
    the step touches, so this form costs nothing that grows with the number of entities.

    Args:
        weight: 0 switches it off.
        p: the power.
    """

    def __init__(self, *, weight: float, p: int = 3):
        super().__init__()
        self.weight, self.p = weight, p

    def forward(self, model: Model, batch: Batch) -> Float[Tensor, ""] | float:
        """Scalar penalty."""
        if not self.weight:
            return 0.0
        vectors = (model.entities(batch.h), model.relations(batch.r), model.entities(batch.t))
        return self.weight * sum(v.abs().pow(self.p).sum() for v in vectors) / len(batch)
