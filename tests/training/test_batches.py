"""Order, sides and weights of the training batches."""

from __future__ import annotations

import math
import threading
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError
from mmrns.training.batches import Batches, Upcoming, subsampling_weight
from mmrns.types import Batch, SidePolicy

E, R = 8, 4
TRIPLES = st.lists(
    st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1)), min_size=1, max_size=40
)


def graph_of(triples: list[tuple[int, int, int]]) -> KnowledgeGraph:
    none = torch.empty(0, 3, dtype=torch.int64)
    names = Vocabulary([f"e{i}" for i in range(E)]), Vocabulary([f"r{i}" for i in range(R)])
    return KnowledgeGraph(*names, torch.tensor(triples, dtype=torch.int64), none, none)


def rows(batch: Batch) -> list[tuple[int, int, int]]:
    return list(zip(batch.h.tolist(), batch.r.tolist(), batch.t.tolist(), strict=True))


def equal(a: Batch, b: Batch) -> bool:
    tensors = ("h", "r", "t", "weight", "relations", "relation_index")
    return a.n_tail == b.n_tail and all(torch.equal(getattr(a, n), getattr(b, n)) for n in tensors)


@given(TRIPLES, st.integers(1, 50), st.sampled_from(["alternate", "bernoulli"]), st.integers(0, 3))
def test_each_permutation_of_an_epoch_serves_every_triple_once(
    triples: list[tuple[int, int, int]], size: int, sides: SidePolicy, epoch: int
) -> None:
    batches = Batches(graph_of(triples), size=size, sides=sides)
    per_pass = math.ceil(len(triples) / size)
    assert batches.per_pass == per_pass
    assert batches.per_epoch == 2 * per_pass
    steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
    for second in (0, 1):
        served = [batches.at(step) for step in steps if step % 2 == second]
        assert Counter(row for batch in served for row in rows(batch)) == Counter(triples)
        assert [len(batch) for batch in served[:-1]] == [size] * (per_pass - 1)
        assert len(served[-1]) == len(triples) - size * (per_pass - 1)


def test_alternate_replaces_tails_in_even_steps_and_heads_in_odd_ones(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=32)
    for step in range(2 * batches.per_epoch):
        batch = batches.at(step)
        assert batch.n_tail == (0 if step % 2 else len(batch))
        assert batch.head.tolist() == [step % 2 == 1] * len(batch)


@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_a_batch_is_a_function_of_seed_and_step(toy: Dataset, sides: SidePolicy) -> None:
    first = Batches(toy.graph, size=48, sides=sides, seed=3)
    steps = range(3 * first.per_epoch)
    served = [first.at(step) for step in steps]
    again = Batches(toy.graph, size=48, sides=sides, seed=3)
    for step in reversed(steps):
        assert equal(served[step], again.at(step))
    other = Batches(toy.graph, size=48, sides=sides, seed=4)
    assert not any(equal(served[step], other.at(step)) for step in steps)


def test_every_permutation_is_another_one(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=len(toy.graph.train))
    orders = [tuple(rows(batches.at(step))) for step in range(6)]
    assert len(set(orders)) == 6
    assert tuple(map(tuple, toy.graph.train.tolist())) not in orders


def naive_head_probability(triples: list[tuple[int, int, int]], relation: int) -> float:
    """tph / (tph + hpt), each a mean over the heads or tails of the relation."""
    pairs = {(h, t) for h, r, t in triples if r == relation}
    if not pairs:
        return 0.5
    heads, tails = {h for h, _ in pairs}, {t for _, t in pairs}
    tph = sum(sum(h == x for h, _ in pairs) for x in heads) / len(heads)
    hpt = sum(sum(t == x for _, t in pairs) for x in tails) / len(tails)
    return tph / (tph + hpt)


def test_head_probabilities_of_known_relations() -> None:
    one_to_many = [(0, 0, t) for t in range(1, 5)]
    many_to_one = [(h, 1, 0) for h in range(1, 5)]
    found = graph_of(one_to_many * 2 + many_to_one + [(0, 2, 1), (1, 2, 2)]).head_probability
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.5, 0.5])


def test_bernoulli_sides_have_their_frequencies(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=97, sides="bernoulli", seed=1)
    heads, total = torch.zeros(2, len(toy.graph.relations))
    for step in range(200 * batches.per_epoch):
        batch = batches.at(step)
        assert batch.head.tolist() == sorted(batch.head.tolist())
        assert batch.n_tail == len(batch) - int(batch.head.sum())
        heads.index_add_(0, batch.r, batch.head.float())
        total.index_add_(0, batch.r, torch.ones(len(batch)))
    triples = [tuple(row) for row in toy.graph.train.tolist()]
    expected = torch.tensor([naive_head_probability(triples, r) for r in range(len(toy.graph.relations))])
    assert expected.max() > 0.8
    assert expected.min() < 0.2
    # One binomial a relation: 5 degrees of freedom, whose 99.99 % quantile is 25.7.
    chi_squared = ((heads - total * expected).square() / (total * expected * (1 - expected))).sum()
    assert chi_squared < 25.7


