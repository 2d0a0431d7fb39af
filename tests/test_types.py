"""`Batch`: rows sorted by side, what stays and what is replaced."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.types import Batch, Negatives

ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 9), st.booleans(), st.integers(1, 50)), max_size=20
)


@given(ROWS)
def test_batch_of_sorts_stably_by_side(rows: list[tuple[int, int, int, bool, int]]) -> None:
    triples = torch.tensor([row[:3] for row in rows], dtype=torch.int64).reshape(-1, 3)
    head = torch.tensor([row[3] for row in rows], dtype=torch.bool)
    weight = torch.tensor([row[4] for row in rows], dtype=torch.float32)
    batch = Batch.of(triples, head, weight)
    expected = [row for row in rows if not row[3]] + [row for row in rows if row[3]]
    found = zip(
        *(x.tolist() for x in (batch.h, batch.r, batch.t, batch.head, batch.weight)),
        strict=True,
    )
    assert list(found) == expected
    assert len(batch) == len(rows)
    assert batch.n_tail == sum(not row[3] for row in rows)
    assert batch.anchor.tolist() == [row[2] if row[3] else row[0] for row in expected]
    assert batch.target.tolist() == [row[0] if row[3] else row[2] for row in expected]
    assert batch.relations.tolist() == sorted({row[1] for row in rows})
    assert torch.equal(batch.relations[batch.relation_index], batch.r)


@given(ROWS)
def test_sides_are_two_slices_that_cover_the_batch(rows: list[tuple[int, int, int, bool, int]]) -> None:
    triples = torch.tensor([row[:3] for row in rows], dtype=torch.int64).reshape(-1, 3)
    batch = Batch.of(triples, torch.tensor([row[3] for row in rows], dtype=torch.bool))
    positions = torch.arange(len(batch))
    (tail, tail_rows), (head, head_rows) = batch.sides
    assert (tail, head) == (False, True)
    assert torch.cat([positions[tail_rows], positions[head_rows]]).tolist() == positions.tolist()
    assert not batch.head[tail_rows].any()
    assert batch.head[head_rows].all()
    assert batch.weight.tolist() == [1.0] * len(rows)


def test_to_keeps_everything() -> None:
    triples = torch.tensor([[0, 1, 2], [3, 0, 1]])
    batch = Batch.of(triples, torch.tensor([True, False]), torch.tensor([2.0, 3.0]))
    moved = batch.to("cpu")
    for field in dataclasses.fields(Batch):
        a, b = getattr(batch, field.name), getattr(moved, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert batch.to("meta").h.device.type == "meta"
    assert batch.to("meta").n_tail == 1


def test_batch_and_negatives_are_frozen() -> None:
    batch = Batch.of(torch.tensor([[0, 1, 2]]), torch.tensor([True]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.n_tail = 2  # pyright: ignore
    negatives = Negatives()
    with pytest.raises(dataclasses.FrozenInstanceError):
        negatives.ids = batch.h  # pyright: ignore
    assert [getattr(negatives, f.name) for f in dataclasses.fields(Negatives)] == [None] * 5
