"""What a run is carried away as: vectors with names, predictions in bulk, the run itself with all that it needs."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.terms import Terms
from mmrns.data.writing import write_dataset
from mmrns.errors import UsageError, unknown
from mmrns.files import (
    new_folder,
    refuse_unwritable,
    replaced,
    replacing,
    sha256_of,
    write_frame,
    write_json,
    write_tensors,
    write_text,
)
from mmrns.runs.build import build_model, build_sampler
from mmrns.runs.calibrations import CALIBRATION
from mmrns.runs.config import Config, dump_config, with_paths
from mmrns.runs.digests import KEPT, KEPT_FILES, RUN_FILES, write_sums
from mmrns.runs.queries import schema

VECTORS = (".parquet", ".tsv", ".safetensors")
"""What files of vectors end with."""
PREDICTIONS = (".parquet", ".nt")
"""What files of predictions in bulk end with."""
ROWS = 2**17
"""Rows of predictions that are in memory at a time."""


def suffix_of(path: Path, known: Iterable[str]) -> str:
    """The ending of a file's name, which says its format.

    Raises:
        UsageError: none of those that are known, or the file cannot be written.
    """
    if path.suffix not in known:
        raise UsageError(f"{path}: name it {' or '.join(f'{path.stem}{suffix}' for suffix in known)}")
    refuse_unwritable(path, option="")
    return path.suffix


def write_vectors(frame: pl.DataFrame, path: Path, view: str | None, about: Mapping[str, str]) -> list[Path]:
    """Write vectors with names; see `Run.export_embeddings`.

    Args:
        frame: a column of ids, the column `name`, and a column of arrays for each view.
        path: where.
        view: the only one to write; None = all.
        about: strings for the metadata.

    Returns:
        The files.

    Raises:
        UsageError: there is no such view, or the format holds one and there are several.
    """
    suffix, (kind, _, *views) = suffix_of(path, VECTORS), frame.columns
    if view is not None and view not in views:
        raise unknown("view", view, views)
    chosen = views if view is None else [view]
    frame = frame.select(kind, "name", *chosen)
    if suffix == ".parquet":
        write_frame(frame, path)
        return [path]
    if suffix == ".safetensors":
        values = [torch.from_numpy(_filled(frame[name])) for name in chosen]
        present = [torch.from_numpy(frame[name].is_not_null().to_numpy()) for name in chosen]
        listing = path.with_suffix(".entities" if kind == "entity" else ".relations")
        tensors = {"values": torch.stack(values, dim=1), "mask": torch.stack(present, dim=1)}
        write_tensors(path, tensors, {**about, "views": ", ".join(chosen)})
        write_text(listing, "".join(f"{name}\n" for name in frame[kind]))
        return [path, listing]
    if len(chosen) > 1:
        raise UsageError(f"{path}: such a file holds one vector each; choose one of {', '.join(chosen)} (--view)")
    frame = frame.drop_nulls(chosen)
    table = path.with_name(f"{path.stem}_metadata.tsv")
    # The names of entities hold no tab and no line end; what stands for them may, where it was given in Python.
    names = frame.select(kind, name=pl.col("name").fill_null(pl.col(kind)).str.replace_all(r"[\t\n\r]", " "))
    with replacing(path, table) as (vectors, metadata):
        numbers = pl.from_numpy(frame[chosen[0]].to_numpy())
        numbers.write_csv(vectors, separator="\t", include_header=False)
        names.write_csv(metadata, separator="\t", quote_style="never")
    return [path, table]


def _filled(column: pl.Series) -> npt.NDArray[np.float32]:
    """A column of arrays, of zeros where it is null."""
    there = column.is_not_null().to_numpy()
    rows = column.drop_nulls().to_numpy()
    found = np.zeros((len(column), rows.shape[1]), dtype=np.float32)
    found[there] = rows
    return found


def write_predictions(answers: Iterable[pl.DataFrame], path: Path, graph: KnowledgeGraph, calibrated: bool) -> int:
    """Write predictions as they come, and tell how many they are.

    Args:
        answers: frames of predictions, in their order.
        path: a Parquet file; or N-Triples, of which each statement is a prediction.
        graph: whose names occur.
        calibrated: whether they have probabilities.
    """
    suffix, rows = suffix_of(path, PREDICTIONS), 0
    if suffix == ".nt":
        terms = Terms(pl.concat([graph.entities.names, graph.relations.names]).unique().sort())
        with replacing(path) as (file,):
            file.write("".join(f"{line}\n" for line in terms.mark()).encode())
            for frame in answers:
                lines = frame.select(terms.statement()).to_series()
                file.write("".join(f"{line}\n" for line in lines).encode())
                rows += len(frame)
        return rows
    # Parts first: what writes Parquet cannot be given one frame after the other.
    with replaced(path) as temporary, TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as parts:
        answers = itertools.chain([pl.DataFrame(schema=schema(calibrated))], answers)
        for number, frame in enumerate(answers):
            frame.write_parquet(Path(parts) / f"{number:09d}.parquet")
            rows += len(frame)
        pl.scan_parquet(Path(parts) / "*.parquet").sink_parquet(temporary)
    return rows


class _Watched(Features):
    """Features that know which of them were asked for. As of those that are not at hand, `len` counts none."""

    def __init__(self, features: Features):
        super().__init__()
        self._features, self.read = features, set[str]()

    def __getitem__(self, name: str) -> Modality:
        self.read.add(name)
        return self._features[name]

    def __contains__(self, name: object) -> bool:
        return name in self._features

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)


def features_read(config: Config, dataset: Dataset) -> list[str]:
    """The modalities that a run's model and its sampler read, found by making both."""
    watched = _Watched(dataset.features)
    dataset = replace(dataset, features=watched)
    build_sampler(config, dataset, build_model(config, dataset))
    return sorted(watched.read)


