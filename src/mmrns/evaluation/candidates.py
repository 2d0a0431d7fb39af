"""Which entities may answer a query, by relation and side."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph, Vocabulary
from mmrns.data.tables import read_columns
from mmrns.errors import DataError, nearest

SIDES = ("tail", "head")


class Candidates:
    """The entities that may fill each side of each relation, in compressed sparse rows.

    A side of a relation for which no entity is listed is unrestricted.

    Args:
        relation, head, entity: the entity may fill the relation's head (True) or tail; duplicates count once.
        n_entities, n_relations: sizes of the vocabularies.
    """

    def __init__(
        self,
        relation: Int[Tensor, " n"],
        head: Bool[Tensor, " n"],
        entity: Int[Tensor, " n"],
        n_entities: int,
        n_relations: int,
    ):
        self.n_entities = n_entities
        slot = torch.unique((head * n_relations + relation) * n_entities + entity)
        self._entities = slot % n_entities
        self._offsets = torch.searchsorted(slot, torch.arange(2 * n_relations + 1) * n_entities)

    @classmethod
    def of_train(cls, graph: KnowledgeGraph) -> Candidates:
        """The entities that fill the relation's side in some train triple: its types, as far as train shows them."""
        h, r, t = graph.train.unbind(1)
        head = torch.arange(2 * len(r)) >= len(r)
        return cls(torch.cat([r, r]), head, torch.cat([t, h]), len(graph.entities), len(graph.relations))

    @classmethod
    def read(cls, path: Path, graph: KnowledgeGraph) -> Candidates:
        """From a file of rows relation TAB side TAB entity; a side is `head` or `tail`.

        Raises:
            DataError: a malformed row or a name that the graph lacks, by line.
        """
        rows = read_columns(path, ["relation", "side", "entity"])
        sides = Vocabulary(SIDES)
        relation = _ids(path, "relation", rows["relation"], graph.relations)
        side = _ids(path, "side", rows["side"], sides)
        entity = _ids(path, "entity", rows["entity"], graph.entities)
        return cls(relation, side == sides.id("head"), entity, len(graph.entities), len(graph.relations))

    def mask(self, r: Int[Tensor, " R"], head: bool) -> Bool[Tensor, "R E"]:
        """True for the entities that may fill that side of each relation."""
        slot = r + head * (len(self._offsets) // 2)
        start = self._offsets[slot]
        size = self._offsets[slot + 1] - start
        row = torch.repeat_interleave(torch.arange(len(r)), size)
        position = torch.arange(len(row)) + (start - size.cumsum(0) + size)[row]
        mask = (size == 0)[:, None].repeat(1, self.n_entities)
        mask[row, self._entities[position]] = True
        return mask


def _ids(path: Path, kind: str, names: pl.Series, known: Vocabulary) -> Int[Tensor, " n"]:
    found = known.find(names)
    missing = (found < 0).nonzero().flatten()
    if len(missing):
        row = int(missing[0])
        message = f"unknown {kind} {names[row]!r}{nearest(names[row], known)}"
        remedy = "write head or tail" if kind == "side" else f"write the {kind} as in the triples"
        raise DataError(path, message, remedy, row + 1)
    return found