def test_bernoulli_coins_differ_between_the_steps_of_a_triple() -> None:
    batches = Batches(graph_of([(0, 0, 1)]), size=1, sides="bernoulli")
    heads = [bool(batches.at(step).head[0]) for step in range(400)]
    assert 140 < sum(heads) < 260
    changes = sum(a != b for a, b in pairwise(heads))
    assert 140 < changes < 260


def rotate_weights(triples: list[tuple[int, int, int]]) -> list[float]:
    """The loop of RotatE's code: counts start at 4 and the tail's pair carries the inverse relation."""
    count: dict[tuple[int, int], int] = {}
    for head, relation, tail in triples:
        for key in ((head, relation), (tail, -relation - 1)):
            if key not in count:
                count[key] = 4
            else:
                count[key] += 1
    return [math.sqrt(1 / (count[h, r] + count[t, -r - 1])) for h, r, t in triples]


@given(TRIPLES)
def test_subsampling_weights_equal_those_of_rotate(triples: list[tuple[int, int, int]]) -> None:
    graph = graph_of(triples)
    assert subsampling_weight(graph).tolist() == pytest.approx(rotate_weights(triples))


@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_rows_carry_the_weight_of_their_triple(toy: Dataset, sides: SidePolicy) -> None:
    triples = [tuple(row) for row in toy.graph.train.tolist()]
    expected = dict(zip(triples, rotate_weights(triples), strict=True))
    assert len(set(expected.values())) > 5
    batches = Batches(toy.graph, size=50, sides=sides)
    plain = Batches(toy.graph, size=50, sides=sides, subsampling=False)
    for step in range(batches.per_epoch):
        batch = batches.at(step)
        assert batch.weight.tolist() == pytest.approx([expected[row] for row in rows(batch)])
        assert plain.at(step).weight.tolist() == [1.0] * len(batch)
        assert rows(plain.at(step)) == rows(batch)


def test_relations_of_a_batch(toy: Dataset) -> None:
    batch = Batches(toy.graph, size=7, sides="bernoulli").at(2)
    assert batch.relations.tolist() == sorted(set(batch.r.tolist()))
    assert torch.equal(batch.relations[batch.relation_index], batch.r)


@given(TRIPLES, st.integers(1, 50), st.integers(0, 3))
def test_batches_of_queries_serve_every_query(triples: list[tuple[int, int, int]], size: int, epoch: int) -> None:
    batches = Batches(graph_of(triples), size=size, queries=True)
    asked = {False: {(h, r) for h, r, _ in triples}, True: {(t, r) for _, r, t in triples}}
    longest = max(len(queries) for queries in asked.values())
    assert batches.per_epoch == 2 * math.ceil(longest / size)
    for head, queries in asked.items():
        served: Counter[tuple[int, int]] = Counter()
        for step in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
            if step % 2 == head:
                batch = batches.at(step)
                assert batch.head.tolist() == [head] * len(batch)
                assert set(rows(batch)) <= set(triples)
                assert batch.weight.tolist() == [1.0] * len(batch)
                served.update(zip(batch.anchor.tolist(), batch.r.tolist(), strict=True))
        assert set(served) == queries
        assert served.total() == longest
        assert max(served.values()) - min(served.values()) <= 1


def test_batches_of_queries_have_their_sides_in_turn(toy: Dataset) -> None:
    with pytest.raises(UsageError, match=r"training\.sides=bernoulli does not fit"):
        Batches(toy.graph, size=8, sides="bernoulli", queries=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_upcoming_batches_are_those_of_their_steps(toy: Dataset, device: str) -> None:
    """In order, after a jump, asked for twice, and on other devices made by another thread."""
    batches, fresh = (Batches(toy.graph, size=7, seed=3) for _ in range(2))
    makers: list[int] = []
    at = batches.at
    batches.at = lambda step: makers.append(threading.get_ident()) or at(step)  # type: ignore[method-assign]
    upcoming = Upcoming(batches, torch.device(device))
    for step in (0, 1, 2, 2, 9, 10, 4):
        assert equal(upcoming.at(step), fresh.at(step))
    assert (set(makers) == {threading.get_ident()}) == (device == "cpu")


def test_what_is_begun_can_be_awaited(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=7)
    at, go = batches.at, threading.Event()
    made: list[int] = []

    def slow(step: int) -> Batch:
        assert step == 0 or go.wait(60)
        made.append(step)
        return at(step)

    batches.at = slow  # type: ignore[method-assign]
    upcoming = Upcoming(batches, torch.device("meta"))
    upcoming.settle()
    upcoming.at(0)
    assert made == [0]
    go.set()
    upcoming.settle()
    assert made == [0, 1]


def test_what_fails_in_the_thread_is_raised(toy: Dataset) -> None:
    batches = Batches(toy.graph, size=7)
    at = batches.at

    def failing(step: int) -> Batch:
        if step == 2:
            raise MemoryError(step)
        return at(step)

    batches.at = failing  # type: ignore[method-assign]
    upcoming = Upcoming(batches, torch.device("meta"))
    assert equal(upcoming.at(0), at(0))
    assert equal(upcoming.at(1), at(1))
    with pytest.raises(MemoryError):
        upcoming.at(2)
