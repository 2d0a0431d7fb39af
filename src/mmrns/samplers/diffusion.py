"""A denoising diffusion model of entities' vectors, given what the entity is to answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 50
"""T, the steps from an entity's vector to noise."""
_FIRST, _LAST = 1e-4, 0.02
"""beta of the first and of the last step; those between lie on a line."""

BETAS = [_FIRST + (_LAST - _FIRST) * t / (STEPS - 1) for t in range(STEPS)]
BARS = [math.prod(1 - beta for beta in BETAS[: t + 1]) for t in range(STEPS)]
"""Of each step t, counted from 0, the product of 1 - beta up to it: how much of a vector's variance is left."""


class Denoiser(nn.Module):
    """The noise in a vector x_t: eps(x_t, t, c) = W4 ( W3 LN( relu( W2 LN [x_t ; time(t) ; c] ) ) ), c the condition.

    time(t) is a network of one hidden layer over sines and cosines of t. Layers have biases; the hidden one is 4 times
    as wide as a vector.

    Args:
        width: w, of a vector.
        condition_width: of a condition.
    """

    positions: Tensor

    def __init__(self, width: int, condition_width: int):
        super().__init__()
        given = 2 * width + condition_width
        self.time = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm, self.hidden = nn.LayerNorm(given), nn.Linear(given, 4 * width)
        self.hidden_norm, self.down = nn.LayerNorm(4 * width), nn.Linear(4 * width, width)
        self.out = nn.Linear(width, width)
        half = (width + 1) // 2
        angles = torch.arange(STEPS)[:, None] / 10_000 ** (torch.arange(half) / half)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1)[:, :width], persistent=False)

    def times(self) -> Float[Tensor, "T width"]:
        """time(t) of every t."""
        return self.time(self.positions)

    def forward(
        self,
        x: Float[Tensor, "n width"],
        time: Float[Tensor, "n width"],
        condition: Float[Tensor, "n condition_width"],
    ) -> Float[Tensor, "n width"]:
        """The noise in each vector x_t, by time(t) and its condition."""
        given = self.norm(torch.cat([x, time, condition], dim=1))
        return self.out(self.down(self.hidden_norm(self.hidden(given).relu())))


def noised(
    x: Float[Tensor, "*n width"], bar: Float[Tensor, "*#n"], noise: Float[Tensor, "*#n width"]
) -> Float[Tensor, "*n width"]:
    """Vectors after so many steps: sqrt(bar) x + sqrt(1 - bar) noise (Ho et al., 2020, eq. 4)."""
    return bar.sqrt()[..., None] * x + (1 - bar).sqrt()[..., None] * noise


def reverse(
    x: Float[Tensor, "*n width"], t: int, eps: Float[Tensor, "*n width"], noise: Float[Tensor, "*n width"] | None
) -> Float[Tensor, "*n width"]:
    """One step back from x_t to x_{t-1}, by the noise eps that is seen in x_t (Ho et al., 2020, algorithm 2).

        ( x_t - beta_t / sqrt(1 - bar_t) eps ) / sqrt(1 - beta_t) + sqrt( beta_t (1 - bar_{t-1}) / (1 - bar_t) ) noise

    The last one, of t = 0, takes no noise.
    """
    beta, bar, before = BETAS[t], BARS[t], BARS[t - 1] if t else 1.0
    mean = torch.sub(x, eps, alpha=beta / math.sqrt(1 - bar)) / math.sqrt(1 - beta)
    return mean if noise is None else mean.add(noise, alpha=math.sqrt(beta * (1 - before) / (1 - bar)))


@torch.no_grad()
def chain(
    denoiser: Denoiser, condition: Float[Tensor, "n condition_width"], wanted: Collection[int], stream: torch.Generator
) -> Iterator[tuple[int, Float[Tensor, "n width"], Float[Tensor, "n width"]]]:
    """From noise back to vectors that answer the conditions, as far as is wanted.

    Yields:
        t, x_t and x_{t-1}, for each t that is wanted, descending.
    """
    times = denoiser.times()
    shape = len(condition), times.shape[1]

    def noise() -> Tensor:
        return torch.randn(shape, generator=stream, device=condition.device).to(condition.dtype)

    x = noise()
    for t in reversed(range(min(wanted), STEPS)):
        eps = denoiser(x, times[t].expand(shape), condition)
        before, x = x, reverse(x, t, eps, noise() if t else None)
        if t in wanted:
            yield t, before, x
