"""The model: an embedder of entities, vectors of relations, and a scorer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.errors import UsageError
from mmrns.nn.embedders import STRUCTURE, Embedder, Table, TableEmbedder
from mmrns.nn.lookup import Lookup, Query
from mmrns.nn.losses import Loss
from mmrns.nn.mixture import gated_mixture, reals_per_pair
from mmrns.nn.numerics import full
from mmrns.nn.scorers import Scorer
from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives, Views


@dataclass(frozen=True)
class ModelSpec:
    """What a sampler may know of the model before it exists.

    Attributes:
        dim: d.
        entity_width: reals of an entity's vector in one view.
        relation_width: reals of a relation's vector.
    """

    dim: int
    entity_width: int
    relation_width: int


class Model(nn.Module):
    """f_theta: scores of triples, negatives and all entities; the only source of entity and relation vectors.

    Scores are of at least single precision, also where autocast makes them of products in bfloat16.

    With several views a relation has a vector of its own for each of them, then a logit for each that says how much it
    trusts the view; the views' scores are mixed by `gated_mixture`.

    Args:
        scorer: the formula, of one view.
        n_entities, n_relations: sizes of the vocabularies.
        reciprocal: each relation has a second vector, its inverse: a head is asked for as the tail of (t, inverse), so
            that the two sides are scored by different triples (Lacroix et al., 2018).
        sparse: the tables' gradients hold only the rows of the step.
        embedder: of entities; a table by default.

    Raises:
        UsageError: the scorer normalises over the batch, and relations are not reciprocal or there are several views.
    """

    def __init__(
        self,
        scorer: Scorer,
        n_entities: int,
        n_relations: int,
        *,
        reciprocal: bool = False,
        sparse: bool = False,
        embedder: Embedder | None = None,
    ):
        super().__init__()
        self.scorer = scorer
        self.n_entities, self.n_relations, self.reciprocal = n_entities, n_relations, reciprocal
        self.entity = embedder or TableEmbedder.of(n_entities, scorer.entity_width, scorer.init_range, sparse=sparse)
        views = len(self.entity.views)
        width = scorer.relation_width if views == 1 else views * (scorer.relation_width + 1)
        self.relation = Table(n_relations * (1 + reciprocal), width, scorer.init_range, sparse=sparse)
        self._step: int | None = None
        if scorer.batch_norm and not reciprocal:
            raise UsageError(
                "model.batch_norm: heads are then asked for by reciprocal relations; set model.reciprocal=true"
            )
        if scorer.batch_norm and views > 1:
            raise UsageError("model.batch_norm: its statistics are of one view; leave it out, or model.modalities")

    def __repr__(self) -> str:
        views = "" if len(self.views) == 1 else f", views {', '.join(self.views)}"
        return f"Model({self.scorer!r}, {self.n_entities:,} entities, {self.n_relations:,} relations{views})"

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return self.entity.views

    @property
    def spec(self) -> ModelSpec:
        """Widths, for the samplers."""
        return ModelSpec(self.scorer.dim, self.scorer.entity_width, self.relation.weight.shape[1])

    def entities(self, ids: Int[Tensor, "*n"]) -> Views:
        """Vectors of entities."""
        return self.entity(ids)

    def relations(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n relation_width"]:
        """Vectors of relations."""
        return self.relation(ids)

    def relation_ids(self, batch: Batch) -> Int[Tensor, " B"]:
        """Rows of the relation table that the queries use; with `reciprocal` the inverses where a head is asked for."""
        return torch.where(batch.head, batch.r + self.n_relations, batch.r) if self.reciprocal else batch.r

    def lookup(self, batch: Batch) -> Lookup:
        """The vectors of a batch. Whatever scores the batch's rows takes them from here."""
        both = self.entities(torch.cat([batch.anchor, batch.target]))
        anchor, target = both.split(len(batch)) if len(batch) else (both, both)
        return self.looked_up(batch, anchor, target, self.relations(self.relation_ids(batch)))

    def looked_up(
        self, batch: Batch, anchor: Views, target: Views, relation: Float[Tensor, "B relation_width"]
    ) -> Lookup:
        """The same of vectors that are at hand, such as those whose gradient is asked for."""
        return Lookup(batch, anchor, target, relation, self._query(batch, anchor, relation, self._step))

    def exact(self, lookup: Lookup) -> Lookup:
        """The same rows with the queries that they have outside of a training step, where nothing is dropped."""
        if self._step is None or not self.scorer.varies:
            return lookup
        return replace(lookup, query=self._query(lookup.batch, lookup.anchor, lookup.relation))

    def _query(
        self, batch: Batch, anchor: Views, relation: Float[Tensor, "B relation_width"], step: int | None = None
    ) -> Query:
        views = len(self.views)
        anchor = self.entity.anchor(anchor, relation)
        vectors = anchor.by_view
        if views == 1:
            return Query((self._query_of_view(batch, vectors[0], relation, step),), anchor.present, None)
        own, logits = relation.tensor_split([-views], dim=-1)
        of_views = zip(vectors, own.chunk(views, dim=-1), strict=True)
        queries = [self._query_of_view(batch, a, r, step) for a, r in of_views]
        return Query(tuple(queries), anchor.present, torch.softmax(logits, dim=-1))

    def _query_of_view(
        self, batch: Batch, anchor: Tensor, relation: Tensor, step: int | None
    ) -> Float[Tensor, "B query_width"]:
        query = self.scorer.query if step is None else partial(self.scorer.query_in_step, step=step)
        if self.reciprocal:
            return query(anchor, relation, False)
        if len(batch.sides) == 1:
            return query(anchor, relation, batch.sides[0][0])
        return torch.cat([query(anchor[rows], relation[rows], head) for head, rows in batch.sides])

    def score(self, lookup: Lookup) -> Float[Tensor, " B"]:
        """f(h, r, t) of each row."""
        return self.compare(lookup.query, _as_candidates(lookup.target)).squeeze(1)

    def score_against(self, lookup: Lookup, negatives: Negatives) -> Float[Tensor, "B K"]:
        """Scores with each row's target replaced by its negatives."""
        match negatives:
            case OwnNegatives(ids, views=None) if (table := self.entity.table) is not None:
                scores = full(self.scorer.compare_rows(lookup.query.vectors[0], table, ids))
            case _:
                scores = self.compare(lookup.query, self._candidates(negatives))
        through = negatives.through if isinstance(negatives, OwnNegatives) else None
        return scores if through is None else scores + through

    def score_views(self, lookup: Lookup, negatives: Negatives | None = None) -> Float[Tensor, "B K V"]:
        """The scores of each view before they are mixed, of the negatives or, without any, of the true entity (K = 1).

        Where one of the two entities lacks a view its score means nothing.
        """
        candidates = _as_candidates(lookup.target) if negatives is None else self._candidates(negatives)
        return full(torch.stack(self._compare_views(lookup.query, candidates), dim=-1))

    def _candidates(self, negatives: Negatives) -> Views:
        match negatives:
            case OwnNegatives(ids, views):
                return self.entities(ids) if views is None else views
            case PoolNegatives(ids):
                return self.entities(ids)
            case AllNegatives(views=views):
                return self.entity.all() if views is None else views
            case _:
                raise TypeError(f"negatives of no known form: {type(negatives).__name__}")

    def compare(self, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        """Scores of each row's own candidates [B K V width], or of one pool [P V width] for all rows."""
        scores = self._compare_views(query, candidates)
        return full(self._mixed(query, scores, candidates.present))

    def compare_rows(self, query: Query, candidates: Views, rows: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Scores of each row's own candidates where they are listed elsewhere, by position."""
        if query.gate is None:
            return full(self.scorer.compare_rows(query.vectors[0], candidates.vectors.squeeze(-2), rows))
        return self.compare(query, candidates.index_select(rows))

    def _compare_views(self, query: Query, candidates: Views) -> list[Tensor]:
        return [self.scorer.compare(q, c) for q, c in zip(query.vectors, candidates.by_view, strict=True)]

    def _mixed(self, query: Query, scores: list[Tensor], present: Bool[Tensor, "*K V"]) -> Float[Tensor, "B K"]:
        return scores[0] if query.gate is None else gated_mixture(scores, query.gate, query.present, present)

    def score_all(self, batch: Batch, memory_mb: float | int = math.inf) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in id order.

        Args:
            batch: the rows.
            memory_mb: bound on what the comparison holds beside the scores, in MiB; the entities are taken in chunks,
                of one at least.
        """
        relation = self.relations(self.relation_ids(batch))
        query = self._query(batch, self.entities(batch.anchor), relation)
        every = self.entity.all()
        per_entity = relation.element_size() * len(batch) * self.reals_per_pair
        n = len(every.present)
        size = n if per_entity == 0 else int(min(n, max(1, memory_mb * 2**20 / per_entity)))
        if size == n:
            return self.compare(query, every)
        return torch.cat([self.compare(query, part) for part in every.split(size)], dim=1)

    @property
    def reals_per_pair(self) -> int:
        """Reals that a comparison with a pool holds for each pair of a row and a candidate, beside the score."""
        mixture = reals_per_pair(len(self.views)) if len(self.views) > 1 else 0
        return len(self.views) * self.scorer.pair_width(self.relation.weight.device) + mixture

    def loss(self, lookup: Lookup, negatives: Negatives, objective: Loss) -> Float[Tensor, ""] | float:
        """The term of the step's loss that the model itself brings along: its embedder's, by default 0."""
        return self.entity.loss(lookup, negatives, objective, partial(self.score_views, lookup))

    def structure(self, lookup: Lookup) -> tuple[Tensor, Tensor, Tensor] | None:
        """The free vectors of a batch, those of anchors, relations and targets that are trained as they are.

        They are the vectors of the structural view, and the relation's for that view; None for an embedder without one.
        """
        if STRUCTURE not in self.views:
            return None
        view = self.views.index(STRUCTURE)
        width = self.scorer.relation_width
        relation = lookup.relation[:, view * width : (view + 1) * width]
        return lookup.anchor.by_view[view], relation, lookup.target.by_view[view]

    def begin(self, step: int) -> None:
        """What precedes a step of the training, until `constrain`: what embedder and scorer leave out in it."""
        self._step = step
        self.entity.begin(step)

    def constrain(self) -> None:
        """What follows an optimizer step: the embedder's projections."""
        self._step = None
        self.entity.constrain()


def _as_candidates(target: Views) -> Views:
    """The true entity of each row as its only candidate."""
    return Views(target.vectors[:, None], target.present[:, None])
