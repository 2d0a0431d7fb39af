"""Negatives in proportion to a power of their frequency, exactly filtered without rejection."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex
from mmrns.nn.model import ModelSpec
from mmrns.rng import below
from mmrns.samplers.base import Sampler, even
from mmrns.types import Batch, Negatives, OwnNegatives


class Frequency(Sampler, name="frequency"):
    """x- with replacement, q(x) ~ (1 + c(x))^power over the entities that are not true in train for (anchor, r).

    c(x) counts the triples of train that x is in, on either side; the 1 keeps every entity within reach. After the
    noise distribution of Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality",
    NIPS 2013, section 2.2, whose power is 3/4. There draws count as they come. With `corrected` the weights of the loss
    are divided by q (`log_weight` = -ln q), so that they estimate those over all entities, with fewer draws wasted on
    entities that hardly occur; with equal scores that is uniform sampling with more variance.

    The draw is exact without rejection. An entity is an interval as long as its weight; the true ones of a query leave
    gaps, and a number uniform on the length that is left is moved past those before it, found by one search, as
    `TripleIndex.nth_absent` does for equal weights. Lengths are integers, 2^36 in all (fewer beyond 2^25 triples), and
    what is drawn, and what `log_weight` says, is in proportion to them. A weight is rounded by half a unit at most: at
    power 3/4 a relative 1e-4 or less for a million entities and ten million triples. It is at least one unit: at high
    powers, such as 2 with entities that are in most triples, rare ones get more than their share. All of this moves at
    most E of the 2^36 units: 1.5e-5 of the draws for a million entities.

    Cost of a draw: B K random numbers, and as many searches of the train index and of the entities.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        power: 0 draws uniformly, 1 in proportion to the frequency.
        corrected: divide the weights of the loss by the proposal.
    """

    weight: Tensor

    alike = True
    undivided = ""

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        power: NonNegativeFloat = 0.75,
        corrected: bool = True,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.corrected = corrected
        count = torch.bincount(graph.train[:, [0, 2]].flatten(), minlength=len(graph.entities))
        # As shares of the largest, which no power can make infinite.
        weight = ((1.0 + count) / (1.0 + count.max())).double() ** power
        # The lengths of all queries, one after the other, fit 63 bits; `below` takes one of up to 36 bits.
        longest = min(2.0**36, 2.0 ** (60 - len(self.index).bit_length())) - len(weight)
        weight = (weight * (longest / weight.sum())).round().long().clamp(min=1)
        # Functions of the graph: built again rather than stored.
        self.register_buffer("weight", weight, persistent=False)
        self.gaps = Gaps(self.index, weight)

    def draw_blind(self, batch: Batch, step: int) -> OwnNegatives:
        device = batch.h.device
        bits = self.random_bits(step, "frequency", rows=len(batch), device=device)
        ids, free = self.gaps(self.index.places(batch), bits)
        free = free[:, None]
        weight = -(self.weight[ids] / free.clamp(min=1)).log() if self.corrected else None
        return OwnNegatives(ids, mask=(free > 0).expand_as(ids), log_weight=weight)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """In proportion to the powers of the frequencies, over what is not true in train."""
        # As shares of the largest, since the weights themselves are past the range where float32 is exact.
        return even(self.absent(batch, rows) * (self.weight / self.weight.max()).float())


class Gaps(nn.Module):
    """All entities laid end to end, each as long as its weight, and the gaps that a query's true ones leave.

    Args:
        index: what is true.
        weight: of each entity, at least 1.
    """

    ends: Tensor
    first: Tensor
    taken: Tensor
    begins: Tensor

    def __init__(self, index: TripleIndex, weight: Int[Tensor, " E"]):
        super().__init__()
        anchor, r, head = index.queries()
        query, entity = index.targets(anchor, r, head)
        own, ends = weight[entity], weight.cumsum(0)
        count = torch.bincount(query, minlength=len(r) + 1)
        first = torch.cat([count.new_zeros(1), count.cumsum(0)])
        taken = torch.cat([own.new_zeros(1), own.cumsum(0)])
        self.total = int(ends[-1])
        # Where each true entity begins once those of its query before it are cut out; queries one after the other.
        begins = ends[entity] - own - (taken[:-1] - taken[first[query]]) + query * (self.total + 1)
        for name, values in {"ends": ends, "first": first, "taken": taken, "begins": begins}.items():
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, place: Int[Tensor, " B"], bits: Int[Tensor, "B K"]
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, " B"]]:
        """Entities in proportion to their weights, the query's true ones left out.

        Args:
            place: of each query among the index's; their number where it is not among them.
            bits: `random_bits`.

        Returns:
            The entities, any where there is none; the sum of the weights that each row draws from.
        """
        before = self.taken[self.first[place]]
        free = self.total - (self.taken[self.first[place + 1]] - before)
        at = below(bits, free[:, None])
        passed = torch.searchsorted(self.begins, place[:, None] * (self.total + 1) + at, right=True)
        at = at + self.taken[passed] - before[:, None]
        return torch.searchsorted(self.ends, at, right=True).clamp(max=len(self.ends) - 1), free
