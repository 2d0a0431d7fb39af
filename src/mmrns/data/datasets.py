"""Datasets by name or folder: the three splits, optional `entities.tsv`, `relations.tsv` and `features/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.features import Features
from mmrns.data.folders import SPLITS, SUFFIXES, find_dataset, read_entities, read_triples, split_file
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_header_table
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError
from mmrns.files import sha256_of


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory: triples loaded, features mapped.

    Attributes:
        name: the name it was asked for, or the folder's name.
        folder: where it lies.
        graph: entities, relations, triples.
        features: modalities.
        files: the split files that were read, by split.
    """

    name: str
    folder: Path
    graph: KnowledgeGraph
    features: Features
    files: Mapping[str, Path]

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Readable name of each entity that `entities.tsv` names; empty without the file."""
        return self._column("entities.tsv", "entity", "name")

    @cached_property
    def relation_labels(self) -> Mapping[str, str]:
        """Readable name of each relation that `relations.tsv` names."""
        return self._column("relations.tsv", "relation", "name")

    @cached_property
    def descriptions(self) -> Mapping[str, str]:
        """Description of each entity that `entities.tsv` describes."""
        return self._column("entities.tsv", "entity", "description")

    @cached_property
    def images(self) -> Mapping[str, str]:
        """Path of each entity's picture within the folder, as `entities.tsv` gives it."""
        return self._column("entities.tsv", "entity", "image")

    def texts(self, entity: str) -> list[str]:
        """The strings behind the text tokens of an entity, in the order of the tokens, where `texts.tsv` has them."""
        return self._texts.get(entity, [])

    @cached_property
    def _texts(self) -> Mapping[str, list[str]]:
        table = self._table("texts.tsv", "entity", "text")
        return {} if table is None else dict(table.group_by("entity", maintain_order=True).agg("text").iter_rows())

    def _column(self, file: str, key: str, value: str) -> dict[str, str]:
        table = self._table(file, key, value)
        return {} if table is None else dict(table.filter(pl.col(value) != "").iter_rows())

    def _table(self, file: str, *columns: str) -> pl.DataFrame | None:
        path = self.folder / file
        if not path.exists():
            return None
        table = read_header_table(path)
        return table.select(columns) if set(columns) <= set(table.columns) else None

    def without_leaked_valid(self) -> Dataset:
        """The same dataset, its validation rows that are also in train or test left out."""
        return replace(self, graph=self.graph.without_leaked_valid())

    def refuse_not_finite(self) -> None:
        """Read every feature file once, as training should before it starts: one NaN spoils all that it touches.

        Raises:
            DataError: a present token holds NaN or infinity.
        """
        for name, modality in self.features.items():
            row = modality.first_not_finite()
            if row is not None:
                path = self.folder / "features" / f"{name}.safetensors"
                remedy = "encode it again or leave the row out; `mmrns data check` lists all"
                raise DataError(path, "holds NaN or infinity in a token that its mask calls present", remedy, row + 1)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every split and feature file and of `entities.tsv`, which adds ids; by path within the folder."""
        features = [
            self.folder / "features" / f"{name}{end}" for name in self.features for end in (".safetensors", ".entities")
        ]
        paths = [*self.files.values(), *self.folder.glob("entities.tsv"), *features]
        return {str(path.relative_to(self.folder)): sha256_of(path) for path in paths}


def load_dataset(name_or_folder: str | Path) -> Dataset:
    """Load a dataset by name (embedded, else in `$MMRNS_DATA`, else in the cache of `mmrns data get`) or by folder.

    Raises:
        UsageError: no such name or folder.
        DataError: a missing split, a malformed row, features that do not fit; the message names file, line, remedy.
    """
    folder = find_dataset(name_or_folder)
    files = {split: split_file(folder, split) for split in SPLITS}
    frames = {split: read_triples(path) for split, path in files.items()}
    if frames["train"].is_empty():
        raise DataError(files["train"], "holds no triple", "put the training triples there")
    table = read_entities(folder)
    entities = None if table is None else table["entity"]
    graph = KnowledgeGraph.from_names(**frames, entities=entities)
    features = Features.open(folder / "features", graph.entities)
    return Dataset(Path(os.path.abspath(folder)).name, folder, graph, features, files)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, coverage of the modalities, and notes on what distorts a comparison; plain values, for printing."""
    graph = dataset.graph
    known = len(graph.entities)
    splits = {"train": graph.train, "valid": graph.valid, "test": graph.test}
    notes: list[str] = []
    leaked = int(graph.leaked_valid().sum())
    if leaked:
        notes.append(f"{leaked:,} of {len(graph.valid):,} rows of valid are also in train or test")
    in_train = int(graph.train_index.contains(*graph.test.unbind(1)).sum())
    if in_train:
        notes.append(f"{in_train:,} of {len(graph.test):,} rows of test are also in train")
    seen = graph.seen_entities
    triples: dict[str, dict[str, int]] = {}
    for split, rows in splits.items():
        unseen = int((~seen[rows[:, [0, 2]]]).any(1).sum())
        triples[split] = {
            "rows": len(rows),
            "distinct": len(rows.unique(dim=0)),
            "with an entity unseen in train": unseen,
        }
    features = {
        name: {
            "entities": m.covered,
            "coverage": round(m.covered / known, 4),
            "tokens": m.tokens,
            "width": m.width,
            "unmatched": len(m.unmatched),
            "encoder": m.provenance.get("encoder", "unknown"),
        }
        for name, m in dataset.features.items()
    }
    return {
        "name": dataset.name,
        "folder": str(dataset.folder),
        "entities": known,
        "relations": len(graph.relations),
        "triples": triples,
        "features": features,
        "notes": notes,
    }


def read_vocabulary(folder: Path) -> Vocabulary:
    """The entities of a folder, of whichever splits and `entities.tsv` are there; features are not looked at.

    Raises:
        DataError: a malformed file, or none of them is there.
    """
    paths = [path for split in SPLITS for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()]
    names = [frame[side].alias("entity") for frame in map(read_triples, paths) for side in ("head", "tail")]
    table = read_entities(folder)
    if table is not None:
        names.append(table["entity"])
    if not names:
        raise DataError(folder, "holds neither triples nor entities.tsv", "give the folder of a dataset")
    return Vocabulary(pl.concat(names))
