"""The datasets known by name: what they hold, whose they are, what is wrong with them, where they are got."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache

from mmrns.data.folders import CATALOGUE
from mmrns.errors import unknown


@dataclass(frozen=True)
class Entry:
    """A dataset of the catalogue.

    Attributes:
        name: what it is asked for by.
        title, licence, source: what it is, under which terms, where it is described.
        entities, relations: how many, over all splits.
        train, valid, test: rows of the splits.
        modalities: what its authors publish beside the triples.
        defects: what distorts a comparison.
        url, sha256: the archive, where there is a link, and its checksum, where one is known.
        layout, files: where the archive holds no dataset folder, the layout to read, and the files that it needs; the
            dataset is split then as `split_dataset` does with seed 0.
        triples: SHA-256 of the triples, whatever the order of their rows, where they are known (`triples_digest`).
        obtain: what to do by hand where there is no link.
    """

    name: str
    title: str
    licence: str
    source: str
    entities: int
    relations: int
    train: int
    valid: int
    test: int
    modalities: tuple[str, ...]
    defects: tuple[str, ...]
    url: str | None = None
    sha256: str | None = None
    layout: str | None = None
    files: tuple[str, ...] = ()
    triples: str | None = None
    obtain: str = ""


@cache
def catalogue() -> dict[str, Entry]:
    """All entries by name, in the order of `catalogue.toml`."""
    text = CATALOGUE.read_text(encoding="utf-8")
    entries: dict[str, Entry] = {}
    for name, found in tomllib.loads(text).items():
        found |= found.pop("file", {})
        lists = {key: tuple(found.pop(key, ())) for key in ("modalities", "defects", "files")}
        entries[name] = Entry(name=name, **lists, **found)
    return entries


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UsageError: the catalogue has none; the message lists its names.
    """
    if name not in catalogue():
        raise unknown("dataset", name, catalogue())
    return catalogue()[name]
