"""The hardness of drawn negatives against loops over entities, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmrns.data.datasets import Dataset
from mmrns.data.index import TripleIndex
from mmrns.evaluation.hardness import (
    average,
    gradient_norm,
    mean_effective_sample_size,
    mean_score_percentile,
    measure,
    score_percentiles,
    share_true,
)
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.explanation import effective_sample_size
from mmrns.samplers.uniform import Uniform
from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives

E, R = 7, 2
TRIPLES = st.lists(st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1)), min_size=1)


class Fixed:
    """Scores from one table [anchor, relation, side, target]; remembers how many rows it is asked at a time."""

    def __init__(self, table: Tensor):
        self.table, self.asked = table, list[int]()

    def score_all(self, batch: Batch, memory_mb: float | int) -> Tensor:
        self.asked.append(len(batch))
        return self.table[batch.anchor, batch.r, batch.head.long()]


def index_of(triples: list[tuple[int, int, int]], n: int = E) -> TripleIndex:
    return TripleIndex(torch.tensor(triples, dtype=torch.int64).reshape(-1, 3), n, R)


def outscored(scores: list[float], true: set[int], x: int) -> float | None:
    """The percentile of x by its definition."""
    others = [s for e, s in enumerate(scores) if e not in true and e != x]
    return sum((s < scores[x]) + (s == scores[x]) / 2 for s in others) / len(others) if others else None


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 5, 1000]), st.floats(0, 1))
def test_percentiles_equal_those_of_a_loop(seed: int, values: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(values, (4, E), generator=g).float() - values / 2
    true = torch.rand(4, E, generator=g) < share
    ids = torch.randint(E, (4, 9), generator=g)
    found = score_percentiles(scores, true, ids).tolist()
    for b in range(4):
        leave = {e for e in range(E) if true[b, e]}
        for k, x in enumerate(ids[b].tolist()):
            expected = outscored(scores[b].tolist(), leave, x)
            if expected is None:
                assert math.isnan(found[b][k])
            else:
                assert found[b][k] == pytest.approx(expected)


@settings(deadline=None)
@given(TRIPLES, TRIPLES, st.integers(0, 2**31), st.booleans(), st.booleans())
def test_the_mean_percentile_equals_that_of_a_loop(
    triples: list[tuple[int, int, int]], train: list[tuple[int, int, int]], seed: int, one_pool: bool, masked: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    model = Fixed(torch.randint(4, (E, R, 2, E), generator=g).float())
    batch = Batch.of(torch.tensor(triples), torch.rand(len(triples), generator=g) < 0.5)
    ids = torch.randint(E, (3,) if one_pool else (len(batch), 3), generator=g)
    mask = torch.rand(len(batch), 3, generator=g) < 0.5 if masked else None
    # 1 MiB is far more than enough; the bound on the cells leaves out no row either.
    found = mean_score_percentile(
        model, batch, (PoolNegatives if one_pool else OwnNegatives)(ids, mask=mask), index_of(train)
    )
    expected: list[float] = []
    rows = torch.stack([batch.h, batch.r, batch.t, batch.head.long()], dim=1).tolist()
    for b, (h, r, t, head) in enumerate(rows):
        scores = model.table[t if head else h, r, head].tolist()
        leave = {e for e in range(E) if ((e, r, t) if head else (h, r, e)) in train}
        for k, x in enumerate((ids if one_pool else ids[b]).tolist()):
            value = outscored(scores, leave, x)
            if value is not None and (mask is None or mask[b, k]):
                expected.append(value)
    if expected:
        assert found == pytest.approx(sum(expected) / len(expected))
    else:
        assert found is None


def test_rows_are_bounded_spread_over_both_sides_and_taken_in_chunks() -> None:
    n, rows = 1000, 2000
    g = torch.Generator().manual_seed(0)
    triples = torch.stack([torch.randint(n, (rows,), generator=g), torch.zeros(rows).long(), torch.arange(rows) % n], 1)
    batch = Batch.of(triples, torch.arange(rows) >= 1500)
    # Heads are the hardest negatives there are, tails the easiest.
    table = torch.arange(n).float().expand(1, 1, 1, n).expand(n, R, 2, n)
    ids = torch.where(batch.head, n - 1, 0)[:, None]
    for cells, expected in ((10**9, 500), (100 * n, 100), (1, 8)):
        model = Fixed(table)
        found = mean_score_percentile(model, batch, OwnNegatives(ids), index_of([], n), cells=cells, memory_mb=1)
        assert sum(model.asked) == expected
        assert max(model.asked) <= 2**20 // (4 * n)
        assert found == pytest.approx(0.25)


def test_what_is_not_finite_or_not_drawn_is_none() -> None:
    batch = Batch.of(torch.tensor([[0, 0, 1]]), torch.tensor([False]))
    table = torch.zeros(E, R, 2, E)
    table[0, 0, 0, 3] = torch.nan
    one = OwnNegatives(torch.tensor([[2]]))
    assert mean_score_percentile(Fixed(table), batch, one, index_of([])) is None
    assert mean_score_percentile(Fixed(table.nan_to_num()), batch, one, index_of([])) == 0.5
    every = AllNegatives(E, torch.device("cpu"))
    assert mean_score_percentile(Fixed(table.nan_to_num()), batch, every, index_of([])) is None
    nobody = Batch.of(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    nothing = OwnNegatives(torch.zeros(0, 1, dtype=torch.int64))
    assert mean_score_percentile(Fixed(table.nan_to_num()), nobody, nothing, index_of([])) is None
    assert share_true(batch, every, index_of([])) is None
    none = replace(one, mask=torch.tensor([[False]]))
    assert mean_score_percentile(Fixed(table.nan_to_num()), batch, none, index_of([])) is None
    assert share_true(batch, none, index_of([])) is None


def test_uniform_negatives_of_a_random_model_are_in_the_middle(toy: Dataset) -> None:
    graph = toy.graph
    with seeded(0, "model"):
        model = Model(TransE(8, 1.0), len(graph.entities), len(graph.relations))
    sampler = Uniform(graph, toy.features, model.spec, negatives=500)
    batch = Batch.of(graph.train[:100], torch.arange(100) % 2 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    # 50,000 draws: five standard deviations are 0.007.
    assert mean_score_percentile(model, batch, negatives, graph.train_index) == pytest.approx(0.5, abs=0.007)
    # The hardest and the easiest entity of each row.
    true = torch.zeros(100, len(graph.entities), dtype=torch.bool)
    for head, rows in batch.sides:
        row, entity = graph.train_index.targets(batch.anchor[rows], batch.r[rows], head)
        true[row + rows.start, entity] = True
    scores = model.score_all(batch).detach()
    hardest = OwnNegatives(scores.masked_fill(true, -torch.inf).argmax(1, keepdim=True))
    easiest = OwnNegatives(scores.masked_fill(true, torch.inf).argmin(1, keepdim=True))
    assert mean_score_percentile(model, batch, hardest, graph.train_index) == 1
    assert mean_score_percentile(model, batch, easiest, graph.train_index) == 0


def test_effective_sample_sizes_by_hand(toy: Dataset) -> None:
    rows = {
        (0.25, 0.25, 0.25, 0.25): 1.0,
        (0.0, 1.0, 0.0, 0.0): 1 / 4,
        (0.5, 0.0, 0.5, 0.0): 1 / 2,
        (0.75, 0.25, 0.0, 0.0): 1 / (9 / 16 + 1 / 16) / 4,
    }
    for q, expected in rows.items():
        assert effective_sample_size(torch.tensor([q])).item() == pytest.approx(expected)
    assert effective_sample_size(torch.zeros(1, 4)).isnan().all()
    model = Model(TransE(4, 1.0), len(toy.graph.entities), len(toy.graph.relations))
    uniform = Uniform(toy.graph, toy.features, model.spec, negatives=3, filtered=False)
    batch = Batch.of(toy.graph.train[:5], torch.zeros(5, dtype=torch.bool))
    negatives = uniform.draw(model.lookup(batch), model, 0)
    assert mean_effective_sample_size(uniform, batch, negatives) == pytest.approx(1)

    class Silent(Uniform):
        def proposal(self, batch: Batch, negatives: Negatives, rows: Tensor) -> None:
            return None

    silent = Silent(toy.graph, toy.features, model.spec, negatives=3)
    assert mean_effective_sample_size(silent, batch, negatives) is None


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_effective_sample_size_is_within_its_bounds(logits: list[float]) -> None:
    share = effective_sample_size(torch.softmax(torch.tensor([logits]), dim=1))
    assert 1 / len(logits) - 1e-6 <= float(share) <= 1 + 1e-6


def test_the_share_of_valid_negatives_by_hand() -> None:
    valid = index_of([(0, 0, 2), (0, 0, 3), (4, 1, 5)])
    batch = Batch.of(torch.tensor([[0, 0, 1], [6, 1, 5]]), torch.tensor([False, True]))
    negatives = OwnNegatives(torch.tensor([[2, 3, 4, 2], [4, 0, 1, 2]]))
    assert share_true(batch, negatives, valid) == 4 / 8
    counting = torch.tensor([[True, False, True, False], [True, False, False, False]])
    assert share_true(batch, replace(negatives, mask=counting), valid) == 2 / 3
    # One pool for all rows: (0, 0, 3) of the tail side, (4, 1, 5) of the head side.
    assert share_true(batch, PoolNegatives(torch.tensor([3, 4])), valid) == 2 / 4


def test_gradient_norms() -> None:
    module = nn.Linear(2, 1)
    assert gradient_norm(module) is None
    module.weight.grad = torch.tensor([[3.0, 0.0]])
    assert gradient_norm(module) == 3
    module.bias.grad = torch.tensor([-4.0])
    assert gradient_norm(module) == 5
    module.bias.grad = torch.tensor([math.inf])
    assert gradient_norm(module) is None


def test_averages_leave_out_what_is_not_known() -> None:
    parts = [{"a": 1.0, "b": None, "c": {"d": 2.0}}, {"a": None, "b": None, "c": {"d": 4.0}}]
    assert average(parts) == {"a": 1.0, "b": None, "c": {"d": 3.0}}
    assert average(parts[:1]) == parts[0]


def test_nothing_of_test_is_read(toy: Dataset) -> None:
    """Without its test split the graph gives the same record."""
    records = []
    for graph in (toy.graph, replace(toy.graph, test=toy.graph.test[:0])):
        with seeded(0, "model"):
            model = Model(TransE(8, 1.0), len(graph.entities), len(graph.relations))
        sampler = Uniform(graph, toy.features, model.spec, negatives=9, filtered=False)
        batch = Batch.of(graph.train[:50], torch.arange(50) % 3 == 0)
        negatives = sampler.draw(model.lookup(batch), model, 0)
        records.append(measure(model, sampler, batch, negatives, graph.train_index, graph.valid_index))
        assert "known_index" not in vars(graph) or graph is toy.graph
    assert records[0] == records[1]
    assert records[0]["valid_negatives"] > 0


class _Told(Uniform):
    """Negatives of any form, from a proposal that is given."""

    given: Negatives
    q: Tensor

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        return self.given

    def proposal(self, batch: Batch, negatives: Negatives, rows: Tensor) -> Tensor:
        return self.q.expand(len(rows), -1)


def test_the_effective_sample_size_is_of_all_entities_for_every_form_of_negatives(toy: Dataset) -> None:
    model = Model(TransE(4, 1.0), 40, len(toy.graph.relations))
    batch = Batch.of(toy.graph.train[:4], torch.zeros(4, dtype=torch.bool))
    told = _Told(toy.graph, toy.features, model.spec)
    forms = (
        OwnNegatives(torch.arange(10).expand(4, -1)),
        PoolNegatives(torch.arange(10)),
        AllNegatives(40, torch.device("cpu")),
    )
    # Uniform over 10 of 40 entities, then one of them three times as likely as each of the others.
    for weights, expected in (([1.0] * 10, 10 / 40), ([3.0] + [1.0] * 9, 12**2 / (40 * 18))):
        for scale in (1 / sum(weights), 1.0, 1e-30):
            told.q = scale * torch.tensor(weights + [0.0] * 30)
            for form in forms:
                assert mean_effective_sample_size(told, batch, form) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # What is left when the true ones are left out, however it comes.
        ({"name": "uniform"}, "absent"),
        ({"name": "shared-pool", "negatives": 7}, "absent"),
        ({"name": "1-vs-all"}, "absent"),
        # The pool's share of all entities, or that of the highest; of the row's true ones some are in the pool.
        ({"name": "hard", "pool": 20, "negatives": 5}, 5 / 40),
        ({"name": "hard", "pool": 40, "negatives": 5}, 5 / 40),
    ],
)
def test_the_effective_sample_size_of_samplers_by_hand(toy: Dataset, form: dict[str, Any], expected: object) -> None:
    trainer = build_trainer(make_config({"sampler": form, "model": {"dim": 4}, "device": "cpu"}), toy)
    batch = Batch.of(toy.graph.train[:8], torch.arange(8) > 3)
    negatives = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, 0)
    found = mean_effective_sample_size(trainer.sampler, batch, negatives)
    if expected == "absent":
        anchor = batch.anchor
        true = [toy.graph.train_index.counts(anchor[rows], batch.r[rows], head) for head, rows in batch.sides]
        expected = float(1 - torch.cat(true).float().mean() / 40)
        assert expected < 1
    assert found == pytest.approx(expected)
