"""Filtered ranks against a loop over queries, and against PyKEEN's evaluator."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.index import DomainRangeIndex, TripleIndex
from mmrns.errors import Diverged
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import Ranks, _count, rank
from mmrns.evaluation.report import metrics, policies
from mmrns.nn.kernels import comparisons
from mmrns.nn.model import Model
from mmrns.nn.scorers import DistMult, PairRE, RotatE, Scorer, TransE
from mmrns.rng import seeded
from mmrns.types import Batch

E, R = 7, 3


class Fixed:
    """Scores from two tables, one a side: [anchor, relation, target]; counts the queries that it is asked."""

    def __init__(self, tail: Tensor, head: Tensor):
        self.tail, self.head, self.asked = tail, head, 0

    def score_all(self, batch: Batch, memory_mb: float | int) -> Tensor:
        self.asked += len(batch)
        parts = [(self.head if head else self.tail)[batch.anchor[rows], batch.r[rows]] for head, rows in batch.sides]
        return torch.cat(parts)


def fixed(seed: int, values: int, dtype: torch.dtype = torch.float32, n: int = E, relations: int = R) -> Fixed:
    """Integer scores below `values`: the fewer, the more ties."""
    g = torch.Generator().manual_seed(seed)
    return Fixed(*torch.randint(values, (2, n, relations, n), generator=g).to(dtype))


def memory_of(queries: int, n: int = E) -> float:
    """MiB in which so many queries are ranked at a time."""
    return 24 * n * (queries + 0.5) / 2**20


def naive(
    model: Fixed,
    triples: list[tuple[int, int, int]],
    known: set[tuple[int, int, int]],
    listed: set[tuple[int, bool, int]] | None = None,
) -> list[tuple[int, ...]]:
    """(h, r, t, head, optimistic, pessimistic, candidates, outside), tail side first.

    `listed` holds (relation, head, entity); None = every entity is a candidate.
    """
    listed = listed or set()
    restricted = {(r, head) for r, head, _ in listed}
    found: list[tuple[int, ...]] = []
    for head in (False, True):
        for h, r, t in triples:
            table = (model.head[t, r] if head else model.tail[h, r]).tolist()
            true, others = (h, [(e, r, t) for e in range(E)]) if head else (t, [(h, r, e) for e in range(E)])
            among = {e for e in range(E) if (r, head) not in restricted or (r, head, e) in listed}
            rivals = [table[e] for e, triple in enumerate(others) if e in among - {true} and triple not in known]
            higher = sum(s > table[true] for s in rivals)
            equal = sum(s == table[true] for s in rivals)
            found.append((h, r, t, head, higher + 1, higher + equal + 1, len(rivals) + 1, true not in among))
    return found


def rows_of(ranks: Ranks) -> list[tuple[int, ...]]:
    columns = (
        *ranks.triples.unbind(1),
        ranks.head,
        ranks.optimistic,
        ranks.pessimistic,
        ranks.candidates,
        ranks.outside,
    )
    return list(zip(*(c.tolist() for c in columns), strict=True))


def index_of(triples: list[tuple[int, int, int]], n: int = E, relations: int = R) -> TripleIndex:
    return TripleIndex(torch.tensor(triples, dtype=torch.int64).reshape(-1, 3), n, relations)


def tensor(triples: list[tuple[int, int, int]]) -> Tensor:
    return torch.tensor(triples, dtype=torch.int64).reshape(-1, 3)


TRIPLES = st.lists(st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1)), max_size=25)
LISTED = st.none() | st.sets(st.tuples(st.integers(0, R - 1), st.booleans(), st.integers(0, E - 1)), max_size=25)


def candidates_of(listed: set[tuple[int, bool, int]]) -> Candidates:
    r, head, entity = torch.tensor(sorted(listed), dtype=torch.int64).reshape(-1, 3).unbind(1)
    return Candidates(DomainRangeIndex.listed(r, head.bool(), entity, E))


@settings(deadline=None, max_examples=100)
@given(TRIPLES, TRIPLES, LISTED, st.integers(0, 2**31), st.sampled_from([1, 2, 4, 100]), st.booleans(), st.booleans())
def test_ranks_equal_those_of_a_loop(
    triples: list[tuple[int, int, int]],
    others: list[tuple[int, int, int]],
    listed: set[tuple[int, bool, int]] | None,
    seed: int,
    values: int,
    themselves_known: bool,
    in_small_chunks: bool,
) -> None:
    model = fixed(seed, values)
    known = others + triples if themselves_known else others
    memory_mb = memory_of(2) if in_small_chunks else 512
    among = None if listed is None else candidates_of(listed)
    ranks = rank(model, tensor(triples), index_of(known), candidates=among, memory_mb=memory_mb)
    assert rows_of(ranks) == naive(model, triples, set(known), listed)
    assert len(ranks) == 2 * len(triples)
    assert ((ranks.optimistic <= ranks.realistic) & (ranks.realistic <= ranks.pessimistic)).all()
    assert (ranks.optimistic >= 1).all()
    assert (ranks.pessimistic <= ranks.candidates).all()
    assert torch.equal(ranks.realistic * 2, (ranks.optimistic + ranks.pessimistic).double())


@pytest.mark.parametrize("per_chunk", [1, 2, 3, 7, 1000])
def test_chunks_change_nothing_but_the_number_of_calls(per_chunk: int) -> None:
    triples = [(h, r, t) for h in range(4) for r in range(R) for t in range(3)]
    model, index = fixed(0, 3), index_of(triples)
    sizes: list[int] = []

    class Sized(Fixed):
        def score_all(self, batch: Batch, memory_mb: float | int) -> Tensor:
            sizes.append(len(batch))
            return super().score_all(batch, memory_mb)

    ranks = rank(Sized(model.tail, model.head), tensor(triples), index, memory_mb=memory_of(per_chunk))
    assert rows_of(ranks) == naive(model, triples, set(triples))
    assert max(sizes) <= per_chunk
    tails, heads = len({(h, r) for h, r, _ in triples}), len({(r, t) for _, r, t in triples})
    assert sum(sizes) == tails + heads
    assert len(sizes) == math.ceil(tails / per_chunk) + math.ceil(heads / per_chunk)


def test_memory_bounds_the_chunk() -> None:
    n = 1000
    model, sizes = fixed(0, 9, n=n, relations=1), list[int]()

    class Sized(Fixed):
        def score_all(self, batch: Batch, memory_mb: float | int) -> Tensor:
            sizes.append(len(batch))
            return super().score_all(batch, memory_mb)

    triples = [(h, 0, (h * 7) % n) for h in range(200)]
    ranks = rank(Sized(model.tail, model.head), tensor(triples), index_of([], n, 1), memory_mb=1)
    # Half of 2^20 bytes over 4 bytes x 1000 entities x 3.
    assert max(sizes) == 43
    whole = rank(model, tensor(triples), index_of([], n, 1))
    assert rows_of(whole) == rows_of(ranks)


@pytest.mark.parametrize("scorer", [TransE(8, 1.0), DistMult(8, 1.0), RotatE(8, 1.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 0.0), (torch.float32, 1e-4)], ids=str)
def test_metrics_do_not_depend_on_the_chunks(
    toy: Dataset, scorer: Scorer, dtype: torch.dtype, tolerance: float
) -> None:
    graph = toy.graph
    with seeded(0, "model"):
        model = Model(scorer, len(graph.entities), len(graph.relations)).to(dtype)
    whole = rank(model, graph.test, graph.known_index)
    for per_chunk in (1, 2, 3, 11):
        memory_mb = memory_of(per_chunk, len(graph.entities))
        ranks = rank(model, graph.test, graph.known_index, memory_mb=memory_mb)
        assert metrics(ranks.realistic) == pytest.approx(metrics(whole.realistic), rel=0, abs=tolerance)
        if not tolerance:
            assert rows_of(ranks) == rows_of(whole)


def test_finite_scores_whose_sum_overflows_are_fine() -> None:
    model = fixed(0, 9)
    model.tail *= torch.finfo(torch.float32).max / 9
    triples = [(0, 0, 1), (2, 1, 3)]
    assert rows_of(rank(model, tensor(triples), index_of([]))) == naive(model, triples, set())


def test_a_query_is_scored_once_however_many_triples_share_it() -> None:
    triples = [(0, 0, t) for t in range(E)] * 3
    model = fixed(0, 3)
    ranks = rank(model, tensor(triples), index_of(triples))
    assert model.asked == 1 + E
    assert len(ranks) == 2 * len(triples)


def test_duplicates_are_ranked_as_given_in_the_order_given() -> None:
    triples = [(3, 2, 1), (0, 0, 1), (3, 2, 1), (0, 0, 2), (6, 1, 0), (0, 0, 1)]
    model = fixed(5, 50)
    ranks = rank(model, tensor(triples), index_of(triples))
    assert ranks.triples.tolist() == [list(row) for row in triples * 2]
    assert ranks.head.tolist() == [False] * 6 + [True] * 6
    assert ranks.optimistic[0] == ranks.optimistic[2]
    assert ranks.optimistic[1] == ranks.optimistic[5]


def test_what_is_known_is_filtered_on_its_own_side() -> None:
    tail = torch.zeros(E, R, E)
    tail[0, 0] = torch.tensor([5.0, 1.0, 4.0, 3.0, 1.0, 0.0, 0.0])
    model = Fixed(tail, torch.zeros(E, R, E))
    triples = tensor([(0, 0, 1)])
    plain = rank(model, triples, index_of([(0, 0, 1)]))
    assert rows_of(plain)[0][4:7] == (4, 5, 7)
    filtered = rank(model, triples, index_of([(0, 0, 1), (0, 0, 0), (0, 0, 4), (0, 1, 2), (3, 0, 2), (2, 0, 0)]))
    assert rows_of(filtered)[0][4:7] == (3, 3, 5)
    # On the head side (3, 0, 1) would be filtered; it is not known, but (0, 0, 1) itself never is a rival.
    assert rows_of(filtered)[1][4:7] == (1, 7, 7)


def test_realistic_is_the_expectation_under_random_ties() -> None:
    model = Fixed(torch.zeros(E, R, E), torch.zeros(E, R, E))
    ranks = rank(model, tensor([(0, 0, 0)]), index_of([]))
    assert ranks.realistic.tolist() == [4.0, 4.0]
    assert ranks.realistic.dtype == torch.float64


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("head", [False, True])
def test_scores_that_are_not_finite_are_refused(bad: float, head: bool) -> None:
    model = fixed(0, 9)
    (model.head if head else model.tail)[2, 1, 6] = bad
    with pytest.raises(Diverged, match="scores that are not finite; lower the learning rate"):
        rank(model, tensor([(0, 0, 1), (2, 1, 2)]), index_of([]))
    rank(model, tensor([(0, 0, 1)]), index_of([]))


def test_progress_adds_up_to_the_queries() -> None:
    triples = [(h, 0, (h + 1) % E) for h in range(E)]
    seen: list[int] = []
    rank(fixed(0, 3), tensor(triples), index_of([]), memory_mb=memory_of(2), progress=seen.append)
    assert sum(seen) == 2 * E
    assert len(seen) == 8


def test_nothing_to_rank() -> None:
    ranks = rank(fixed(0, 3), tensor([]), index_of([(0, 0, 1)]))
    assert len(ranks) == 0
    assert ranks.triples.shape == (0, 3)


def test_where_keeps_the_queries_asked_for() -> None:
    triples = [(0, 0, 1), (2, 1, 3)]
    ranks = rank(fixed(0, 9), tensor(triples), index_of(triples))
    assert rows_of(ranks.where(ranks.head)) == rows_of(ranks)[2:]
    assert rows_of(ranks.where(~ranks.head)) == rows_of(ranks)[:2]


def test_no_gradient_is_kept() -> None:
    tables = fixed(0, 9)
    tables.tail.requires_grad_()
    tables.head.requires_grad_()
    ranks = rank(tables, tensor([(0, 0, 1)]), index_of([]))
    assert not ranks.realistic.requires_grad


@pytest.mark.parametrize(("name", "scorer"), [("DistMult", DistMult(8, 1.0)), ("TransE", TransE(8, 1.0))])
@pytest.mark.parametrize("steps", [1, 10**6], ids=["many ties", "few ties"])
def test_metrics_equal_those_of_pykeen_on_the_same_weights(toy: Dataset, name: str, scorer: Scorer, steps: int) -> None:
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import model_resolver
    from pykeen.triples import CoreTriplesFactory

    graph = toy.graph
    sizes = len(graph.entities), len(graph.relations)
    with seeded(0, "model"):
        ours = Model(scorer, *sizes).double()
    factory = CoreTriplesFactory(graph.train, *sizes)
    theirs: Any = model_resolver.make(name, triples_factory=factory, embedding_dim=8, random_seed=0).double().eval()
    with torch.no_grad():
        for table, representations in (
            (ours.entity, theirs.entity_representations),
            (ours.relation, theirs.relation_representations),
        ):
            (weight,) = table.parameters()
            # Few distinct weights make for scores that are equal in every arithmetic.
            weight.copy_((weight * steps).round() / steps)
            representations[0]._embeddings.weight.copy_(weight)
    ranks = rank(ours, graph.test, graph.known_index)
    expected = RankBasedEvaluator(filtered=True).evaluate(
        model=theirs,
        mapped_triples=graph.test,
        additional_filter_triples=[graph.train, graph.valid],
        batch_size=7,
        use_tqdm=False,
    )
    assert bool((ranks.pessimistic > ranks.optimistic).any()) == (steps == 1)
    for side, part in (("both", ranks), ("tail", ranks.where(~ranks.head)), ("head", ranks.where(ranks.head))):
        for policy, found in policies(part).items():
            for mine, their in PYKEEN.items():
                if mine in found:
                    value = expected.get_metric(f"{side}.{policy}.{their}")
                    assert found[mine] == pytest.approx(value, abs=1e-6), (side, policy, mine)
    assert (ranks.candidates < sizes[0]).any()


PYKEEN = {
    "mrr": "inverse_harmonic_mean_rank",
    "hits@1": "hits_at_1",
    "hits@3": "hits_at_3",
    "hits@10": "hits_at_10",
    "mr": "arithmetic_mean_rank",
    "amri": "adjusted_arithmetic_mean_rank_index",
}


@pytest.mark.parametrize("scorer", [TransE(8, 1.0), RotatE(8, 1.0), PairRE(8, 1.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("form", ["torch", "numba"])
def test_entities_are_scored_in_chunks_where_the_memory_is_small(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, scorer: Scorer, form: comparisons.Form
) -> None:
    graph, sizes = toy.graph, list[int]()
    monkeypatch.setattr(comparisons, "form_on", lambda device: form)
    model = Model(scorer, len(graph.entities), len(graph.relations)).double()
    whole = rank(model, graph.test, graph.known_index)
    compare = type(scorer).compare

    def counted(self: Scorer, query: Tensor, candidates: Tensor) -> Tensor:
        sizes.append(len(query) * len(candidates))
        return compare(self, query, candidates)

    monkeypatch.setattr(type(scorer), "compare", counted)
    memory_mb = memory_of(2, len(graph.entities))
    ranks = rank(model, graph.test, graph.known_index, memory_mb=memory_mb)
    assert rows_of(ranks) == rows_of(whole)
    width = scorer.pair_width("cpu")
    if width:
        assert 8 * width * max(sizes) <= max(memory_mb * 2**19, 8 * width * 2)
        assert max(sizes) < 2 * len(graph.entities)
    else:
        assert max(sizes) == 2 * len(graph.entities)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]), st.integers(1, 70))
def test_all_ways_of_counting_are_the_plain_one(seed: int, dtype: torch.dtype, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(5, (4, n), generator=g).to(dtype)
    scores[torch.rand(4, n, generator=g) < 0.2] = -torch.inf
    query = torch.randint(4, (9,), generator=g)
    true = scores[query, torch.randint(n, (9,), generator=g)]
    forms: list[Any] = ["torch", "numba"]
    if interpreted := bool(find_spec("triton")) and os.environ.get("TRITON_INTERPRET") == "1":
        forms.append("triton")
    # In several blocks, of which the last is not full.
    blocks = mock.patch("mmrns.nn.kernels.gpu._COUNTED", 16) if interpreted else nullcontext()
    for form in forms:
        with mock.patch.object(comparisons, "form_on", lambda device, form=form: form), blocks:
            # Torch alone holds what it compares.
            for size in (2, 100) if form == "torch" else (100,):
                higher, at_least = _count(scores, query, true, size)
                assert torch.equal(higher, (scores[query] > true[:, None]).sum(1))
                assert torch.equal(at_least, (scores[query] >= true[:, None]).sum(1))
            # One triple a query, as most often.
            higher, at_least = _count(scores, torch.arange(4), scores[:, 0].clone(), 4)
            assert torch.equal(higher, (scores > scores[:, :1]).sum(1))
            assert torch.equal(at_least, (scores >= scores[:, :1]).sum(1))
