"""What every mixture is: one score from several views, and the losses that views have of their own.

A mixture takes the scores of the views and some numbers of the relation. To add one: subclass `Mixture` with a `name`
and define `weights`. What mixes vectors before they are scored, or scores other pairs of views, overrides `queries` and
`compare`, and the first of them `factors`, too.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmrns.errors import UsageError
from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.lookup import Query, Scores, common_views
from mmrns.nn.losses import Loss, candidates_of
from mmrns.nn.numerics import full
from mmrns.nn.rows import row_sum
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named, Registry
from mmrns.types import Negatives, OwnNegatives, Projected, Views

Share = Annotated[float, Field(gt=0, lt=1)]
Ask = Callable[[Float[Tensor, "B width"], Float[Tensor, "B relation_width"]], Float[Tensor, "B query_width"]]
"""A scorer's query of anchors and relations."""


class Mixture(Named, nn.Module, ABC):
    """One score from several views, by numbers of the relation.

    To add one: subclass it with a `name` and define `weights`. Its constructor is called with the names of the views;
    further keywords are its options, settable as `model.OPTION`. Parameters of its own are trained and stored with the
    model's.

    Args:
        views: names of the views, in the order of their scores.
    """

    registry: ClassVar[Registry[Mixture]] = Registry("mixture", "mmrns.nn.mixtures")

    one_relation: ClassVar[bool] = False
    """True where a relation has one vector for all views, False where it has one for each."""

    separate: ClassVar[bool] = False
    """True where each view is a model of its own: with parameters of the formula that no other view has, and trained by
    its own scores alone. `loss` is then the whole loss; the mixed scores, which need be no sum of them, have none."""

    undivided: ClassVar[str] = "it does not say that it mixes a candidate's scores by themselves (Mixture.undivided)"
    """Why several processes cannot have some of the candidates each; "" where they can: where a candidate's score
    depends on no other one, and `loss` sums over a row by `mmrns.nn.rows`. A subclass says so itself."""

    def __init__(self, views: Sequence[str]):
        super().__init__()
        self.views = tuple(views)

    @property
    def relation_width(self) -> int:
        """Trained numbers of each relation that it takes, beside the relation's vectors; they start as these do."""
        return 0

    @property
    def asks_each_view(self) -> bool:
        """Whether `queries` are one for each view, for samplers that ask the views by themselves."""
        return True

    def start(self, scorer: Scorer) -> None:
        """Told of the formula of the views' scores, once, before anything is trained. By default nothing."""

    def gate(self, numbers: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B N"]:
        """What is made of the relation's numbers once for each query; by default they are taken as they are."""
        return numbers

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B N"]
    ) -> tuple[Tensor, ...]:
        """What candidates are compared with: by default a query for each view, with the relation's vector for it.

        Args:
            asks: make the queries, one for each view.
            anchor: the views of the anchors.
            relation: the relation's vectors of all views, or its only one.
            gate: of the relation.
        """
        own = relation.chunk(len(self.views), dim=-1)
        return tuple(ask(a, r) for ask, a, r in zip(asks, anchor.by_view, own, strict=True))

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        """The scores of each row's own candidates [B K V width], or of one pool [P V width] for all rows.

        Args:
            scorers: the formula of each view, the same one unless the views are `separate`.
            query: of the rows.
            candidates: their own, or one pool.
        """
        by_view = self.by_view(scorers, query, candidates)
        return Scores(by_view, query.present, candidates.present, mix=self, gate=query.gate)

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of the candidates in each view."""
        views = zip(scorers, query.vectors, candidates.unmade, strict=True)
        return tuple(compared(scorer, own, others) for scorer, own, others in views)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts in that of these candidates; by default `weights`."""
        assert query.gate is not None, "of several views"
        return self.weights(query.gate, query.present, candidates.present)

    def factors(self, views: Views, gate: Float[Tensor, "B N"]) -> Float[Tensor, "B width"]:
        """The vectors of a row's entity that penalties such as N3 are on: those of structure, unless views are joined
        before they are scored.

        Args:
            views: of the entities, one for each row.
            gate: of the relation.

        Raises:
            UsageError: none of the views is structural.
        """
        if STRUCTURE not in self.views:
            raise UsageError(
                f"objective.l2, l3 and n3 are on the view {STRUCTURE}, and there are {', '.join(self.views)}; leave "
                "them at 0"
            )
        return views.by_view[self.views.index(STRUCTURE)]

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts; 0 where one of the two entities lacks it.

        Args:
            gate: of the relation.
            own: which views the anchor has.
            candidates: which views the candidates have, [B K V] or of one pool [P V].
        """
        raise TypeError(f"{type(self).__name__} defines no `weights` and does not override `compare` and `shares`")

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        """The mixed score: by default the sum of the views' scores by their weights.

        A subclass may write it otherwise, or add what depends on no score.
        """
        return (self.weights(gate, own, candidates) * torch.stack(list(scores), dim=-1)).sum(-1)

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        """A term of the step's loss beside that of the mixed scores, such as a loss of each view. By default 0.

        Of `separate` views it is the whole loss of the scores.

        Args:
            negatives: what was drawn.
            objective: the loss of the mixed scores.
            weight: of each row.
            true, false: the scores of the true entities (K = 1) and of the negatives.
        """
        return 0.0

    @property
    def n_losses(self) -> int:
        """How many losses of a view's own scores `loss` adds up."""
        return 0

    @property
    def reals_per_pair(self) -> int:
        """Reals that it holds for each pair: the views' scores and weights, and their sums."""
        return 2 * len(self.views) + 3


