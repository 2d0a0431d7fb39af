"""What a calibration needs of a model to judge triples: their scores, and the totals of their queries."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.answers import drop_anchors, drop_known
from mmrns.evaluation.calibration import Calibration
from mmrns.evaluation.ranking import SCORES, refuse_not_finite
from mmrns.nn.model import Model
from mmrns.types import Batch


def totals_of(
    scores: Float[Tensor, "B E"], batch: Batch, graph: KnowledgeGraph, calibration: Calibration
) -> Float[Tensor, " B"]:
    """The totals of queries; see `Calibration.log_totals`.

    Args:
        scores: of every entity, -inf for the anchors; they stay as they are.
        batch: the queries.
        graph: whose triples are known.
        calibration: which has the temperatures.
    """
    competing = scores.clone()
    drop_known(competing, batch, graph.known_index)
    return calibration.log_totals(competing, batch.r)


@torch.no_grad()
def totals(
    model: Model,
    graph: KnowledgeGraph,
    triples: Int[Tensor, "n 3"],
    head: bool,
    calibration: Calibration,
    device: torch.device,
    memory_mb: float | int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The score of each triple as an answer on one side, and the total of its query, each distinct query once.

    Args:
        model: scores.
        graph: whose ids the triples are, and whose triples are known.
        triples: true or not.
        head: the side that is asked for: True the head, False the tail.
        calibration: which has the temperatures.
        device: where the model is.
        memory_mb: bound on what the model holds beside the scores, in MiB.

    Raises:
        Diverged: a score is not finite.
    """
    score, total = torch.empty(len(triples)), torch.empty(len(triples), dtype=torch.float64)
    # By relation, so that a chunk holds few of them.
    _, query = torch.unique(triples[:, [1, 2 if head else 0]], dim=0, return_inverse=True)
    order = torch.argsort(query, stable=True)
    sharing = torch.bincount(query)
    size = max(1, SCORES // (4 * len(graph.entities)))
    for mine in order.split([int(part.sum()) for part in sharing.split(size)] if len(order) else [0]):
        if not len(mine):
            continue
        distinct, row = torch.unique_consecutive(query[mine], return_inverse=True)
        first = torch.searchsorted(query[mine].contiguous(), distinct)
        # One side only, so that the rows keep their order.
        batch = Batch.of(triples[mine[first]], head)
        scores = model.score_all(batch.to(device), memory_mb)
        refuse_not_finite(scores)
        answer = triples[mine, 0 if head else 2]
        score[mine] = scores[row.to(device), answer.to(device)].float().cpu()
        drop_anchors(scores, batch, graph.reflexive_relations)
        total[mine] = totals_of(scores, batch, graph, calibration)[row]
    return score, total
