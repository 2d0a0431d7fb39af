from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import UsageError
from mmrns.studies.search import Space, Trial, check, distinct, propose, size

LISTS: Space = {"a": [1, 2], "b": [[1], [2], [3]]}
RANGES: Space = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "k": {"low": 3, "high": 9, "int": True},
    "a": [[1], [2]],
}


def search(space: Space, n: int, seed: int = 0, worth: float = 1.0) -> list[Trial]:
    tried: list[Trial] = []
    while len(tried) < n:
        settings = propose(space, tried, seed, "label")
        tried.append(Trial(settings, -worth * abs(settings.get("lr", 0.0) - 0.01)))
    return tried


def test_a_space_of_lists_is_searched_without_repetition() -> None:
    assert size(LISTS) == 6
    found = [settings for settings, *_ in search(LISTS, 6)]
    assert sorted((s["a"], s["b"]) for s in found) == [(a, [b]) for a in (1, 2) for b in (1, 2, 3)]
    assert found != [settings for settings, *_ in search(LISTS, 6, seed=1)]


def test_ranges_are_kept_and_the_values_differ() -> None:
    assert size(RANGES) == float("inf")
    tried = search(RANGES, 12)
    for settings, *_ in tried:
        assert 1e-4 <= settings["lr"] <= 1e-1
        assert settings["k"] in range(3, 10)
        assert settings["a"] in ([1], [2])
    assert len({settings["lr"] for settings, *_ in tried}) == 12


@pytest.mark.parametrize("space", [LISTS, RANGES])
def test_a_search_is_a_function_of_what_was_tried(space: Space) -> None:
    tried = search(space, 5)
    for i in range(5):
        assert propose(space, tried[:i], 0, "label") == tried[i].settings
    assert propose(space, tried, 0, "label") == propose(space, list(tried), 0, "label")


@pytest.mark.parametrize(
    ("values", "size_of"),
    [
        ([1, 1, 1], 1),
        ([1, 1.0, True, "1"], 3),
        ([True, 1, False, 0], 4),
        ([[1], [1.0], {"a": 1}, {"a": 1.0}, None, None], 3),
        ([0.001, 1e-3], 1),
        ({"low": 2, "high": 5, "int": True}, 4),
        ({"low": 2, "high": 2}, 1),
        ({"low": 1, "high": 4, "int": True, "log": True}, 4),
    ],
)
def test_a_search_of_all_settings_ends_and_repeats_none(values: Any, size_of: int) -> None:
    space = {"a": values, "b": ["x", "x", "y"]}
    assert size(space) == 2 * size_of
    found = [settings for settings, *_ in search(space, 2 * size_of)]
    assert len(distinct(found)) == 2 * size_of
    with pytest.raises(UsageError, match=f"all {2 * size_of} settings of the space have been tried"):
        search(space, 2 * size_of + 1)


@given(st.lists(st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from([0.0, 1.0, 2.5, "a"]), min_size=1))
def test_distinct_values_are_found_by_their_place(values: list[Any]) -> None:
    found = [settings["a"] for settings, *_ in search({"a": values}, int(size({"a": values})))]
    assert sorted(map(repr, distinct(found))) == sorted(map(repr, distinct(values)))


def test_what_was_tried_of_another_space_does_not_count() -> None:
    assert propose({"a": [1]}, [Trial({"a": 2}, 0.1), Trial({}, 0.2)], 0) == {"a": 1}
    found = propose({"a": {"low": 0, "high": 1}}, [Trial({"a": 5.0}, 0.1), Trial({"a": "x"}, 0.1)], 0)
    assert 0 <= found["a"] <= 1


def test_a_search_keeps_away_from_where_trainings_fail() -> None:
    # Below 0.5 more is better, above it all trainings fail: half as many are tried there as if nothing were told of it.
    space: Space = {"x": {"low": 0.0, "high": 1.0}}

    def failed(told: bool) -> int:
        tried: list[Trial] = []
        while len(tried) < 40:
            x = propose(space, [trial for trial in tried if told or trial.mrr is not None], 0, len(tried))["x"]
            tried.append(Trial({"x": x}, x if x <= 0.5 else None))
        return sum(value is None for _, value, _ in tried[10:])

    assert 1.5 * failed(told=True) < failed(told=False)
    # All that was tried has failed: there is nothing to learn yet, and the search goes on.
    assert 0 <= propose(space, [Trial({"x": 0.1 * i}, None) for i in range(11)], 0)["x"] <= 1


@pytest.mark.parametrize("values", [[], 3, {"log": True}, "1e-4", None])
def test_what_is_no_space_is_refused(values: object) -> None:
    remedy = r"\[\[\]\] for the empty list" if values == [] else "a list of values"
    with pytest.raises(UsageError, match=f"is no space; give {remedy}"):
        check({"training.lr": values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 1}, r"training\.lr\.high: field required"),
        ({"low": 1, "high": 2, "step": 1}, r"training\.lr\.step: extra inputs"),
        ({"low": 2.0, "high": 1.0}, "low is above high"),
        ({"low": 0, "high": 1.0, "log": True}, "begins above 0"),
        ({"low": 0.5, "high": 3, "int": True}, "whole numbers"),
        ({"low": "a", "high": 3}, r"training\.lr\.low: .*number"),
        ({"low": 1, "high": math.inf}, "finite"),
        ({"low": 1, "high": 2, "log": "maybe"}, "boolean"),
    ],
)
def test_a_range_that_is_none_is_refused(values: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check({"training.lr": values})
    check({"training.lr": {"low": "1e-4", "high": "1e-2", "log": "no"}})
