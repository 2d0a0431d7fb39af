"""Search by names, ids and descriptions."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.vocabulary import Vocabulary
from mmrns.runs.names import Names
from mmrns.serve.search import EntitySearch, folded

LABELS = {
    "q1": "Saint Lucia",
    "q2": "Lucia of Narni",
    "q3": "São Tomé and Príncipe",
    "q4": "Peru",
    "q5": "Lucerne",
    "q6": "Upper Peru",
    "http://x.org/resource/Old_Town": "Old Town",
}
TOLD = {"q4": "Republic in South America", "q1": "Island of the Caribbean"}


@pytest.fixture(scope="module")
def search() -> EntitySearch:
    names = Vocabulary(list(LABELS))
    degrees = torch.tensor([{"q6": 9}.get(name, 1) for name in names])
    return EntitySearch(Names("entity", names, LABELS), TOLD, degrees)


def found(search: EntitySearch, text: str, limit: int = 10) -> list[tuple[str, str]]:
    ids = sorted(LABELS)
    return [(ids[hit.entity], hit.way) for hit in search.find(text, limit)]


def test_closer_ways_come_first(search: EntitySearch) -> None:
    assert found(search, "lucia")[:2] == [("q2", "begins"), ("q1", "word begins")]
    assert found(search, "peru")[:2] == [("q4", "exact"), ("q6", "word begins")]
    assert found(search, "carib") == [("q1", "description")]
    assert ("q4", "description") in found(search, "south am")
    assert found(search, "Q5")[0] == ("q5", "exact")
    assert found(search, "ucern")[0] == ("q5", "contains")


def test_case_accents_and_underscores_do_not_matter(search: EntitySearch) -> None:
    assert found(search, "SAO TOME")[0] == ("q3", "begins")
    assert found(search, "são tomé and príncipe")[0] == ("q3", "exact")
    assert found(search, "old_town")[0] == ("http://x.org/resource/Old_Town", "exact")
    assert found(search, "http://x.org/resource/old")[0][0].endswith("Old_Town")


def test_a_misspelt_name_is_found_and_nonsense_is_not(search: EntitySearch) -> None:
    assert found(search, "Lucrene")[0] == ("q5", "alike")
    assert found(search, "xqzvw") == []
    assert found(search, "   ") == []
    assert search.alike("Perru")[0] == sorted(LABELS).index("q4")


def test_signs_stand_for_themselves(search: EntitySearch) -> None:
    assert all(way == "alike" for _, way in found(search, "Per.*"))
    assert found(search, "(") == []


@given(st.text(min_size=1, max_size=30), st.integers(1, 5))
def test_any_text_is_answered_within_the_limit(search: EntitySearch, text: str, limit: int) -> None:
    hits = search.find(text, limit)
    assert len(hits) <= limit
    assert len({hit.entity for hit in hits}) == len(hits)
    wanted = pl.select(folded(pl.lit(text))).item()
    for hit in hits:
        if hit.way in ("begins", "exact"):
            name = sorted(LABELS)[hit.entity]
            parts = [pl.select(folded(pl.lit(one))).item() for one in (name, LABELS[name])]
            assert any(part.startswith(wanted) for part in parts)
