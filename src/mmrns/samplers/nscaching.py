"""NSCaching: negatives from caches of entities that score high."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.kernels.selection import largest
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator, random_bits
from mmrns.samplers.base import Recipe, Sampler, scattered
from mmrns.samplers.gumbel import gumbel_noise
from mmrns.types import Batch, Negatives, OwnNegatives

CHUNK = 2**22
"""Draws made at once when the caches are first filled."""


class NSCaching(Sampler, name="nscaching"):
    """x- uniform, with replacement, from a cache that every query of train has.

    Each distinct (h, r) has a cache of N1 tails and each (r, t) one of N1 heads, at first uniform draws. After a row
    has drawn, its cache is refreshed: of its N1 entities and N2 uniform ones, N1 stay,

        drawn without replacement from softmax( f(anchor, r, e) / temperature )

    by the scores of the step's model. A row refreshes the cache that it has drawn from; the authors' code refreshes
    that of the other side too, which needs twice the scores. True triples of train never enter a cache, which theirs
    may. Rows of a batch that share a query refresh its cache once.

    Zhang et al., "NSCaching: Simple and Efficient Negative Sampling for Knowledge Graph Embedding", ICDE 2019,
    algorithms 2 and 3. The caches are stored with the run.

    Cost of a draw: B (N1 + N2) scores without gradient; the caches take 4 N1 bytes a distinct query.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        cache: N1, entities in each cache.
        candidates: N2, uniform entities that a refresh adds to choose from.
        temperature: of the scores; small = only the highest stay.
        lazy: epochs without a refresh between two with one.
    """

    cache: Tensor

    recipe = Recipe(alpha=0.0)
    undivided = ""

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        cache: PositiveInt = 30,
        candidates: PositiveInt = 30,
        temperature: PositiveFloat = 1.0,
        lazy: NonNegativeInt = 0,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.width, self.candidates = cache, candidates
        self.temperature, self.lazy = temperature, lazy
        self.register_buffer("cache", self._filled())
        self.epoch = 0

    def _filled(self) -> Int[Tensor, "Q N"]:
        anchor, r, head = self.index.queries()
        stream = generator(self.seed, "nscaching fill")
        parts = [torch.zeros(0, self.width, dtype=torch.int32)]
        for rows in torch.arange(len(r)).split(max(1, CHUNK // self.width)):
            bits = random_bits(len(rows), self.width, stream=stream, device=r.device)
            parts.append(self.index.sample_absent(anchor[rows], r[rows], head[rows], bits)[0].to(torch.int32))
        # The last row belongs to no query: what must not be written goes there.
        return torch.cat([*parts, torch.zeros(1, self.width, dtype=torch.int32)])

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        device = batch.h.device
        place = self.index.places(batch)
        cached = self.cache.index_select(0, place).long()
        stream = self.stream(step, "nscaching", device=device)
        column = torch.randint(self.width, (len(batch), self.negatives), generator=stream, device=device)
        ids = cached.gather(1, column)
        bits = random_bits(len(batch), self.candidates, stream=stream, device=device)
        fresh, free = self.index.batch_absent(batch, bits)
        # What `loss` refreshes from is drawn here, so that both sides of the step see the same entities.
        trace = (place, torch.cat([cached, fresh], dim=1))
        return OwnNegatives(ids, mask=(free > 0)[:, None].expand_as(ids), trace=trace)

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> float:
        """0; refreshes the caches of the batch."""
        if self.epoch % (self.lazy + 1):
            return 0.0
        place, candidates = negatives.trace
        with torch.no_grad():
            logits = model.score_against(lookup, OwnNegatives(candidates)) / self.temperature
            stream = self.stream(step, "nscaching refresh", device=logits.device)
            noise = gumbel_noise(logits.shape, stream, logits.device)
            kept = candidates.gather(1, largest(logits + noise, self.width)[1]).to(torch.int32)
            last = len(self.cache) - 1
            self.cache.index_copy_(0, torch.where(first_of_each(place), place, last), kept)
            self.cache[last].zero_()
        return 0.0

    def kind(self, step: int) -> Hashable:
        """Steps that refresh caches, and those of epochs that do not."""
        return self.epoch % (self.lazy + 1) == 0

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """Uniform over the places of the cache."""
        cached = negatives.trace[1][rows, : self.width]
        same = torch.full(cached.shape, 1 / self.width, device=cached.device)
        return scattered(cached, same, self.n_entities)

    def serves(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Queries of train have a cache."""
        return self.index.places(batch) < len(self.cache) - 1

    def end_epoch(self, epoch: int) -> None:
        """Counts epochs, for `lazy`."""
        self.epoch = epoch + 1

    def get_extra_state(self) -> Tensor:
        """The epoch: no buffer, which would have to be asked for on another device."""
        return torch.tensor(self.epoch)

    def set_extra_state(self, state: Tensor) -> None:
        """Put the epoch back."""
        self.epoch = int(state)


def first_of_each(values: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """True where a value occurs for the first time; nothing is read on the host."""
    ordered, order = values.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).scatter(0, order, first)
