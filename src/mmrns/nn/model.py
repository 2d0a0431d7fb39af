"""The model: an embedder of entities, vectors of relations, and a scorer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.errors import UsageError
from mmrns.nn.embedders import STRUCTURE, Embedder, Table, TableEmbedder, on_host
from mmrns.nn.lookup import Lookup, Query, Scores, common_views
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Gated, Mixture
from mmrns.nn.numerics import full, summed
from mmrns.nn.scorers import Scorer
from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives, Views

Sides = tuple[tuple[bool, slice], ...] | Bool[Tensor, " B"]
"""Runs of rows and whether their head is asked for, or whether that of each row is; see `Batch`."""


@dataclass(frozen=True)
class ModelSpec:
    """What a sampler may know of the model before it exists.

    Attributes:
        dim: d.
        entity_width: reals of an entity's vector in one view.
        relation_width: reals of a relation's vector.
        query_width: reals of a query in one view.
    """

    dim: int
    entity_width: int
    relation_width: int
    query_width: int


class Model(nn.Module):
    """f_theta: scores of triples, negatives and all entities; the only source of entity and relation vectors.

    Scores are of at least single precision, also where autocast makes them of products in bfloat16.

    With several views a relation has a vector of its own for each of them, or one of all as the `mixture` has it, then
    the numbers that the mixture takes, which makes one score of the views, then those that the embedder takes.

    Args:
        scorer: the formula, of one view.
        n_entities, n_relations: sizes of the vocabularies.
        reciprocal: each relation has a second vector, its inverse: a head is asked for as the tail of (t, inverse), so
            that the two sides are scored by different triples (Lacroix et al., 2018).
        sparse: the tables' gradients hold only the rows of the step.
        embedder: of entities; a table by default.
        mixture: of the scores of the embedder's views; gated by default, and none of a single view.

    Raises:
        UsageError: the embedder's vectors are for another scorer; the mixture is not of the embedder's views, or there
            is but one; or the scorer normalises over the batch, and relations are not reciprocal or there are several
            views.
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
        mixture: Mixture | None = None,
    ):
        super().__init__()
        self.scorer = scorer
        self.n_entities, self.n_relations, self.reciprocal = n_entities, n_relations, reciprocal
        self.entity = embedder or TableEmbedder.of(n_entities, scorer.entity_width, scorer.init_range, sparse=sparse)
        self.entity.refuse_unfit(scorer)
        self.mixture = self._fitting(mixture)
        # What all views have in common is `scorer`, that of the first one.
        twins = range(1, len(self.views)) if self.mixture is not None and self.mixture.separate else ()
        self.twins = nn.ModuleList(scorer.twin(number) for number in twins)
        # The vectors, then the numbers that the mixture takes, then those of the embedder.
        width = self._relation_width + (self.mixture.relation_width if self.mixture else 0) + self.entity.relation_width
        self.relation = Table(n_relations * (1 + reciprocal), width, scorer.init_range, sparse=sparse)
        self._step: int | None = None
        if scorer.batch_norm and not reciprocal:
            raise UsageError(
                "model.batch_norm: heads are then asked for by reciprocal relations; set model.reciprocal=true"
            )
        if scorer.batch_norm and len(self.views) > 1 + len(self.twins):
            raise UsageError(
                "model.batch_norm: its statistics are of one view; leave it out, or model.modalities, or have a scorer "
                "for each view by model.mixture=mean-probability"
            )

    def _fitting(self, given: Mixture | None) -> Mixture | None:
        """What mixes the scores of the views, told of their formula; None of a single view."""
        if given is not None and (len(self.views) == 1 or given.views != self.views):
            raise UsageError(
                f"the mixture {Mixture.registry.name_of(type(given))} is of the views {', '.join(given.views)}, and "
                f"the embedder has {', '.join(self.views)}; give a mixture of several views, the same ones"
            )
        found = None if len(self.views) == 1 else given or Gated(self.views)
        if found is not None:
            found.start(self.scorer)
        return found

    def __repr__(self) -> str:
        views = "" if len(self.views) == 1 else f", views {', '.join(self.views)}"
        return f"Model({self.scorer!r}, {self.n_entities:,} entities, {self.n_relations:,} relations{views})"

    @property
    def _relation_width(self) -> int:
        """Reals of a relation's vectors, one for each view unless the mixture has one of all; without its numbers."""
        vectors = 1 if self.mixture is None or self.mixture.one_relation else len(self.views)
        return vectors * self.scorer.relation_width

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return self.entity.views

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The formula of each view: the same one of all, or each view's own."""
        if self.trains_mixed:
            return (self.scorer,) * len(self.views)
        return self.scorer, *cast("Iterable[Scorer]", self.twins)

    @property
    def trains_mixed(self) -> bool:
        """Whether the mixed scores are trained, or each view's alone."""
        return self.mixture is None or not self.mixture.separate

    @property
    def spec(self) -> ModelSpec:
        """Widths, for the samplers."""
        scorer, weight = self.scorer, self.relation.weight
        with torch.no_grad():
            given = weight.new_zeros(1, scorer.entity_width), weight.new_zeros(1, scorer.relation_width)
            query = scorer.query(*given, False)
        return ModelSpec(scorer.dim, scorer.entity_width, weight.shape[1], query.shape[1])

    def entities(self, ids: Int[Tensor, "*n"]) -> Views:
        """Vectors of entities."""
        return self.entity(ids)

    def relations(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n relation_width"]:
        """Vectors of relations."""
        return self.relation(ids)

    def relation_ids(self, batch: Batch) -> Int[Tensor, " B"]:
        """Rows of the relation table that the queries use; with `reciprocal` the inverses where a head is asked for."""
        return torch.where(batch.head, batch.r + self.n_relations, batch.r) if self.reciprocal else batch.r

    def by_features(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each entity is known by a modality that the vectors are made of."""
        return self.entity.by_features(ids)

    @property
    def parted(self) -> dict[str, nn.Parameter]:
        """The parameters by name whose rows are entities, where other processes have the other entities; none here."""
        return {}

    def shown(self, negatives: Negatives) -> Negatives:
        """Those negatives that `scores` compares here: all, unless other processes have a part of the entities."""
        return negatives

    def lookup(self, batch: Batch) -> Lookup:
        """The vectors of a batch. Whatever scores the batch's rows takes them from here."""
        both = self.entities(torch.cat([batch.anchor, batch.target]))
        anchor, target = both.split(len(batch)) if len(batch) else (both, both)
        return self.looked_up(batch, anchor, target, self.relations(self.relation_ids(batch)))

    def looked_up(
        self, batch: Batch, anchor: Views, target: Views, relation: Float[Tensor, "B relation_width"]
    ) -> Lookup:
        """The same of vectors that are at hand, such as those whose gradient is asked for."""
        return Lookup(batch, anchor, target, relation, self._query(_sides(batch), anchor, relation, self._step))

    def exact(self, lookup: Lookup) -> Lookup:
        """The same rows with the queries that they have outside of a training step, where nothing is dropped."""
        if self._step is None or not self.scorer.varies:
            return lookup
        return replace(lookup, query=self._query(_sides(lookup.batch), lookup.anchor, lookup.relation))

    def query(self, anchor: Views, relation: Float[Tensor, "B relation_width"], head: bool) -> Query:
        """What candidates of one side are compared with, of vectors that are at hand, as outside of a training step."""
        return self._query(((head, slice(None)),), anchor, relation)

    def _query(
        self, sides: Sides, anchor: Views, relation: Float[Tensor, "B relation_width"], step: int | None = None
    ) -> Query:
        anchor = self.entity.anchor(anchor, relation)
        asks = [partial(self._query_of_view, scorer, sides, step) for scorer in self.scorers]
        if self.mixture is None:
            own = relation[:, : self._relation_width] if self.entity.relation_width else relation
            return Query((asks[0](anchor.by_view[0], own),), anchor.present, None, self.entity.under(relation))
        own, rest = relation.tensor_split([self._relation_width], dim=-1)
        gate = self.mixture.gate(rest[:, : self.mixture.relation_width])
        return Query(self.mixture.queries(asks, anchor, own, gate), anchor.present, gate)

    def _query_of_view(
        self, scorer: Scorer, sides: Sides, step: int | None, anchor: Tensor, relation: Tensor
    ) -> Float[Tensor, "B query_width"]:
        query = scorer.query if step is None else partial(scorer.query_in_step, step=step)
        if self.reciprocal:
            return query(anchor, relation, False)
        if isinstance(sides, Tensor):
            # Rows of one side read nothing of the other's queries, and give them no gradient.
            return torch.where(sides[:, None], query(anchor, relation, True), query(anchor, relation, False))
        if len(sides) == 1:
            return query(anchor, relation, sides[0][0])
        # Split, so that the gradient of each is put together once.
        sizes = [rows.stop - rows.start for _, rows in sides]
        parts = zip(sides, anchor.split(sizes), relation.split(sizes), strict=True)
        return torch.cat([query(own, r, head) for (head, _), own, r in parts])

    def score(self, lookup: Lookup) -> Float[Tensor, " B"]:
        """f(h, r, t) of each row."""
        return self.scores(lookup).mixed.squeeze(1)

    def score_against(self, lookup: Lookup, negatives: Negatives) -> Float[Tensor, "B K"]:
        """Scores with each row's target replaced by its negatives."""
        return self.scores(lookup, negatives).mixed

    def scores(self, lookup: Lookup, negatives: Negatives | None = None) -> Scores:
        """The scores of the negatives or, without any, of the true entity (K = 1): of each view, and mixed."""
        match negatives:
            case None:
                return self._scores(lookup.query, _as_candidates(lookup.target))
            case OwnNegatives(ids, views=None, kept=None) if (table := self.entity.table) is not None:
                of_rows = self.scorer.compare_rows(lookup.query.vectors[0], table, ids)
                found = Scores((of_rows,), lookup.query.present, None)
            case _:
                found = self._scores(lookup.query, self._candidates(negatives, lookup.target))
        through = negatives.through if isinstance(negatives, OwnNegatives) else None
        if through is None:
            return found
        # What is trained hands the gradient on.
        by_view = found.by_view if self.trains_mixed else tuple(scores + through for scores in found.by_view)
        return replace(found, given=found.mixed + through, by_view=by_view)

    def _candidates(self, negatives: Negatives, target: Views) -> Views:
        match negatives:
            case OwnNegatives(ids, views, kept=kept):
                found = self.entity(ids) if views is None else views
                return found if kept is None else _as_candidates(target).where(kept, found)
            case PoolNegatives(ids):
                return self.entity(ids)
            case AllNegatives(views=views):
                return self.entity.all() if views is None else views
            case _:
                raise TypeError(f"negatives of no known form: {type(negatives).__name__}")

    def compare(self, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        """Scores of each row's own candidates [B K V width], or of one pool [P V width] for all rows."""
        return self._scores(query, candidates).mixed

    def compare_rows(self, query: Query, candidates: Views, rows: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Scores of each row's own candidates where they are listed elsewhere, by position."""
        if self.mixture is None and query.under is None:
            return full(self.scorer.compare_rows(query.vectors[0], candidates.vectors.squeeze(-2), rows))
        return self.compare(query, candidates.index_select(rows))

    def _scores(self, query: Query, candidates: Views) -> Scores:
        if self.mixture is not None:
            return self.mixture.compare(self.scorers, query, candidates)
        return Scores(self.by_view(query, candidates), query.present, candidates.present)

    def by_view(self, query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of candidates in each view."""
        if self.mixture is not None:
            return self.mixture.by_view(self.scorers, query, candidates)
        return (self.entity.compare(self.scorer, query, candidates),)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts in that of candidates; 1 of a single view."""
        if self.mixture is None:
            return common_views(query.present, candidates.present).to(query.vectors[0].dtype)
        return self.mixture.shares(query, candidates)

    def score_all(self, batch: Batch, memory_mb: float | int = math.inf) -> Float[Tensor, "B E"]:
        """Scores with each row's target replaced by every entity, in id order.

        Args:
            batch: the rows.
            memory_mb: bound on what the comparison holds beside the scores, in MiB; the entities are taken in chunks,
                of one at least.
        """
        relation = self.relations(self.relation_ids(batch))
        query = self._query(_sides(batch), self.entities(batch.anchor), relation)
        hosted, n = bool(on_host(self.entity)), self.entity.n_entities
        # Those that have to be brought here first count, too.
        vectors = len(self.views) * self.scorer.entity_width if hosted else 0
        per_entity = relation.element_size() * (len(batch) * self.reals_per_pair + vectors)
        size = n if per_entity == 0 else int(min(n, max(1, memory_mb * 2**20 / per_entity)))
        if hosted:
            ids = torch.arange(n, device=relation.device)
            every = map(self.entity, ids.split(size))
        else:
            every = self.entity.all().split(size)
        parts = [self.compare(query, part) for part in every]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @property
    def reals_per_pair(self) -> int:
        """Reals that a comparison with a pool holds for each pair of a row and a candidate, beside the score."""
        mixture = self.mixture.reals_per_pair if self.mixture else 0
        of_views = len(self.views) * self.scorer.pair_width(self.relation.weight.device)
        return of_views + self.entity.reals_per_pair + mixture

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""]:
        """The loss of the scores: that of the mixed ones, if they are trained, and what the mixture adds.

        Args:
            negatives: what was drawn.
            objective: the loss of the mixed scores.
            weight: of each row.
            true, false: the scores of the true entities and of the negatives, by `scores`.
        """
        of_views = self.mixture.loss(negatives, objective, weight, true, false) if self.mixture else 0.0
        if not self.trains_mixed:
            return summed(weight.new_zeros(()), of_views)
        given = true.mixed.squeeze(1), false.mixed, negatives.mask, weight, negatives.log_weight
        return summed(objective(*given), of_views)

    @property
    def mixes_scores(self) -> bool:
        """Whether a comparison holds the scores of the views and nothing more: they are mixed by whoever takes them."""
        return self.mixture is None or type(self.mixture).compare is Mixture.compare

    @property
    def n_view_losses(self) -> int:
        """How many losses of a single view's scores a step has."""
        return self.mixture.n_losses if self.mixture else 0

    def factors(self, lookup: Lookup) -> tuple[Tensor, Tensor, Tensor]:
        """The vectors of a batch that penalties are on: of anchors, relations and targets.

        They are those of the only view, or what the mixture says of several (`Mixture.factors`), and the relation's.

        Raises:
            UsageError: there are several views, and none is structural.
        """
        width = self.scorer.relation_width
        own = lookup.relation[:, : self._relation_width].split(width, dim=-1)
        if self.mixture is None:
            return lookup.anchor.by_view[0], own[0], lookup.target.by_view[0]
        assert lookup.query.gate is not None, "of several views"
        anchor, target = (self.mixture.factors(views, lookup.query.gate) for views in (lookup.anchor, lookup.target))
        relation = own[0] if self.mixture.one_relation else own[self.views.index(STRUCTURE)]
        return anchor, relation, target

    def begin(self, step: int) -> None:
        """What precedes a step of the training, until `constrain`: what embedder and scorer leave out in it."""
        self._step = step
        self.entity.begin(step)

    def constrain(self) -> None:
        """What follows an optimizer step: the embedder's projections."""
        self._step = None
        self.entity.constrain()


def _sides(batch: Batch) -> Sides:
    return batch.sides if batch.mixed is None else batch.mixed


def _as_candidates(target: Views) -> Views:
    """The true entity of each row as its only candidate."""
    return target[:, None]
