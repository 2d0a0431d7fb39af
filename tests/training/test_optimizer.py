from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from mmrns.data.datasets import Dataset
from mmrns.evaluation.hardness import gradient_norm
from mmrns.nn.embedders import Table
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.optimizer import Group, Kind, Optimizer, schedule_of, sparse_tables
from mmrns.training.rowwise import RowAdagrad, RowAdam
from mmrns.training.trainer import Trainer


def _trainer(toy: Dataset, **training: object) -> Trainer:
    values = {"model": {"dim": 6}, "sampler": {"name": "uniform", "negatives": 4}, "device": "cpu"}
    return build_trainer(make_config({**values, "training": {"batch_size": 8, "steps": 10, **training}}), toy)


def test_groups_by_name(toy: Dataset) -> None:
    values = {"model": {"dim": 6}, "sampler": {"name": "mmrns", "discount": 0.25}, "device": "cpu"}
    values["training"] = {"lr": 0.5, "sampler_lr": 0.25, "sparse": True}
    trainer = build_trainer(make_config(values), toy)
    assert {group["name"]: group["lr"] for group in trainer.optimizer.groups} == {"tables": 0.5, "sampler": 0.25}
    grouped = [id(p) for group in trainer.optimizer.groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for m in (trainer.model, trainer.sampler) for p in m.parameters())


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_where_every_row_is_touched_sparse_and_dense_are_the_same(kind: str) -> None:
    tables = [Table(3, 4, 0.5, sparse=sparse) for sparse in (False, True)]
    tables[1].load_state_dict(tables[0].state_dict())
    optimizers = [Optimizer([Group("t", [t.weight], 0.1, sparse=t.sparse)], kind=kind) for t in tables]  # type: ignore[arg-type]
    ids = torch.tensor([0, 2, 1, 2])
    for step in range(5):
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            (table(ids) - step).square().sum().backward()
            optimizer.step(step)
    torch.testing.assert_close(tables[1].weight, tables[0].weight)


@pytest.mark.parametrize("form", ["numba", "torch"])
@pytest.mark.parametrize(("own", "of_torch"), [(RowAdam, torch.optim.SparseAdam), (RowAdagrad, torch.optim.Adagrad)])
def test_row_by_row_is_what_torch_does_with_sparse_gradients(
    monkeypatch: pytest.MonkeyPatch, own: type[torch.optim.Optimizer], of_torch: Any, form: str
) -> None:
    monkeypatch.setattr("mmrns.training.rowwise.form_of", lambda tensor: form)
    stream = torch.Generator().manual_seed(0)
    start = torch.randn(9, 5, generator=stream)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = own([ours], lr=0.01), of_torch([theirs], lr=0.01)
    for n in (7, 1, 30, 0, 12):
        ids, values = torch.randint(9, (n,), generator=stream), torch.randn(n, 5, generator=stream)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.sparse_coo_tensor(ids[None], values, start.shape, check_invariants=True)
            # Torch's Adagrad warns where nothing is said of these checks.
            with torch.sparse.check_sparse_tensor_invariants(False):
                optimizer.step()
        torch.testing.assert_close(ours, theirs)
    for name, kept in optimizers[0].state[ours].items():
        torch.testing.assert_close(
            torch.as_tensor(kept).float(), torch.as_tensor(optimizers[1].state[theirs][name]).float()
        )


def test_a_row_moves_alike_whatever_the_number_of_threads() -> None:
    moved: list[torch.Tensor] = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            table = nn.Parameter(torch.zeros(50, 3))
            ids = torch.randint(4, (64,), generator=torch.Generator().manual_seed(1))
            values = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
            table.grad = torch.sparse_coo_tensor(ids[None], values, table.shape, check_invariants=True)
            RowAdagrad([table], lr=0.1).step()
        finally:
            torch.set_num_threads(before)
        moved.append(table.detach())
    assert torch.equal(*moved)
    assert (moved[0] != 0).any(1).tolist() == [True] * 4 + [False] * 46


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_a_sparse_step_leaves_the_other_rows_alone(toy: Dataset, kind: str) -> None:
    trainer = _trainer(toy, sparse=True, optimizer=kind)
    trainer.step(0)
    before = trainer.model.entity.weight.detach().clone()
    batch = trainer.batches.at(1)
    negatives = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, 1).ids
    assert negatives is not None
    trainer.step(1)
    moved = (trainer.model.entity.weight != before).any(1).nonzero().flatten().tolist()
    assert set(moved) == {*batch.h.tolist(), *batch.t.tolist(), *negatives.flatten().tolist()}
    assert len(moved) < len(before)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_an_embedding_of_torch_is_a_table_too(kind: Kind) -> None:
    vectors = [nn.Sequential(nn.Embedding(4, 2, sparse=sparse), nn.Linear(2, 1)) for sparse in (False, True)]
    assert [len(sparse_tables(module)) for module in vectors] == [0, 1]
    tables = sparse_tables(vectors[1])
    optimizer = Optimizer([Group("tables", tables, 0.1, sparse=True)], kind=kind)
    before = tables[0].detach().clone()
    vectors[1](torch.tensor([3, 3])).sum().backward()
    optimizer.step(0)
    assert (tables[0] != before).any(1).tolist() == [False, False, False, True]


def test_the_gradient_norm_is_the_same_however_it_is_stored(toy: Dataset) -> None:
    norms = []
    for sparse in (False, True):
        trainer = _trainer(toy, sparse=sparse)
        trainer.step(0)
        norms.append(gradient_norm(trainer.model))
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_the_schedule_reaches_the_optimizer(toy: Dataset) -> None:
    trainer = _trainer(toy, schedule="cosine", warmup=2, lr=0.1)
    for step in range(10):
        before = trainer.model.relation.weight.detach().clone()
        trainer.step(step)
        factor = min(1, (step + 1) / 2) * (1 + math.cos(math.pi * step / 10)) / 2
        assert trainer.optimizer.groups[0]["lr"] == pytest.approx(0.1 * factor)
        if step == 0:
            # Adam's first update is the learning rate, whatever the gradient.
            change = (trainer.model.relation.weight - before).abs()
            assert float(change.detach().max()) == pytest.approx(0.05, rel=1e-3)


def test_schedules() -> None:
    assert [schedule_of("constant", 10)(i) for i in (0, 9)] == [1.0, 1.0]
    assert [schedule_of("constant", 10, 4)(i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule_of("linear", 10)(9) == pytest.approx(0.1)
    assert schedule_of("cosine", 10)(5) == pytest.approx(0.5)
