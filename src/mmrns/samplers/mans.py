"""MANS: negatives that keep the true entity's structure and have another entity's modalities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.lookup import Lookup, Query, common_views
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Recipe
from mmrns.samplers.explanation import Evidence
from mmrns.samplers.uniform import Uniform
from mmrns.types import Batch, OwnNegatives, Views

Strategy = Literal["modal", "two-stage", "hybrid", "adaptive"]


class Mans(Uniform, name="mans"):
    """x- as `uniform` draws it, of which some negatives are the modalities alone: structure stays that of x.

        f(anchor, r, [x_s ; x-_m])      a modal negative, x_s the structure of x and x-_m the modalities of x-
        f(anchor, r, [x-_s ; x-_m])     an ordinary one

    A modal negative says which pictures and texts belong to the structure of x. Which negatives are modal goes by the
    strategy:

        modal       all of them (the paper's MANS-V)
        two-stage   all in the first `first_steps` steps, then none (MANS-T)
        hybrid      the `share` of them, evenly spread over the batch (MANS-H)
        adaptive    those that the model takes for mixed-up entities (MANS-A): as ordinary ones their mean score over
                    pairs of views, the anchor by one and x- by the other, is above that over the views themselves

    Zhang, Chen and Zhang, "MANS: Modality-Aware Negative Sampling for Multi-modal Knowledge Graph Embedding", IJCNN
    2023, with one visual view; here x- gives all its modalities. A negative with no modality in common with the anchor
    is an ordinary one. In a loss of the structural scores alone, as the mixture `residual` has one, modal negatives do
    not count. Other than in the authors' code, K may exceed 1 and the options reach the strategy. `hybrid` and
    `adaptive` make the first rows of a batch modal there, which for the latter are not those that its test has found:
    `row_select: prefix`.

    Cost of a draw: that of `uniform`; V^2 B K scores without gradient for `adaptive`.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        strategy: which negatives are modal.
        share: of `hybrid`, of the negatives.
        first_steps: of `two-stage`.
        row_select: `chosen` = the negatives that the strategy chooses are modal; `prefix` = as many, in the rows that
            come first in the batch.
    """

    recipe = Recipe(sides="bernoulli")

    asks_each_view = needs_modalities = True
    undivided = "it replaces modalities in the vectors of true entities, which do not move"

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        strategy: Strategy = "adaptive",
        share: Annotated[float, Field(ge=0, le=1)] = 0.3,
        first_steps: NonNegativeInt = 500,
        row_select: Literal["chosen", "prefix"] = "chosen",
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.strategy: Strategy = strategy
        self.share, self.first_steps, self.row_select = share, first_steps, row_select

    def draw(self, lookup: Lookup, model: Model, step: int) -> OwnNegatives:
        found = self.draw_blind(lookup.batch, step)
        views = model.entities(found.ids)
        common = common_views(lookup.anchor.present, views.present)
        structure = torch.tensor([view == STRUCTURE for view in model.views]).to(common.device, non_blocking=True)
        modal = self._chosen(lookup.query, views, common, model, step)
        if self.row_select == "prefix":
            modal = first_rows(modal)
        modal = modal & (common & ~structure).any(-1)
        return replace(found, views=views, kept=modal[..., None] & structure)

    def _chosen(
        self, query: Query, views: Views, common: Bool[Tensor, "B K V"], model: Model, step: int
    ) -> Bool[Tensor, "B K"]:
        """Which negatives are to be modal, by the strategy."""
        rows, k = common.shape[:2]
        match self.strategy:
            case "hybrid":
                return spread(self.share, rows, k, common.device)
            case "adaptive":
                return mixed_up(query, views, model)
            case "modal" | "two-stage":
                every = self.strategy == "modal" or step < self.first_steps
                return torch.full((rows, k), every, device=common.device)

    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Nothing but that not all of an entity need be meant."""
        return Evidence(
            why_not="of an entity it may take the modalities alone, beside the true entity's structure; score and rank "
            "are those of the whole entity"
        )


def spread(share: float, rows: int, k: int, device: torch.device) -> Bool[Tensor, "B K"]:
    """True for a share of all negatives, rounded down, evenly spread; draws do not depend on their position."""
    before = (torch.arange(rows * k + 1, device=device) * math.ceil(share * 2**30)) >> 30
    return (before[1:] > before[:-1]).view(rows, k)


def first_rows(modal: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K"]:
    """As many True, but for a part of a row, in the first rows."""
    rows, k = modal.shape
    return (torch.arange(1, rows + 1, device=modal.device)[:, None] * k <= modal.sum()).expand(-1, k)


@torch.no_grad()
def mixed_up(query: Query, views: Views, model: Model) -> Bool[Tensor, "B K"]:
    """Whose mean score over the pairs of different views is above that over the views that both have."""
    rows, k, n = views.present.shape
    # Each view of the anchor with all views of all entities.
    every = views.vectors.flatten(1, 2)
    asked = zip(model.scorers, query.vectors, strict=True)
    scores = torch.stack([scorer.compare(q, every) for scorer, q in asked], dim=-1).view(rows, k, n, n)
    of_one = torch.eye(n, dtype=torch.bool, device=scores.device)
    kinds = torch.stack([of_one, ~of_one])[:, None, None]
    there = views.present[..., None] & query.present[:, None, None] & kinds
    of_one, of_two = scores.masked_fill(~there, 0.0).sum((-2, -1)) / there.sum((-2, -1))
    # Without a pair there is no mean: it is NaN, which is not above anything.
    return of_two > of_one
