"""SANS: negatives from the anchor's neighbourhood."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex
from mmrns.errors import UsageError
from mmrns.nn.model import ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler, even
from mmrns.types import Batch, Negatives, OwnNegatives

CHUNK = 2**22
"""Walks made at once."""

CELLS = 2**24
"""Pairs of entities looked at at once for whole neighbourhoods."""

LIMIT = 2**28
"""Entities in all neighbourhoods together, at 4 bytes each."""


class Sans(Sampler, name="sans"):
    """x- uniform, with replacement, over the anchor's neighbourhood without what is true in train for (anchor, r).

    The neighbourhood of an entity is the set of the distinct ends of `walks` random walks of `hops` steps on the
    undirected graph of train, relations left out, each walk starting at the entity (Ahrabian et al., "Structure Aware
    Negative Sampling in Knowledge Graphs", EMNLP 2020, the random-walk form of section 3). The walks are made once,
    from the seed. From an entity without neighbours, which is never an anchor in training, a step leads to any entity
    alike, and the walk goes on from there: after one hop its ends are uniform, after several they lie where the triples
    are.
    With `walks = 0` it is everything within `hops` steps, the entity itself included (the uniform form of the same
    section), and nothing for an entity without neighbours. Where the whole neighbourhood is true or there is none, a
    row draws from all entities.

    The draw is exact without rejection: entities are counted by their place in the neighbourhood, the true ones among
    them are known beforehand, and `TripleIndex.sample_absent` skips them. The neighbourhoods take at most 4 `walks`
    bytes an entity. Whole ones soon hold most of a graph: DB15K's of 2 hops hold 3,500 entities on average, those of 3
    hops 10,000 of 12,842.

    Cost of a draw: twice that of `uniform`; `walks` x `hops` steps an entity before the first batch.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        hops: steps of a walk.
        walks: of each entity; 0 = the whole neighbourhood.
        restart: start every walk of an entity at the entity. False walks as the authors' code does, where every walk
            but the first starts at the end of the one before, so that most ends lie outside the ball of `hops` around
            it.

    Raises:
        UsageError: the whole neighbourhoods are too large to be held.
    """

    alike = True
    undivided = ""

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
        walks: NonNegativeInt = 1000,
        restart: bool = True,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.hops, self.walks, self.restart = hops, walks, restart
        offsets, members, (self.near_tails, self.near_heads) = self._neighbourhoods(graph)
        # Functions of the graph and the seed: built again rather than stored.
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("members", members, persistent=False)

    def _neighbourhoods(
        self, graph: KnowledgeGraph
    ) -> tuple[Int[Tensor, " offsets"], Int[Tensor, " m"], tuple[TripleIndex, TripleIndex]]:
        """All neighbourhoods in compressed sparse rows, and what is true within them.

        The latter are the true tails of each (h, r) by their place in h's neighbourhood, and the true heads likewise.
        """
        n, n_relations = self.n_entities, len(graph.relations)
        sorted_by = [graph.train[graph.train[:, 2 * head].argsort(stable=True)] for head in (False, True)]
        size, members = torch.zeros(n + 1, dtype=torch.int64), [torch.zeros(0, dtype=torch.int32)]
        inside: tuple[list[Tensor], list[Tensor]] = ([], [])
        held = 0
        for first, pairs in self._chunks(*adjacency(graph)):
            last, held = int(first[-1]), held + len(pairs)
            if held > LIMIT:
                raise UsageError(
                    f"the {self.hops}-hop neighbourhoods hold more than {LIMIT:,} entities; "
                    "lower sampler.hops, or walk instead: sampler.walks=1000"
                )
            size[first + 1] = torch.bincount(pairs // n - first[0], minlength=len(first))
            members.append((pairs % n).to(torch.int32))
            begin = torch.searchsorted(pairs, first * n)
            for head, triples, found in zip((False, True), sorted_by, inside, strict=True):
                a, b = torch.searchsorted(triples[:, 2 * head].contiguous(), torch.tensor([int(first[0]), last + 1]))
                rows = triples[int(a) : int(b)]
                anchor, target = rows[:, 2 * head], rows[:, 2 - 2 * head]
                code = anchor * n + target
                at = torch.searchsorted(pairs, code)
                here = (at < len(pairs)) & (pairs[at.clamp(max=max(len(pairs) - 1, 0))] == code)
                placed = rows[here]
                placed[:, 2 - 2 * head] = (at - begin[anchor - first[0]])[here]
                found.append(placed)
        tails, heads = (TripleIndex(torch.cat(found), n, n_relations) for found in inside)
        return size.cumsum(0), torch.cat(members), (tails, heads)

    def _chunks(
        self, offsets: Int[Tensor, " offsets"], neighbours: Int[Tensor, " n"]
    ) -> Iterator[tuple[Int[Tensor, " c"], Int[Tensor, " m"]]]:
        """Some entities after others, and `entity * E + member` of all members of theirs, ascending."""
        n, every = self.n_entities, torch.arange(self.n_entities)
        if not self.walks:
            yield from self._balls(offsets, neighbours)
            return
        stream = generator(self.seed, "sans walks")
        for start in every.split(max(1, CHUNK // self.walks)):
            at = torch.stack(self._walk(start, offsets, neighbours, stream), dim=1)
            yield start, torch.unique(start[:, None] * n + at)

    def _balls(
        self, offsets: Int[Tensor, " offsets"], neighbours: Int[Tensor, " n"]
    ) -> Iterator[tuple[Int[Tensor, " c"], Int[Tensor, " m"]]]:
        n, degree = self.n_entities, offsets.diff()
        with torch.sparse.check_sparse_tensor_invariants(False):
            edges = torch.stack([torch.arange(n).repeat_interleave(degree), neighbours])
            adjacent = torch.sparse_coo_tensor(edges, torch.ones(len(neighbours)), (n, n), is_coalesced=True)
            for start in torch.arange(n).split(max(1, CELLS // n)):
                column = torch.arange(len(start))
                within = torch.zeros(n, len(start))
                within[start, column] = (degree[start] > 0).float()
                for _ in range(self.hops):
                    within = torch.sparse.mm(adjacent, within).add_(within).clamp_(max=1)
                member = within.T.nonzero()
                yield start, (member[:, 0] + start[0]) * n + member[:, 1]

    def _walk(
        self,
        start: Int[Tensor, " n"],
        offsets: Int[Tensor, " offsets"],
        neighbours: Int[Tensor, " n_edges"],
        stream: torch.Generator,
    ) -> tuple[Int[Tensor, " n"], ...]:
        """The end of each walk from each start."""
        if self.restart:
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

    def draw_blind(self, batch: Batch, step: int) -> OwnNegatives:
        device = batch.h.device
        bits = self.random_bits(step, "sans", rows=len(batch), device=device)
        anchor = batch.anchor
        first = self.offsets[anchor]
        size = self.offsets[anchor + 1] - first
        near = (self.near_tails, self.near_heads)
        sides = batch.sides if batch.mixed is None else ((False, slice(None)), (True, slice(None)))
        parts = [
            near[head].sample_absent(anchor[rows], batch.r[rows], head, bits[rows], size[rows]) for head, rows in sides
        ]
        if batch.mixed is None:
            place, free = torch.cat([place for place, _ in parts]), torch.cat([free for _, free in parts])
        else:
            (of_tails, free_tails), (of_heads, free_heads) = parts
            place = torch.where(batch.mixed[:, None], of_heads, of_tails)
            free = torch.where(batch.mixed, free_heads, free_tails)
        some = free > 0
        far, free = self.index.batch_absent(batch, bits)
        ids = far
        if len(self.members):
            near = self.members[torch.minimum(first[:, None] + place, self.offsets[-1] - 1)]
            ids = torch.where(some[:, None], near.long(), far)
        return OwnNegatives(ids, mask=(free > 0)[:, None].expand_as(ids))

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """Uniform over what is not true in train: of the neighbourhood, or of everything where it has none."""
        absent = self.absent(batch, rows)
        near = torch.zeros_like(absent)
        for i, anchor in enumerate(batch.anchor[rows].tolist()):
            near[i, self.members[self.offsets[anchor] : self.offsets[anchor + 1]]] = True
        near &= absent
        return even(torch.where(near.any(1, keepdim=True), near, absent))


def adjacency(graph: KnowledgeGraph) -> tuple[Int[Tensor, " offsets"], Int[Tensor, " n"]]:
    """The undirected graph of train without its relations, in compressed sparse rows: `(offsets, neighbours)`."""
    n = len(graph.entities)
    h, _, t = graph.train.unbind(1)
    pairs = torch.unique(torch.cat([h * n + t, t * n + h]))
    offsets = torch.bincount(pairs // n, minlength=n).cumsum(0)
    return torch.cat([offsets.new_zeros(1), offsets]), pairs % n
