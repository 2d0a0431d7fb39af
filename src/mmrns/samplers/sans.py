"""SANS: negatives from the anchor's neighbourhood."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph, TripleIndex
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler, uniform_law
from mmrns.types import Batch, Negatives

CHUNK = 2**22
"""Walks made at once."""


class Sans(Sampler):
    """x- uniform, with replacement, over the anchor's neighbourhood without what is true in train for (anchor, r).

    The neighbourhood of an entity is the set of the distinct ends of `walks` random walks of `hops` steps on the
    undirected graph of train, relations left out, each walk starting at the entity (Ahrabian et al., "Structure Aware
    Negative Sampling in Knowledge Graphs", EMNLP 2020, the random-walk form of section 3). An entity without neighbours
    has uniform ends. The walks are made once, from the seed. Where the whole neighbourhood is true, a row draws from
    all entities.

    The draw is exact without rejection: entities are counted by their place in the neighbourhood, the true ones among
    them are known beforehand, and `TripleIndex.sample_absent` skips them. The neighbourhoods take at most 8 `walks`
    bytes an entity.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        hops: steps of a walk.
        walks: of each entity.
        reference: walk as the authors' code does, where every walk of an entity but its first starts at the end of the
            one before, so that most ends lie outside the ball of `hops` around it.
    """

    offsets: Tensor
    members: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        hops: PositiveInt = 3,
        walks: PositiveInt = 1000,
        reference: bool = False,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.hops, self.walks, self.reference = negatives, hops, walks, reference
        self.n_entities, self.index = len(graph.entities), graph.train_index
        offsets, members = self._neighbourhoods(*adjacency(graph))
        # Functions of the graph and the seed: built again rather than stored.
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("members", members, persistent=False)
        self.near = self._true_within(graph.train, len(graph.relations))

    def _neighbourhoods(
        self, offsets: Int[Tensor, " offsets"], neighbours: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, " offsets"], Int[Tensor, " m"]]:
        stream = generator(self.seed, "sans walks")
        counts, ends = [torch.zeros(1, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        for start in torch.arange(self.n_entities).split(max(1, CHUNK // self.walks)):
            at = torch.stack(self._walk(start, offsets, neighbours, stream), dim=1)
            pairs = torch.unique(torch.arange(len(start))[:, None] * self.n_entities + at)
            counts.append(torch.bincount(pairs // self.n_entities, minlength=len(start)))
            ends.append(pairs % self.n_entities)
        return torch.cat(counts).cumsum(0), torch.cat(ends)

    def _walk(
        self,
        start: Int[Tensor, " n"],
        offsets: Int[Tensor, " offsets"],
        neighbours: Int[Tensor, " n_edges"],
        stream: torch.Generator,
    ) -> tuple[Int[Tensor, " n"], ...]:
        """The end of each walk from each start."""
        if not self.reference:
            at = start.repeat_interleave(self.walks)
            for _ in range(self.hops):
                at = self._hop(at, offsets, neighbours, stream)
            return at.view(len(start), self.walks).unbind(1)
        at, ends = start, list[Tensor]()
        for _ in range(self.walks):
            for _ in range(self.hops):
                at = self._hop(at, offsets, neighbours, stream)
            ends.append(at)
        return tuple(ends)

    def _hop(
        self,
        at: Int[Tensor, " n"],
        offsets: Int[Tensor, " offsets"],
        neighbours: Int[Tensor, " n_edges"],
        stream: torch.Generator,
    ) -> Int[Tensor, " n"]:
        u = torch.rand(len(at), dtype=torch.float64, generator=stream)
        degree = offsets[at + 1] - offsets[at]
        place = offsets[at] + (u * degree).long()
        return torch.where(degree > 0, neighbours[place.clamp(max=len(neighbours) - 1)], (u * self.n_entities).long())

    def _true_within(self, triples: Int[Tensor, "n 3"], n_relations: int) -> tuple[TripleIndex, TripleIndex]:
        """The true tails of each (h, r) by their place in h's neighbourhood, and the true heads likewise."""
        n = self.n_entities
        owner = torch.arange(n).repeat_interleave(self.offsets.diff())
        codes = owner * n + self.members
        indexes: list[TripleIndex] = []
        for head in (False, True):
            anchor, target = triples[:, 2 * head], triples[:, 2 - 2 * head]
            code = anchor * n + target
            at = torch.searchsorted(codes, code)
            inside = (at < len(codes)) & (codes[at.clamp(max=len(codes) - 1)] == code)
            placed = triples[inside].clone()
            placed[:, 2 - 2 * head] = (at - self.offsets[anchor])[inside]
            indexes.append(TripleIndex(placed, n, n_relations))
        return indexes[0], indexes[1]

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        self.near = self.near[0].to(device), self.near[1].to(device)
        stream = generator(self.seed, "sans", step, device=device)
        u = torch.rand(len(batch), self.negatives, dtype=torch.float64, generator=stream, device=device)
        anchor = batch.anchor
        first = self.offsets[anchor]
        size = self.offsets[anchor + 1] - first
        parts = [
            self.near[head].sample_absent(anchor[rows], batch.r[rows], head, u[rows], size[rows])
            for head, rows in batch.sides
        ]
        place, some = torch.cat([place for place, _ in parts]), torch.cat([free for _, free in parts]) > 0
        near = self.members[torch.minimum(first[:, None] + place, self.offsets[-1] - 1)]
        far, free = self.index.batch_absent(batch, u)
        ids = torch.where(some[:, None], near, far)
        return Negatives(ids=ids, mask=(free > 0)[:, None].expand_as(ids), trace=size / self.n_entities)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """The size of the neighbourhood relative to all entities."""
        return negatives.trace

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"]:
        """Uniform over what is not true in train: of the neighbourhood, or of everything where it has none."""
        q = uniform_law(self.n_entities, self.index, batch, rows)
        near = torch.zeros_like(q)
        for i, anchor in enumerate(batch.anchor[rows].tolist()):
            near[i, self.members[self.offsets[anchor] : self.offsets[anchor + 1]]] = 1.0
        near *= q > 0
        some = near.sum(1, keepdim=True)
        return torch.where(some > 0, near / some, q)


def adjacency(graph: KnowledgeGraph) -> tuple[Int[Tensor, " offsets"], Int[Tensor, " n"]]:
    """The undirected graph of train without its relations, in compressed sparse rows: `(offsets, neighbours)`."""
    n = len(graph.entities)
    h, _, t = graph.train.unbind(1)
    pairs = torch.unique(torch.cat([h * n + t, t * n + h]))
    offsets = torch.bincount(pairs // n, minlength=n).cumsum(0)
    return torch.cat([offsets.new_zeros(1), offsets]), pairs % n
