"""`Dataset`, which `load_dataset` makes from a name or a folder and `Dataset.from_triples` from what is in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from jaxtyping import Int
from torch import Tensor

from mmrns.data.arrays import modality_of, triples_frame
from mmrns.data.features import Features
from mmrns.data.folders import SPLITS, dataset_files, find_dataset, read_entities, read_triples, split_file
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.names import COLUMNS, find_header, lookalikes, quoted_columns
from mmrns.data.splitting import Amount, split_triples
from mmrns.data.tables import read_header_table
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError
from mmrns.files import sha256_of, spot_sha256_of
from mmrns.notebook import Table, html

WHOLE = 2**26
"""Feature files of at most so many bytes are read whole to tell whether they have changed, larger ones in spots."""

_SHOWN = 5
"""Triples, and notes, that a notebook shows."""


@dataclass(frozen=True)
class Dataset:
    """A knowledge graph and the features of its entities.

    Attributes:
        name: the name it was asked for, or the folder's name.
        folder: where it lies; None for a dataset that was made in memory.
        graph: entities, relations, triples.
        features: the modalities, mapped from their files.
        files: the split files that were read, by split; none without a folder.
        names: readable names of entities, which stand in for `entities.tsv` where there is no folder.
        notes: what was noticed while it was made, and should be known before training.
    """

    name: str
    folder: Path | None
    graph: KnowledgeGraph
    features: Features
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        n, relations = len(self.graph.entities), len(self.graph.relations)
        covered = [f"{name} {100 * modality.covered / n:.0f} %" for name, modality in self.features.items()]
        return f"Dataset({self.name}: {', '.join([f'{n:,} entities', f'{relations:,} relations', *covered])})"

    def _repr_html_(self) -> str:
        graph = self.graph
        splits = [{"split": split, "triples": len(getattr(graph, split))} for split in SPLITS]
        features = [
            {
                "modality": name,
                "entities": modality.covered,
                "coverage": f"{100 * modality.covered / len(graph.entities):.0f} %",
                "tokens": modality.tokens,
                "width": modality.width,
            }
            for name, modality in self.features.items()
        ]
        names = [(self.labels, graph.entities), (self.relation_labels, graph.relations), (self.labels, graph.entities)]
        first = [
            {part: labels.get(known[i], known[i]) for part, (labels, known), i in zip(COLUMNS, names, row, strict=True)}
            for row in graph.train[:_SHOWN].tolist()
        ]
        sizes = f"{len(graph.entities):,} entities, {len(graph.relations):,} relations"
        tables = Table("", splits), Table("features", features), Table("the first triples of train", first)
        return html(self.name, sizes, [*tables, *self.notes[:_SHOWN]])

    @classmethod
    def from_triples(
        cls,
        triples: Any,
        *,
        valid: Any = None,
        test: Any = None,
        features: Mapping[str, Any] | None = None,
        split: Mapping[str, Amount] | None = None,
        name: str = "triples",
        names: Mapping[Any, str] | None = None,
        seed: int = 0,
    ) -> Dataset:
        """A dataset of triples that are in memory already; it has no folder.

        >>> people = [("ann", "knows", "bob"), ("bob", "knows", "cem"), ("cem", "likes", "ann")]
        >>> Dataset.from_triples(people, features={"age": {"ann": [0.3], "cem": [0.9]}}, name="people")
        Dataset(people: 3 entities, 2 relations, age 67 %)

        Args:
            triples: a polars or pandas frame, an array [n, 3], or a list of triples of names. Of a frame the columns
                head, relation and tail are taken; a frame without them must have three columns, in this order. A name
                is a string, or an integer, which stands for the name that its decimals spell.
            valid, test: the same for the other splits; left out, they are empty.
            features: for each modality by name either a mapping of entities to arrays [L, D] or [D], or a tuple
                (entities, values [n, L, D] or [n, D]), or (entities, values, mask [n, L], True where a token is
                present). Entities may be missing. Names of no entity are recorded in `Modality.unmatched`. Arrays of
                float16 and float32 are not copied, so do not change them afterwards.
            split: how many rows of `triples` go to valid and test, as in `{"valid": 0.1, "test": 500}`: a share of the
                distinct rows, or a number. They are chosen as `mmrns data split` chooses them (`split_triples`), and
                repeated rows are dropped.
            name: what to call the dataset.
            names: readable names of entities, for those that have one.
            seed: of the split.

        Raises:
            UsageError: what is given is not fit; the message names the row.
        """
        frames = {"train": triples_frame(triples)}
        if split is not None:
            if valid is not None or test is not None or not {"valid", "test"} >= set(split):
                usual = '{"valid": 0.1, "test": 0.1}'
                raise UsageError(f"give either valid= and test=, or split= with shares, as in {usual}")
            if not all(amount >= 0 and (isinstance(amount, int) or amount < 1) for amount in split.values()):
                raise UsageError(f"split={dict(split)}: give shares below 1, or numbers of rows")
            shares = split.get("valid", 0), split.get("test", 0)
            frames = split_triples(frames["train"], valid=shares[0], test=shares[1], seed=seed).frames
        else:
            for other, given in (("valid", valid), ("test", test)):
                frames[other] = triples_frame([] if given is None else given, other)
        if frames["train"].is_empty():
            raise UsageError("triples: there is none to train on; give at least one")
        graph = KnowledgeGraph.from_names(frames["train"], frames["valid"], frames["test"])
        made = {key: modality_of(key, given, graph.entities) for key, given in (features or {}).items()}
        labels = {str(entity): label for entity, label in (names or {}).items() if str(entity) in graph.entities}
        return cls(name, None, graph, Features(made), names=labels, notes=tuple(_alike(graph)))

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The readable name of each entity that has one, from `entities.tsv` or as it was given."""
        return self.names or self._column("entities.tsv", "entity", "name")

    @cached_property
    def relation_labels(self) -> Mapping[str, str]:
        """The readable name of each relation that `relations.tsv` names."""
        return self._column("relations.tsv", "relation", "name")

    @cached_property
    def descriptions(self) -> Mapping[str, str]:
        """The description of each entity that `entities.tsv` describes."""
        return self._column("entities.tsv", "entity", "description")

    @cached_property
    def images(self) -> Mapping[str, str]:
        """The path of each entity's picture within the folder, as `entities.tsv` gives it."""
        return self._column("entities.tsv", "entity", "image")

    def _column(self, file: str, key: str, value: str) -> dict[str, str]:
        table = self._table(file, key, value)
        return {} if table is None else dict(table.filter(pl.col(value) != "").iter_rows())

    def _table(self, file: str, *columns: str) -> pl.DataFrame | None:
        if self.folder is None or not (path := self.folder / file).exists():
            return None
        table = read_header_table(path)
        return table.select(columns) if set(columns) <= set(table.columns) else None

    def without_leaked_valid(self) -> Dataset:
        """The same dataset without the validation rows that are also in train or test."""
        return replace(self, graph=self.graph.without_leaked_valid())

    def within(self, entities: Vocabulary, relations: Vocabulary) -> Dataset:
        """The same dataset in the ids of other vocabularies; a triple with a name that they lack is left out."""
        graph = self.graph
        if graph.entities.names.equals(entities.names) and graph.relations.names.equals(relations.names):
            return self
        features = self.features.within(graph.entities, entities)
        return replace(self, graph=graph.within(entities, relations), features=features)

    def refuse_unfit(self, entities: Int[Tensor, " n"] | None = None) -> None:
        """Read features once, as training should before it starts: one NaN spoils all that it touches.

        Args:
            entities: whose features are read; None = all.

        Raises:
            DataError: a present token holds NaN, infinity, or a value too large to be squared in single precision; a
                UsageError where there is no folder.
        """
        for name, modality in self.features.items():
            found = modality.first_unfit(entities)
            if found is not None:
                row, holds = found
                message = f"{holds} in a token that its mask calls present"
                remedy = "scale the features" if "too large" in holds else "encode it again or leave the row out"
                if self.folder is None:
                    raise UsageError(f"features[{name!r}]: row {row} (counted from 0) {message}; {remedy}")
                owner = (modality.row == row).nonzero()
                who = f" of {self.graph.entities[int(owner[0])]!r}" if len(owner) else ""
                path = self.folder / "features" / f"{name}.safetensors"
                raise DataError(path, f"the row{who} {message}", f"{remedy}; `mmrns data check` lists all", row + 1)

    def refuse_changed(self) -> None:
        """Refuse to go on with feature files that were written to since they were opened.

        Raises:
            DataError: one was.
        """
        for modality in self.features.values():
            modality.refuse_changed()

    def checksums(self) -> dict[str, str]:
        """SHA-256 of what the dataset was made from, so that a run can tell whether it is still the same.

        With a folder: of every split and feature file and of `entities.tsv`, which adds ids, by path within the
        folder. Without one: of the names, of the ids of each split and of the arrays of each modality.
        """
        if self.folder is None:
            return self.digests()
        return {name: sha256_of(path) for name, path in dataset_files(self.folder).items()}

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """What `changes` compares with: `sha256`, the checksums; of files also `bytes`, and `spots` of the large ones.

        `bytes` are the sizes, `spots` digests of parts (`spot_sha256_of`).
        """
        paths = {} if self.folder is None else dataset_files(self.folder)
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        spots = {name: spot_sha256_of(paths[name]) for name, size in sizes.items() if _in_spots(paths[name], size)}
        return {"sha256": self.checksums(), "bytes": sizes, "spots": spots}

    def digests(self) -> dict[str, str]:
        """SHA-256 of the names, of the ids of each split and of the arrays of each modality, as they are in memory."""
        graph = self.graph
        parts = {kind: "\n".join(getattr(graph, kind)).encode() for kind in ("entities", "relations")}
        parts |= {split: getattr(graph, split).cpu().numpy().tobytes() for split in SPLITS}
        features = {
            f"features/{name}": modality.provenance.get("sha256", "") for name, modality in self.features.items()
        }
        return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()} | features


