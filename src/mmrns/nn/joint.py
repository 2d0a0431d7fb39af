"""One vector for each entity from the vectors of its views."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.nn.numerics import masked
from mmrns.types import Views


def joint_weights(
    views: Views, attention: Float[Tensor, " width"], temperature: Float[Tensor, "*#n 1"] | float = 1.0
) -> Float[Tensor, "*n V"]:
    """`softmax_v( <w, tanh(e_v)> / temperature )` over the views that each entity has (AdaMF, 2024).

    Args:
        views: of the entities.
        attention: w.
        temperature: the higher, the more alike the weights; of each entity, or of all.
    """
    return torch.softmax(masked((torch.tanh(views.vectors) @ attention) / temperature, views.present), dim=-1)


def joined(
    weights: Float[Tensor, "*n V"], vectors: Float[Tensor, "*n V width"] | Float[Tensor, "P V width"]
) -> Float[Tensor, "*n width"]:
    """`sum_v p_v e_v`, of each entity; of weights [B P V] and a pool's vectors [P V width] for each row."""
    if weights.ndim == vectors.ndim:
        return torch.einsum("bpv,pvw->bpw", weights, vectors)
    return (weights.unsqueeze(-2) @ vectors).squeeze(-2)
