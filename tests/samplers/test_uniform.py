from __future__ import annotations

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.samplers.uniform import Uniform
from mmrns.types import Batch


def _model(graph: KnowledgeGraph) -> Model:
    return Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))


@pytest.mark.parametrize("filtered", [True, False])
def test_draws_are_uniform_over_what_is_allowed(toy: Dataset, filtered: bool) -> None:
    graph = toy.graph
    model = _model(graph)
    sampler = Uniform(graph, toy.features, model.spec, negatives=20_000, filtered=filtered)
    rows = graph.train[:12]
    batch = Batch.of(rows, torch.arange(12) % 2 == 0)
    ids = sampler.draw(model.lookup(batch), model, 0).ids
    assert ids is not None
    true = {tuple(t) for t in graph.train.tolist()}
    for b in range(len(batch)):
        h, r, t = int(batch.h[b]), int(batch.r[b]), int(batch.t[b])
        head = bool(batch.head[b])
        forbidden = {e for e in range(len(graph.entities)) if ((e, r, t) if head else (h, r, e)) in true}
        counts = torch.bincount(ids[b], minlength=len(graph.entities)).double()
        allowed = [e for e in range(len(counts)) if not filtered or e not in forbidden]
        assert counts.sum() == counts[allowed].sum()
        # Entity 0 and the last one are as likely as any other.
        expected = counts.sum() / len(allowed)
        chi2 = ((counts[allowed] - expected) ** 2 / expected).sum()
        degrees = len(allowed) - 1
        assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_importance_weights_are_one_over_the_probability_of_the_draw(toy: Dataset) -> None:
    model = _model(toy.graph)
    batch = Batch.of(toy.graph.train[:8], torch.zeros(8, dtype=torch.bool))
    negatives = Uniform(toy.graph, toy.features, model.spec, negatives=3).draw(model.lookup(batch), model, 0)
    free = len(toy.graph.entities) - toy.graph.train_index.counts(batch.h, batch.r, head=False)
    assert negatives.log_weight is not None
    torch.testing.assert_close((-negatives.log_weight).exp(), (1 / free)[:, None].expand(8, 3).float())


def test_a_row_for_which_everything_is_true_counts_nothing() -> None:
    triples = torch.tensor([[0, 0, e] for e in range(3)] + [[1, 0, 0]])
    none = torch.empty(0, 3, dtype=torch.int64)
    graph = KnowledgeGraph(Vocabulary(["a", "b", "c"]), Vocabulary(["r"]), triples, none, none)
    model = _model(graph)
    batch = Batch.of(triples, torch.zeros(4, dtype=torch.bool))
    negatives = Uniform(graph, Features(), model.spec, negatives=5).draw(model.lookup(batch), model, 0)
    assert negatives.mask is not None
    assert negatives.mask.any(1).tolist() == [False, False, False, True]
    assert negatives.ids is not None
    assert ((negatives.ids >= 0) & (negatives.ids < 3)).all()
    assert set(negatives.ids[3].tolist()) == {1, 2}
