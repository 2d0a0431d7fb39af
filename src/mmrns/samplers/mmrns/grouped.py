"""Products of rows and candidates as their relations see them, with hand-written gradients.

Each row meets only the candidates of its own relation. Autograd would fill, stack and keep tensors of all
(relation, candidate) pairs that these make again. What is taken at once is a part: on a processor so little that it
stays in its cache, on a device as much as memory allows, so that it does not wait for the launches of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.numerics import FullPrecision

_TINY = 1e-10
"""Added to products of norms, as in the authors' code."""
_CACHED = 2**18
"""Reals that are taken at once on a processor: with what is made of them they stay in the cache of one of its cores."""


@dataclass(frozen=True)
class Part:
    """Some relations, and the rows that are theirs.

    Attributes:
        relations: which they are.
        rows: Int[b], which of all rows, by relation.
        most: n, the most rows that one of the relations has.
        places: Int[b], where each row stands in a table [u n] of the relations' rows; None where that is the rows
            themselves.
    """

    relations: slice
    rows: Int[Tensor, " b"]
    most: int
    places: Int[Tensor, " b"] | None = None

    def padded(self, rows: Float[Tensor, "*T B width"]) -> Float[Tensor, "*T u n width"]:
        """The rows by relation, with zeros where a relation has fewer than n."""
        own = rows.index_select(-2, self.rows)
        u = self.relations.stop - self.relations.start
        if self.places is not None:
            table = own.new_zeros(*own.shape[:-2], u * self.most, own.shape[-1])
            own = table.index_copy_(own.ndim - 2, self.places, own)
        return own.unflatten(-2, (u, self.most))

    def put(self, rows: Float[Tensor, "*T B width"], padded: Float[Tensor, "*T u n width"]) -> None:
        """Write the rows where they are among all."""
        own = padded.flatten(-3, -2)
        own = own if self.places is None else own.index_select(-2, self.places)
        rows.index_copy_(rows.ndim - 2, self.rows, own)


def in_parts(index: Int[Tensor, " B"], counts: tuple[int, ...], relations_at_once: int) -> tuple[Part, ...]:
    """Rows by relation, in parts.

    Args:
        index: the relation of each row, from 0.
        counts: rows of each relation, on the host.
        relations_at_once: how many a part has at most.
    """
    n_relations = len(counts)
    ends = [0, *accumulate(counts)]
    index, order = index.sort(stable=True)
    if relations_at_once == 1:
        return tuple(Part(slice(u, u + 1), rows, len(rows)) for u, rows in enumerate(order.split(counts)))
    starts = torch.searchsorted(index, index)
    nth = torch.arange(len(index), device=index.device) - starts
    found: list[Part] = []
    for first in range(0, n_relations, relations_at_once):
        last = min(first + relations_at_once, n_relations)
        rows, most = slice(ends[first], ends[last]), max(counts[first:last])
        found.append(Part(slice(first, last), order[rows], most, torch.add(nth[rows], index[rows] - first, alpha=most)))
    return tuple(found)


def folded_values(
    gate: Float[Tensor, "L M R"],
    constant: Float[Tensor, "n a"],
    blocks: Float[Tensor, "n LM a"],
    pairs: Float[Tensor, "M n LL"],
    eps: float,
) -> Float[Tensor, "R n a"]:
    """What entities are under each relation, where the attention is folded (`Folded`):

    y_e(r) = constant_e + sum_jk (g_jk / sd_k) blocks_jk,    sd_k^2 = max(0, sum_ji g_jk g_ik pairs_kji) + eps
    """
    return _FoldedValues.apply(gate, constant, blocks, pairs, eps)


