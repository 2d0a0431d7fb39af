"""Which relations, and which chains of two, speak for a triple, and how often they are right in train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex, ranges
from mmrns.rng import generator

AT_ONCE = 2**20
"""Steps that are followed at a time."""
PAIRS = 20_000
"""Of a relation with more triples, an even sample of so many tells which chains lead from head to tail."""
CHAINS = 64
"""So many chains, those with most support, have their confidence counted."""
ENDS = 2**18
"""So many ends of a chain are followed to count its confidence; of one with more, an even sample of the starts."""


@dataclass(frozen=True)
class Steps:
    """One-step rules: what joins a pair of entities in train, and how often the relation that is asked about does too.

    A step is a relation and the direction in which it is followed, as the number `2 r + backward`.

    Attributes:
        step: Int[n].
        confidence: Float[n], of the other pairs that the step joins, the share that the relation joins as well.
        support: Int[n], how many pairs those are.
    """

    step: Int[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    support: Int[Tensor, " n"]


@dataclass(frozen=True)
class Paths:
    """Two-step rules: the paths from one entity to another, `first` to an entity `via` and `second` from there.

    Attributes:
        first, via, second: Int[n], steps as in `Steps`, and the entity between them.
        confidence, support: of the chain of the two steps, as in `Steps`.
    """

    first: Int[Tensor, " n"]
    via: Int[Tensor, " n"]
    second: Int[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    support: Int[Tensor, " n"]


class Rules:
    """Rules `step(x, y) -> r(x, y)` and `first(x, z), second(z, y) -> r(x, y)`, counted in train.

    The confidence of a rule is the standard one of AMIE (Galarraga et al., "AMIE: Association Rule Mining under
    Incomplete Evidence in Ontological Knowledge Bases", 2013): of the pairs (x, y) that the body joins in train, the
    share that r joins too; the support is the number of the latter. Pairs are distinct, x, y and z are different
    entities, so that a triple of one entity has no rules, and the pair that is explained counts neither for its rule
    nor against it. Support of more than `PAIRS` triples, and confidence of more than `ENDS` ends, are estimated from
    even samples of the pairs and of the starts, so that an answer takes seconds at most.

    Args:
        graph: whose train counts.
    """

    def __init__(self, graph: KnowledgeGraph):
        self.index: TripleIndex = graph.train_index
        self.train = torch.unique(graph.train, dim=0)
        self.n_entities, self.n_steps = len(graph.entities), 2 * len(graph.relations)
        h, r, t = self.train.unbind(1)
        # Every triple in both directions, by start, then by end: the steps that begin somewhere, and those of a pair.
        code = torch.cat([h * self.n_entities + t, t * self.n_entities + h])
        self._code, order = code.sort(stable=True)
        self._step = torch.cat([2 * r, 2 * r + 1])[order]
        self._first = torch.searchsorted(self._code, torch.arange(self.n_entities + 1) * self.n_entities)

    def steps(self, h: int, r: int, t: int) -> Steps:
        """The one-step rules that conclude r(h, t) and have support, the most confident first."""
        _, step = self._joining(torch.tensor([h]), torch.tensor([t]))
        step = step[(step != 2 * r) & (h != t)].unique()
        place = torch.full((self.n_steps,), -1)
        place[step] = torch.arange(len(step))
        relation = self.train[:, 1]
        counts: list[Tensor] = []
        for backward in (0, 1):
            row = place[2 * relation + backward]
            x, y = self.train[:, 2 * backward], self.train[:, 2 - 2 * backward]
            body = (row >= 0) & (x != y) & ~((x == h) & (y == t))
            row, x, y = row[body], x[body], y[body]
            true = self.index.contains(x, torch.full_like(x, r), y)
            counts += [torch.bincount(row, minlength=len(step)), torch.bincount(row[true], minlength=len(step))]
        pairs, support = counts[0] + counts[2], counts[1] + counts[3]
        confidence = support.double() / pairs.clamp(min=1)
        order = torch.argsort(confidence, descending=True, stable=True)
        order = order[support[order] > 0]
        return Steps(step[order], confidence[order], support[order])

    def paths(self, h: int, r: int, t: int) -> Paths:
        """The two-step paths from h to t whose chain leads to r elsewhere in train too, the most confident first.

        Over each entity there is one path, the most confident; of equal ones the one with fewer steps backward.
        """
        _, first, via, second = self._between(torch.tensor([h]), torch.tensor([t]))
        chain, of = torch.unique(first * self.n_steps + second, return_inverse=True)
        support = self._support(h, r, t, chain)
        # The chains that are worth to be counted.
        counted = torch.argsort(support, descending=True, stable=True)[:CHAINS]
        counted = counted[support[counted] > 0]
        confidence = torch.zeros(len(chain), dtype=torch.float64)
        for i in counted.tolist():
            confidence[i] = self._confidence(h, r, t, *divmod(int(chain[i]), self.n_steps))
        kept = (confidence[of] > 0).nonzero().squeeze(1)
        kept = kept[(first[kept] % 2 + second[kept] % 2).argsort(stable=True)]
        kept = kept[confidence[of[kept]].argsort(descending=True, stable=True)]
        kept = kept[_first_of_each(via[kept])]
        return Paths(first[kept], via[kept], second[kept], confidence[of[kept]], support[of[kept]])

    def _joining(self, x: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """All steps from each x to its y, flat: `(row, step)`."""
        code = x * self.n_entities + y
        return self._ranges(torch.searchsorted(self._code, code), torch.searchsorted(self._code, code, right=True))

    def _ranges(self, first: Int[Tensor, " n"], end: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        row, position = ranges(first, end - first)
        return row, self._step[position]

    def _between(
        self, x: Int[Tensor, " n"], y: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Int[Tensor, " m"], Int[Tensor, " m"]]:
        """All two-step paths from each x to its y, flat: `(row, first, via, second)`."""
        degree = self._first.diff()
        # From the end with fewer triples.
        turned = degree[y] < degree[x]
        start, goal = torch.where(turned, y, x), torch.where(turned, x, y)
        row, position = ranges(self._first[start], degree[start])
        via, one = self._code[position] % self.n_entities, self._step[position]
        apart = (via != x[row]) & (via != y[row]) & (x[row] != y[row])
        row, via, one = row[apart], via[apart], one[apart]
        step, two = self._joining(via, goal[row])
        row, via, one = row[step], via[step], one[step]
        back = turned[row]
        return row, torch.where(back, two ^ 1, one), via, torch.where(back, one ^ 1, two)

    def _support(self, h: int, r: int, t: int, chains: Int[Tensor, " c"]) -> Int[Tensor, " c"]:
        """How many pairs of a relation each chain joins."""
        triples = self.train[self.train[:, 1] == r]
        x, y = triples[:, 0], triples[:, 2]
        other = (x != y) & ~((x == h) & (y == t))
        x, y = x[other], y[other]
        n = len(x)
        if n > PAIRS:
            sample = torch.randperm(n, generator=generator(0, "pairs", device="cpu"))[:PAIRS]
            x, y = x[sample], y[sample]
        degree = self._first.diff()
        found = torch.zeros(len(chains), dtype=torch.int64)
        for part in _parts(torch.minimum(degree[x], degree[y]), AT_ONCE):
            row, first, _, second = self._between(x[part], y[part])
            chain = first * self.n_steps + second
            place = torch.searchsorted(chains, chain).clamp(max=len(chains) - 1)
            same = (chains[place] == chain) if len(chains) else torch.zeros_like(chain, dtype=torch.bool)
            pair = torch.unique(row[same] * len(chains) + place[same])
            found += torch.bincount(pair % max(len(chains), 1), minlength=len(chains))
        return (found * n / max(min(n, PAIRS), 1)).round().long()

    def _confidence(self, h: int, r: int, t: int, first: int, second: int) -> float:
        """Of the pairs that a chain of steps joins, the share that a relation joins."""
        x = self._starts(first)
        x = x[torch.randperm(len(x), generator=generator(0, "starts", device="cpu"))]
        row, z = self._follow(x, first)
        ends = self.index.counts(z, torch.full_like(z, second // 2), bool(second % 2))
        per_start = torch.zeros(len(x), dtype=torch.int64).scatter_add_(0, row, ends)
        # One start at least.
        enough = max(1, int(torch.searchsorted(per_start.cumsum(0), ENDS, right=True)))
        row, z = row[row < enough], z[row < enough]
        at, y = self._follow(z, second)
        row, z = row[at], z[at]
        apart = (z != x[row]) & (z != y) & (x[row] != y)
        pair = torch.unique(row[apart] * self.n_entities + y[apart])
        x, y = x[pair // self.n_entities], pair % self.n_entities
        other = ~((x == h) & (y == t))
        x, y = x[other], y[other]
        return float(self.index.contains(x, torch.full_like(x, r), y).double().mean()) if len(x) else 0.0

    def _starts(self, step: int) -> Int[Tensor, " n"]:
        return self.train[self.train[:, 1] == step // 2, 2 * (step % 2)].unique()

    def _follow(self, x: Int[Tensor, " n"], step: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """Where a step leads, flat: `(row, entity)`."""
        return self.index.targets(x, torch.full_like(x, step // 2), bool(step % 2))


def _first_of_each(values: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """The places where each value stands first, ascending."""
    distinct, inverse = values.unique(return_inverse=True)
    places = torch.arange(len(values))
    first = torch.full((len(distinct),), len(values)).scatter_reduce(0, inverse, places, "amin")
    return first.sort().values


def _parts(size: Int[Tensor, " n"], at_once: int) -> Iterator[slice]:
    """Runs of rows whose sizes sum to little more than a bound, each of one row at least."""
    n, first = len(size), 0
    total = size.cumsum(0)
    while first < n:
        before = int(total[first - 1]) if first else 0
        end = max(first + 1, int(torch.searchsorted(total, before + at_once, right=True)))
        yield slice(first, end)
        first = end
