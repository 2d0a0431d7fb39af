from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset
from mmrns.rng import generator
from mmrns.samplers.pools import PoolAnswers, distinct, in_pools, mixed_pool, true_in_pool
from mmrns.types import Batch


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_pool_is_distinct_and_at_most_half_drawn_where_others_are_there(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    size = data.draw(st.integers(1, n))
    drawn = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    uniform = distinct(0, "test", n=n, size=size)
    pool = mixed_pool(drawn, uniform, n, generator(data.draw(st.integers(0, 9)), "test"))
    known, others = set(drawn.tolist()), set(uniform.tolist()) - set(drawn.tolist())
    assert len(pool.ids) == len(set(pool.ids.tolist())) == size
    assert pool.ids.tolist() == sorted(pool.ids.tolist())
    assert set(pool.ids.tolist()) <= known | others
    of_drawn = sum(e in known for e in pool.ids.tolist())
    most = min(len(known), max(size // 2, 1))
    assert of_drawn == max(most, size - len(others))
    every = torch.arange(n)
    rate = pool.rate(every)
    for e in every.tolist():
        expected = of_drawn / len(known) if e in known else (size - of_drawn) / (n - len(known))
        assert rate[e].item() == pytest.approx(max(expected, 1 / n))


@pytest.mark.parametrize("drawn", [[3, 3, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7], list(range(17))])
def test_each_entity_is_in_the_pool_as_often_as_is_said(drawn: list[int]) -> None:
    n, size, trials = 20, 8, 4000
    counts, rates = torch.zeros(n), torch.zeros(n)
    sums = []
    value = torch.arange(1, n + 1).float() ** 2
    for i in range(trials):
        uniform = distinct(1, "uniform", i, n=n, size=size)
        pool = mixed_pool(torch.tensor(drawn), uniform, n, generator(1, "choice", i))
        counts[pool.ids] += 1
        rates += pool.rate(torch.arange(n))
        sums.append((value[pool.ids] / pool.rate(pool.ids)).sum())
    share = rates / trials
    assert ((counts / trials - share).abs() < 5 * (share * (1 - share) / trials) ** 0.5 + 1e-6).all()
    if len(set(drawn)) < 17:
        # Some others are in every pool, so that sums over it are unbiased whatever was drawn.
        found = torch.stack(sums)
        assert (found.mean() - value.sum()).abs() < 5 * found.std() / trials**0.5


@pytest.mark.parametrize("side", [0.0, 0.5, 1.0])
def test_the_answers_of_a_pool_are_what_is_true(toy: Dataset, side: float) -> None:
    index, n = toy.graph.train_index, len(toy.graph.train)
    g = torch.Generator().manual_seed(0)
    # Every triple twice, so that queries repeat, and whole sides may be empty.
    batch = Batch.of(toy.graph.train.repeat(2, 1), torch.rand(2 * n, generator=g) < side)
    degrees = index.degrees()
    for step in range(4):
        pool = distinct(step, "test", n=len(toy.graph.entities), size=[1, 7, 23, 40][step])
        found = PoolAnswers.of_each(index, pool[None], degrees)[0].among(index, batch)
        ids, head = pool.expand(len(batch), -1), batch.head[:, None]
        h, t = torch.where(head, ids, batch.h[:, None]), torch.where(head, batch.t[:, None], ids)
        assert torch.equal(found, index.contains(h, batch.r[:, None].expand_as(h), t))
        assert torch.equal(found, index.batch_contains(batch, pool))
        assert torch.equal(found, true_in_pool(index, batch, pool))
    empty = Batch.of(toy.graph.train[:0], torch.zeros(0, dtype=torch.bool))
    assert PoolAnswers.of_each(index, pool[None], degrees)[0].among(index, empty).shape == (0, 40)
    assert true_in_pool(index, empty, pool).shape == (0, 40)


def test_the_answers_of_several_pools_are_those_of_each(toy: Dataset) -> None:
    index, degrees = toy.graph.train_index, toy.graph.train_index.degrees()
    batch = Batch.of(toy.graph.train, torch.arange(len(toy.graph.train)) % 2 == 0)
    pools = torch.stack([distinct(i, "test", n=40, size=7) for i in range(3)])
    for pool, found in zip(pools, PoolAnswers.of_each(index, pools, degrees), strict=True):
        assert torch.equal(found.pool, pool)
        assert torch.equal(found.among(index, batch), index.batch_contains(batch, pool))


@given(st.lists(st.sets(st.integers(0, 8), min_size=3, max_size=3), min_size=1, max_size=4), st.data())
def test_entities_are_looked_for_in_their_own_pool(sets: list[set[int]], data: st.DataObject) -> None:
    of = data.draw(st.lists(st.integers(0, len(sets) - 1), min_size=1, max_size=5))
    entities = torch.arange(9).expand(len(of), -1)
    found = in_pools(
        entities, torch.tensor(of), torch.tensor([data.draw(st.permutations(sorted(pool))) for pool in sets]), 9
    )
    assert found.tolist() == [[e in sets[i] for e in range(9)] for i in of]


def test_degrees_count_the_queries_that_an_entity_answers(toy: Dataset) -> None:
    index, train = toy.graph.train_index, toy.graph.train.unique(dim=0)
    assert torch.equal(index.degrees(), torch.bincount(train[:, [0, 2]].flatten(), minlength=40))
