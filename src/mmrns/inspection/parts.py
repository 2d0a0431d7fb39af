"""What each view of a model adds to the score of a triple, and where the triple ranks without it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model
from mmrns.nn.numerics import full
from mmrns.types import Batch, Views


class Part(TypedDict):
    """What a view of the model, `structure` or a modality, adds to the score.

    The score is a sum of the views' own scores by their `weight`, and perhaps of what depends on none of them: of the
    mixture `gated` a mean, of `residual` that of structure (weight 1) and what modalities add. Where vectors are mixed
    before a distance is taken, as by `joint`, it is no such sum, and the parts say about what views add. A score says
    little by itself, so that each is held against those of the candidates that have the same views in common with the
    anchor as the answer has:

        adds_v = weight_v (own_score_v - mean over these candidates of their own scores in view v)

    All that the views add is how far the score stands above the mean of these candidates. A view that is not in common
    adds nothing; its `own_score` and `own_rank`, what the view alone would give, are None.

    `rank_without` is the rank if nobody had the view, as if its features had never been there. Who has no other view in
    common with the anchor has the mean score of the others then; a model with a single view scores everyone the same.
    """

    part: str
    adds: float
    rank_without: int
    weight: float
    own_score: float | None
    own_rank: int | None


def candidates_of(graph: KnowledgeGraph, batch: Batch) -> Bool[Tensor, " E"]:
    """Who is ranked for the one query of a batch: not who makes another triple that is known.

    The anchor is no candidate where no triple of the relation is of one entity, as in `Run.predict`.
    """
    among = torch.ones(len(graph.entities), dtype=torch.bool)
    among[graph.known_index.batch_targets(batch)[1]] = False
    if not graph.reflexive_relations[batch.r[0]]:
        among[batch.anchor[0]] = False
    among[batch.target[0]] = True
    return among


def rank_among(scores: Float[Tensor, " E"], among: Bool[Tensor, " E"], target: int) -> int:
    """The rank of an entity among candidates: of equal ones the mean, rounded down."""
    rivals = scores[among]
    higher, equal = int((rivals > scores[target]).sum()), int((rivals == scores[target]).sum())
    # It is equal to itself.
    return 1 + higher + (equal - 1) // 2


def parts_of(model: Model, lookup: Lookup, every: Views, among: Bool[Tensor, " E"], target: int) -> list[Part]:
    """The part of each view in the score of a triple.

    Args:
        model: scores.
        lookup: a batch of the one triple.
        every: the views of all entities.
        among: the candidates.
        target: the answer.
    """
    query, n_views = lookup.query, len(model.views)
    own = torch.stack([full(of_view)[0] for of_view in model.by_view(query, every)], dim=1).cpu()
    present = query.present[0] & every.present
    weights = model.shares(query, every)[0].cpu()
    # As the mixture has it, such as that without a common view the first one counts.
    common, weight = weights != 0, weights[target]
    alike = among & (common == common[target]).all(1)
    adds = weight * (own[target] - own[alike].mean(0))
    found: list[Part] = []
    for v, name in enumerate(model.views):
        has = bool(common[target, v])
        by_itself = _mean_where_not(own[:, v], common[:, v], among)
        others = torch.arange(n_views, device=present.device) != v
        anchor = replace(lookup.anchor, present=lookup.anchor.present & others)
        left = model.looked_up(lookup.batch, anchor, lookup.target, lookup.relation).query
        without = model.compare(left, replace(every, present=every.present & others))[0].cpu()
        without = _mean_where_not(without, (present & others).any(1).cpu(), among)
        found.append(
            {
                "part": name,
                "adds": float(adds[v]),
                "rank_without": rank_among(without, among, target),
                "weight": float(weight[v]),
                "own_score": float(own[target, v]) if has else None,
                "own_rank": rank_among(by_itself, among, target) if has else None,
            }
        )
    return found


def _mean_where_not(
    scores: Float[Tensor, " E"], there: Bool[Tensor, " E"], among: Bool[Tensor, " E"]
) -> Float[Tensor, " E"]:
    """The scores, and the mean of the candidates that have one for whoever has none; all the same where nobody has."""
    have = there & among
    mean = scores[have].mean() if have.any() else scores.new_zeros(())
    return torch.where(there, scores, mean)
