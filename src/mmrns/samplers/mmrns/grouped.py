"""Cosines of grouped rows: each row meets only the candidates of its own relation.

Both functions take the distinct relations of a batch in parts, each a few dense products, with hand-written gradients:
autograd would fill, stack and keep tensors of all (relation, candidate) pairs that these make again. On a processor a
part is one relation, whose candidates stay in its cache; a device is given as many as memory allows at once, so that it
does not wait for the launches of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.numerics import FullPrecision

_TINY = 1e-10
"""Added to products of norms, as in the authors' code."""


@dataclass(frozen=True)
class Part:
    """Some relations, and the rows that are theirs.

    Attributes:
        relations: which they are.
        rows: of all rows, which are grouped by relation.
        most: n, the most rows that one of the relations has.
        places: Int[b], where each row stands in a table [u n] of the relations' rows; None where that is the rows
            themselves.
    """

    relations: slice
    rows: slice
    most: int
    places: Int[Tensor, " b"] | None = None

    def padded(self, rows: Float[Tensor, "B width"]) -> Float[Tensor, "u n width"]:
        """The rows by relation, with zeros where a relation has fewer than n."""
        own = rows[self.rows]
        if self.places is None:
            return own[None]
        u = self.relations.stop - self.relations.start
        return own.new_zeros(u * self.most, own.shape[1]).index_copy_(0, self.places, own).view(u, self.most, -1)

    def unpadded(self, padded: Float[Tensor, "u n width"]) -> Float[Tensor, "b width"]:
        """The rows themselves."""
        return padded[0] if self.places is None else padded.flatten(0, 1).index_select(0, self.places)


def in_parts(index: Int[Tensor, " B"], counts: tuple[int, ...], relations_at_once: int) -> tuple[Part, ...]:
    """Rows that are grouped by relation, in parts.

    Args:
        index: the relation of each row, ascending from 0.
        counts: rows of each relation, on the host.
        relations_at_once: how many a part has at most.
    """
    n_relations = len(counts)
    ends = [0, *accumulate(counts)]
    if relations_at_once == 1:
        return tuple(Part(slice(u, u + 1), slice(ends[u], ends[u + 1]), n) for u, n in enumerate(counts))
    ones = torch.ones_like(index)
    starts = ones.new_zeros(n_relations).index_add_(0, index, ones).cumsum(0).roll(1)
    starts[:1].zero_()
    nth = torch.arange(len(index), device=index.device) - starts[index]
    found: list[Part] = []
    for first in range(0, n_relations, relations_at_once):
        last = min(first + relations_at_once, n_relations)
        rows, most = slice(ends[first], ends[last]), max(counts[first:last])
        places = (index[rows] - first) * most + nth[rows]
        found.append(Part(slice(first, last), rows, most, places))
    return tuple(found)


def grouped_cosine(
    targets: Float[Tensor, "B a"], candidates: Float[Tensor, "R P a"], by: tuple[Part, ...]
) -> Float[Tensor, "B P"]:
    """Cosine of each target with every candidate under its relation; no gradient through the norms.

        sim_bp = <t_b, c_up> / (stopgrad(||t_b|| ||c_up||) + 1e-10),   u the relation of row b

    Args:
        targets: grouped by relation.
        candidates: of each relation.
        by: the parts to take them in (`in_parts`).
    """
    return _GroupedCosine.apply(targets, candidates, by)


def gated_cosine(
    targets: Float[Tensor, "B width"],
    entities: Float[Tensor, "P width"],
    of_entity: Float[Tensor, "P hidden"],
    of_relation: Float[Tensor, "R hidden"],
    weight: Float[Tensor, "width hidden"],
    bias: Float[Tensor, " width"],
    by: tuple[Part, ...],
    slope: float,
) -> Float[Tensor, "B P"]:
    """`grouped_cosine` with the candidates `c_up = e_p * sigmoid(W phi(x_p + z_u) + b)`, phi a LeakyReLU.

    The candidates of a part's relations are made when they are used, and made again in the backward pass: a third of
    its products more, and no tensor of R x P x width that lasts.

    Args:
        targets: grouped by relation.
        entities: e.
        of_entity, of_relation: x and z.
        weight, bias: W and b.
        by: the parts to take them in (`in_parts`).
        slope: of the LeakyReLU.
    """
    given = (targets, entities, of_entity, of_relation, weight, bias)
    return _GatedCosine.apply(*given, by, slope)


