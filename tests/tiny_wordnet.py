"""Writes the database files of a small WordNet, in the format of the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}
LICENCE = ("This software and database is provided under a licence.  ", "", "WordNet 0.0 Copyright by nobody.  ")


@dataclass(frozen=True)
class Synset:
    """Words, gloss, and pointers: symbol, entity such as `n00000001`, and the numbers of the words (0000: of all)."""

    words: Sequence[str]
    gloss: str
    pointers: Sequence[tuple[str, str, str]] = ()
    kind: str = ""


def line_of(entity: str, synset: Synset) -> str:
    """The line of a synset."""
    letter, offset = entity[0], entity[1:]
    words = " ".join(f"{word} 0" for word in synset.words)
    pointers = "".join(f" {symbol} {to[1:]} {to[0]} {words}" for symbol, to, words in synset.pointers)
    frames = " 02 + 02 00 + 08 01" if letter == "v" else ""
    head = f"{offset} 03 {synset.kind or letter} {len(synset.words):02x} {words} {len(synset.pointers):03d}{pointers}"
    return f"{head}{frames} | {synset.gloss}  "


def write_wordnet(folder: Path, synsets: Mapping[str, Synset]) -> Path:
    """Write the four files."""
    folder.mkdir(parents=True, exist_ok=True)
    top = [f"  {number} {text}" for number, text in enumerate(LICENCE, 1)]
    for letter, name in FILES.items():
        lines = [line_of(entity, synset) for entity, synset in sorted(synsets.items()) if entity[0] == letter]
        (folder / name).write_text("\n".join([*top, *lines]) + "\n", encoding="utf-8")
    return folder
