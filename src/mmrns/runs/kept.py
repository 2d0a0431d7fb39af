"""The data of a run in use: what its folder keeps of its training, and what its dataset has by now."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from mmrns.data.arrays import modality_of
from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.features import Alteration, Features, Modality
from mmrns.data.folders import SPLITS
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_bytes, split_lines
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError, note
from mmrns.nn.embedders import Embedder
from mmrns.runs.build import build_dataset
from mmrns.runs.config import Config, takes
from mmrns.runs.digests import KEPT, verify

Kinds = dict[str, Vocabulary]
"""The vocabularies of `entities` and `relations`."""


@dataclass(frozen=True)
class RunData:
    """The data of a run, in the ids of its model.

    Attributes:
        dataset: the dataset as it is now. Behind the entities of the training are those that were added since, as far
            as the model knows them by features.
        trained: the graph of the training, in the same ids: its train is what the model has seen.
        added: how many entities were added.
        strangers: by kind the names that the dataset has by now and that the model has no vector for, and why not.
        left_out: by split how many triples name one of those; they are in no split here.
    """

    dataset: Dataset
    trained: KnowledgeGraph
    added: int = 0
    strangers: Mapping[str, tuple[pl.Series, str]] = field(default_factory=dict[str, "tuple[pl.Series, str]"])
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


def names_of_training(folder: Path) -> Kinds:
    """The entities and relations of the model in a run folder, in id order.

    Raises:
        DataError: a file is missing, or is not what the run wrote.
    """
    files = {kind: f"{kind}.txt" for kind in ("entities", "relations")}
    # As `listing` wrote them: split at line feeds, and at nothing else that names may hold.
    found = {kind: Vocabulary(split_lines(_text(folder / file))) for kind, file in files.items()}
    verify(folder, *files.values())
    return found


def kept_dataset(folder: Path, recorded: Mapping[str, Any]) -> Dataset:
    """The dataset that a run folder keeps: the triples and names of the training, in a bundle also features.

    Args:
        folder: the run folder.
        recorded: what `record.json` says.

    Raises:
        DataError: a file of it cannot be read.
    """
    dataset = load_dataset(folder / KEPT)
    began = recorded.get("bundle", recorded)["dataset"]
    # `features/text.safetensors`, or of a dataset that was made in memory `features/text`.
    names = {Path(name).stem for name in began["sha256"] if name.startswith("features/")}
    absent = sorted(names - set(dataset.features))
    features = _Absent(dataset.features, absent, folder, began["name"]) if absent else dataset.features
    return replace(dataset, name=began["name"], features=features)


def run_data(
    config: Config,
    dataset: Dataset,
    training: Kinds,
    folder: Path,
    device: torch.device,
    *,
    kept: Dataset | None,
    grows: bool = True,
) -> RunData:
    """What a run makes of a dataset: the same where nothing was added to it; see `RunData`.

    Args:
        config: of the run.
        dataset: as it is now, in its own ids.
        training: the names that the model was trained with.
        folder: of the run.
        device: where it is used.
        kept: the triples of the training, if they may be others than those of the dataset.
        grows: whether entities that were added are taken in.

    Raises:
        DataError: the dataset lacks names of the model.
    """
    where = dataset.folder or dataset.name
    for kind, names in training.items():
        now = getattr(dataset.graph, kind)
        gone = names.names.filter((now.find(names.names) < 0).numpy())
        if len(gone):
            what = f"is not the {kind} of {where} ({_difference(gone, now.names, names)})"
            raise DataError(folder / f"{kind}.txt", what, "restore the dataset or train again")
    entities, relations = training["entities"], training["relations"]
    known, unknown = _added(config, dataset, entities, grows)
    strange = dataset.graph.relations.names
    strange = strange.filter((relations.find(strange) < 0).numpy())
    vocabulary = entities.extended(known)
    why = _why(config, where) if grows else f"was added to {where} after the training, and no sampler knows it"
    strangers = {"entities": (unknown, why), "relations": (strange, _WHY.format(where))}
    found = dataset.within(vocabulary, relations)
    left_out = {split: len(getattr(dataset.graph, split)) - len(getattr(found.graph, split)) for split in SPLITS}
    if len(known):
        note(f"{where} has {_count(known, 'entities')} since the training, which the model knows by features")
    for kind, (names, _) in strangers.items():
        # Where they need not be left out this was said before.
        if len(names) and grows:
            note(f"{where} has {_count(names, kind)} since the training, which the model has no vector for; left out")
    found = build_dataset(config, found, device, len(entities))
    trained = found.graph if kept is None else kept.graph.within(vocabulary, relations)
    return RunData(found, trained, len(known), strangers, left_out)


def with_entities(
    config: Config, data: RunData, features: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> RunData:
    """The data of a run with entities that are given by their features alone, behind the others; see `Run`.

    Args:
        config: of the run.
        data: without them.
        features: for each modality by name the tokens [L, D] or [D] of each entity that has it.
        names: readable names of entities; blank = none.

    Raises:
        UsageError: the model reads no features; an entity has none that it reads, or is in the dataset already; tokens
            of another shape.
    """
    dataset, entities = data.dataset, data.dataset.graph.entities
    read = modalities_read(config, dataset)
    if not read:
        how = "train one that does: --set model.modalities=[text,image]"
        raise UsageError(f"the model reads no features, by which alone it could know a new entity; {how}")
    new = pl.Series([str(name) for given in (*features.values(), names) for name in given], dtype=pl.String).unique()
    known = new.filter((entities.find(new) >= 0).numpy())
    if len(known):
        raise UsageError(f"entity {known.sort()[0]!r} is in the dataset already; give the new one another id")
    vocabulary = entities.extended(new)
    # First by their names, so that one that the dataset lacks is told before its values are looked at.
    width = {name: dataset.features[name].width for name in features}
    made = {name: modality_of(name, features[name], vocabulary) for name in width}
    grown = dataset.within(vocabulary, dataset.graph.relations)
    labels = {name: label for name, label in names.items() if label}
    try:
        grown = replace(grown, features=grown.features.joined(made), names={**dataset.labels, **labels})
    except UsageError as error:
        raise UsageError(f"features of new entities: {error}") from error
    _, unknown = _added(config, grown, entities, True)
    if len(unknown):
        raise UsageError(f"new entity {unknown[0]!r} has none of the features that the model reads ({', '.join(read)})")
    trained = data.trained.within(vocabulary, dataset.graph.relations)
    return replace(data, dataset=grown, trained=trained, added=data.added + len(new))


_WHY = "was added to {} after the training, and the model has no vector for it; train again"


def _why(config: Config, where: object) -> str:
    """Why an entity that was added is none to the model."""
    if _reads_modalities(config):
        read = ", ".join(config.model.modalities) or "no features"
        return (
            f"was added to {where} after the training, without the features that the model reads ({read}); "
            "encode them (`mmrns encode`), or train again"
        )
    return (
        f"was added to {where} after the training, and the model has only structure, no vector for it; train again, or "
        "train a model that reads features (model.modalities), which knows new entities by them"
    )


def modalities_read(config: Config, dataset: Dataset) -> list[str]:
    """The modalities by which a model knows entities; none where it has only structure."""
    return (config.model.modalities or list(dataset.features)) if _reads_modalities(config) else []


def _reads_modalities(config: Config) -> bool:
    return takes(Embedder.registry.get(config.model.embedder or "table"), "modalities")


def _added(config: Config, dataset: Dataset, entities: Vocabulary, grows: bool) -> tuple[pl.Series, pl.Series]:
    """The entities that a dataset has beyond those of the model: those that it knows by features, and the others."""
    ids = (entities.find(dataset.graph.entities.names) < 0).nonzero().squeeze(1)
    names = dataset.graph.entities.names.gather(pl.Series(ids.numpy()))
    known = torch.zeros(len(ids), dtype=torch.bool)
    if grows and len(ids):
        for name in modalities_read(config, dataset):
            known |= dataset.features[name].present.cpu()[ids]
    return names.filter(known.numpy()), names.filter((~known).numpy())


def _count(names: pl.Series, kind: str) -> str:
    one = {"entities": "entity", "relations": "relation"}[kind]
    return f"1 more {one} ({names[0]!r})" if len(names) == 1 else f"{len(names):,} more {kind} (first {names[0]!r})"


def _difference(gone: pl.Series, now: pl.Series, trained: Vocabulary) -> str:
    """How many names are only in one of two lists, and the first of each."""
    new = now.filter((trained.find(now) < 0).numpy())
    words = [f"{len(part):,} {what}, first {part[0]!r}" for part, what in ((gone, "gone"), (new, "new")) if len(part)]
    return "; ".join(words)


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(path, "is not valid UTF-8", "restore it, or train again") from error


class _Absent(Features):
    """Features of which some are not at hand: their names are known, and whoever reads one is told.

    Args:
        here: those that are at hand.
        absent: the names of the others.
        folder: of the run.
        dataset: what the dataset is called that has them.
    """

    def __init__(self, here: Mapping[str, Modality], absent: Sequence[str], folder: Path, dataset: str):
        super().__init__(here)
        self._absent, self._folder, self._dataset = absent, folder, dataset

    def __getitem__(self, name: str) -> Modality:
        if name in self._absent:
            what = (
                f"its dataset {self._dataset!r} is not found, which alone has the features {name!r} that are read here"
            )
            how = "say where it is by --dataset NAME or FOLDER (in Python dataset=), or carry the run as a bundle"
            raise DataError(self._folder, what, f"{how}, made where the dataset is: `mmrns export RUN --bundle FOLDER`")
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return name in self._absent or super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        # What is at hand first; `len` counts only that.
        yield from super().__iter__()
        yield from self._absent

    def items(self) -> ItemsView[str, Modality]:
        """Those that are at hand."""
        return self._modalities.items()

    def on(self, device: torch.device, limit_mb: int) -> Features:
        return self._with(super().on(device, limit_mb))

    def drop(self, fraction: float, seed: int) -> Features:
        return self._with(super().drop(fraction, seed))

    def within(self, own: Vocabulary, other: Vocabulary) -> Features:
        return self._with(super().within(own, other))

    def altered(self, how: Mapping[str, Alteration], seed: int, entities: int | None = None) -> Features:
        # What is not at hand is altered by nobody, and whoever reads it is told.
        here: dict[str, Alteration] = {name: one for name, one in how.items() if name not in self._absent}
        return self._with(super().altered(here, seed, entities))

    def joined(self, more: Mapping[str, Modality]) -> Features:
        return self._with(super().joined(more))

    def _with(self, here: Features) -> Features:
        return _Absent(here, self._absent, self._folder, self._dataset)
