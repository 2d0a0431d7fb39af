from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.samplers import sans
from mmrns.samplers.sans import Sans, adjacency
from mmrns.types import Batch


def _graph(triples: list[tuple[int, int, int]], n: int) -> KnowledgeGraph:
    none = torch.empty(0, 3, dtype=torch.int64)
    names = Vocabulary([f"{i:02d}" for i in range(n)])
    return KnowledgeGraph(names, Vocabulary(["r", "s"]), torch.tensor(triples), none, none)


def _model(graph: KnowledgeGraph) -> Model:
    return Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))


def _sampler(graph: KnowledgeGraph, **options: int | bool) -> Sans:
    return Sans(graph, Features(), _model(graph).spec, **options)


def _members(sampler: Sans, entity: int) -> set[int]:
    return set(sampler.members[sampler.offsets[entity] : sampler.offsets[entity + 1]].tolist())


PATH = [(i, 0, i + 1) for i in range(9)]


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_neighbourhoods_are_the_ends_of_walks_from_the_entity(hops: int) -> None:
    sampler = _sampler(_graph(PATH, 10), hops=hops, walks=400)
    for entity in range(10):
        # On a path a walk of k steps ends k, k - 2, ... places away.
        reach = {e for e in range(10) if abs(e - entity) <= hops and (e - entity - hops) % 2 == 0}
        assert _members(sampler, entity) == reach


def test_walks_of_an_entity_without_neighbours_go_on_from_any_entity() -> None:
    """One hop ends anywhere; the second follows a triple, but for those that start at the other lonely one."""
    star = _graph([(0, 0, i) for i in range(1, 6)], 8)
    assert _members(_sampler(star, hops=1, walks=400), 7) == set(range(8))
    offsets, neighbours = adjacency(star)
    ends = _sampler(star, hops=2, walks=20_000)._walk(torch.tensor([7]), offsets, neighbours, torch.Generator())
    share = torch.bincount(torch.cat(ends), minlength=8) / 20_000
    # From 5 of 8 entities to the centre; from the centre and from the lonely ones to any of theirs.
    expected = torch.tensor([5 / 8 + 1 / 32, *[1 / 40 + 1 / 32] * 5, 1 / 32, 1 / 32])
    torch.testing.assert_close(share, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_whole_neighbourhoods_are_balls(hops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A few entities at once, so that there are several chunks.
    monkeypatch.setattr(sans, "CELLS", 36)
    sampler = _sampler(_graph([*PATH, (3, 1, 3)], 12), hops=hops, walks=0)
    for entity in range(10):
        assert _members(sampler, entity) == {e for e in range(10) if abs(e - entity) <= hops}
    for entity in (10, 11):
        assert not _members(sampler, entity)


def test_an_entity_without_neighbours_draws_from_all_when_there_are_no_walks() -> None:
    graph = _graph(PATH, 12)
    sampler = _sampler(graph, negatives=400, walks=0)
    batch = Batch.of(torch.tensor([[11, 0, 3]]), torch.tensor([False]))
    negatives = sampler.draw(_model(graph).lookup(batch), _model(graph), 0)
    assert negatives.ids is not None
    assert set(negatives.ids.flatten().tolist()) == set(range(12))
    assert sampler.proposal(batch, negatives, torch.tensor([0])).unique().tolist() == pytest.approx([1 / 12])


def test_neighbourhoods_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sans, "LIMIT", 50)
    _sampler(_graph(PATH, 10), hops=2, walks=0)
    with pytest.raises(UsageError, match=r"3-hop neighbourhoods hold more than 50 entities; lower sampler\.hops"):
        _sampler(_graph(PATH, 10), hops=3, walks=0)


def test_the_authors_walks_leave_the_ball() -> None:
    sampler = _sampler(_graph(PATH, 10), hops=1, walks=400, restart=False)
    assert _members(sampler, 0) > {1}


def test_an_entity_without_neighbours_has_uniform_ends() -> None:
    sampler = _sampler(_graph(PATH, 12), hops=1, walks=600)
    assert _members(sampler, 11) == set(range(12))


def test_adjacency_is_undirected_without_repeats() -> None:
    offsets, neighbours = adjacency(_graph([(0, 0, 1), (1, 1, 0), (2, 0, 1)], 3))
    assert offsets.tolist() == [0, 1, 3, 4]
    assert neighbours.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize(("hops", "walks"), [(2, 300), (1, 0)])
def test_draws_are_uniform_over_the_allowed(
    toy: Dataset, hops: int, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sans, "CHUNK", 2100)
    monkeypatch.setattr(sans, "CELLS", 280)
    graph = toy.graph
    sampler = _sampler(graph, negatives=20_000, hops=hops, walks=walks)
    batch = Batch.of(graph.train[:12], torch.arange(12) % 2 == 0)
    ids = sampler.draw(_model(graph).lookup(batch), _model(graph), 0).ids
    assert ids is not None
    true = {tuple(row) for row in graph.train.tolist()}
    for b in range(len(batch)):
        h, r, t = int(batch.h[b]), int(batch.r[b]), int(batch.t[b])
        head = bool(batch.head[b])
        near = _members(sampler, t if head else h)
        allowed = sorted(e for e in near if ((e, r, t) if head else (h, r, e)) not in true)
        assert allowed
        counts = torch.bincount(ids[b], minlength=len(graph.entities)).double()
        assert counts.sum() == counts[allowed].sum()
        expected = counts.sum() / len(allowed)
        degrees = len(allowed) - 1
        assert ((counts[allowed] - expected) ** 2 / expected).sum() < degrees + 5 * (2 * max(degrees, 1)) ** 0.5


def test_a_row_whose_neighbours_are_all_true_draws_uniformly() -> None:
    # 0 reaches only 1 and 2, which are its true tails.
    graph = _graph([(0, 0, 1), (0, 0, 2), (3, 0, 4), (5, 1, 4)], 6)
    sampler = _sampler(graph, negatives=500, hops=1, walks=50)
    ids = sampler.draw(_model(graph).lookup(Batch.of(graph.train[:1], torch.tensor([False]))), _model(graph), 0).ids
    assert ids is not None
    assert set(ids.flatten().tolist()) == {0, 3, 4, 5}


def test_a_row_for_which_everything_is_true_counts_nothing() -> None:
    graph = _graph([(0, 0, e) for e in range(3)] + [(1, 0, 0)], 3)
    sampler = _sampler(graph, negatives=4, walks=20)
    mask = sampler.draw(
        _model(graph).lookup(Batch.of(graph.train, torch.zeros(4, dtype=torch.bool))), _model(graph), 0
    ).mask
    assert mask is not None
    assert mask.any(1).tolist() == [False, False, False, True]
