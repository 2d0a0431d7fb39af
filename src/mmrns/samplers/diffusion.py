"""A denoising diffusion model of entities' vectors, given what the entity is to answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

STEPS = 50
"""T, the steps from an entity's vector to noise."""
_FIRST, _LAST = 1e-4, 0.02
"""beta of the first and of the last step; those between lie on a line."""

BETAS = [_FIRST + (_LAST - _FIRST) * t / (STEPS - 1) for t in range(STEPS)]
BARS = [math.prod(1 - beta for beta in BETAS[: t + 1]) for t in range(STEPS)]
"""Of each step t, counted from 0, the product of 1 - beta up to it: how much of a vector's variance is left."""

Predict = Callable[[Float[Tensor, "n width"], int], Float[Tensor, "n width"]]


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

    def forward(
        self, x: Float[Tensor, "n width"], t: Int[Tensor, " n"], condition: Float[Tensor, "n condition_width"]
    ) -> Float[Tensor, "n width"]:
        """The noise in each vector, of which t steps, counted from 0, have been taken."""
        given = torch.cat([x, self.time(self.positions).index_select(0, t), condition], dim=1)
        return self.out(self.down(self.hidden_norm(self.hidden(self.norm(given)).relu())))

    @torch.no_grad()
    def given(self, condition: Float[Tensor, "n condition_width"]) -> Predict:
        """The same for a condition that stays, without a gradient; t is the same for all.

        The normalisation takes the mean from the weights instead of the vectors; then the condition's part of the first
        product, and that of the time, are made once, and the last two layers are one: 8 w^2 products a vector, not 17.
        """
        width = self.out.out_features
        weight = self.hidden.weight * self.norm.weight
        of_x, of_time, of_condition = (weight - weight.mean(1, keepdim=True)).tensor_split([width, 2 * width], dim=1)
        bias = linear(self.norm.bias, self.hidden.weight, self.hidden.bias)
        times = self.time(self.positions)
        from_time, from_condition = times @ of_time.T, condition @ of_condition.T
        out, out_bias = self.out.weight @ self.down.weight, self.out(self.down.bias)
        norm = self.hidden_norm

        def predict(x: Float[Tensor, "n width"], t: int) -> Float[Tensor, "n width"]:
            given = torch.cat([x, times[t].expand(len(x), -1), condition], dim=1)
            scale = (given.var(1, correction=0, keepdim=True) + self.norm.eps).rsqrt()
            centred = torch.addmm(from_condition, x, of_x.T) + from_time[t]
            hidden = torch.addcmul(bias, centred, scale).relu()
            return linear(layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps), out, out_bias)

        return predict


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
    predict = denoiser.given(condition)
    shape = len(condition), denoiser.out.out_features

    def noise() -> Tensor:
        return torch.randn(shape, generator=stream, device=condition.device).to(condition.dtype)

    x = noise()
    for t in reversed(range(min(wanted), STEPS)):
        before, x = x, reverse(x, t, predict(x, t), noise() if t else None)
        if t in wanted:
            yield t, before, x