def write_bundle(
    folder: Path, target: Path, config: Config, record: Mapping[str, Any], dataset: Dataset, names: list[str]
) -> None:
    """Write a run with its dataset in one folder, which `load_run` opens anywhere.

    Args:
        folder: the run's.
        target: the new one.
        config: of the run, with paths as they are here.
        record: of the run.
        dataset: the graph of the training, and the features.
        names: the modalities that are needed.

    Raises:
        DataError: `target` holds something already, or cannot be written.
    """
    untrue = config.data.drop_modality or config.data.altered
    if untrue and any(dataset.features[name].source is None for name in names):
        raise UsageError("features in memory that are not the true ones (data.drop_modality, data.altered) stay behind")
    with new_folder(target) as made:
        place = made.resolve()
        copied = [name for name in RUN_FILES if name not in (*KEPT_FILES, "config.yaml", "record.json", "results.json")]
        if (folder / CALIBRATION).exists():
            copied.append(CALIBRATION)
        for name in copied:
            shutil.copyfile(folder / name, place / name)
        if (folder / "plots").is_dir():
            shutil.copytree(folder / "plots", place / "plots")
        (place / KEPT).mkdir()
        write_dataset(dataset, place / KEPT, names)

        def carried(key: str, value: str) -> str:
            if key == "data.dataset":
                return str(place / KEPT)
            shutil.copyfile(value, place / Path(value).name)
            return str(place / Path(value).name)

        config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": str(place / KEPT)})})
        write_text(place / "config.yaml", dump_config(with_paths(config, carried), place))
        kept = {"name": record["dataset"]["name"], **load_dataset(place / KEPT).fingerprint()}
        write_json(place / "record.json", {**record, "dataset": kept, "bundle": {"dataset": record["dataset"]}})
        write_sums(place, sha256_of(folder / "results.json"))
        shutil.copyfile(folder / "results.json", place / "results.json")


def copy_licences(dataset: Dataset, target: Path) -> None:
    """Put the licences that lie in a dataset's folder into that of a bundle, beside its triples."""
    if dataset.folder is None:
        return
    for pattern in ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"):
        for path in sorted(dataset.folder.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, target / KEPT / path.name)
