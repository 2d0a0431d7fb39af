"""The frequency baseline against a loop with counters."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import rank
from mmrns.types import Batch

E, R = 5, 3
TRIPLE = st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1))


@given(st.lists(TRIPLE, max_size=30), st.lists(st.tuples(TRIPLE, st.booleans()), min_size=1, max_size=8))
def test_counts_equal_those_of_a_loop(
    train: list[tuple[int, int, int]], asked: list[tuple[tuple[int, int, int], bool]]
) -> None:
    none = torch.empty(0, 3, dtype=torch.int64)
    names = Vocabulary([f"e{i}" for i in range(E)]), Vocabulary([f"r{i}" for i in range(R)])
    graph = KnowledgeGraph(*names, torch.tensor(train, dtype=torch.int64).reshape(-1, 3), none, none)
    batch = Batch.of(torch.tensor([triple for triple, _ in asked]), torch.tensor([head for _, head in asked]))
    heads, tails = Counter((r, h) for h, r, _ in train), Counter((r, t) for _, r, t in train)
    seen = {e for h, _, t in train for e in (h, t)}
    for row, r, head in zip(
        RelationFrequency(graph).score_all(batch, 1).tolist(), batch.r.tolist(), batch.head.tolist(), strict=True
    ):
        counts = [(heads if head else tails)[r, e] for e in range(E)]
        # Of what train lacks nobody knows: the mean of the others.
        unknown = sum(counts) / max(len(seen), 1)
        assert row == pytest.approx([counts[e] if e in seen else unknown for e in range(E)])


def test_it_reads_train_only_and_finds_hubs(toy: Dataset) -> None:
    graph = toy.graph
    scores = RelationFrequency(graph).score_all(
        Batch.of(graph.train, torch.zeros(len(graph.train), dtype=torch.bool)), 1
    )
    scores = scores[:, graph.seen_entities]
    assert (scores.sum(1) == torch.bincount(graph.train[:, 1])[graph.train[:, 1]]).all()
    held_out = torch.cat([graph.valid, graph.test])
    held_out = held_out[held_out[:, 1] == graph.relations.id("part_of")]
    ranks = rank(RelationFrequency(graph), held_out, graph.known_index)
    # Every tail of the relation is one of three hubs.
    assert len(held_out) > 0
    assert ranks.where(~ranks.head).pessimistic.max() <= 3
    assert ranks.where(ranks.head).optimistic.max() > 3
