"""Which train triple a score would miss most, to first order."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.lookup import Lookup
from mmrns.nn.losses import Loss
from mmrns.nn.model import Model
from mmrns.rng import generator
from mmrns.types import Batch, PoolNegatives

ROWS = 2048
"""Triples whose gradients are taken at a time."""
POOL = 128
"""Entities that a triple's loss compares it with."""
DAMPING = 1.0
"""What is added to the diagonal of the Fisher matrix, as a multiple of its mean."""


def influence(
    model: Model,
    graph: KnowledgeGraph,
    triple: tuple[int, int, int],
    head: bool,
    objective: Loss,
    device: torch.device,
) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
    """How much the score of a triple would change, to first order, without each train triple that shares an entity.

    Without a train triple z the vector e of each of its entities would lie where its loss does not pull it,

        change(z) = sum_e  grad_e f(h, r, t)^T (F_e + delta I)^-1 grad_e l(z),     e in {h, t} and in z
        F_e = sum_z grad_e l(z) grad_e l(z)^T,  over the train triples z of e

    which is the influence function (Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017)
    with the empirical Fisher matrix of the entity's own vector in the place of the Hessian, damped by its mean diagonal
    delta. It is in F_e that a triple matters more to an entity that has few; a product of gradients alone knows nothing
    of it. CRIAGE (Pezeshkpour et al., "Investigating Robustness and Interpretability of Link Prediction via Adversarial
    Modifications", 2019) takes the same step with the Hessian of one entity, for bilinear scorers; Gradient Rollback
    (Lawrence et al., "Explaining Neural Matrix Factorization with Gradient Rollback", 2021) adds up what a training
    did, and has to watch it. Here l is the loss of the true triple on both sides, by the objective of the run, with
    what it is compared with held fixed.

    Only the structural vectors count: the relation's vectors and the parameters that read modalities are of so many
    triples that no single one moves them far. Every row of a batch has vectors of its own there, so that one backward
    pass gives the gradients of all rows.

    Args:
        model: in evaluation mode.
        graph: whose train the model was trained on.
        triple: (h, r, t).
        head: which side's score is explained; it matters with reciprocal relations.
        objective: the loss of the training.
        device: where the model is.

    Returns:
        The distinct train triples with h or t, and the change that the removal of each would bring: negative where the
        score would fall. None for a model without the view `structure`.
    """
    none = torch.empty(0, 3, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    if STRUCTURE not in model.views:
        return none
    h, _, t = triple
    train = graph.train
    near = train[((train[:, [0, 2]] == h) | (train[:, [0, 2]] == t)).any(1)].unique(dim=0)
    if not len(near):
        return none
    of_score = _gradients(model, graph, torch.tensor([triple]), head, None, device)
    sides = [_gradients(model, graph, near, side, objective, device) for side in (False, True)]
    of_head, of_tail = (one + other for one, other in zip(*sides, strict=True))
    change = torch.zeros(len(near), dtype=torch.float64)
    for entity in {h, t}:
        wanted = sum(part[0] for end, part in zip((h, t), of_score, strict=True) if end == entity)
        here = torch.where(near[:, :1] == entity, of_head, 0) + torch.where(near[:, 2:] == entity, of_tail, 0)
        fisher = here.T @ here
        damping = (DAMPING * fisher.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
        fisher.diagonal().add_(damping)
        change += here @ torch.linalg.solve(fisher, torch.as_tensor(wanted))
    return near, change


def _gradients(
    model: Model,
    graph: KnowledgeGraph,
    triples: Int[Tensor, "n 3"],
    head: bool,
    objective: Loss | None,
    device: torch.device,
) -> tuple[Float[Tensor, "n width"], Float[Tensor, "n width"]]:
    """The gradients of each triple's loss, or without an objective of its score, by the vectors of head and tail.

    In double precision, on the host.
    """
    pool = torch.randperm(len(graph.entities), generator=generator(0, "influence", device="cpu"))[:POOL]
    view = model.views.index(STRUCTURE)
    found: list[tuple[Tensor, Tensor]] = []
    for part in triples.split(ROWS):
        batch = Batch.of(part, head)
        negatives = PoolNegatives(pool.to(device), mask=(~graph.train_index.batch_contains(batch, pool)).to(device))
        batch = batch.to(device)
        with torch.no_grad():
            anchor, target = model.entities(batch.anchor), model.entities(batch.target)
            relation = model.relations(model.relation_ids(batch))
        # Vectors of each row's own, by which gradients are asked for.
        vectors = [views.vectors.clone().requires_grad_() for views in (anchor, target)]
        anchor, target = (views.with_vectors(own) for views, own in zip((anchor, target), vectors, strict=True))
        with torch.enable_grad():
            lookup = model.looked_up(batch, anchor, target, relation)
            score = model.score(lookup)
            total = score if objective is None else _losses(model, lookup, objective, score, negatives)
            # Embedders that see anchors by other than their vectors leave these without a part.
            gradients = torch.autograd.grad(total.sum(), vectors, materialize_grads=True)
        of_anchor, of_target = (gradient[:, view].cpu().double() for gradient in gradients)
        found.append((of_target, of_anchor) if head else (of_anchor, of_target))
    of_heads, of_tails = zip(*found, strict=True)
    return torch.cat(of_heads), torch.cat(of_tails)


def _losses(
    model: Model, lookup: Lookup, objective: Loss, score: Float[Tensor, " B"], negatives: PoolNegatives
) -> Float[Tensor, " B"]:
    """The rows' losses, with a gradient by the scores of the true triples only."""
    with torch.no_grad():
        others = model.score_against(lookup, negatives)
    mask = negatives.counts(len(score))
    if objective.needs_all:
        # The true one is among the scores then.
        others = torch.cat([score[:, None], others], dim=1)
        mask = torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)
    return objective.rows(score, others, mask, None)
