"""Which entities may answer a query, by relation and side."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import DomainRangeIndex
from mmrns.data.tables import read_columns
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, nearest

SIDES = ("tail", "head")


class Candidates:
    """The entities that may be the head, and those that may be the tail, of each relation.

    A side of a relation for which no entity is listed is unrestricted.

    Args:
        listed: the entities.
    """

    def __init__(self, listed: DomainRangeIndex):
        self.listed = listed

    @classmethod
    def of_train(cls, graph: KnowledgeGraph) -> Candidates:
        """Each relation's domain and range in train: the entities that are its head or tail in some triple."""
        return cls(graph.domain_range)

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
        return cls(DomainRangeIndex.listed(relation, side == sides.id("head"), entity, len(graph.entities)))

    def mask(self, r: Int[Tensor, " R"], head: bool) -> Bool[Tensor, "R E"]:
        """True for the entities that may stand on that side of each relation."""
        row, entity = self.listed.members(r, head)
        restricted = torch.bincount(row, minlength=len(r)) > 0
        mask = (~restricted)[:, None].repeat(1, self.listed.n_entities)
        mask[row, entity] = True
        return mask

    def may(self, entity: Int[Tensor, "*n"], r: Int[Tensor, "*n"], head: bool) -> Bool[Tensor, "*n"]:
        """Whether each entity may stand on that side of its relation."""
        return self.listed.holds(entity, r, head) | (self.listed.sizes(r, head) == 0)


def _ids(path: Path, kind: str, names: pl.Series, known: Vocabulary) -> Int[Tensor, " n"]:
    found = known.find(names)
    missing = (found < 0).nonzero().flatten()
    if len(missing):
        row = int(missing[0])
        message = f"unknown {kind} {names[row]!r}{nearest(names[row], known)}"
        remedy = "write head or tail" if kind == "side" else f"write the {kind} as in the triples"
        raise DataError(path, message, remedy, row + 1)
    return found
