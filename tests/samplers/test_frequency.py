from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.samplers.frequency import Frequency, Gaps
from mmrns.types import Batch


def _model(graph: KnowledgeGraph) -> Model:
    return Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))


@pytest.mark.parametrize("power", [0.0, 0.75, 2.0])
def test_draws_follow_the_power_of_the_frequency_without_what_is_true(toy: Dataset, power: float) -> None:
    graph = toy.graph
    model = _model(graph)
    sampler = Frequency(graph, toy.features, model.spec, negatives=20_000, power=power)
    batch = Batch.of(graph.train[:12], torch.arange(12) % 2 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert negatives.ids is not None
    assert negatives.log_weight is not None
    n = len(graph.entities)
    weight = torch.tensor([1.0 + int((graph.train[:, [0, 2]] == e).sum()) for e in range(n)]).double() ** power
    # Entity 0 and the last one, which train does not mention, are within reach.
    assert weight.min() >= 1
    true = torch.zeros(len(batch), n, dtype=torch.bool)
    true[graph.train_index.batch_targets(batch)] = True
    for b, row in enumerate(negatives.ids):
        q = weight.masked_fill(true[b], 0)
        q = q / q.sum()
        torch.testing.assert_close((-negatives.log_weight[b]).exp(), q[row].float())
        counts = torch.bincount(row, minlength=n).double()
        assert counts[true[b]].sum() == 0
        expected = counts.sum() * q
        some = q > 0
        degrees = int(some.sum()) - 1
        assert ((counts - expected)[some] ** 2 / expected[some]).sum() < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0, 2.0, 4.0, 400.0])
def test_rounding_moves_little(power: float) -> None:
    """A hub is in all triples but few, and most entities in none: the powers span what no length can."""
    n = 3000
    triples = torch.tensor([(0, 0, 1 + i % 1000) for i in range(2000)] + [(1, 1, 2)])
    none = torch.empty(0, 3, dtype=torch.int64)
    graph = KnowledgeGraph(Vocabulary([f"{i:04d}" for i in range(n)]), Vocabulary(["r", "s"]), triples, none, none)
    length = Frequency(graph, Features(), _model(graph).spec, power=power).weight
    count = torch.bincount(triples[:, [0, 2]].flatten(), minlength=n)
    exact = ((1 + count) / (1 + count.max())).double() ** power
    exact, units = exact / exact.sum(), 2.0**36
    assert int(length.min()) >= 1
    assert length.sum() <= units
    assert (length.double() / length.sum() - exact).abs().sum() / 2 <= n / units
    wanted = exact * (units - n)
    assert (length - wanted)[wanted >= 1].abs().max() <= 0.5 + 1e-3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_place_left_belongs_to_the_entity_that_lies_there(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    weight = torch.tensor(data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    entity = st.integers(0, n - 1)
    rows = data.draw(st.lists(st.tuples(entity, st.integers(0, 1), entity), min_size=1, max_size=12))
    triples = torch.tensor(rows)
    index = TripleIndex(triples, n, 2)
    gaps = Gaps(index, weight)
    for head in (False, True):
        for anchor in range(n):
            for r in range(2):
                true = {row[0] if head else row[2] for row in rows if row[2 * head] == anchor and row[1] == r}
                left = [e for e in range(n) if e not in true for _ in range(int(weight[e]))]
                place = index.places(Batch.of(torch.tensor([[anchor, r, anchor]]), torch.tensor([head])))
                bits = (2 * torch.arange(max(len(left), 1)) + 1) * 2**52 // max(len(left), 1)
                ids, free = gaps(place, bits[None])
                assert int(free) == len(left)
                assert ((ids >= 0) & (ids < n)).all()
                if left:
                    assert ids[0].tolist() == left


def test_a_row_for_which_everything_is_true_counts_nothing() -> None:
    triples = torch.tensor([[0, 0, e] for e in range(3)] + [[1, 0, 0]])
    none = torch.empty(0, 3, dtype=torch.int64)
    graph = KnowledgeGraph(Vocabulary(["a", "b", "c"]), Vocabulary(["r"]), triples, none, none)
    model = _model(graph)
    batch = Batch.of(triples, torch.zeros(4, dtype=torch.bool))
    negatives = Frequency(graph, Features(), model.spec, negatives=50).draw(model.lookup(batch), model, 0)
    assert negatives.ids is not None
    assert negatives.mask is not None
    assert negatives.mask.any(1).tolist() == [False, False, False, True]
    assert set(negatives.ids[3].tolist()) == {1, 2}


def test_uncorrected_draws_have_no_importance_weights(toy: Dataset) -> None:
    model = _model(toy.graph)
    sampler = Frequency(toy.graph, toy.features, model.spec, corrected=False)
    lookup = model.lookup(Batch.of(toy.graph.train[:3], torch.arange(3) > 0))
    assert sampler.draw(lookup, model, 0).log_weight is None
