"""The relation-frequency baseline."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.types import Batch


class RelationFrequency:
    """Scores an entity by the number of train triples in which it is on the same side of the same relation.

    It knows nothing of the anchor, so a model that does not beat it has learned no more than which entities are common.
    Of an entity that train lacks nobody knows how often it is there; it gets the mean over the others. So it ranks
    above those that train has and never there, as persons are never the head of a relation of films.
    """

    def __init__(self, graph: KnowledgeGraph):
        self.graph = graph

    def score_all(self, batch: Batch, memory_mb: float | int) -> Float[Tensor, "B E"]:
        """Counts as floats; rows of one relation and side are alike. Holds two 64-bit counts beside each."""
        seen = self.graph.seen_entities
        n_entities, train = len(self.graph.entities), self.graph.train
        place = torch.full((len(self.graph.relations),), -1)
        place[batch.relations] = torch.arange(len(batch.relations))
        row = place[train[:, 1]]
        train, row = train[row >= 0], row[row >= 0]
        parts: list[Tensor] = []
        for head, rows in batch.sides:
            cell = row * n_entities + train[:, 0 if head else 2]
            counts = torch.bincount(cell, minlength=len(batch.relations) * n_entities)
            parts.append(counts.view(-1, n_entities)[batch.relation_index[rows]])
        scores = torch.cat(parts).to(torch.float32)
        scores[:, ~seen] = scores.sum(1, keepdim=True) / seen.sum().clamp(min=1)
        return scores
