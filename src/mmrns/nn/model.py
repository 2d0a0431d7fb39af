"""The model: embedders and a scorer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmrns.nn.embedders import Table
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
        sparse: the tables' gradients hold only the rows of the step.
    """

    def __init__(self, scorer: Scorer, n_entities: int, n_relations: int, *, sparse: bool = False):
        super().__init__()
        self.scorer = scorer
        self.n_entities, self.n_relations = n_entities, n_relations
        self.entity = Table(n_entities, scorer.entity_width, scorer.init_range, sparse=sparse)
        self.relation = Table(n_relations, scorer.relation_width, scorer.init_range, sparse=sparse)

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

    def query(self, batch: Batch) -> Float[Tensor, "B width"]:
        """What the candidates of each row are compared with."""
        anchor, relation = self.entities(batch.anchor), self.relations(batch.r)
        parts = [self.scorer.query(anchor[rows], relation[rows], head) for head, rows in batch.sides]
        return torch.cat(parts)

    def score(self, batch: Batch) -> Float[Tensor, " B"]:
        """f(h, r, t) of each row."""
        return self.scorer.compare(self.query(batch), self.entities(batch.target)[:, None]).squeeze(1)

    def score_against(self, batch: Batch, negatives: Negatives) -> Float[Tensor, "B K"]:
        """Scores with each row's target replaced by its negatives."""
        if negatives.emb is not None:
            candidates = negatives.emb
        elif negatives.ids is not None:
            candidates = self.entities(negatives.ids)
        else:
            candidates = self.entity.all()
        return self.scorer.compare(self.query(batch), candidates)

    def score_all(self, batch: Batch) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in id order."""
        return self.score_against(batch, Negatives())

    def constrain(self) -> None:
        """Project parameters after an optimizer step; nothing for the present scorers."""
