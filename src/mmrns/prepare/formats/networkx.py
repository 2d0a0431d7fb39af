"""NetworkX: a dataset as its directed multigraph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmrns.data.datasets import Dataset
from mmrns.data.folders import SPLITS

if TYPE_CHECKING:
    from networkx import MultiDiGraph


def to_networkx(dataset: Dataset, splits: Sequence[str] = SPLITS) -> MultiDiGraph[str]:
    """A dataset as a `networkx.MultiDiGraph`: a vertex for each entity, an edge from head to tail for each triple.

    A vertex is called by the entity's id, and has a `name` and a `description` where the dataset has them. The key of
    an edge is the relation's id; `split` is the first of the splits that holds the triple, and `name` the relation's.
    NetworkX writes it as GraphML, JSON and more.

    Args:
        dataset: the dataset.
        splits: those whose triples become edges.
    """
    from networkx import MultiDiGraph

    graph, found = dataset.graph, MultiDiGraph(name=dataset.name)
    for entity in graph.entities:
        words = {"name": dataset.labels.get(entity), "description": dataset.descriptions.get(entity)}
        found.add_node(entity, **{key: value for key, value in words.items() if value is not None})
    entities, relations = list(graph.entities), list(graph.relations)
    for split in splits:
        for h, r, t in getattr(graph, split).tolist():
            head, relation, tail = entities[h], relations[r], entities[t]
            if not found.has_edge(head, tail, relation):
                label = dataset.relation_labels.get(relation)
                found.add_edge(head, tail, relation, split=split, **({} if label is None else {"name": label}))
    return found