def _cosine(targets: Tensor, candidates: Float[Tensor, "u P a"], part: Part) -> tuple[Tensor, Tensor]:
    """Cosines of a part's rows with its relations' candidates, and what the products were divided by."""
    target = part.padded(targets)
    norms = torch.linalg.vector_norm(target, dim=2), torch.linalg.vector_norm(candidates, dim=2)
    divisor = part.unpadded((norms[0][:, :, None] * norms[1][:, None]).add_(_TINY))
    return part.unpadded(target @ candidates.mT).div_(divisor), divisor


def _backward(
    scaled: Tensor, targets: Tensor, candidates: Float[Tensor, "u P a"], part: Part
) -> tuple[Float[Tensor, "b a"], Float[Tensor, "u P a"]]:
    """Gradients of a part's targets and candidates."""
    g = part.padded(scaled)
    return part.unpadded(g @ candidates), g.mT @ part.padded(targets)


class _GroupedCosine(FullPrecision):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, candidates: Tensor, by: tuple[Part, ...]) -> Tensor:
        similarity = targets.new_empty(len(targets), candidates.shape[1])
        divisor = torch.empty_like(similarity)
        for part in by:
            similarity[part.rows], divisor[part.rows] = _cosine(targets, candidates[part.relations], part)
        ctx.save_for_backward(targets, candidates, divisor)
        ctx.by = by
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        targets, candidates, divisor = ctx.saved_tensors
        scaled = gradients[0] / divisor
        of_targets, of_candidates = torch.empty_like(targets), torch.empty_like(candidates)
        for part in ctx.by:
            found = _backward(scaled, targets, candidates[part.relations], part)
            of_targets[part.rows], of_candidates[part.relations] = found
        return of_targets, of_candidates, None


class _GatedCosine(FullPrecision):
    @staticmethod
    def forward(
        ctx: Any,
        targets: Tensor,
        entities: Tensor,
        of_entity: Tensor,
        of_relation: Tensor,
        weight: Tensor,
        bias: Tensor,
        by: tuple[Part, ...],
        slope: float,
    ) -> Tensor:
        similarity = targets.new_empty(len(targets), len(entities))
        divisor = torch.empty_like(similarity)
        for part in by:
            _, gate = _gated(of_entity, of_relation[part.relations], weight, bias, slope)
            similarity[part.rows], divisor[part.rows] = _cosine(targets, gate.mul_(entities), part)
        ctx.save_for_backward(targets, entities, of_entity, of_relation, weight, bias, divisor)
        ctx.by, ctx.slope = by, slope
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        targets, entities, of_entity, of_relation, weight, bias, divisor = ctx.saved_tensors
        scaled = gradients[0] / divisor
        g_targets, g_relation = torch.empty_like(targets), torch.empty_like(of_relation)
        g_entities, g_entity = torch.zeros_like(entities), torch.zeros_like(of_entity)
        g_weight, g_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for part in ctx.by:
            hidden, gate = _gated(of_entity, of_relation[part.relations], weight, bias, ctx.slope)
            g_targets[part.rows], g_candidate = _backward(scaled, targets, gate * entities, part)
            g_entities += (g_candidate * gate).sum(0)
            # d sigmoid = s (1 - s)
            g_out = g_candidate.mul_(entities).mul_(gate).mul_(gate.neg_().add_(1)).flatten(0, 1)
            g_bias += g_out.sum(0)
            g_weight.addmm_(g_out.T, hidden.flatten(0, 1))
            # True: phi keeps signs, so that its slope can be read off its value.
            g_hidden = torch.ops.aten.leaky_relu_backward((g_out @ weight).view_as(hidden), hidden, ctx.slope, True)
            g_entity += g_hidden.sum(0)
            g_relation[part.relations] = g_hidden.sum(1)
        return g_targets, g_entities, g_entity, g_relation, g_weight, g_bias, None, None


def _gated(
    of_entity: Tensor, of_relation: Float[Tensor, "u hidden"], weight: Tensor, bias: Tensor, slope: float
) -> tuple[Float[Tensor, "u P hidden"], Float[Tensor, "u P width"]]:
    """phi(x + z) and sigmoid(W phi(x + z) + b)."""
    hidden = torch.nn.functional.leaky_relu_(of_entity + of_relation[:, None], slope)
    return hidden, torch.addmm(bias, hidden.flatten(0, 1), weight.T).sigmoid_().unflatten(0, hidden.shape[:2])