def load_dataset(name_or_folder: str | Path) -> Dataset:
    """Load a dataset by name (embedded, else in `$MMRNS_DATA`, else in the cache of `mmrns data get`) or by folder.

    Raises:
        UsageError: no such name or folder.
        DataError: a missing split, a malformed row, features that do not fit; the message names file, line, remedy.
    """
    folder = find_dataset(name_or_folder)
    files = {split: split_file(folder, split) for split in SPLITS}
    frames = {split: read_triples(path, categories=True) for split, path in files.items()}
    if frames["train"].is_empty():
        raise DataError(files["train"], "holds no triple", "put the training triples there")
    table = read_entities(folder)
    entities = None if table is None else table["entity"]
    graph = KnowledgeGraph.from_names(**frames, entities=entities)
    features = Features.open(folder / "features", graph.entities)
    notes = [*_doubtful(files, frames), *_alike(graph)]
    return Dataset(Path(os.path.abspath(folder)).name, folder, graph, features, files, notes=tuple(notes))


def _doubtful(files: Mapping[str, Path], frames: Mapping[str, pl.DataFrame]) -> Iterator[str]:
    """What is said of files that look as if they were written for other programs."""
    for split, frame in frames.items():
        header = find_header(frame)
        if header is not None and header.certain:
            first = " TAB ".join(frame.row(0))
            yield f"{files[split].name}:1: {first} looks like a header, and is read as a triple; delete the line"
        if quoted := quoted_columns(frame):
            what = f"every {' and '.join(quoted)} is in quotes, which are read as part of the names"
            yield f"{files[split].name}: {what}; `mmrns data convert` takes them off"


