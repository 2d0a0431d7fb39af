"""Datasets by name or folder: the three splits, optional `entities.tsv`, `relations.tsv` and `features/`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph, Vocabulary
from mmrns.data.tables import read_columns, read_header_table
from mmrns.errors import DataError, UsageError, nearest

COLUMNS = ["head", "relation", "tail"]
SPLITS = ("train", "valid", "test")
SUFFIXES = (".tsv", ".txt", ".tsv.gz", ".parquet")
EMBEDDED = {"countries": Path(__file__).parent / "countries"}


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
        path = self.folder / "entities.tsv"
        if not path.exists():
            return {}
        table = read_header_table(path)
        if "name" not in table.columns:
            return {}
        return dict(table.filter(pl.col("name") != "").select("entity", "name").iter_rows())

    def without_leaked_valid(self) -> Dataset:
        """The same dataset, its validation rows that are also in train or test left out."""
        return replace(self, graph=self.graph.without_leaked_valid())

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every split and feature file and of `entities.tsv`, which adds ids; by path within the folder."""
        features = [
            self.folder / "features" / f"{name}{end}" for name in self.features for end in (".safetensors", ".entities")
        ]
        paths = [*self.files.values(), *self.folder.glob("entities.tsv"), *features]
        return {str(path.relative_to(self.folder)): _sha256(path) for path in paths}


def load_dataset(name_or_folder: str | Path) -> Dataset:
    """Load a dataset by name (embedded first, then `$MMRNS_DATA/NAME`) or by folder.

    Raises:
        UsageError: no such name or folder.
        DataError: a missing split, a malformed row, features that do not fit; the message names file, line, remedy.
    """
    folder = find_dataset(name_or_folder)
    files = {split: _split_file(folder, split) for split in SPLITS}
    frames = {split: _read_triples(path) for split, path in files.items()}
    if frames["train"].is_empty():
        raise DataError(files["train"], "holds no triple", "put the training triples there")
    table = read_entities(folder)
    entities = None if table is None else table["entity"]
    graph = KnowledgeGraph.from_names(**frames, entities=entities)
    features = Features.open(folder / "features", graph.entities)
    return Dataset(Path(os.path.abspath(folder)).name, folder, graph, features, files)


def find_dataset(name_or_folder: str | Path) -> Path:
    """The folder of a dataset name or path.

    Raises:
        UsageError: there is none; the message lists the known names.
    """
    name = str(name_or_folder)
    known = dataset_folders()
    if name in known:
        return known[name]
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    hint = nearest(name, known) or ";"
    place = "" if "MMRNS_DATA" in os.environ else " ($MMRNS_DATA is not set)"
    raise UsageError(f"no dataset or folder {name!r}{hint} known: {', '.join(known)}{place}")


def dataset_folders() -> dict[str, Path]:
    """Names that `load_dataset` finds: the embedded datasets, then the folders under `$MMRNS_DATA`."""
    folders = dict(EMBEDDED)
    root = Path(os.environ["MMRNS_DATA"]) if "MMRNS_DATA" in os.environ else None
    if root is not None and root.is_dir():
        for folder in sorted(root.iterdir()):
            if any((folder / f"train{suffix}").exists() for suffix in SUFFIXES):
                folders.setdefault(folder.name, folder)
    return folders


def _split_file(folder: Path, split: str) -> Path:
    found = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()]
    if not found:
        raise DataError(folder, f"split {split!r} is missing", f"add {split}.tsv (head TAB relation TAB tail)")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(folder, f"{names} both hold split {split!r}", "keep one")
    return found[0]


def _read_triples(path: Path) -> pl.DataFrame:
    if path.suffix != ".parquet":
        return read_columns(path, COLUMNS)
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(path, f"is not a readable Parquet file ({error})", "write it again") from error
    if len(frame.columns) != 3:
        raise DataError(path, f"{len(frame.columns)} columns where 3 are expected", "keep head, relation, tail")
    frame = frame.rename(dict(zip(frame.columns, COLUMNS, strict=True))).cast(pl.String)
    bad = frame.select(pl.any_horizontal(pl.all().fill_null("") == "")).to_series().arg_true()
    if len(bad):
        raise DataError(path, "empty field", "mend or delete the row", int(bad[0]) + 1)
    return frame


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def read_entities(folder: Path) -> pl.DataFrame | None:
    """`entities.tsv`; None where there is no such file.

    Raises:
        DataError: no column `entity`, or an entity that is empty or listed twice.
    """
    path = folder / "entities.tsv"
    if not path.exists():
        return None
    frame = read_header_table(path)
    if "entity" not in frame.columns:
        raise DataError(path, "has no column `entity`", "name the column of entity ids `entity`", 1)
    entities = frame["entity"]
    unnamed = (entities.str.strip_chars() == "").arg_true()
    if len(unnamed):
        raise DataError(path, "empty entity", "name it or delete the row", int(unnamed[0]) + 2)
    repeated = (~entities.is_first_distinct()).arg_true()
    if len(repeated):
        line = int(repeated[0])
        raise DataError(path, f"entity {entities[line]!r} is listed twice", "keep one row", line + 2)
    return frame


def read_vocabulary(folder: Path) -> Vocabulary:
    """The entities of a folder, of whichever splits and `entities.tsv` are there; features are not looked at.

    Raises:
        DataError: a malformed file, or none of them is there.
    """
    paths = [path for split in SPLITS for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()]
    names = [frame[side].alias("entity") for frame in map(_read_triples, paths) for side in ("head", "tail")]
    table = read_entities(folder)
    if table is not None:
        names.append(table["entity"])
    if not names:
        raise DataError(folder, "holds neither triples nor entities.tsv", "give the folder of a dataset")
    return Vocabulary(pl.concat(names))
