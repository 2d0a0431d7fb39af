"""Regularizers of the model."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model


class Regularizer(nn.Module):
    """Penalties on the batch's own vectors:

        mean_b sum_{v in (h, r, t)} ( l2 ||v||_2^2 + l3 ||v||_3^3 + n3 || |v| ||_3^3 )

    The last is the nuclear 3-norm (Lacroix et al., "Canonical Tensor Decomposition for Knowledge Base Completion",
    2018): the sum of the cubed moduli of complex numbers or biquaternions, the same as L3 for real ones. Published
    codes penalise the whole tables at times; the batch's vectors are what the step touches, so this form costs nothing
    that grows with the number of entities.

    They are on what is a factor of the score. With several views that is the structural one, entities and relations
    alike: the others are bounded by the features that they are computed from, and a mixture's logits are no factors.
    What joins the views before they are scored (`joint`, `rsme`, and embedders whose only view is computed) is
    penalised as it is scored.

    Args:
        l2, l3, n3: weights; 0 switches a term off.
    """

    def __init__(self, *, l2: float = 0.0, l3: float = 0.0, n3: float = 0.0):
        super().__init__()
        self.l2, self.l3, self.n3 = l2, l3, n3

    def forward(self, model: Model, lookup: Lookup) -> Float[Tensor, ""] | float:
        """Scalar penalty."""
        if not (self.l2 or self.l3 or self.n3):
            return 0.0
        return sum(self._penalty(v, model.scorer.components) for v in model.factors(lookup)) / len(lookup.batch)

    def _penalty(self, v: Float[Tensor, "B width"], components: int) -> Float[Tensor, ""] | float:
        total: Tensor | float = 0.0
        if self.l2:
            total = total + self.l2 * v.square().sum()
        if self.l3:
            total = total + self.l3 * v.abs().pow(3).sum()
        if self.n3:
            # The derivative of the cubed modulus is finite at 0, that of its root is not.
            squares = v.unflatten(-1, (components, -1)).square().sum(-2) if components > 1 else v.square()
            total = total + self.n3 * (squares * squares.clamp(min=1e-30).sqrt()).sum()
        return total
