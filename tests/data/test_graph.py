"""Vocabulary, index and graph against plain Python."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import DomainRangeIndex, TripleIndex
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import MmrnsError, UsageError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@given(st.lists(TEXT, max_size=30))
@example(["\uffff", "\U00010000", "\ue000", "a", "B", "é", 'the "b"', '"', ""])
def test_vocabulary_is_every_name_once_in_code_point_order(names: list[str]) -> None:
    vocabulary = Vocabulary(names)
    expected = sorted(set(names))
    assert list(vocabulary) == expected
    assert len(vocabulary) == len(expected)
    assert [vocabulary[i] for i in range(len(expected))] == expected
    assert vocabulary[1:3] == expected[1:3]
    assert vocabulary.names.to_list() == expected
    assert vocabulary.find(pl.Series(names, dtype=pl.String)).tolist() == [expected.index(n) for n in names]
    assert all(vocabulary.id(n) == i and n in vocabulary for i, n in enumerate(expected))


NAMED = st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=12)


@settings(max_examples=25)
@given(NAMED, NAMED, st.lists(TEXT, max_size=4, unique=True))
def test_categories_and_strings_make_the_same_graph(
    train: list[tuple[str, str, str]], test: list[tuple[str, str, str]], more: list[str]
) -> None:
    schema = dict.fromkeys(["head", "relation", "tail"], pl.String)
    frames = [pl.DataFrame(rows, schema=schema, orient="row") for rows in (train, [], test)]
    extra = pl.Series("entity", more, dtype=pl.String)
    # Others of the process, so that the numbers of categories are neither dense nor in order.
    kept = pl.Series(["zz", *reversed(more), "yy"]).cast(pl.Categorical)
    strings, categories = (
        KnowledgeGraph.from_names(*(frame.cast(kind) for frame in frames), entities=extra)
        for kind in (pl.String, pl.Categorical)
    )
    assert len(kept) == len(more) + 2
    names = {name for h, _, t in (*train, *test) for name in (h, t)} | set(more)
    for graph in (strings, categories):
        assert list(graph.entities) == sorted(names)
        assert list(graph.relations) == sorted({r for _, r, _ in (*train, *test)})
        for rows, ids in ((train, graph.train), ([], graph.valid), (test, graph.test)):
            assert [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in ids.tolist()] == rows
    assert categories.entities.find(pl.Series(["", "absent name"])).tolist() == [0 if "" in names else -1, -1]


def test_code_point_order_is_not_utf16_order() -> None:
    # UTF-16 would put the surrogates of U+1F600 before U+FF21.
    names = ["\U0001f600", "\uff21"]
    assert list(Vocabulary(names)) == ["\uff21", "\U0001f600"]
    assert sorted(names, key=lambda s: s.encode("utf-16-be")) == names


def test_unknown_names() -> None:
    vocabulary = Vocabulary(["Germany", "France", 'the "b"'])
    assert vocabulary.find(pl.Series(["France", "Spain", None, "germany"])).tolist() == [0, -1, -1, -1]
    assert "Spain" not in vocabulary
    assert 0 not in vocabulary
    assert 'the "b"' in vocabulary
    with pytest.raises(UsageError, match="unknown name 'Germny'; did you mean 'Germany'\\?"):
        vocabulary.id("Germny")
    with pytest.raises(UsageError, match="unknown name 'germany'; did you mean 'Germany'\\?"):
        vocabulary.id("germany")
    with pytest.raises(UsageError) as caught:
        vocabulary.id("xyz")
    assert str(caught.value) == "unknown name 'xyz'"


E, R = 6, 3
TRIPLES = st.lists(st.tuples(st.integers(0, E - 1), st.integers(0, R - 1), st.integers(0, E - 1)), max_size=60)
EVERY = torch.cartesian_prod(torch.arange(E), torch.arange(R), torch.arange(E))
QUERIES = torch.cartesian_prod(torch.arange(E), torch.arange(R))


def index_of(triples: list[tuple[int, int, int]]) -> TripleIndex:
    return TripleIndex(torch.tensor(triples, dtype=torch.int64).reshape(-1, 3), E, R)


def known(triples: list[tuple[int, int, int]], anchor: int, relation: int, head: bool) -> list[int]:
    """Targets by set comprehension."""
    return sorted({(h if head else t) for h, r, t in triples if r == relation and (t if head else h) == anchor})


FULL = [(0, 1, t) for t in range(E)] + [(h, 1, 0) for h in range(E)]


@given(TRIPLES, st.booleans())
@example([], False)
@example([(5, 2, 5)] * 3, True)
@example([(0, 0, 0)], False)
@example(FULL, True)
def test_index_equals_python_sets(triples: list[tuple[int, int, int]], head: bool) -> None:
    index = index_of(triples)
    assert len(index) == len(set(triples))
    expected = [known(triples, a, r, head) for a, r in QUERIES.tolist()]
    anchor, relation = QUERIES.unbind(1)
    assert index.counts(anchor, relation, head).tolist() == [len(x) for x in expected]
    row, entity = index.targets(anchor, relation, head)
    assert list(zip(row.tolist(), entity.tolist(), strict=True)) == [
        (i, x) for i, xs in enumerate(expected) for x in xs
    ]
    found = index.contains(*EVERY.unbind(1))
    assert found.tolist() == [(h, r, t) in set(triples) for h, r, t in EVERY.tolist()]


@given(TRIPLES, st.booleans())
@example([], True)
@example(FULL, False)
def test_nth_absent_enumerates_what_is_not_known(triples: list[tuple[int, int, int]], head: bool) -> None:
    index = index_of(triples)
    anchor, relation = QUERIES.unbind(1)
    n = torch.arange(E).expand(len(QUERIES), E)
    absent = index.nth_absent(n, anchor, relation, head)
    for found, (a, r) in zip(absent.tolist(), QUERIES.tolist(), strict=True):
        expected = [x for x in range(E) if x not in known(triples, a, r, head)]
        assert found[: len(expected)] == expected


@given(TRIPLES, st.lists(st.tuples(st.integers(0, E - 1), st.integers(0, R - 1)), max_size=12), st.booleans())
def test_queries_may_repeat_and_come_in_any_order(
    triples: list[tuple[int, int, int]], queries: list[tuple[int, int]], head: bool
) -> None:
    index = index_of(triples)
    anchor, relation = torch.tensor(queries, dtype=torch.int64).reshape(-1, 2).unbind(1)
    row, entity = index.targets(anchor, relation, head)
    expected = [(i, x) for i, (a, r) in enumerate(queries) for x in known(triples, a, r, head)]
    assert list(zip(row.tolist(), entity.tolist(), strict=True)) == expected


def test_contains_keeps_the_shape_of_the_query() -> None:
    index = index_of([(0, 1, 2)])
    h = torch.tensor([[0, 0], [1, 0]])
    r = torch.ones_like(h)
    t = torch.tensor([[2, 3], [2, 2]])
    assert index.contains(h, r, t).tolist() == [[True, False], [False, True]]
    empty = torch.empty(0, 3, dtype=torch.int64)
    assert index.contains(empty, empty, empty).shape == (0, 3)


def test_index_on_another_device_is_a_copy() -> None:
    index = index_of([(0, 1, 2), (0, 1, 4)])
    moved = index.to("cpu")
    assert moved.device == index.device == torch.device("cpu")
    assert len(moved) == 2
    assert moved.targets(torch.tensor([0]), torch.tensor([1]), False)[1].tolist() == [2, 4]
    assert index.to("meta").device.type == "meta"


def test_keys_that_do_not_fit_are_refused() -> None:
    none = torch.empty(0, 3, dtype=torch.int64)
    TripleIndex(none, 2**31, 2**30)
    with pytest.raises(MmrnsError, match="too many for 64-bit keys"):
        TripleIndex(none, 2**31, 2**31)
    several = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 0, 3], [3, 0, 0]])
    TripleIndex(several, 2**59, 1)
    with pytest.raises(MmrnsError, match=r"8 queries of .* entities are too many for 64-bit numbers"):
        TripleIndex(several, 2**60, 1)


@settings(max_examples=25)
@given(
    TRIPLES,
    st.lists(st.integers(0, 2**40 - 1), min_size=E, max_size=E, unique=True),
    st.lists(st.integers(0, 2**20 - 1), min_size=R, max_size=R, unique=True),
    st.booleans(),
)
@example(FULL, [2**40 - 1 - i for i in range(E)], [2**20 - 1 - i for i in range(R)], True)
def test_an_index_of_ids_whose_triples_fit_no_number(
    triples: list[tuple[int, int, int]], entities: list[int], relations: list[int], head: bool
) -> None:
    # Of 2^40 entities and 2^20 relations, 100 bits a triple, a few occur; which are the same ids in another order.
    entity, relation = torch.tensor(entities).sort().values, torch.tensor(relations).sort().values
    h, r, t = torch.tensor(triples, dtype=torch.int64).reshape(-1, 3).unbind(1)
    large = TripleIndex(torch.stack([entity[h], relation[r], entity[t]], 1), 2**40, 2**20)
    small = index_of(triples)
    a, q = QUERIES.unbind(1)
    large_query = entity[a], relation[q], head
    assert len(large) == len(small)
    assert large.counts(*large_query).tolist() == small.counts(a, q, head).tolist()
    rows, targets = small.targets(a, q, head)
    assert [x.tolist() for x in large.targets(*large_query)] == [rows.tolist(), entity[targets].tolist()]
    h, r, t = EVERY.unbind(1)
    assert large.contains(entity[h], relation[r], entity[t]).tolist() == small.contains(h, r, t).tolist()
    for found, expected, of in zip(
        large.queries(), small.queries(), (entity, relation, torch.tensor([0, 1])), strict=True
    ):
        assert found.tolist() == of[expected.long()].tolist()
    # The entities that no triple names are absent, and as far as to the first known one they are counted from 0.
    n = torch.cat([torch.arange(3), torch.tensor([2**40 - 1 - E])]).expand(len(a), -1)
    absent = large.nth_absent(n, *large_query)
    for found, (anchor, q_) in zip(absent.tolist(), QUERIES.tolist(), strict=True):
        taken = [int(entity[i]) for i in known(triples, anchor, q_, head)]
        for place, x in zip(n[0].tolist(), found, strict=True):
            assert x not in taken
            assert x - sum(i < x for i in taken) == place


def test_index_of_large_ids() -> None:
    n, r = 3_000_000, 900
    triples = torch.tensor([[n - 1, r - 1, n - 1], [n - 1, r - 1, 0], [0, 0, n - 1]])
    index = TripleIndex(triples, n, r)
    assert index.contains(*triples.unbind(1)).all()
    assert not index.contains(*(triples - torch.tensor([0, 0, 1])).clamp(min=0)[:1].unbind(1)).any()
    assert index.nth_absent(torch.tensor([[0, n - 3]]), triples[:1, 0], triples[:1, 1], False).tolist() == [[1, n - 2]]


def frame(*rows: str) -> pl.DataFrame:
    return pl.DataFrame([row.split() for row in rows], schema=["head", "relation", "tail"], orient="row")


@pytest.fixture
def leaky() -> KnowledgeGraph:
    return KnowledgeGraph.from_names(
        train=frame("b r a", "a r b", "a r b"),
        valid=frame("a r b", "c s a", "c s b", "a r b", "b r a", "c s a"),
        test=frame("c s b", "d r a"),
        entities=pl.Series(["z", "a"]),
    )


def test_graph_from_names(leaky: KnowledgeGraph) -> None:
    assert list(leaky.entities) == ["a", "b", "c", "d", "z"]
    assert list(leaky.relations) == ["r", "s"]
    assert leaky.train.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert leaky.valid[1].tolist() == [2, 1, 0]
    assert leaky.test.tolist() == [[2, 1, 1], [3, 0, 0]]
    assert leaky.seen_entities.tolist() == [True, True, False, False, False]


def test_train_index_knows_train_only(leaky: KnowledgeGraph) -> None:
    assert leaky.train_index.contains(*leaky.valid.unbind(1)).tolist() == [True, False, False, True, True, False]
    assert len(leaky.train_index) == 2
    assert not leaky.train_index.contains(*leaky.test.unbind(1)).any()
    assert len(leaky.known_index) == 5
    for split in (leaky.train, leaky.valid, leaky.test):
        assert leaky.known_index.contains(*split.unbind(1)).all()


def test_leaked_valid(leaky: KnowledgeGraph) -> None:
    assert leaky.leaked_valid().tolist() == [True, False, True, True, True, False]
    clean = leaky.without_leaked_valid()
    assert clean.valid.tolist() == [[2, 1, 0], [2, 1, 0]]
    assert not clean.leaked_valid().any()
    assert clean.train is leaky.train
    assert clean.test is leaky.test
    # The index of the new graph is its own, though the old one had been used.
    assert len(leaky.known_index) == len(clean.known_index) == 5
    only_valid = KnowledgeGraph(leaky.entities, leaky.relations, leaky.train, leaky.valid, leaky.test[:0])
    assert len(only_valid.known_index) == 4
    assert len(only_valid.without_leaked_valid().known_index) == 4
    assert only_valid.leaked_valid().tolist() == [True, False, False, True, True, False]


def test_graph_without_valid_and_test() -> None:
    none = pl.DataFrame(schema=dict.fromkeys(("head", "relation", "tail"), pl.String))
    graph = KnowledgeGraph.from_names(frame("a r b"), none, none)
    assert graph.valid.shape == graph.test.shape == (0, 3)
    assert graph.leaked_valid().shape == (0,)
    assert len(graph.known_index) == 1


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 6)), max_size=30),
    st.sets(st.integers(0, 8)),
    st.sets(st.tuples(st.integers(0, 5), st.booleans())),
)
def test_who_is_of_a_domain_is_the_same_listed_and_searched(
    triples: list[tuple[int, int, int]], entities: set[int], asked: set[tuple[int, bool]]
) -> None:
    index = DomainRangeIndex(torch.tensor(triples, dtype=torch.int64).view(-1, 3), 9)
    ids = torch.tensor(sorted(entities), dtype=torch.int64)
    relations = torch.tensor([r for r, _ in asked], dtype=torch.int64)
    side = torch.tensor([head for _, head in asked], dtype=torch.bool)
    size = int(index.occurrences()[ids].sum())
    found = index.contains(ids, relations, side, size)
    assert torch.equal(found, index.contains(ids, relations, side))
    expected = [[any(r == q and e == (h if head else t) for h, q, t in triples) for e in ids] for r, head in asked]
    assert found.tolist() == expected
    # Of two lists at once, each domain or range of one of them.
    lists, of = torch.stack([ids, ids.flip(0)]), torch.arange(len(asked)) % 2
    found = index.contains(lists, relations, side, 2 * size, of)
    assert torch.equal(found, index.contains(lists, relations, side, None, of))
    assert found.tolist() == [row[::-1] if i % 2 else row for i, row in enumerate(expected)]


def test_domains_are_sampled_evenly_and_without_repeats() -> None:
    triples = torch.tensor([[0, 0, t] for t in (1, 3, 4, 6, 8)] + [[h, 1, 2] for h in (5, 7)] + [[0, 0, 3]])
    index = DomainRangeIndex(triples, 9)
    relations = torch.tensor([0, 1, 2])
    counts = torch.zeros(9)
    n = 300
    for start in (torch.arange(n) * 2**53 // n).tolist():
        drawn, there, rate = index.sample(relations, False, torch.full((3,), start), 3)
        row = drawn[0][there[0]].tolist()
        assert len(set(row)) == 3
        counts[row] += 1
        assert drawn[1][there[1]].tolist() == [2]
        # Relation 2 has no triples.
        assert not there[2].any()
    assert rate.tolist() == pytest.approx([3 / 5, 1, 0])
    assert counts[[1, 3, 4, 6, 8]].tolist() == pytest.approx([n * 3 / 5] * 5, abs=1.5)
    inside = index.contains(torch.arange(9), relations, True)
    assert inside.nonzero().tolist() == [[0, 0], [1, 5], [1, 7]]


@given(TRIPLES)
def test_the_probability_of_a_head_is_that_of_bernoulli(triples: list[tuple[int, int, int]]) -> None:
    names = [(f"e{h}", f"r{r}", f"e{t}") for h, r, t in triples]
    frame = pl.DataFrame(names, schema=dict.fromkeys(["head", "relation", "tail"], pl.String), orient="row")
    graph = KnowledgeGraph.from_names(frame, frame.clear(), frame.clear())
    for relation, found in zip(graph.relations, graph.head_probability.tolist(), strict=True):
        own = {(h, t) for h, r, t in names if r == relation}
        tails_per_head = len(own) / len({h for h, _ in own})
        heads_per_tail = len(own) / len({t for _, t in own})
        assert found == pytest.approx(tails_per_head / (tails_per_head + heads_per_tail))
