"""One score from the scores of several views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gated_mixture(
    scores: Sequence[Float[Tensor, "B K"]],
    gate: Float[Tensor, "B V"],
    own: Bool[Tensor, "B V"],
    candidates: Bool[Tensor, "*K V"],
) -> Float[Tensor, "B K"]:
    """The views' scores, mixed by a gate of the relation over the views that both entities have.

        f(h, r, t) = sum_v a_v g_v(r) f_v(h_v, r_v, t_v) / sum_v a_v g_v(r)

    a_v is 1 where both entities have view v, else 0. Without a common view the first one counts. Being a mean, the
    result is on the scale of the scores, whatever is missing.

    Args:
        scores: f_v, of each view.
        gate: g.
        own: which views the anchor has.
        candidates: which views the candidates have, [B K V] or of one pool [P V].
    """
    common = own.to(gate.dtype)[:, None] * candidates.to(gate.dtype)
    alone = common.sum(-1) == 0
    weights = (gate[:, None] * common).unbind(-1)
    mixed = sum((w * s for w, s in zip(weights, scores, strict=True)), torch.zeros_like(scores[0]))
    total = torch.where(alone, 1.0, sum(weights, torch.zeros_like(scores[0])))
    return torch.where(alone, scores[0], mixed / total)


def reals_per_pair(n_views: int) -> int:
    """Reals that a mixture holds for each pair: the views' scores and weights, and their sums."""
    return 2 * n_views + 3