def _alike(graph: KnowledgeGraph) -> list[str]:
    """What is said of names that look the same."""
    notes: list[str] = []
    for kind in ("entities", "relations"):
        rows = lookalikes(getattr(graph, kind).names)
        if len(rows):
            which = f"{rows['name'][0]!r} and {rows['other'][0]!r}"
            what = f"{len(rows):,} {kind} differ from another only in blanks or invisible characters"
            notes.append(f"{what}, first: {which}; write them alike if they are one")
    return notes


def changes(recorded: Mapping[str, Any], now: Path | Dataset) -> list[str]:
    """What of a dataset is not what it was, in words such as `test.tsv has changed`.

    A file of another size has changed; otherwise digests tell, of spots of a large feature file (`WHOLE`).

    Args:
        recorded: what `Dataset.fingerprint` gave.
        now: the dataset, or its folder.
    """
    began: Mapping[str, str] = recorded["sha256"]
    of_files = "train" not in began
    folder = now.folder if isinstance(now, Dataset) else now
    if folder is not None and of_files:
        files = dataset_files(folder)
        differs = {name: _differs(recorded, name, path) for name, path in files.items() if name in began}
        there = set(files)
    elif isinstance(now, Dataset) and not of_files:
        found = now.digests()
        # Of features that are read from files only the name can be told.
        there = set(found) if folder is None else {*found, *(name for name in began if "/" in name)}
        differs = {name: began[name] != found[name] for name in began.keys() & found if found[name]}
    else:
        return ["it is not made of the files that it was made of" if of_files else "it was made in memory"]
    return [
        *(f"{name} has changed" for name in sorted(differs) if differs[name]),
        *(f"{name} is missing" for name in sorted(began.keys() - there)),
        *(f"{name} is new" for name in sorted(there - began.keys())),
    ]


def _differs(recorded: Mapping[str, Any], name: str, path: Path) -> bool:
    size = path.stat().st_size
    if size != recorded.get("bytes", {}).get(name, size):
        return True
    if _in_spots(path, size):
        # Runs of before spots were recorded are told by the size alone, or not at all.
        return name in recorded.get("spots", {}) and recorded["spots"][name] != spot_sha256_of(path)
    return recorded["sha256"][name] != sha256_of(path)


def _in_spots(path: Path, size: int) -> bool:
    """Whether a file is too large to be read whole each time that a run is opened."""
    return size > WHOLE and path.suffix == ".safetensors"


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, the coverage of the modalities, and notes on what distorts a comparison, as plain values for printing."""
    graph = dataset.graph
    known = len(graph.entities)
    splits = {"train": graph.train, "valid": graph.valid, "test": graph.test}
    notes = list(dataset.notes)
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
        "folder": None if dataset.folder is None else str(dataset.folder),
        "entities": known,
        "relations": len(graph.relations),
        "triples": triples,
        "features": features,
        "notes": notes,
    }
