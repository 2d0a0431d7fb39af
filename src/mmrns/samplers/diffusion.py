"""A denoising diffusion model of entities' vectors, given what the entity is to answer."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmrns.nn.numerics import without_autocast

STEPS = 50
"""T, the steps from an entity's vector to noise."""
_FIRST, _LAST = 1e-4, 0.02
"""beta of the first and of the last step; those between lie on a line."""

BETAS = [_FIRST + (_LAST - _FIRST) * t / (STEPS - 1) for t in range(STEPS)]
BARS = [math.prod(1 - beta for beta in BETAS[: t + 1]) for t in range(STEPS)]
"""Of each step t, counted from 0, the product of 1 - beta up to it: how much of a vector's variance is left."""


def _shares(t: int) -> tuple[float, float, float]:
    """What x_t, the noise that is seen in it and new noise are multiplied with in x_{t-1} (`reverse`)."""
    beta, bar, before = BETAS[t], BARS[t], BARS[t - 1] if t else 1.0
    of_x = 1 / math.sqrt(1 - beta)
    return of_x, -of_x * beta / math.sqrt(1 - bar), math.sqrt(beta * (1 - before) / (1 - bar))


_SHARES = [_shares(t) for t in range(STEPS)]


class Denoiser(nn.Module):
    """The noise in a vector x_t: eps(x_t, t, c) = W4 ( W3 LN( relu( W2 LN [x_t ; time(t) ; c] ) ) ), c the condition.

    time(t) is a network of one hidden layer over sines and cosines of t. Layers have biases; the hidden one is 4 times
    as wide as a vector.

    Args:
        width: w, of a vector.
        condition_width: of a condition.
    """

    positions: Tensor
    shares: Tensor

    def __init__(self, width: int, condition_width: int):
        super().__init__()
        given = 2 * width + condition_width
        self.time = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm, self.hidden = nn.LayerNorm(given), nn.Linear(given, 4 * width)
        self.hidden_norm, self.down = nn.LayerNorm(4 * width), nn.Linear(4 * width, width)
        self.out = nn.Linear(width, width)
        half = (width + 1) // 2
        angles = torch.arange(STEPS)[:, None] / 10_000 ** (torch.arange(half) / half)
        self.register_buffer("shares", torch.tensor(_SHARES).T, persistent=False)
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
        return self.out(self.down(self.hidden_of(torch.cat([x, time, condition], dim=1))))

    def hidden_of(self, given: Float[Tensor, "n given_width"]) -> Float[Tensor, "n hidden_width"]:
        """LN( relu( W2 LN [x_t ; time(t) ; c] ) )."""
        return self.hidden_norm(self.hidden(self.norm(given)).relu_())


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
    of_x, of_eps, of_noise = _SHARES[t]
    mean = (x * of_x).add(eps, alpha=of_eps)
    return mean if noise is None else mean.add(noise, alpha=of_noise)


@torch.no_grad()
def chain(
    denoiser: Denoiser, condition: Float[Tensor, "n condition_width"], wanted: Collection[int], stream: torch.Generator
) -> list[tuple[int, Float[Tensor, "n width"], Float[Tensor, "n width"]]]:
    """From noise back to vectors that answer the conditions, as far as is wanted.

    What the denoiser is given in all steps is laid out before, with the new noise, drawn at once, where x_t is to be
    added; its last two layers, with nothing between them, are one.

    Returns:
        t, x_t and x_{t-1}, for each t that is wanted, descending.
    """
    with without_autocast(condition.device):
        last, times = min(wanted), denoiser.times()
        steps, n, width = range(STEPS - 1, last - 1, -1), len(condition), times.shape[1]
        # x_49 and what is added on the way to x_48, .., x_{last - 1}.
        noise = torch.randn(len(steps) + 1, n, width, generator=stream, device=condition.device).to(condition.dtype)
        of_eps, of_noise = denoiser.shares[1:, -len(steps) :].flip(1)[..., None, None]
        seen = denoiser.out(denoiser.down.bias)  # in any vector, by the biases alone
        torch.addcmul(of_eps * seen, of_noise, noise[1:], out=noise[1:])
        of_steps = times[last:].flip(0)[:, None].expand(-1, n, -1)
        given = torch.cat([noise[:-1], of_steps, condition.expand(len(steps), -1, -1)], dim=2)
        every = *given[..., :width].unbind(), noise[-1]
        last_layer = (denoiser.out.weight @ denoiser.down.weight).T
        for t, of_step, before, x in zip(steps, given, every, every[1:], strict=False):
            of_x, of_eps, _ = _SHARES[t]
            x.add_(before, alpha=of_x).addmm_(denoiser.hidden_of(of_step), last_layer, alpha=of_eps)
    return [(t, every[at], every[at + 1]) for at, t in enumerate(steps) if t in wanted]
