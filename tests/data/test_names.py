"""Names: which look the same, which are a header's words, which are in quotes."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.names import COLUMNS, has_header, header_columns, lookalikes, quoted_columns, visible


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
        (["a", "relation", "b"], None),
        ([], None),
    ],
)
def test_words_of_headers(cells: list[str], places: list[int] | None) -> None:
    assert header_columns(cells) == places


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


def test_columns_in_quotes() -> None:
    assert quoted_columns(frame(('"a"', "r", '"b"'), ('"b"', "r", '"c\n"'))) == ["head", "tail"]
    assert quoted_columns(frame(('"a"', "r", "b"), ("b", "r", "c"))) == []
    assert quoted_columns(frame(('"', "r", "b"))) == []
