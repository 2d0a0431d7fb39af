"""Names: which look the same, which are a header's words, which are in quotes."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.names import COLUMNS, FEW_TRIPLES, find_header, header_columns, lookalikes, quoted_columns, visible


def frame(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


@pytest.mark.parametrize(
    "name",
    [
        "Os\u200blo",
        "\ufeffOslo",
        "Os\u00adlo",
        "Oslo\u200f",
        "\u202aOslo",
        "Os\u2060lo",
        "Oslo\ufe0f",
        "O\x1bslo",
        "Oslo ",
    ],
)
def test_a_name_with_what_nobody_sees_looks_like_the_one_without(name: str) -> None:
    assert lookalikes(pl.Series(["Bergen", "Oslo", name])).rows() == [(name, "Oslo")]


@pytest.mark.parametrize(
    "name", ["New\u00a0York", "New  York", "New\u2028York", "New\x0bYork", " New York", "New \u200bYork"]
)
def test_white_space_is_one_blank(name: str) -> None:
    assert lookalikes(pl.Series([name, "New York"])).rows() == [("New York", name)]


def test_two_names_may_look_alike_without_a_plain_one() -> None:
    assert lookalikes(pl.Series(["a\u200bb", "a\u200cb", "c\u200b"])).rows() == [("a\u200cb", "a\u200bb")]
    assert lookalikes(pl.Series(["Oslo", "oslo", "Osl0", "a b", "ab"])).is_empty()


@settings(deadline=None)
@given(st.lists(st.text("ab \u00a0\u200b\ufeff\t", max_size=4), unique=True, max_size=8))
def test_lookalikes_are_those_that_are_seen_alike(names: list[str]) -> None:
    series = pl.Series(names, dtype=pl.String)
    seen = series.to_frame("n").select(visible(pl.col("n"))).to_series().to_list()
    expected = [
        (name, names[seen.index(s)]) for name, s in zip(names, seen, strict=True) if names[seen.index(s)] != name
    ]
    assert lookalikes(series).rows() == expected


@pytest.mark.parametrize(
    ("cells", "places"),
    [
        (["head", "relation", "tail"], [0, 1, 2]),
        (["Tail", " HEAD", "Relation"], [1, 2, 0]),
        (["?s", "?p", "?o"], [0, 1, 2]),
        (["# subject", "predicate", "object", "weight"], [0, 1, 2]),
        (['"head entity"', "relation-type", "tail_entity"], [0, 1, 2]),
        (["head", "head", "tail"], None),
        (["film", "property", "value", "source"], [0, 1, 2]),
        (["n", "source", "type", "target"], [1, 2, 3]),
        (["film", "property", "value"], None),
        (["a", "relation", "b"], None),
        ([], None),
    ],
)
def test_words_of_headers(cells: list[str], places: list[int] | None) -> None:
    assert header_columns(cells) == places


def has_header(triples: pl.DataFrame) -> bool:
    header = find_header(triples)
    return header is not None and header.certain


def test_a_header_is_one_whose_relation_is_no_other() -> None:
    words = ("head", "relation", "tail")
    assert has_header(frame(words, ("a", "r", "b")))
    assert has_header(frame(words, ("head", "r", "tail")))
    assert has_header(frame(words))
    assert not has_header(frame(words, ("a", "relation", "b")))
    assert not has_header(frame(("a", "r", "b"), words))
    assert not has_header(frame(("h", "r", "t")))
    assert has_header(frame(("h", "r", "t"), ("a", "likes", "b")))
    assert not has_header(frame(("tail", "relation", "head"), ("a", "relation", "b")))
    assert not has_header(frame())


FEW = [("Ann", "knows", "Bob"), ("Bob", "knows", "Cem"), ("Cem", "likes", "Ann")]
MANY = [(f"e{i}", f"r{i % 3}", f"e{i + 1}") for i in range(30)]


@pytest.mark.parametrize(
    ("first", "rest", "places", "certain", "likely"),
    [
        (("country", "property", "value"), FEW, [0, 1, 2], True, True),
        (("Film", "Predicate", "x"), MANY, [0, 1, 2], False, True),
        (("value", "attribute", "film"), FEW, [2, 1, 0], True, True),
        (("电影", "属性", "值"), FEW, [0, 1, 2], True, True),
        (("头实体", "关系", "尾实体"), FEW, [0, 1, 2], True, True),
        (("von", "wie", "nach"), MANY, [0, 1, 2], False, True),
        # Among so few rows it is as good a triple as any.
        (("Zoe", "wie", "Kai"), FEW, None, False, False),
        (("Zoe", "type", "Person"), FEW, [0, 1, 2], False, True),
        (("Zoe", "type", "Person"), [*FEW, ("Kim", "owns", "Car")], [0, 1, 2], False, False),
        (("Zoe", "wie", "Kai"), [*MANY, ("Kim", "owns", "Car")], None, False, False),
        (("film", "property", "value"), [*FEW, ("a", "property", "b")], None, False, False),
        (("e3", "wie", "nach"), MANY, None, False, False),
        (("x", "r", "o"), FEW, None, False, False),
        (("film", "property", "value"), [], [0, 1, 2], True, True),
        (("Zoe", "type", "Person"), [], None, False, False),
    ],
)
def test_a_header_of_other_words(
    first: tuple[str, ...], rest: list[tuple[str, ...]], places: list[int] | None, certain: bool, likely: bool
) -> None:
    header = find_header(frame(first, *rest))
    assert (header is None) == (places is None)
    if header is not None:
        assert (list(header.places), header.certain, header.likely) == (places, certain, likely)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from("abcdefgh")] * 3), min_size=1, max_size=40))
def test_a_row_is_a_header_by_its_rarity_only_if_no_other_is_as_rare(rows: list[tuple[str, str, str]]) -> None:
    counts = Counter(name for h, _, t in rows for name in (h, t))
    relations = Counter(r for _, r, _ in rows)
    rare = [h != t and counts[h] == counts[t] == relations[r] == 1 for h, r, t in rows]
    header = find_header(frame(*rows))
    words = {"h", "s", "p", "r", "e", "o", "t"}
    if header is not None and not header.certain and not words & set(rows[0]):
        assert rare[0]
        assert sum(rare) == 1
        assert len(rows) >= FEW_TRIPLES
    if len(rows) >= FEW_TRIPLES and rare[0] and sum(rare) == 1:
        assert header is not None
        assert header.likely


def test_columns_in_quotes() -> None:
    assert quoted_columns(frame(('"a"', "r", '"b"'), ('"b"', "r", '"c\n"'))) == ["head", "tail"]
    assert quoted_columns(frame(('"a"', "r", "b"), ("b", "r", "c"))) == []
    assert quoted_columns(frame(('"', "r", "b"))) == []
