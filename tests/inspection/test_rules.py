"""Rules of one and two steps against a count by hand, on random graphs."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.inspection import rules
from mmrns.inspection.rules import Rules

Triple = tuple[int, int, int]


def graph_of(triples: list[Triple], entities: int = 6, relations: int = 3) -> KnowledgeGraph:
    names = (Vocabulary([f"{letter}{i}" for i in range(n)]) for letter, n in (("e", entities), ("r", relations)))
    train = torch.tensor(triples, dtype=torch.int64).view(-1, 3)
    return KnowledgeGraph(*names, train, train[:0], train[:0])


def joined(train: set[Triple], step: int) -> set[tuple[int, int]]:
    """The pairs that a step joins."""
    r, backward = divmod(step, 2)
    return {(t, h) if backward else (h, t) for h, relation, t in train if relation == r and h != t}


def counted(pairs: set[tuple[int, int]], train: set[Triple], asked: Triple) -> tuple[float, int]:
    h, r, t = asked
    others = pairs - {(h, t)}
    support = sum((x, r, y) in train for x, y in others)
    return (support / len(others) if others else 0.0), support


def chains(train: set[Triple], steps: int) -> dict[tuple[int, int], set[tuple[int, int, int]]]:
    """Who is joined by each two steps, and over whom."""
    found: dict[tuple[int, int], set[tuple[int, int, int]]] = defaultdict(set)
    pairs = [joined(train, step) for step in range(steps)]
    for first, second in product(range(steps), repeat=2):
        for (x, z), (other, y) in product(pairs[first], pairs[second]):
            if z == other and x != y:
                found[first, second].add((x, z, y))
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Triple], Triple]:
    triple = st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5))
    train = draw(st.lists(triple, max_size=40))
    return train, draw(st.one_of(triple, st.sampled_from(train)) if train else triple)


@given(cases())
@settings(max_examples=20)
def test_steps_are_counted_as_by_hand(case: tuple[list[Triple], Triple]) -> None:
    triples, asked = case
    train, (h, r, t) = set(triples), asked
    found = Rules(graph_of(triples)).steps(h, r, t)
    expected = {}
    for step in range(6):
        r_of, backward = divmod(step, 2)
        there = ((t, r_of, h) if backward else (h, r_of, t)) in train
        confidence, support = counted(joined(train, step), train, asked)
        if there and support and step != 2 * r and h != t:
            expected[step] = pytest.approx(confidence), support
    assert {
        step: (confidence, support)
        for step, confidence, support in zip(
            found.step.tolist(), found.confidence.tolist(), found.support.tolist(), strict=True
        )
    } == expected
    assert found.confidence.tolist() == sorted(found.confidence.tolist(), reverse=True)


@given(cases())
@settings(max_examples=20)
def test_paths_are_counted_as_by_hand(case: tuple[list[Triple], Triple]) -> None:
    triples, asked = case
    train, (h, _, t) = set(triples), asked
    found = Rules(graph_of(triples)).paths(h, asked[1], t)
    best: dict[int, float] = {}
    every = chains(train, 6)
    for joins in every.values():
        confidence, _ = counted({(x, y) for x, _, y in joins}, train, asked)
        for _, z, _ in (one for one in joins if (one[0], one[2]) == (h, t)):
            if confidence:
                best[z] = max(best.get(z, 0.0), confidence)
    assert dict(zip(found.via.tolist(), found.confidence.tolist(), strict=True)) == pytest.approx(best)
    columns = (found.first, found.via, found.second, found.support)
    for first, via, second, support in zip(*(column.tolist() for column in columns), strict=True):
        joins = every[first, second]
        assert (h, via, t) in joins
        assert support == counted({(x, y) for x, _, y in joins}, train, asked)[1]
    assert found.confidence.tolist() == sorted(found.confidence.tolist(), reverse=True)


def test_what_is_too_much_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0 is a hub: everyone is near it, and whoever is near the same one knows each other, but for the odd ones.
    near = [(i, 0, 0) for i in range(1, 60)]
    knows = [(i, 1, j) for i in range(2, 60, 2) for j in range(2, 60, 2) if i != j]
    graph = graph_of(near + knows, entities=60)
    exact = Rules(graph).paths(2, 1, 4)
    place = exact.via.tolist().index(0)
    assert (int(exact.first[place]), int(exact.second[place])) == (0, 1)
    assert exact.support[place] == len(knows) - 1
    assert exact.confidence[place] == pytest.approx((len(knows) - 1) / (59 * 58 - 1))
    monkeypatch.setattr(rules, "PAIRS", 100)
    monkeypatch.setattr(rules, "ENDS", 59 * 20)
    monkeypatch.setattr(rules, "AT_ONCE", 500)
    sampled = Rules(graph).paths(2, 1, 4)
    place = sampled.via.tolist().index(0)
    assert sampled.support[place] == pytest.approx(len(knows), rel=0.05)
    assert sampled.confidence[place] == pytest.approx(float(exact.confidence[exact.via == 0]), rel=0.5)
    assert sampled.confidence[place] != exact.confidence[exact.via == 0]
