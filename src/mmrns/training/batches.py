"""Triples to batches: their order, which side is replaced, how much each row weighs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.rng import generator
from mmrns.types import Batch, SidePolicy

_KEPT = 64
"""Batches that are not made again when they are asked for again."""


class Batches:
    """The stream of training batches. The batch of a step is a function of (seed, step), so a resume replays nothing.

    An epoch is one pass over each of two permutations of train. Its step 2i is a batch of the first, its step 2i + 1
    one of the second. With the side policy `alternate` the first permutation replaces tails and the second heads. With
    `bernoulli` every row of either flips its relation's coin (`KnowledgeGraph.head_probability`).

    With `queries` an epoch is a pass over queries in place of triples: the first permutation is of all distinct (h, r),
    the second of all distinct (r, t). Each query is represented by one of its triples and weighs 1. The side that has
    fewer queries starts anew until the other is through.

    Args:
        graph: the graph whose train split is served.
        size: B, rows per batch; the last batch of a permutation holds what is left.
        sides: the side policy.
        seed: of the permutations and coins.
        queries: serve each query once instead of each triple; needs `alternate`.
        subsampling: weigh each row by `1 / sqrt(c(h, r) + c(r, t))`, both counts offset by 3 (Sun et al., RotatE,
            2019, whose code starts each count at 4); otherwise every row weighs 1.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        *,
        size: int,
        sides: SidePolicy = "alternate",
        seed: int = 0,
        subsampling: bool = True,
        queries: bool = False,
    ):
        if queries and sides != "alternate":
            raise UsageError(f"batches of queries have their sides in turn; training.sides={sides} does not fit")
        self.graph, self.triples = graph, graph.train
        self.size, self.sides, self.seed = size, sides, seed
        self.index = graph.train_index
        every = torch.arange(len(graph.train))
        self.rows = tuple(_first_of_each_query(graph, head) for head in (False, True)) if queries else (every, every)
        subsampling = subsampling and not queries
        self.weight = subsampling_weight(graph) if subsampling else torch.ones(len(graph.train))
        self.head_probability = graph.head_probability if sides == "bernoulli" else None
        # Whoever draws for several steps at once looks some steps ahead, perhaps into the next epoch.
        self._order = lru_cache(maxsize=4)(self._permutation)
        self._kept = lru_cache(maxsize=_KEPT)(self._at)

    @property
    def per_pass(self) -> int:
        """Batches in one permutation, the longer one."""
        return -(-max(len(rows) for rows in self.rows) // self.size)

    @property
    def per_epoch(self) -> int:
        """Steps in one epoch: both permutations."""
        return 2 * self.per_pass

    def _permutation(self, epoch: int, second: bool) -> Int[Tensor, " M"]:
        rows = self.rows[second]
        order = rows[torch.randperm(len(rows), generator=generator(self.seed, "order", epoch, int(second)))]
        longest = max(len(rows) for rows in self.rows)
        return order.repeat(-(-longest // max(len(order), 1)))[:longest]

    def at(self, step: int) -> Batch:
        """The batch of one step (from 0), on the host."""
        return self._kept(step)

    def _at(self, step: int) -> Batch:
        epoch, within = divmod(step, self.per_epoch)
        start = within // 2 * self.size
        second = within % 2 == 1
        rows = self._order(epoch, second)[start : start + self.size]
        triples = self.triples[rows]
        if self.head_probability is None:
            head = second
        else:
            coin = torch.rand(len(rows), generator=generator(self.seed, "side", step))
            head = coin < self.head_probability[triples[:, 1]]
        batch = Batch.of(triples, head, self.weight[rows])
        return replace(self.index.placed(batch), step=step)

    def split(self, step: int, size: int) -> list[Batch]:
        """The batch of one step in batches of at most so many rows each, in the same order."""
        whole = self.at(step)
        triples, head = torch.stack([whole.h, whole.r, whole.t], dim=1), whole.head
        parts = [
            Batch.of(*part)
            for part in zip(triples.split(size), head.split(size), whole.weight.split(size), strict=True)
        ]
        return [self.index.placed(part) for part in parts]


class Upcoming:
    """Batches in their order, each made while the device works on the one before, in memory that it copies from itself.

    Args:
        batches: the stream.
        device: where they will go. The processor has no core to spare for what is to come: there each batch is made
            when it is asked for.
    """

    def __init__(self, batches: Batches, device: torch.device):
        self.batches = batches
        self._pinned = device.type == "cuda"
        self._thread = None if device.type == "cpu" else ThreadPoolExecutor(1, "batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def at(self, step: int) -> Batch:
        """The batch of one step, on the host; that of the next step is begun."""
        if self._thread is None:
            return self.batches.at(step)
        begun = None if self._next is None or self._next[0] != step else self._next[1]
        batch = self._made(step) if begun is None else begun.result()
        self._next = step + 1, self._thread.submit(self._made, step + 1)
        return batch

    def settle(self) -> None:
        """Wait for the batch that is begun: its memory is asked of the device."""
        if self._next is not None:
            wait([self._next[1]])

    def _made(self, step: int) -> Batch:
        batch = self.batches.at(step)
        return batch.pinned() if self._pinned else batch


def _first_of_each_query(graph: KnowledgeGraph, head: bool) -> Int[Tensor, " Q"]:
    """The first train triple of every distinct (h, r), or with `head` of every (r, t)."""
    anchor = graph.train[:, 2 if head else 0]
    _, query = torch.unique(anchor * len(graph.relations) + graph.train[:, 1], return_inverse=True)
    rows = torch.arange(len(query))
    return torch.full((int(query.max()) + 1,), len(rows)).scatter_reduce(0, query, rows, "amin")


def subsampling_weight(graph: KnowledgeGraph) -> Float[Tensor, " n"]:
    """`1 / sqrt(c(h, r) + c(r, t))` of each train triple, each count being 3 + the rows with that pair."""
    h, r, t = graph.train.unbind(1)

    def count(entity: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        _, place, counts = torch.unique(entity * len(graph.relations) + r, return_inverse=True, return_counts=True)
        return counts[place] + 3

    return torch.rsqrt((count(h) + count(t)).to(torch.float32))
