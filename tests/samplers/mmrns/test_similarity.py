from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.samplers.mmrns.attention import KnowledgeGuidedAttention
from mmrns.samplers.mmrns.published import MmrnsPublished
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.samplers.mmrns.similarity import Similarity
from mmrns.types import Batch

DIM = 6


def _build(
    toy: Dataset, cls: type[Mmrns] | type[MmrnsPublished], memory_mb: int
) -> tuple[Model, Mmrns | MmrnsPublished]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        settings = {"negatives": 4, "pool": 30, "width": 8, "gate_width": 9, "memory_mb": memory_mb}
        return model, cls(toy.graph, toy.features, model.spec, **settings)


@pytest.mark.parametrize("relations", [1, 5])
@pytest.mark.parametrize("memory_mb", [0, 1024])
@pytest.mark.parametrize("cls", [Mmrns, MmrnsPublished])
def test_folded_and_chunked_similarities_equal_the_direct_ones(
    toy: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    relations: int,
    memory_mb: int,
    cls: type[Mmrns] | type[MmrnsPublished],
) -> None:
    """In float64, with gradients: one relation or all, in one piece or a relation at a time with recomputation."""
    monkeypatch.setattr(KnowledgeGuidedAttention, "folds", lambda self, modality, n_relations: n_relations > 0)
    rows = toy.graph.train[:60]
    if relations == 1:
        rows = rows[rows[:, 1] == rows[0, 1]]
    batch = Batch.of(rows, torch.arange(len(rows)) % 2 == 0)
    assert len(batch.relations) == relations
    outcomes: list[tuple[dict[str, Similarity], list[Tensor]]] = []
    for direct in (True, False):
        model, sampler = _build(toy, cls, memory_mb=1024 if direct else memory_mb)
        model.double()
        sampler.double()
        found = sampler.similarity(batch, sampler.pool(0), model, direct=direct)
        total = sum((torch.sin(3 * s.values)).sum() for s in found.values())
        assert isinstance(total, Tensor)
        total.backward()
        gradients = [p.grad for p in [*sampler.parameters(), *model.parameters()] if p.grad is not None]
        outcomes.append((found, gradients))
    for name, expected in outcomes[0][0].items():
        torch.testing.assert_close(outcomes[1][0][name].values, expected.values, rtol=0, atol=1e-10)
    assert len(outcomes[0][1]) == len(outcomes[1][1])
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