class _FoldedValues(FullPrecision):
    """On a processor a few entities at a time, whose coefficients, one for each relation and pair of tokens, are never
    in memory at once.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, constant: Tensor, blocks: Tensor, pairs: Tensor, eps: float) -> Tensor:
        squares, found = _squares(gate), constant.new_empty(gate.shape[2], *constant.shape)
        variance = torch.empty(*pairs.shape[:2], gate.shape[2], dtype=pairs.dtype, device=pairs.device)
        for few in _few(len(constant), gate):
            variance[:, few] = pairs[:, few] @ squares
            coefficient = (gate * _inverse(variance[:, few], eps)[:, None]).flatten(1, 2)
            found[:, few] = torch.baddbmm(constant[few, None], coefficient.mT, blocks[few]).transpose(0, 1)
        ctx.save_for_backward(gate, blocks, pairs, variance)
        ctx.eps = eps
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        gate, blocks, pairs, variance = ctx.saved_tensors
        squares, of_blocks, of_pairs = _squares(gate), torch.empty_like(blocks), torch.empty_like(pairs)
        of_gate, of_squares = torch.zeros_like(gate), torch.zeros_like(squares)
        for few in _few(len(blocks), gate):
            inverse = _inverse(variance[:, few], ctx.eps)
            coefficient = gate * inverse[:, None]
            of_few = g[:, few].transpose(0, 1).contiguous()
            torch.bmm(coefficient.flatten(1, 2), of_few, out=of_blocks[few])
            of_coefficient = (blocks[few] @ of_few.mT).view_as(coefficient)
            of_gate += (of_coefficient * inverse[:, None]).sum(0)
            of_inverse = of_coefficient.mul_(gate).sum(1).transpose(0, 1)
            # d rsqrt(x) = -rsqrt(x)^3 / 2, and nothing of what was below 0.
            of_variance = (of_inverse * inverse.transpose(0, 1).pow(3)).mul_(-0.5).mul_(variance[:, few] >= 0)
            of_pairs[:, few] = of_variance @ squares.mT
            of_squares.baddbmm_(pairs[:, few].mT, of_variance)
        # Pairs are listed twice, and alike.
        by_guide, own = gate.transpose(0, 1), of_squares.unflatten(1, (len(gate), len(gate)))
        of_gate += 2 * (own * by_guide[:, None]).sum(2).transpose(0, 1)
        return of_gate, g.sum(0), of_blocks, of_pairs, None


def _squares(gate: Float[Tensor, "L M R"]) -> Float[Tensor, "M LL R"]:
    """The gates of all pairs of tokens that are read together."""
    by_guide = gate.transpose(0, 1)
    return (by_guide[:, :, None] * by_guide[:, None]).flatten(1, 2)


def _inverse(variance: Float[Tensor, "M n R"], eps: float) -> Float[Tensor, "n M R"]:
    """1 / sd."""
    return variance.clamp(min=0).add_(eps).rsqrt_().transpose(0, 1).contiguous()


def _few(n: int, gate: Float[Tensor, "L M R"]) -> list[slice]:
    """The entities to take at once: all, or on a processor so many that their coefficients stay in its cache."""
    size = n if gate.device.type != "cpu" else max(1, _CACHED // max(1, gate.numel()))
    return [slice(first, first + size) for first in range(0, n, max(1, size))]


class Gated(NamedTuple):
    """Vectors that a relation gates: `c_u = e * sigmoid(W phi(x + z_u) + b)`, phi a LeakyReLU.

    Attributes:
        own, of_own: e and x of each row's true entity, which its own relation gates.
        entities, of_entity: those of the candidates, which every relation gates.
        of_relation: z.
        weight, bias: W and b.
        slope: of the LeakyReLU.
    """

    own: Float[Tensor, "B width"]
    of_own: Float[Tensor, "B hidden"]
    entities: Float[Tensor, "P width"]
    of_entity: Float[Tensor, "P hidden"]
    of_relation: Float[Tensor, "R hidden"]
    weight: Float[Tensor, "width hidden"]
    bias: Float[Tensor, " width"]
    slope: float


def grouped_cosines(
    targets: list[Float[Tensor, "B _"]], candidates: list[Float[Tensor, "R P _"]], gated: Gated, by: tuple[Part, ...]
) -> Float[Tensor, "T B P"]:
    """Cosines of each row's vector with every candidate under its relation, by term; no gradient through the norms.

        sim_bp = <t_b, c_up> / (stopgrad(||t_b|| ||c_up||) + 1e-10),   u the relation of row b

    Args:
        targets: t, by term.
        candidates: c, by term.
        gated: t and c of the last term, which are made here.
        by: the parts to take the relations in (`in_parts`).
    """
    return _GroupedCosines.apply(by, *gated, *targets, *candidates)


class _GroupedCosines(FullPrecision):
    @staticmethod
    def forward(ctx: Any, by: tuple[Part, ...], *given: Any) -> Tensor:
        gated, rest = Gated(*given[: len(Gated._fields)]), given[len(Gated._fields) :]
        targets, candidates = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        own = *targets, gated.own, gated.of_own
        rows, ctx.widths = torch.cat(own, dim=1), [x.shape[1] for x in own]
        similarity = rows.new_empty(len(targets) + 1, len(rows), len(gated.entities))
        gates: list[Tensor] = []
        divisors: list[Tensor] = []
        for part in by:
            *of_rows, own, of_own = part.padded(rows).split(ctx.widths, dim=2)
            gates.append(_gate(_hidden(gated, part, of_own), gated))
            pairs = _pairs(of_rows, candidates, own, gates[-1], gated, part)
            norms = (torch.stack([torch.linalg.vector_norm(x, dim=2) for x in xs]) for xs in zip(*pairs, strict=True))
            of_targets, of_candidates = norms
            divisors.append((of_targets[..., None] * of_candidates[:, :, None]).add_(_TINY))
            products = torch.empty_like(divisors[-1])
            for (t, c), product in zip(pairs, products, strict=True):
                torch.bmm(t, c.mT, out=product)
            part.put(similarity, products.div_(divisors[-1]))
        ctx.save_for_backward(rows, *gated[2:7], *candidates, *gates, *divisors)
        ctx.by, ctx.slope = by, gated.slope
        return similarity

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by: tuple[Part, ...] = ctx.by
        rows, *saved = ctx.saved_tensors
        candidates, gates, divisors = saved[5 : -2 * len(by)], saved[-2 * len(by) : -len(by)], saved[-len(by) :]
        # What is own comes part by part.
        gated = Gated(rows, rows, *saved[:5], slope=ctx.slope)
        of_all, of_candidates = torch.empty_like(rows), [torch.empty_like(c) for c in candidates]
        of_gated: list[Tensor] | None = None
        of_relation = torch.empty_like(gated.of_relation)
        for part, gate, divisor in zip(by, gates, divisors, strict=True):
            *of_rows, own, of_own = part.padded(rows).split(ctx.widths, dim=2)
            g = part.padded(gradients[0]).div_(divisor)
            *pairs, (t, c) = _pairs(of_rows, candidates, own, gate, gated, part)
            g_rows = [of_term @ of_candidate for of_term, (_, of_candidate) in zip(g, pairs, strict=False)]
            for of_term, (of_target, _), found in zip(g, pairs, of_candidates, strict=False):
                torch.bmm(of_term.mT, of_target, out=found[part.relations])
            # Of y = gate * e, the candidates' first, then the rows'.
            n, g_y = len(gated.entities), torch.empty_like(gate)
            torch.bmm(g[-1].mT, t, out=g_y[:, :n])
            torch.bmm(g[-1], c, out=g_y[:, n:])
            g_e = g_y * gate
            g_y[:, :n].mul_(gated.entities)
            g_y[:, n:].mul_(own)
            g_out = torch.ops.aten.sigmoid_backward(g_y, gate).flatten(0, 1)
            hidden = _hidden(gated, part, of_own)
            # True: phi keeps signs, so that its slope can be read off its value.
            g_hidden = torch.ops.aten.leaky_relu_backward(
                (g_out @ gated.weight).view_as(hidden), hidden, gated.slope, True
            )
            of_relation[part.relations] = g_hidden.sum(1)
            part.put(of_all, torch.cat([*g_rows, g_e[:, n:], g_hidden[:, n:]], dim=2))
            of_entity = _summed(g_e[:, :n]), _summed(g_hidden[:, :n])
            found = [*of_entity, g_out.T @ hidden.flatten(0, 1), g_out.sum(0)]
            if of_gated is None:
                of_gated = found
                continue
            for total, more in zip(of_gated, found, strict=True):
                total += more
        assert of_gated is not None
        of_entities, of_entity, of_weight, of_bias = of_gated
        *of_targets, g_own, g_of_own = of_all.split(ctx.widths, dim=1)
        own = g_own, g_of_own, of_entities, of_entity, of_relation, of_weight, of_bias
        return None, *own, None, *of_targets, *of_candidates


def _summed(of_relations: Float[Tensor, "u P width"]) -> Float[Tensor, "P width"]:
    """The sum over relations; that of one is it itself."""
    return of_relations[0] if len(of_relations) == 1 else of_relations.sum(0)


def _hidden(gated: Gated, part: Part, of_own: Float[Tensor, "u n hidden"]) -> Float[Tensor, "u m hidden"]:
    """phi(x + z) of all candidates, then of the relations' rows."""
    x = torch.cat([gated.of_entity.expand(len(of_own), -1, -1), of_own], dim=1)
    return torch.nn.functional.leaky_relu_(x.add_(gated.of_relation[part.relations, None]), gated.slope)


def _gate(hidden: Float[Tensor, "u m hidden"], gated: Gated) -> Float[Tensor, "u m width"]:
    """sigmoid(W phi(x + z) + b)."""
    return torch.addmm(gated.bias, hidden.flatten(0, 1), gated.weight.T).sigmoid_().unflatten(0, hidden.shape[:2])


def _pairs(
    targets: Sequence[Float[Tensor, "u n _"]],
    candidates: Sequence[Float[Tensor, "R P _"]],
    own: Float[Tensor, "u n width"],
    gate: Float[Tensor, "u m width"],
    gated: Gated,
    part: Part,
) -> list[tuple[Float[Tensor, "u n _"], Float[Tensor, "u P _"]]]:
    """The vectors of a part's rows and candidates, by term."""
    n = len(gated.entities)
    last = own * gate[:, n:], gated.entities * gate[:, :n]
    return [*((t, c[part.relations]) for t, c in zip(targets, candidates, strict=True)), last]
