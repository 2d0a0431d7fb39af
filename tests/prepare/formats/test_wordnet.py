"""WordNet's database files: a small one in the real format, and what is said of broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.folders import read_entities, read_triples
from mmrns.errors import DataError
from mmrns.prepare.formats import convert, sniff
from mmrns.prepare.formats.wordnet import ADVERBS, DIRECTED, SYMMETRIC, WordNet
from tiny_wordnet import Synset, write_wordnet

WORDS = ("0000", "0101", "0201")  # Of synsets, and of words.
SMALL = {
    "n00000001": Synset(["entity"], "that which is", [("~", "n00000002", "0000"), ("~", "n00000003", "0000")]),
    "n00000002": Synset(
        ["dog", "domestic_dog"],
        'a member of the genus Canis; it barks; "the dog barked all night"; "is that a dog?"',
        [("@", "n00000001", "0000"), ("%p", "n00000003", "0000"), ("+", "v00000001", "0101")],
    ),
    "n00000003": Synset(
        ["tail"],
        'the hind end; "it wags"- Anon.',
        [("@", "n00000001", "0000"), ("#p", "n00000002", "0000"), ("+", "n00000003", "0101")],
    ),
    "v00000001": Synset(
        ["dog", "tail"],
        "go after",
        [("+", "n00000002", "0101"), ("+", "n00000002", "0201"), ("$", "v00000002", "0000")],
    ),
    "v00000002": Synset(["hound"], "chase", [("$", "v00000001", "0000")]),
    "a00000001": Synset(["canine"], "of dogs", [("\\", "n00000002", "0101"), ("&", "a00000002", "0000")]),
    "a00000002": Synset(["doggy(p)", "dog-like(ip)"], "rather canine", [("&", "a00000001", "0000")], kind="s"),
    "r00000001": Synset(["caninely"], "in a canine manner", [("\\", "a00000001", "0101")]),
    "r00000002": Synset(["alone"], "without others"),
}
TRIPLES = [
    ("a00000001", "pertainym", "n00000002"),
    ("a00000001", "similar_to", "a00000002"),
    ("n00000002", "derivationally_related", "v00000001"),
    ("n00000002", "hypernym", "n00000001"),
    ("n00000002", "part_meronym", "n00000003"),
    ("n00000003", "hypernym", "n00000001"),
    ("r00000001", "derived_from_adjective", "a00000001"),
    ("v00000001", "verb_group", "v00000002"),
]


def test_each_pair_of_inverse_pointers_is_one_triple(tmp_path: Path) -> None:
    contents = WordNet().read(write_wordnet(tmp_path / "dict", SMALL))
    assert contents.splits["train"].rows() == TRIPLES
    assert contents.notes == ["synsets without a pointer to another one, left out: 1"]
    assert contents.licence == (
        "This software and database is provided under a licence.\n\nWordNet 0.0 Copyright by nobody.\n"
    )


def test_words_are_names_and_glosses_are_sentences(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "dict", SMALL)
    assert sniff(folder) is WordNet
    done = convert(folder, tmp_path / "out")
    assert (done.layout, done.entities, done.relations) == ("wordnet", 8, 7)
    assert read_triples(tmp_path / "out/train.tsv").rows() == TRIPLES
    table = read_entities(tmp_path / "out")
    assert table is not None
    rows = {entity: (name, description) for entity, name, description in table.iter_rows()}
    assert rows["n00000002"] == (
        "dog, domestic dog",
        "A member of the genus Canis; it barks. The dog barked all night. Is that a dog?",
    )
    assert rows["n00000003"] == ("tail", 'The hind end. "It wags"- Anon.')
    assert rows["a00000002"] == ("doggy, dog-like", "Rather canine.")
    assert (tmp_path / "out/LICENSE").read_text().startswith("This software and database")


@pytest.mark.parametrize(
    ("file", "line", "changed", "message"),
    [
        ("data.verb", 4, None, "data.verb: is missing; WordNet's database is data.noun, data.verb, data.adj, data.adv"),
        ("data.noun", 5, "@ 00000001", "data.noun:5: is no line of a synset; fetch the file again"),
        ("data.noun", 5, "02 dog", "data.noun:5: is no line of a synset"),
        ("data.noun", 6, "| the hind end", "data.noun:6: is no line of a synset"),
        ("data.adv", 4, "00000001 03", "data.adv:4: is no line of a synset"),
        ("data.noun", 6, "#p 00000002", "data.noun:6: the pointer '#?' is none of WordNet's; fetch the file again"),
        ("data.adj", 4, "\\ 00000002", "data.adj:4: points to n00000009, which no file has; fetch the file again"),
    ],
)
def test_what_is_broken_is_named_by_line(
    tmp_path: Path, file: str, line: int, changed: str | None, message: str
) -> None:
    path = write_wordnet(tmp_path / "dict", SMALL) / file
    if changed is None:
        path.unlink()
    else:
        lines = path.read_text().splitlines(keepends=True)
        other = {"#p 00000002": "#? 00000002", "\\ 00000002": "\\ 00000009"}.get(changed, "")
        assert changed in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(changed, other, 1)
        path.write_text("".join(lines))
    with pytest.raises(DataError) as caught:
        WordNet().read(tmp_path / "dict")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def expected(pointers: list[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """The triples, pointer by pointer."""
    found: set[tuple[str, str, str]] = set()
    for head, symbol, tail in pointers:
        for name, (forward, backward) in DIRECTED.items():
            if symbol == forward:
                found.add((head, ADVERBS if name == "pertainym" and head[0] == "r" else name, tail))
            elif symbol == backward:
                found.add((tail, name, head))
        found |= {(min(head, tail), name, max(head, tail)) for name, own in SYMMETRIC.items() if symbol == own}
    return {triple for triple in found if triple[0] != triple[2]}


ENTITIES = [f"{letter}{number:08d}" for letter in "nvar" for number in (1, 2)]
SYMBOLS = [symbol for pair in DIRECTED.values() for symbol in pair if symbol] + list(SYMMETRIC.values())


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(ENTITIES), st.sampled_from(SYMBOLS), st.sampled_from(ENTITIES), st.sampled_from(WORDS)
        ),
        max_size=30,
    )
)
def test_any_pointers_become_the_triples_that_they_say(
    tmp_path_factory: pytest.TempPathFactory, pointers: list[tuple[str, str, str, str]]
) -> None:
    synsets = {
        entity: Synset(["a", "b"], "gloss", [(symbol, to, words) for of, symbol, to, words in pointers if of == entity])
        for entity in ENTITIES
    }
    contents = WordNet().read(write_wordnet(tmp_path_factory.mktemp("dict"), synsets))
    found = contents.splits["train"].rows()
    assert found == sorted(expected([(head, symbol, tail) for head, symbol, tail, _ in pointers]))
    assert contents.entities is not None
    assert set(contents.entities["entity"]) == {entity for head, _, tail in found for entity in (head, tail)}
