"""What entities and relations may be called, and what is said of what is none."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import Note, UsageError
from mmrns.runs.names import Names

NAME = st.text(st.sampled_from("aAbBßſsSİi"), min_size=1, max_size=3)


def names(kind: str = "entity", **labels: str) -> Names:
    return Names(kind, Vocabulary(list(labels)), {name: label for name, label in labels.items() if label})


@given(ids=st.sets(NAME, min_size=1, max_size=6), labels=st.lists(NAME, max_size=6), asked=NAME)
def test_a_name_is_found_by_the_first_rule_that_tells_one(ids: set[str], labels: list[str], asked: str) -> None:
    called = dict(zip(sorted(ids), labels, strict=False))
    known = Names("entity", Vocabulary(sorted(ids)), called)
    rules = [
        {name for name in ids if name == asked},
        {name for name in ids if called.get(name) == asked},
        {name for name in ids if asked.casefold() in (name.casefold(), called.get(name, name).casefold())},
    ]
    expected = next((found for found in rules if found), set())
    found = int(known.find(pl.Series([asked]))[0]) if not any(len(f) == 1 for f in rules[:1]) else known.known.id(asked)
    if len(expected) == 1:
        assert known.known[found] == next(iter(expected))
    else:
        assert found == -1
        assert ("names" in known.mistake(asked)) == bool(expected)


def test_case_does_not_matter_where_it_tells_nothing_apart() -> None:
    known = names(**{"country/France": "France", "language/fr": "french", "x/FRENCH": "", "c": "French"})
    assert known.id("FRANCE") == known.id("COUNTRY/france") == known.known.id("country/France")
    assert known.id("French") == known.known.id("c")
    with pytest.raises(UsageError, match=r"^'FRENCH' names 2 entities: c, language/fr; give the id$"):
        known.id("FRENCH")


def test_names_of_the_other_kind_are_offered_with_their_kind() -> None:
    entities, relations = names(Alice="", Bob=""), names("relation", knows="has met", likes="")
    entities.other, relations.other = relations, entities
    messages = {
        entities: {
            "knows": "unknown entity 'knows'; did you mean the relation 'knows'?",
            "Has Met": "unknown entity 'Has Met'; did you mean the relation 'has met'?",
            "Alize": "unknown entity 'Alize'; did you mean 'Alice'?",
            "zzz": "unknown entity 'zzz'",
        },
        relations: {"bob": "unknown relation 'bob'; did you mean the entity 'Bob'? known: knows, likes"},
    }
    for known, told in messages.items():
        for name, message in told.items():
            assert known.mistake(name) == message


def test_an_id_that_is_the_name_of_another_is_said() -> None:
    known = names(a="b", b="")
    with pytest.warns(Note, match="'b' is taken for the id; 'a' has it as its name"):
        assert known.id("b") == known.known.id("b")
    with pytest.warns(Note, match="'b' is taken for the id"):
        known.ids(pl.Series(["a", "b", "b"]))
