"""Numbers and their tokens."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.prepare.encoders import number_tokens
from mmrns.prepare.encoders.numbers import ATTRIBUTES, BASES, tokens_beside

Row = tuple[str, str, float]


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"entity": pl.String, "attribute": pl.String, "value": pl.Float64}, orient="row")


def expected(rows: list[Row], tokens: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The definition, in loops."""
    counts = Counter(attribute for _, attribute, _ in rows)
    attributes = sorted(counts, key=lambda attribute: (-counts[attribute], attribute))[:ATTRIBUTES]
    entities = sorted({entity for entity, attribute, _ in rows if attribute in attributes})
    values = np.zeros((len(entities), tokens, len(attributes) + BASES))
    mask = np.zeros((len(entities), tokens), dtype=bool)
    for n, entity in enumerate(entities):
        own = sorted((attributes.index(a), v) for e, a, v in rows if e == entity and a in attributes)
        for token, (place, value) in enumerate(own[:tokens]):
            others = [v for _, a, v in rows if a == attributes[place]]
            rank = sum(v < value for v in others) + (sum(v == value for v in others) + 1) / 2
            q = (rank - 0.5) / len(others)
            values[n, token, place] = 1
            values[n, token, len(attributes) :] = [math.exp(-((q * 15 - k) ** 2) / 2) for k in range(BASES)]
            mask[n, token] = True
    return entities, values, mask


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y", "é"]), st.integers(-2, 2)), min_size=1),
    st.integers(1, 3),
)
def test_tokens_are_as_defined(rows: list[tuple[str, str, int]], tokens: int) -> None:
    floats = [(entity, attribute, float(value)) for entity, attribute, value in rows]
    entities, values, mask = expected(floats, tokens)
    found, shape, blocks = number_tokens(frame(floats), tokens)
    ((got, there),) = blocks
    assert found == entities
    assert shape == got.shape[1:]
    np.testing.assert_array_equal(there, mask)
    np.testing.assert_allclose(got, values, atol=1e-6)


def test_many_entities_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"e{i:03}", f"a{i % 7 % j}", float(i * j)) for i in range(100) for j in (1, 2, 3)]
    entities, values, mask = expected(rows, 2)
    monkeypatch.setattr("mmrns.prepare.encoders.numbers._BLOCK", 32)
    found, _, blocks = number_tokens(frame(rows), 2)
    parts = list(blocks)
    assert [len(part) for part, _ in parts] == [32, 32, 32, 4]
    assert found == entities
    np.testing.assert_allclose(np.concatenate([part for part, _ in parts]), values, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), mask)


def test_neither_the_unit_nor_outliers_matter() -> None:
    values = [1.0, 2.0, 5.0, 7.0]
    first, second = (
        next(number_tokens(frame([(f"e{i}", "x", value) for i, value in enumerate(row)]))[2])[0]
        for row in (values, [1000 * v if v < 7 else 1e30 for v in values])
    )
    np.testing.assert_array_equal(first, second)


def test_rare_attributes_have_no_place() -> None:
    rows = [(f"e{i}", f"a{k:03}", float(i)) for k in range(ATTRIBUTES) for i in range(2)] + [("rare", "zzz", 1.0)]
    entities, shape, _ = number_tokens(frame(rows))
    assert entities == ["e0", "e1"]
    assert shape == (8, ATTRIBUTES + BASES)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=20, unique=True), st.data())
def test_a_number_that_comes_later_lies_between_its_neighbours(values: list[int], data: st.DataObject) -> None:
    rows = [(f"e{i:02}", "size", float(value)) for i, value in enumerate(values)]
    rows += [(f"e{i:02}", "age", float(value)) for i, value in enumerate(values[1:])]
    entities, _, blocks = number_tokens(frame(rows), 2)
    made = dict(zip(entities, next(iter(blocks))[0], strict=True))
    known = {"size": [(v, made[e][0]) for e, a, v in rows if a == "size"]}
    known["age"] = [(v, made[e][1]) for e, a, v in rows if a == "age"]
    ordered = sorted(values)
    n, at = len(ordered), data.draw(st.integers(0, len(ordered) - 2))
    share = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    new = ordered[at] + share * (ordered[at + 1] - ordered[at])
    found = tokens_beside(known, [[("age", ordered[-1] + 1.0), ("size", new)], [("size", new)]], 2)
    # The more frequent attribute first, the quantile (rank - 1/2) / n in proportion.
    quantile = (at + 0.5 + share) / n
    expected = [1, 0, *(math.exp(-((quantile * 15 - k) ** 2) / 2) for k in range(BASES))]
    np.testing.assert_allclose(found[0][0], expected, atol=1e-5)
    np.testing.assert_allclose(found[0][1][2:], dict(known["age"])[max(dict(known["age"]))][2:], atol=1e-5)
    np.testing.assert_array_equal(found[1][0], found[0][0])
    assert len(tokens_beside(known, [[("size", new), ("age", 1.0)]], 1)[0]) == 1
