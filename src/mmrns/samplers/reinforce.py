"""The policy gradient of samplers whose draws cannot be differentiated."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Reinforce(nn.Module):
    """`- mean over the draws of (reward - baseline) ln q(draw)` (Williams, REINFORCE, 1992).

    The baseline is a moving average of the mean reward of the batches before, the first batch's own at first; it lowers
    the variance of the gradient and leaves its mean as it is.

    Args:
        decay: of the moving average.
    """

    baseline: Tensor

    def __init__(self, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.register_buffer("baseline", torch.tensor(torch.nan))

    def forward(
        self, logq: Float[Tensor, "B K"], reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None
    ) -> Float[Tensor, ""]:
        """The loss, whose gradient reaches `logq` only; draws that do not count take no part."""
        counts = torch.ones_like(reward) if mask is None else mask.to(reward.dtype)
        reward, n = reward.detach(), counts.sum().clamp(min=1)
        mean = (counts * reward).sum() / n
        baseline = torch.where(self.baseline.isnan(), mean, self.baseline)
        self.baseline.copy_(self.decay * baseline + (1 - self.decay) * mean)
        return -(counts * (reward - baseline) * logq).sum() / n