def compared(
    scorer: Scorer, query: Float[Tensor, "B query_width"], candidates: Float[Tensor, "*K width"] | Projected
) -> Float[Tensor, "B K"]:
    """The scores of candidates in one view, of those that are not made yet by what they are made of."""
    if isinstance(candidates, Projected):
        return scorer.compare_projected(query, candidates)
    return scorer.compare(query, candidates)


def views_that_count(own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]) -> Bool[Tensor, "B K V"]:
    """The views that both entities have; without any, the first one."""
    common = common_views(own, candidates)
    return torch.cat([common[..., :1] | ~common.any(-1, keepdim=True), common[..., 1:]], dim=-1)


def loss_of_view(
    view: int, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
) -> Float[Tensor, ""]:
    """The loss of one view's own scores, of the rows and the negatives that have it.

        sum_b w_b a_b L_b / sum_b w_b

    a_b is 1 where the row's anchor and its true entity (of a loss that needs all entities, one of the true ones) have
    the view, else 0. Candidates that lack it are no negatives of L_b, nor are those who keep the true entity's vector.
    Divided by the weight of all rows, a view counts by how often it is there, and the loss of a batch is the same in
    parts.

    Args:
        view: its position.
        negatives: what was drawn.
        objective: the loss of the mixed scores.
        weight: of each row.
        true, false: the scores of the true entities (K = 1) and of the negatives.
    """
    s_pos, s_neg = (full(scores.by_view[view]) for scores in (true, false))
    mask, log_weight = negatives.mask, negatives.log_weight
    if objective.needs_all:
        assert mask is not None, "the mask tells what is true"
        assert false.candidates is not None, "of several views"
        # Who lacks the view is no candidate, neither a true nor a false one.
        there = false.candidates[..., view]
        there = there if log_weight is None else there & candidates_of(log_weight)
        counts = false.anchors[:, view] & (row_sum(~mask & there) > 0)
        log_weight = there.to(s_neg.dtype).log().expand_as(s_neg)
    else:
        common = false.common(view)
        counts = true.common(view).squeeze(1)
        mask = common if mask is None else mask & common
        if isinstance(negatives, OwnNegatives) and negatives.kept is not None:
            mask = mask & ~negatives.kept[..., view]
    rows = objective.rows(s_pos.squeeze(1), s_neg, mask, log_weight)
    return (weight * counts * rows).sum() / weight.sum()
