"""The model: embedders and a scorer."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmrns.nn.embedders.table import FusedEmbedder, Table
from mmrns.nn.scorers import Scorer
from mmrns.types import Batch, Negatives


@dataclass(frozen=True)
class ModelSpec:
    """What a sampler may know of the model before it exists.

    Attributes:
        dim: d.
        entity_width, relation_width: reals per entity and relation vector.
    """

    dim: int
    entity_width: int
    relation_width: int


class Model(nn.Module):
    """f_theta: scores of triples, negatives and all entities; the only source of entity and relation vectors.

    Args:
        scorer: the formula.
        n_entities, n_relations: sizes of the vocabularies.
        reciprocal: each relation has a second vector, its inverse: a head is asked for as the tail of (t, inverse), so
            that the two sides are scored by different triples (Lacroix et al., 2018).
        sparse: the tables' gradients hold only the rows of the step.
        entity: the embedder of entities; a table by default.
    """

    def __init__(
        self,
        scorer: Scorer,
        n_entities: int,
        n_relations: int,
        *,
        reciprocal: bool = False,
        sparse: bool = False,
        entity: Table | FusedEmbedder | None = None,
    ):
        super().__init__()
        self.scorer = scorer
        self.n_entities, self.n_relations, self.reciprocal = n_entities, n_relations, reciprocal
        self._read: tuple[Batch, Tensor, Tensor] | None = None
        self.entity = entity or Table(n_entities, scorer.entity_width, scorer.init_range, sparse=sparse)
        self.relation = Table(n_relations * (1 + reciprocal), scorer.relation_width, scorer.init_range, sparse=sparse)

    @property
    def spec(self) -> ModelSpec:
        """Widths, for the samplers."""
        return ModelSpec(self.scorer.dim, self.scorer.entity_width, self.scorer.relation_width)

    def entities(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        """Vectors of entities."""
        return self.entity(ids)

    def relations(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n relation_width"]:
        """Vectors of relations."""
        return self.relation(ids)

    @contextmanager
    def reading(self, batch: Batch) -> Generator[None]:
        """Inside, the batch's own vectors are looked up once, so that their gradients are added up once."""
        own = self.entities(torch.cat([batch.anchor, batch.target]))
        anchor, target = own.split(len(batch))
        self._read = batch, self._query(batch, anchor), target
        try:
            yield
        finally:
            self._read = None

    def query(self, batch: Batch) -> Float[Tensor, "B query_width"]:
        """What the candidates of each row are compared with."""
        if self._read is not None and self._read[0] is batch:
            return self._read[1]
        return self._query(batch, self.entities(batch.anchor))

    def _query(self, batch: Batch, anchor: Float[Tensor, "B width"]) -> Float[Tensor, "B query_width"]:
        relation = self.relations(self.relation_ids(batch))
        if self.reciprocal:
            return self.scorer.query(anchor, relation, False)
        parts = [self.scorer.query(anchor[rows], relation[rows], head) for head, rows in batch.sides]
        return torch.cat(parts)

    def relation_ids(self, batch: Batch) -> Int[Tensor, " B"]:
        """Rows of the relation table that the queries use; with `reciprocal` the inverses where a head is asked for."""
        return torch.where(batch.head, batch.r + self.n_relations, batch.r) if self.reciprocal else batch.r

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """f(h, r, t) of each row."""
        if self._read is not None and self._read[0] is batch:
            return self.scorer.compare(self._read[1], self._read[2][:, None]).squeeze(1)
        return self.score_against(batch, Negatives(ids=batch.target[:, None])).squeeze(1)

    def score_against(self, batch: Batch, negatives: Negatives) -> Float[Tensor, "B K"]:
        """Scores with each row's target replaced by its negatives."""
        query, ids = self.query(batch), negatives.ids
        if negatives.emb is not None:
            return self.scorer.compare(query, negatives.emb)
        if ids is None:
            return self.scorer.compare(query, self.entity.all())
        if ids.ndim == 2 and isinstance(self.entity, Table) and not self.entity.sparse:
            return self.scorer.compare_rows(query, self.entity.weight, ids)
        return self.scorer.compare(query, self.entities(ids))

    def score_all(self, batch: Batch, memory_mb: float | int = math.inf) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in id order.

        Args:
            batch: the rows.
            memory_mb: bound on what the comparison holds beside the scores, in MiB; the entities are taken in chunks,
                of one at least.
        """
        query, table = self.query(batch), self.entity.all()
        per_entity = query.element_size() * len(query) * self.scorer.pair_width(query.device)
        size = len(table) if per_entity == 0 else int(min(len(table), max(1, memory_mb * 2**20 / per_entity)))
        if size == len(table):
            return self.scorer.compare(query, table)
        return torch.cat([self.scorer.compare(query, part) for part in table.split(size)], dim=1)

    def constrain(self) -> None:
        """What follows an optimizer step: projections, of which the present scorers have none."""
        if isinstance(self.entity, FusedEmbedder):
            self.entity.forget()
