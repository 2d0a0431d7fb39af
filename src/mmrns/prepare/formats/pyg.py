"""PyTorch Geometric: a dataset as its `HeteroData`. Needs the extra `pyg`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError


def to_pyg(dataset: Dataset, modalities: Sequence[str] | None = None) -> Any:
    """A dataset as a `torch_geometric.data.HeteroData` with one type `entity` and a type of edges for each relation.

    Ids are the graph's. `data["entity"]` has `names`, those of the ids, and for each modality under its name float32
    [E L D], zeros where absent, and `NAME_mask`, bool [E L]. `data["entity", RELATION, "entity"]` has `edge_index`
    [2 n], heads above tails of train; `valid_edge_label_index` and `test_edge_label_index`, those of the other splits,
    which messages must not pass along. Every relation is there, in the order of ids, so that
    `data.to_homogeneous().edge_type` are the ids of relations.

    Args:
        dataset: the dataset.
        modalities: those whose values go along; by default all, which a large dataset may have no memory for.

    Raises:
        UsageError: PyTorch Geometric is not installed, or there is no such modality.
    """
    try:
        with warnings.catch_warnings():
            # It compiles functions in a way that torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: Any = import_module("torch_geometric.data")
    except ImportError as error:
        raise UsageError("this needs PyTorch Geometric: pip install 'mmrns[pyg]'") from error
    graph, data = dataset.graph, found.HeteroData()
    entity = data["entity"]
    entity.num_nodes, entity.names = len(graph.entities), list(graph.entities)
    for name in dataset.features if modalities is None else modalities:
        entity[name], entity[f"{name}_mask"] = dataset.features.gather(name, torch.arange(len(graph.entities)))
    splits = {"edge_index": graph.train, "valid_edge_label_index": graph.valid, "test_edge_label_index": graph.test}
    for key, triples in splits.items():
        for r, name in enumerate(graph.relations):
            rows = triples[triples[:, 1] == r]
            data["entity", name, "entity"][key] = rows[:, [0, 2]].T.contiguous()
    return data
