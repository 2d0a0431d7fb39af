"""Cosines of grouped rows: each row meets only the candidates of its own relation.

Both functions are loops over the distinct relations of a batch, each turn a few dense products, with hand-written
gradients: autograd would fill, stack and keep tensors of all (relation, candidate) pairs that these never make.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.nn.numerics import FullPrecision

_TINY = 1e-10
"""Added to products of norms, as in the authors' code."""


def grouped_cosine(
    targets: Float[Tensor, "B a"], candidates: Float[Tensor, "R P a"], counts: tuple[int, ...]
) -> Float[Tensor, "B P"]:
    """Cosine of each target with every candidate under its relation; no gradient through the norms.

        sim_bp = <t_b, c_up> / (stopgrad(||t_b|| ||c_up||) + 1e-10),   u the relation of row b

    Args:
        targets: grouped by relation.
        candidates: of each relation.
        counts: targets of each relation, on the host.
    """
    return _GroupedCosine.apply(targets, candidates, counts)


def gated_cosine(
    targets: Float[Tensor, "B width"],
    entities: Float[Tensor, "P width"],
    of_entity: Float[Tensor, "P hidden"],
    of_relation: Float[Tensor, "R hidden"],
    weight: Float[Tensor, "width hidden"],
    bias: Float[Tensor, " width"],
    counts: tuple[int, ...],
    slope: float,
) -> Float[Tensor, "B P"]:
    """`grouped_cosine` with the candidates `c_up = e_p * sigmoid(W phi(x_p + z_u) + b)`, phi a LeakyReLU.

    The candidates of one relation at a time are made and used while they are in the processor's cache, and made again
    in the backward pass: a third of a turn's products more, and no tensor of R x P x width.

    Args:
        targets: grouped by relation.
        entities: e.
        of_entity, of_relation: x and z.
        weight, bias: W and b.
        counts: targets of each relation, on the host.
        slope: of the LeakyReLU.
    """
    given = (targets, entities, of_entity, of_relation, weight, bias)
    return _GatedCosine.apply(*given, counts, slope)


def _divisor(target: Tensor, candidate: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(target, dim=1, keepdim=True), torch.linalg.vector_norm(candidate, dim=1)
    return (norms[0] * norms[1]).add_(_TINY)


class _GroupedCosine(FullPrecision):
    @staticmethod
    def forward(ctx: Any, targets: Tensor, candidates: Tensor, counts: tuple[int, ...]) -> Tensor:
        similarity = targets.new_empty(len(targets), candidates.shape[1])
        divisor = torch.empty_like(similarity)
        for target, candidate, out, by in zip(
            targets.split(counts), candidates, similarity.split(counts), divisor.split(counts), strict=True
        ):
            by.copy_(_divisor(target, candidate))
            torch.mm(target, candidate.T, out=out).div_(by)
        ctx.save_for_backward(targets, candidates, divisor)
        ctx.counts = counts
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        targets, candidates, divisor = ctx.saved_tensors
        scaled = gradients[0] / divisor
        of_targets, of_candidates = torch.empty_like(targets), torch.empty_like(candidates)
        for target, candidate, g, of_target, of_candidate in zip(
            targets.split(ctx.counts),
            candidates,
            scaled.split(ctx.counts),
            of_targets.split(ctx.counts),
            of_candidates,
            strict=True,
        ):
            torch.mm(g, candidate, out=of_target)
            torch.mm(g.T, target, out=of_candidate)
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
        counts: tuple[int, ...],
        slope: float,
    ) -> Tensor:
        similarity = targets.new_empty(len(targets), len(entities))
        divisor = torch.empty_like(similarity)
        for target, z, out, by in zip(
            targets.split(counts), of_relation, similarity.split(counts), divisor.split(counts), strict=True
        ):
            hidden = torch.nn.functional.leaky_relu_(of_entity + z, slope)
            candidate = torch.addmm(bias, hidden, weight.T).sigmoid_().mul_(entities)
            by.copy_(_divisor(target, candidate))
            torch.mm(target, candidate.T, out=out).div_(by)
        ctx.save_for_backward(targets, entities, of_entity, of_relation, weight, bias, divisor)
        ctx.counts, ctx.slope = counts, slope
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        targets, entities, of_entity, of_relation, weight, bias, divisor = ctx.saved_tensors
        scaled = gradients[0] / divisor
        g_targets, g_relation = torch.empty_like(targets), torch.empty_like(of_relation)
        g_entities, g_entity = torch.zeros_like(entities), torch.zeros_like(of_entity)
        g_weight, g_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for u, (target, z, g, g_target) in enumerate(
            zip(
                targets.split(ctx.counts),
                of_relation,
                scaled.split(ctx.counts),
                g_targets.split(ctx.counts),
                strict=True,
            )
        ):
            hidden = torch.nn.functional.leaky_relu_(of_entity + z, ctx.slope)
            gate = torch.addmm(bias, hidden, weight.T).sigmoid_()
            torch.mm(g, gate * entities, out=g_target)
            g_candidate = g.T @ target
            g_entities.addcmul_(g_candidate, gate)
            # d sigmoid = s (1 - s)
            g_out = g_candidate.mul_(entities).mul_(gate).mul_(gate.neg_().add_(1))
            g_bias += g_out.sum(0)
            g_weight.addmm_(g_out.T, hidden)
            # True: phi keeps signs, so that its slope can be read off its value.
            g_hidden = torch.ops.aten.leaky_relu_backward(g_out @ weight, hidden, ctx.slope, True)
            g_entity += g_hidden
            torch.sum(g_hidden, 0, out=g_relation[u])
        return g_targets, g_entities, g_entity, g_relation, g_weight, g_bias, None, None
