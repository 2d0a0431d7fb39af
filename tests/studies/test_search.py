from __future__ import annotations

import pytest

from mmrns.errors import UsageError
from mmrns.studies.search import Settings, Space, check, propose, size

LISTS: Space = {"a": [1, 2], "b": [[1], [2], [3]]}
RANGES: Space = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "k": {"low": 3, "high": 9, "int": True},
    "a": [[1], [2]],
}


def search(space: Space, n: int, seed: int = 0, worth: float = 1.0) -> list[tuple[Settings, float]]:
    tried: list[tuple[Settings, float]] = []
    while len(tried) < n:
        settings = propose(space, tried, seed, "label")
        tried.append((settings, -worth * abs(settings.get("lr", 0.0) - 0.01)))
    return tried


def test_a_space_of_lists_is_searched_without_repetition() -> None:
    assert size(LISTS) == 6
    found = [settings for settings, _ in search(LISTS, 6)]
    assert sorted((s["a"], s["b"]) for s in found) == [(a, [b]) for a in (1, 2) for b in (1, 2, 3)]
    assert found != [settings for settings, _ in search(LISTS, 6, seed=1)]


def test_ranges_are_kept_and_the_values_differ() -> None:
    assert size(RANGES) == float("inf")
    tried = search(RANGES, 12)
    for settings, _ in tried:
        assert 1e-4 <= settings["lr"] <= 1e-1
        assert settings["k"] in range(3, 10)
        assert settings["a"] in ([1], [2])
    assert len({settings["lr"] for settings, _ in tried}) == 12


@pytest.mark.parametrize("space", [LISTS, RANGES])
def test_a_search_is_a_function_of_what_was_tried(space: Space) -> None:
    tried = search(space, 5)
    for i in range(5):
        assert propose(space, tried[:i], 0, "label") == tried[i][0]
    assert propose(space, tried, 0, "label") == propose(space, list(tried), 0, "label")


@pytest.mark.parametrize("values", [[], 3, {"low": 1}, {"low": 1, "high": 2, "step": 1}])
def test_what_is_no_space_is_refused(values: object) -> None:
    with pytest.raises(UsageError, match="is no space"):
        check({"training.lr": values})


def test_a_range_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training\.lr"):
        propose({"training.lr": {"low": 2.0, "high": 1.0}}, [], 0)
