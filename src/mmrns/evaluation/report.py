"""Metrics read off ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import Ranks, rank
from mmrns.rng import generator

Metrics = dict[str, float]
By = Literal["relation", "category", "side", "unseen"]
"""How a report is broken down."""
CUTOFFS = (1, 3, 10)
DRAWS = 2**22
"""Resampled triples held at a time by the bootstrap."""
CATEGORIES = ("1-1", "1-n", "n-1", "n-n", "unseen")
"""Of relations; the last one is of those that train lacks, of which nobody knows."""
UNSEEN = ("nothing", "target", "anchor", "both", "relation")
"""What of a query train lacks: neither entity, the one that is asked for, the one that is given, both; or whatever the
entities are, the relation."""
TOO_FEW = 10
"""Fewer queries than this are not judged."""


def metrics(ranks: Float[Tensor, " n"] | Int[Tensor, " n"]) -> Metrics:
    """`mrr` (mean of 1/rank), `hits@k` (share of ranks <= k; a rank of 1.5 is no hit at 1) and `mr` (mean rank).

    >>> metrics(torch.tensor([1.0, 4.0]))
    {'mrr': 0.625, 'hits@1': 0.5, 'hits@3': 0.5, 'hits@10': 1.0, 'mr': 2.5}
    """
    return {name: float(values.mean()) for name, values in _values(ranks).items()}


def _values(ranks: Float[Tensor, " n"] | Int[Tensor, " n"]) -> dict[str, Float[Tensor, " n"]]:
    """What each metric is the mean of."""
    ranks = ranks.to(torch.float64)
    hits = {f"hits@{k}": (ranks <= k).to(torch.float64) for k in CUTOFFS}
    return {"mrr": ranks.reciprocal(), **hits, "mr": ranks}


def intervals(ranks: Ranks, samples: int, *, level: float = 0.95, seed: int = 0) -> dict[str, list[float]]:
    """Bootstrap percentile intervals of the realistic metrics: what other test triples of the same kind would give.

    It does not cover what another seed of the training would change.

    Args:
        ranks: at least one query.
        samples, level, seed: see `bootstrapped`.

    Returns:
        `[low, high]` of each metric.
    """
    return bootstrapped(ranks.triples, _values(ranks.realistic), samples, level=level, seed=seed)


def bootstrapped(
    triples: Int[Tensor, "n 3"],
    values: Mapping[str, Float[Tensor, " n"]],
    samples: int,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Bootstrap percentile intervals of means over queries.

    Triples are resampled, not queries: the two queries of a triple, and its duplicates, are drawn together, since they
    are not independent. With n_u and x_u the number of queries of triple u and the sum of their values, a sample is

        sum_u w_u x_u / sum_u w_u n_u,    w ~ Multinomial(U; 1/U, ..., 1/U)

    and the interval leaves out (1 - level) / 2 of the samples on either side. The differences of two models' values of
    the same queries give a paired interval.

    Args:
        triples: the triple behind each query; at least one.
        values: of each query, by name.
        samples: how many; 1,000 give two digits.
        level: the share of the samples within.
        seed: of the weights.

    Returns:
        `[low, high]` of each mean.
    """
    _, triple = torch.unique(triples, dim=0, return_inverse=True)
    columns = torch.stack([*values.values(), torch.ones(len(triples), dtype=torch.float64)], dim=1)
    size = int(triple.max()) + 1
    sums = columns.new_zeros(size, columns.shape[1]).index_add_(0, triple, columns)
    stream = generator(seed, "bootstrap")
    drawn: list[Tensor] = []
    for rows in torch.arange(samples).split(max(1, DRAWS // size)):
        draws = torch.randint(size, (len(rows), size), generator=stream)
        cells = (draws + torch.arange(len(rows))[:, None] * size).flatten()
        drawn.append(torch.bincount(cells, minlength=len(rows) * size).view(-1, size).to(sums) @ sums)
    total = torch.cat(drawn)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low_high = torch.quantile(total[:, :-1] / total[:, -1:], tails, dim=0)
    return dict(zip(values, low_high.T.tolist(), strict=True))


def adjusted_mean_rank_index(ranks: Ranks) -> float:
    """`1 - (MR - 1) / (E[MR] - 1)`: 1 is perfect, 0 is chance (Berrendorf et al., "On the Ambiguity of Rank-Based
    Evaluation", 2020); the expectation is that of random scores among each query's own candidates.
    """
    expected = (ranks.candidates.to(torch.float64).mean() + 1) / 2
    return float(1 - (ranks.realistic.mean() - 1) / (expected - 1)) if expected > 1 else 1.0


def policies(ranks: Ranks, bootstrap: int = 0) -> dict[str, dict[str, Any]]:
    """Metrics under the three tie policies, realistic ones with `interval` if asked; empty for no queries."""
    if not len(ranks):
        return {}
    return {
        "realistic": _realistic(ranks, bootstrap, amri=adjusted_mean_rank_index(ranks)),
        "optimistic": metrics(ranks.optimistic),
        "pessimistic": metrics(ranks.pessimistic),
    }


def _realistic(ranks: Ranks, bootstrap: int, **more: float) -> dict[str, Any]:
    found = {**metrics(ranks.realistic), **more}
    return {**found, "interval": intervals(ranks, bootstrap)} if bootstrap else found


def report(
    ranks: Ranks, graph: KnowledgeGraph, bootstrap: int = 0, candidates: Candidates | None = None
) -> dict[str, Any]:
    """The object that `results.json` holds for a split.

    Args:
        ranks: of the split.
        graph: `seen` are the triples whose head, relation and tail all occur in its train, `unseen` the others; these
            are under `cold_start` as `breakdown` by `unseen` has them.
        bootstrap: samples for the `interval` of each realistic metric; 0 = none.
        candidates: what was ranked among.
    """
    seen = graph.seen_triples(ranks.triples)
    cold = breakdown(ranks.where(~seen), graph, "unseen", bootstrap, candidates)
    return {
        "both": policies(ranks, bootstrap),
        "head": policies(ranks.where(ranks.head), bootstrap),
        "tail": policies(ranks.where(~ranks.head), bootstrap),
        "seen": policies(ranks.where(seen), bootstrap),
        "unseen": policies(ranks.where(~seen), bootstrap),
        "cold_start": cold,
        "queries": len(ranks),
        "ties": int((ranks.pessimistic > ranks.optimistic).sum()),
        "outside": int(ranks.outside.sum()),
    }


def relation_categories(graph: KnowledgeGraph) -> list[str]:
    """Category of each relation in train: `n` on a side with 1.5 or more entities a counterpart (Bordes 2013).

    A relation that train lacks is `unseen`.
    """
    return [CATEGORIES[place] for place in _categories(graph).tolist()]


def _categories(graph: KnowledgeGraph) -> Int[Tensor, " R"]:
    triples, heads, tails = graph.relation_sizes
    many_heads, many_tails = triples / tails.clamp(min=1) >= 1.5, triples / heads.clamp(min=1) >= 1.5
    return torch.where(triples > 0, 2 * many_heads.long() + many_tails.long(), CATEGORIES.index("unseen"))


def breakdown(
    ranks: Ranks,
    graph: KnowledgeGraph,
    by: By,
    bootstrap: int = 0,
    candidates: Candidates | None = None,
) -> list[dict[str, Any]]:
    """Realistic metrics of each part of the queries, most queries first; see `report`.

    By `unseen` the parts are what of a query train lacks (`UNSEEN`), each side for itself, and rows say more: `side`,
    `amri`, and of relation frequency `frequency_mrr` and `frequency_amri`.

    Args:
        ranks: of the queries.
        graph: theirs.
        by: relation, relation category, side, or what train lacks.
        bootstrap: samples for the `interval` of each metric; 0 = none.
        candidates: what was ranked among, for relation frequency.
    """
    relation = ranks.triples[:, 1]
    if by == "unseen":
        return _by_unseen(ranks, graph, bootstrap, candidates)
    if by == "relation":
        group, names = relation, graph.relations
    elif by == "category":
        group, names = _categories(graph)[relation], CATEGORIES
    else:
        group, names = ranks.head.long(), ("tail", "head")
    found = {names[place]: ranks.where(group == place) for place in group.unique().tolist()}
    # By name where they have as many queries.
    rows = [{by: name, "queries": len(part)} | _realistic(part, bootstrap) for name, part in sorted(found.items())]
    return sorted(rows, key=lambda row: -row["queries"])


def _by_unseen(
    ranks: Ranks, graph: KnowledgeGraph, bootstrap: int, candidates: Candidates | None
) -> list[dict[str, Any]]:
    group = _unseen(ranks, graph)
    rows: list[dict[str, Any]] = []
    for head, side in enumerate(("tail", "head")):
        for place, name in enumerate(UNSEEN):
            part = ranks.where((ranks.head == bool(head)) & (group == place))
            if not len(part):
                continue
            usual = rank(RelationFrequency(graph), part.triples, graph.known_index, candidates=candidates)
            usual = usual.where(usual.head == bool(head))
            row: dict[str, Any] = {"unseen": name, "side": side, "queries": len(part)}
            row |= _realistic(part, bootstrap, amri=adjusted_mean_rank_index(part))
            row["frequency_mrr"] = metrics(usual.realistic)["mrr"]
            row["frequency_amri"] = adjusted_mean_rank_index(usual)
            rows.append(row)
    return sorted(rows, key=lambda row: -row["queries"])


def _unseen(ranks: Ranks, graph: KnowledgeGraph) -> Int[Tensor, " n"]:
    """What of each query train lacks, as a place in `UNSEEN`."""
    h, r, t = ranks.triples.unbind(1)
    head, tail = ~graph.seen_entities[h], ~graph.seen_entities[t]
    target, anchor = torch.where(ranks.head, head, tail), torch.where(ranks.head, tail, head)
    return torch.where(graph.seen_relations[r], target.long() + 2 * anchor.long(), len(UNSEEN) - 1)


def shortcomings(found: Mapping[str, Any]) -> list[str]:
    """Where a model is of no use to entities without a triple in train, in at most two lines.

    Args:
        found: a `report`.
    """
    rows = [row for row in found.get("cold_start", []) if row["queries"] >= TOO_FEW and row["unseen"] != "relation"]
    where = {
        "target": "as the {side} asked for",
        "anchor": "where the {side} is asked for",
        "both": "as both, where the {side} is asked for",
    }

    def told(key: str, than: str, below: Callable[[Any], bool]) -> str:
        parts: list[str] = []
        for row in filter(below, rows):
            place = where[row["unseen"]].format(side=row["side"])
            parts.append(f"{row[key]:.2g}{than.format(**row)} {place}")
        return "; ".join(parts)

    lines: list[str] = []
    if below := told("mrr", " against {frequency_mrr:.2g}", lambda row: row["mrr"] < row["frequency_mrr"]):
        lines.append(f"On entities without train triples the model ranks below relation frequency: MRR {below}.")
    if worse := told("amri", "", lambda row: row["amri"] < 0):
        lines.append(f"On entities without train triples the model ranks worse than chance: AMRI {worse}.")
    return lines
