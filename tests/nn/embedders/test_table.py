"""Tables of vectors, and the embedder that is one."""

from __future__ import annotations

import torch

from mmrns.nn.embedders import STRUCTURE, Table, TableEmbedder


def test_table_starts_uniform_on_its_range() -> None:
    torch.manual_seed(0)
    weight = Table(4000, 25, 0.3).weight.detach()
    assert weight.shape == (4000, 25)
    assert -0.3 <= weight.min() < -0.2999
    assert 0.2999 < weight.max() <= 0.3
    # Ten equal bins of 100,000 numbers: 9 degrees of freedom, whose 99.99 % quantile is 33.7.
    counts = torch.histc(weight, bins=10, min=-0.3, max=0.3)
    assert ((counts - 1e4).square() / 1e4).sum() < 33.7


def test_table_looks_rows_up() -> None:
    table = Table(5, 2, 1.0)
    ids = torch.tensor([[4, 0], [4, 4]])
    assert torch.equal(table(ids), table.weight[ids])
    table(ids).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 3.0]


def test_the_embedder_is_one_view_that_every_entity_has() -> None:
    embedder = TableEmbedder.of(5, 2, 1.0)
    ids = torch.tensor([[4, 0], [4, 4]])
    views = embedder(ids)
    assert embedder.views == (STRUCTURE,)
    assert torch.equal(views.vectors[..., 0, :], embedder.weight[ids])
    assert views.present.shape == (2, 2, 1)
    assert views.present.all()


def test_kernels_may_read_the_table_unless_its_gradient_is_sparse() -> None:
    assert TableEmbedder.of(5, 2, 1.0).table is not None
    assert TableEmbedder.of(5, 2, 1.0, sparse=True).table is None
