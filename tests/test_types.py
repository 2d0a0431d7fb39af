"""`Batch`: rows sorted by side, what stays and what is replaced."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives, Projected, Views

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
def test_sides_are_slices_that_cover_the_batch(rows: list[tuple[int, int, int, bool, int]]) -> None:
    triples = torch.tensor([row[:3] for row in rows], dtype=torch.int64).reshape(-1, 3)
    batch = Batch.of(triples, torch.tensor([row[3] for row in rows], dtype=torch.bool))
    positions = torch.arange(len(batch))
    assert torch.cat([positions[side] for _, side in batch.sides]).tolist() == positions.tolist()
    assert [head for head, _ in batch.sides] == ([*dict.fromkeys(sorted(row[3] for row in rows))] or [False])
    for head, side in batch.sides:
        assert (batch.head[side] == head).all()
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


@pytest.mark.parametrize("n", [0, 1, 4, 5])
def test_a_batch_moves_in_one_piece(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Every tensor is there again with its type and numbers, of an odd number of weights as well."""
    triples = torch.arange(3 * n).view(n, 3)
    batch = Batch.of(triples, torch.arange(n) % 2 == 0, torch.rand(n, generator=torch.Generator().manual_seed(0)))
    batch = dataclasses.replace(batch, place=torch.arange(n), index=7, n_true=3, step=2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    found = batch.pinned()
    for field in dataclasses.fields(Batch):
        own, moved = getattr(batch, field.name), getattr(found, field.name)
        assert (
            own == moved
            if not isinstance(own, torch.Tensor)
            else (own.dtype == moved.dtype and torch.equal(own, moved))
        )
    assert len({x.untyped_storage().data_ptr() for x in (found.h, found.r, found.t, found.weight, found.place)}) == 1
    copied: list[torch.Tensor] = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *args, **options: copied.append(x) or to(x, *args, **options))
    assert found.to("meta").weight.shape == (n,)
    assert len(copied) == 1


def test_batch_and_negatives_are_frozen() -> None:
    batch = Batch.of(torch.tensor([[0, 1, 2]]), torch.tensor([True]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.n_tail = 2  # pyright: ignore
    negatives = Negatives()
    with pytest.raises(dataclasses.FrozenInstanceError):
        negatives.mask = batch.h  # pyright: ignore
    assert [getattr(negatives, f.name) for f in dataclasses.fields(Negatives)] == [None] * 3


def test_negatives_of_every_form_say_what_each_row_is_compared_with() -> None:
    own = OwnNegatives(torch.tensor([[1, 2], [0, 3]]))
    pool = PoolNegatives(torch.tensor([4, 5]), mask=torch.tensor([[True, False], [False, True]]))
    every = AllNegatives(3, torch.device("cpu"))
    assert own.entities(2).tolist() == [[1, 2], [0, 3]]
    assert own.counts(2).all()
    assert pool.entities(2).tolist() == [[4, 5], [4, 5]]
    assert pool.counts(2).tolist() == [[True, False], [False, True]]
    assert every.entities(2).tolist() == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(TypeError):
        Negatives().entities(2)


def test_views_are_cut_as_one() -> None:
    views = Views(torch.arange(12.0).view(3, 2, 2), torch.tensor([[True, False], [True, True], [False, True]]))
    assert torch.equal(views[1:].vectors, views.vectors[1:])
    rows = torch.tensor([[2, 0], [1, 1]])
    picked = views.index_select(rows)
    assert torch.equal(picked.vectors, views.vectors[rows])
    assert torch.equal(picked.present, views.present[rows])
    assert picked.flatten().vectors.shape == (4, 2, 2)
    assert torch.equal(views.with_vectors(views.vectors + 1).present, views.present)


def test_traits_go_with_the_entity_that_gives_what_is_not_kept() -> None:
    def views(number: float) -> Views:
        present = torch.tensor([[True, False]]).expand(3, 2)
        return Views(torch.full((3, 2, 4), number), present, torch.full((3, 1), number))

    keep = torch.tensor([[True, True], [True, False], [False, False]])
    found = views(1.0).where(keep, views(2.0))
    assert found.vectors[..., 0].tolist() == [[1, 1], [1, 2], [2, 2]]
    assert found.traits is not None
    assert found.traits.tolist() == [[1], [2], [2]]


def test_views_that_lie_apart_are_the_same_views() -> None:
    """Whatever is made of them, and what goes to each view's vectors in the backward pass."""
    parts = [torch.arange(6.0).view(3, 2).requires_grad_(), torch.arange(6.0, 12.0).view(3, 2).requires_grad_()]
    present = torch.tensor([[True, False], [True, True], [False, True]])
    apart, whole = Views.apart(parts, present), Views(torch.stack(parts, dim=1), present)
    assert all(own is given for own, given in zip(apart.by_view, parts, strict=True))
    rows = torch.tensor([2, 0])
    made = [
        (of(apart), of(whole))
        for of in (
            lambda views: views,
            lambda views: views[rows],
            lambda views: views[:, None],
            lambda views: views.index_select(rows),
            lambda views: views.split(2)[1],
            lambda views: Views.concatenate([views, views]),
            lambda views: views.placed(torch.tensor([3, 0, 1]), 4),
            lambda views: views[:, None].flatten(),
            lambda views: views.with_vectors(views.vectors + 1),
            lambda views: views.where(present, views.with_vectors(views.vectors * 2)),
        )
    ]
    for one, other in made:
        assert torch.equal(one.vectors, other.vectors)
        assert torch.equal(one.present, other.present)
        assert one.traits is None
        gradients = (
            torch.autograd.grad(found.vectors.square().sum(), parts, retain_graph=True) for found in (one, other)
        )
        for own, expected in zip(*gradients, strict=True):
            assert torch.equal(own, expected)


def test_projected_views_are_made_when_they_are_asked_for() -> None:
    g = torch.Generator().manual_seed(0)
    structure = torch.randn(3, 4, generator=g)
    projected = Projected(torch.randn(3, 2, generator=g), torch.randn(4, 2, generator=g), torch.randn(4, generator=g))
    vectors = projected.inner @ projected.weight.T + projected.bias
    torch.testing.assert_close(projected.vectors, vectors)
    query = torch.randn(5, 4, generator=g)
    torch.testing.assert_close(projected.products(query), query @ vectors.T)
    present = torch.tensor([[True, False], [True, True], [False, True]])
    views = Views.apart([structure, projected], present)
    assert views.unmade[0] is structure
    assert views.unmade[1] is projected
    for made in (views, views.made()):
        torch.testing.assert_close(made.vectors, torch.stack([structure, vectors], dim=1))
        torch.testing.assert_close(made.by_view[1], vectors)
        assert torch.equal(made.present, present)
    assert all(isinstance(part, torch.Tensor) for part in views.made().unmade)
    whole = Views(torch.stack([structure, vectors], dim=1), present)
    assert whole.made() is whole
    assert all(isinstance(part, torch.Tensor) for part in whole.unmade)


def test_a_projection_spares_what_the_counts_say() -> None:
    """Many entities, wide vectors of few numbers: yes; vectors that are no wider than what they are made of: no."""
    inner, narrow = torch.zeros(1000, 8), torch.zeros(1000, 64)
    wide = Projected(inner, torch.zeros(64, 8), torch.zeros(64))
    assert wide.spares(1)
    assert wide.spares(10_000)
    square = Projected(narrow, torch.zeros(64, 64), torch.zeros(64))
    assert square.spares(10)
    assert not square.spares(10_000)
