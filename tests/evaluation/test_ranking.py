"""Filtered ranks against a loop over queries, and against PyKEEN's evaluator."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.data.graph import TripleIndex
from mmrns.errors import MmrnsError
from mmrns.evaluation.ranking import Ranks, rank
from mmrns.evaluation.report import adjusted_mean_rank_index, metrics
from mmrns.types import Batch

E, R = 7, 3


class Fixed:
    """Scores from two tables, one a side: [anchor, relation, target]; counts the queries that it is asked."""

    def __init__(self, tail: Tensor, head: Tensor):
        self.tail, self.head, self.asked = tail, head, 0

    def score_all(self, batch: Batch) -> Tensor:
        self.asked += len(batch)
        parts = [(self.head if head else self.tail)[batch.anchor[rows], batch.r[rows]] for head, rows in batch.sides]
        return torch.cat(parts)


def fixed(seed: int, values: int, dtype: torch.dtype = torch.float32, n: int = E, relations: int = R) -> Fixed:
    """Integer scores below `values`: the fewer, the more ties."""
    g = torch.Generator().manual_seed(seed)
    return Fixed(*torch.randint(values, (2, n, relations, n), generator=g).to(dtype))


def naive(model: Fixed, triples: list[tuple[int, int, int]], known: set[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    """(h, r, t, head, optimistic, pessimistic, candidates), tail side first."""
    found: list[tuple[int, ...]] = []
    for head in (False, True):
        for h, r, t in triples:
            table = (model.head[t, r] if head else model.tail[h, r]).tolist()
            true, others = (h, [(e, r, t) for e in range(E)]) if head else (t, [(h, r, e) for e in range(E)])
            rivals = [table[e] for e, triple in enumerate(others) if e != true and triple not in known]
            higher = sum(s > table[true] for s in rivals)
            equal = sum(s == table[true] for s in rivals)
            found.append((h, r, t, head, higher + 1, higher + equal + 1, len(rivals) + 1))
    return found


def rows_of(ranks: Ranks) -> list[tuple[int, ...]]:
    columns = (*ranks.triples.unbind(1), ranks.head, ranks.optimistic, ranks.pessimistic, ranks.candidates)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def index_of(triples: list[tuple[int, int, int]], n: int = E, relations: int = R) -> TripleIndex:
    return TripleIndex(torch.tensor(triples, dtype=torch.int64).reshape(-1, 3), n, relations)


def tensor(triples: list[tuple[int, int, int]]) -> Tensor:
    return torch.tensor(triples, dtype=torch.int64).reshape(-1, 3)


TRIPLES = st.lists(st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1)), max_size=25)


@settings(deadline=None, max_examples=60)
@given(TRIPLES, TRIPLES, st.integers(0, 2**31), st.sampled_from([1, 2, 4, 100]), st.booleans(), st.booleans())
def test_ranks_equal_those_of_a_loop(
    triples: list[tuple[int, int, int]],
    others: list[tuple[int, int, int]],
    seed: int,
    values: int,
    themselves_known: bool,
    in_small_chunks: bool,
) -> None:
    model = fixed(seed, values)
    known = others + triples if themselves_known else others
    # One MiB at this width is two queries a chunk.
    width = 2**20 // (8 * E) - 3 if in_small_chunks else 1
    ranks = rank(model, tensor(triples), index_of(known), memory_mb=1, width=width)
    assert rows_of(ranks) == naive(model, triples, set(known))
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
        def score_all(self, batch: Batch) -> Tensor:
            sizes.append(len(batch))
            return super().score_all(batch)

    width = 2**20 // (4 * E * per_chunk) - 3
    ranks = rank(Sized(model.tail, model.head), tensor(triples), index, memory_mb=1, width=width)
    assert rows_of(ranks) == naive(model, triples, set(triples))
    assert max(sizes) <= per_chunk
    assert len(sizes) >= 2 * (len({(h, r) for h, r, _ in triples}) // per_chunk)


def test_memory_bounds_the_chunk() -> None:
    n = 1000
    model, sizes = fixed(0, 9, n=n, relations=1), list[int]()

    class Sized(Fixed):
        def score_all(self, batch: Batch) -> Tensor:
            sizes.append(len(batch))
            return super().score_all(batch)

    triples = [(h, 0, (h * 7) % n) for h in range(200)]
    ranks = rank(Sized(model.tail, model.head), tensor(triples), index_of([], n, 1), memory_mb=1, width=1)
    # 2^20 bytes over 4 bytes x 1000 entities x (1 + 3).
    assert max(sizes) == 65
    whole = rank(model, tensor(triples), index_of([], n, 1))
    assert rows_of(whole) == rows_of(ranks)


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
    assert rows_of(plain)[0][4:] == (4, 5, 7)
    filtered = rank(model, triples, index_of([(0, 0, 1), (0, 0, 0), (0, 0, 4), (0, 1, 2), (3, 0, 2), (2, 0, 0)]))
    assert rows_of(filtered)[0][4:] == (3, 3, 5)
    # On the head side (3, 0, 1) would be filtered; it is not known, but (0, 0, 1) itself never is a rival.
    assert rows_of(filtered)[1][4:] == (1, 7, 7)


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
    with pytest.raises(MmrnsError, match="scores that are not finite; lower the learning rate"):
        rank(model, tensor([(0, 0, 1), (2, 1, 2)]), index_of([]))
    rank(model, tensor([(0, 0, 1)]), index_of([]))


def test_progress_adds_up_to_the_queries() -> None:
    triples = [(h, 0, (h + 1) % E) for h in range(E)]
    seen: list[int] = []
    rank(fixed(0, 3), tensor(triples), index_of([]), memory_mb=1, width=2**20 // (8 * E) - 3, progress=seen.append)
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


@pytest.mark.parametrize("values", [3, 10**6], ids=["many ties", "few ties"])
def test_metrics_equal_those_of_pykeen(values: int) -> None:
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.evaluation.evaluator import create_sparse_positive_filter_, filter_scores_

    n, relations = 30, 4
    g = torch.Generator().manual_seed(values)
    every = torch.stack([torch.randint(m, (400,), generator=g) for m in (n, relations, n)], dim=1).unique(dim=0)
    every = every[torch.randperm(len(every), generator=g)]
    test = every[:60]
    model = fixed(7, values, torch.float64, n, relations)
    ranks = rank(model, test, TripleIndex(every, n, relations))

    evaluator = RankBasedEvaluator(filtered=True)
    for target, head in (("tail", False), ("head", True)):
        batch = Batch.of(test, torch.full((len(test),), head))
        scores = model.score_all(batch)
        true = scores.gather(1, batch.target[:, None])
        positives, _ = create_sparse_positive_filter_(
            hrt_batch=test, all_pos_triples=every, relation_filter=None, filter_col=0 if head else 2
        )
        filtered = filter_scores_(scores=scores.clone(), filter_batch=positives)
        filtered.scatter_(1, batch.target[:, None], true)
        evaluator.process_scores_(hrt_batch=test, target=target, scores=filtered, true_scores=true)
    theirs = evaluator.finalize()
    ours = metrics(ranks.realistic) | {"amri": adjusted_mean_rank_index(ranks)}
    names = {
        "mrr": "inverse_harmonic_mean_rank",
        "hits@1": "hits_at_1",
        "hits@3": "hits_at_3",
        "hits@10": "hits_at_10",
        "mr": "arithmetic_mean_rank",
        "amri": "adjusted_arithmetic_mean_rank_index",
    }
    for mine, their in names.items():
        assert ours[mine] == pytest.approx(theirs.get_metric(f"both.realistic.{their}"), abs=1e-6), mine
    for head, side in ((False, "tail"), (True, "head")):
        part = ranks.where(ranks.head == head)
        assert metrics(part.realistic)["mr"] == pytest.approx(
            theirs.get_metric(f"{side}.realistic.arithmetic_mean_rank"), abs=1e-6
        )
        for policy in ("optimistic", "pessimistic"):
            assert metrics(getattr(part, policy))["mrr"] == pytest.approx(
                theirs.get_metric(f"{side}.{policy}.inverse_harmonic_mean_rank"), abs=1e-6
            )
    assert (ranks.candidates < n).any()
