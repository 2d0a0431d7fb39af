"""Metrics read off ranks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import Ranks

Metrics = dict[str, float]
CUTOFFS = (1, 3, 10)
CATEGORIES = ("1-1", "1-n", "n-1", "n-n")


def metrics(ranks: Float[Tensor, " n"] | Int[Tensor, " n"]) -> Metrics:
    """`mrr` (mean of 1/rank), `hits@k` (share of ranks <= k; a rank of 1.5 is no hit at 1) and `mr` (mean rank).

    >>> metrics(torch.tensor([1.0, 4.0]))
    {'mrr': 0.625, 'hits@1': 0.5, 'hits@3': 0.5, 'hits@10': 1.0, 'mr': 2.5}
    """
    ranks = ranks.to(torch.float64)
    found = {"mrr": float(ranks.reciprocal().mean())}
    found |= {f"hits@{k}": float((ranks <= k).to(torch.float64).mean()) for k in CUTOFFS}
    return found | {"mr": float(ranks.mean())}


def adjusted_mean_rank_index(ranks: Ranks) -> float:
    """`1 - (MR - 1) / (E[MR] - 1)`: 1 is perfect, 0 is chance (Berrendorf et al., "On the Ambiguity of Rank-Based
    Evaluation", 2020); the expectation is that of random scores among each query's own candidates.
    """
    expected = (ranks.candidates.to(torch.float64).mean() + 1) / 2
    return float(1 - (ranks.realistic.mean() - 1) / (expected - 1)) if expected > 1 else 1.0


def policies(ranks: Ranks) -> dict[str, Metrics]:
    """Metrics under the three tie policies; empty for no queries."""
    if not len(ranks):
        return {}
    return {
        "realistic": metrics(ranks.realistic) | {"amri": adjusted_mean_rank_index(ranks)},
        "optimistic": metrics(ranks.optimistic),
        "pessimistic": metrics(ranks.pessimistic),
    }


def report(ranks: Ranks, graph: KnowledgeGraph) -> dict[str, Any]:
    """The object that `results.json` holds for a split; `seen` are the triples whose entities both occur in train."""
    seen = graph.seen_entities[ranks.triples[:, [0, 2]]].all(1)
    return {
        "both": policies(ranks),
        "head": policies(ranks.where(ranks.head)),
        "tail": policies(ranks.where(~ranks.head)),
        "seen": policies(ranks.where(seen)),
        "queries": len(ranks),
        "ties": int((ranks.pessimistic > ranks.optimistic).sum()),
    }


def relation_categories(graph: KnowledgeGraph) -> list[str]:
    """Category of each relation in train: `n` on a side with 1.5 or more entities a counterpart (Bordes 2013)."""
    triples, heads, tails = graph.relation_sizes
    many_heads = (triples / tails.clamp(min=1) >= 1.5).tolist()
    many_tails = (triples / heads.clamp(min=1) >= 1.5).tolist()
    return [CATEGORIES[2 * a + b] for a, b in zip(many_heads, many_tails, strict=True)]


def breakdown(ranks: Ranks, graph: KnowledgeGraph, by: Literal["relation", "category", "side"]) -> list[dict[str, Any]]:
    """Realistic metrics of each relation, relation category or side, most queries first."""
    relation = ranks.triples[:, 1].tolist()
    if by == "relation":
        labels = [graph.relations[r] for r in relation]
    elif by == "category":
        categories = relation_categories(graph)
        labels = [categories[r] for r in relation]
    else:
        labels = ["head" if head else "tail" for head in ranks.head.tolist()]
    names = sorted(set(labels))
    code = {name: i for i, name in enumerate(names)}
    group = torch.tensor([code[label] for label in labels], dtype=torch.int64)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        part = ranks.where(group == i)
        rows.append({by: name, "queries": len(part)} | metrics(part.realistic))
    return sorted(rows, key=lambda row: -row["queries"])
