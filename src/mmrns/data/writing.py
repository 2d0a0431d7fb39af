"""A dataset is written to a folder: triples and names, and as far as it is asked for words and features."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from mmrns.data.datasets import Dataset
from mmrns.data.features import Modality
from mmrns.data.folders import SPLITS
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.names import BREAKS, COLUMNS
from mmrns.data.vocabulary import Vocabulary
from mmrns.files import make_folder, replaced, write_frame, write_tensors, write_text

GRAPH_FILES = (*(f"{split}.parquet" for split in SPLITS), "entities.tsv", "relations.tsv")
"""What `write_graph` writes."""


def write_graph(dataset: Dataset, folder: Path, *, descriptions: bool = False) -> None:
    """Write the triples as Parquet, and every entity and relation with its readable name: a dataset without features.

    Args:
        dataset: what to write.
        folder: made where it is missing.
        descriptions: those of entities go along.

    Raises:
        DataError: it cannot be written.
    """
    make_folder(folder)
    graph = dataset.graph
    for split in SPLITS:
        write_frame(_named(graph, split), folder / f"{split}.parquet")
    words: dict[str, Mapping[str, str]] = {"name": dataset.labels}
    if descriptions and dataset.descriptions:
        words["description"] = dataset.descriptions
    _write_table(folder / "entities.tsv", "entity", graph.entities, words)
    _write_table(folder / "relations.tsv", "relation", graph.relations, {"name": dataset.relation_labels})


def write_dataset(dataset: Dataset, folder: Path, features: Collection[str]) -> None:
    """Write a dataset with its descriptions, the texts of its tokens and some of its modalities.

    Raises:
        DataError: it cannot be written.
    """
    write_graph(dataset, folder, descriptions=True)
    if dataset.folder is not None and (texts := dataset.folder / "texts.tsv").exists():
        shutil.copyfile(texts, folder / texts.name)
    if features:
        make_folder(folder / "features")
    for name in features:
        _write_modality(dataset.features[name], dataset.graph.entities, folder / "features" / f"{name}.safetensors")


def _named(graph: KnowledgeGraph, split: str) -> pl.DataFrame:
    """The triples of a split in names. A name is kept once in the file, whatever the number of its triples."""
    kinds = (graph.entities, graph.relations, graph.entities)
    ids = getattr(graph, split).cpu().unbind(1)
    return pl.DataFrame(
        {
            column: kind.names.gather(pl.Series(part.numpy()))
            for column, kind, part in zip(COLUMNS, kinds, ids, strict=True)
        },
        schema=dict.fromkeys(COLUMNS, pl.String),
    )


def _write_table(path: Path, kind: str, names: Vocabulary, words: Mapping[str, Mapping[str, str]]) -> None:
    """Write a table with a header line: names, and words by name, empty where there are none."""
    columns = {column: [found.get(name, "") for name in names] for column, found in words.items()}
    table = pl.DataFrame({kind: names.names, **columns}, schema=dict.fromkeys((kind, *columns), pl.String))
    table = table.with_columns(pl.col(*columns).str.replace_all(BREAKS, " "))
    with replaced(path) as temporary:
        table.write_csv(temporary, separator="\t", quote_style="never")


def _write_modality(modality: Modality, entities: Vocabulary, path: Path) -> None:
    """Write a modality; one that is mapped from a file is copied as it is."""
    if modality.source is not None:
        for suffix in (".safetensors", ".entities"):
            shutil.copyfile(modality.source.with_suffix(suffix), path.with_suffix(suffix))
        return
    have = (modality.row.cpu() >= 0).nonzero().squeeze(1)
    rows = modality.row.cpu()[have]
    tensors = {"values": modality.values.cpu()[rows], "mask": modality.mask.cpu()[rows]}
    write_tensors(path, tensors, modality.provenance)
    names = entities.names.gather(pl.Series(have.numpy()))
    write_text(path.with_suffix(".entities"), "".join(f"{name}\n" for name in names))
