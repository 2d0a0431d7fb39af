"""Does a model see? What its ranks lose where its features are others than the true ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mmrns.data.features import Alteration
from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import Ranks
from mmrns.evaluation.report import TOO_FEW, bootstrapped

ALTERATIONS: Mapping[str, Alteration] = {
    "shuffled": "shuffled",
    "dropped 10 %": 0.1,
    "dropped 30 %": 0.3,
    "dropped 50 %": 0.5,
    "noise": "noise",
    "without": 1.0,
}
"""What takes the place of a modality, by the name that a table has for it; see `Modality.altered`."""
TRUE = "true"
"""What stands for the features as they are."""
_TOGETHER = ("shuffled", "without")
_DETERMINED = ("without",)
_FEW = 0.25


@dataclass(frozen=True)
class Altered:
    """Features that a model is to be ranked with.

    Attributes:
        modality: which of them are not the true ones; `all` for every one that the model reads.
        features: the name of what they are instead.
        how: by modality what is done.
        seeds: of the draws; one where nothing is drawn.
    """

    modality: str
    features: str
    how: Mapping[str, Alteration]
    seeds: tuple[int, ...]


def alterations(modalities: Iterable[str], seeds: int, names: Iterable[str] = ALTERATIONS) -> list[Altered]:
    """Everything that is tried: each modality by itself; where there are several, all of them at once as well.

    Args:
        modalities: what the model reads.
        seeds: how many draws of what is drawn.
        names: which of `ALTERATIONS`.
    """
    several: dict[str, tuple[str, ...]] = {name: (name,) for name in modalities}
    if len(several) > 1:
        several["all"] = tuple(several)
    return [
        Altered(
            modality, name, dict.fromkeys(each, ALTERATIONS[name]), tuple(range(1 if name in _DETERMINED else seeds))
        )
        for modality, each in several.items()
        for name in names
        if len(each) == 1 or name in _TOGETHER
    ]


def parts_of(ranks: Ranks, graph: KnowledgeGraph) -> dict[str, Bool[Tensor, " n"]]:
    """Which queries are of each part; a part that has none is left out.

    - `all`: every query.
    - `few`: those whose answer has few triples in train: no more than the answers of a quarter of the queries, without
      those that it lacks.
    - `unseen`: those of triples of which train lacks an entity, which is known by features alone.

    Args:
        ranks: the queries.
        graph: of the training.
    """
    target = torch.where(ranks.head, ranks.triples[:, 0], ranks.triples[:, 2])
    degree = torch.bincount(graph.train[:, [0, 2]].flatten(), minlength=len(graph.entities))[target]
    unseen = ~graph.seen_entities[ranks.triples[:, [0, 2]]].all(1)
    parts = {"all": torch.ones_like(unseen), "unseen": unseen}
    seen = degree > 0
    if seen.any():
        parts["few"] = seen & (degree <= degree[seen].double().quantile(_FEW))
    return {name: parts[name] for name in ("all", "few", "unseen") if name in parts and parts[name].any()}


def sight(
    true: Ranks, tried: Sequence[tuple[Altered, Sequence[Ranks]]], graph: KnowledgeGraph, bootstrap: int
) -> list[dict[str, Any]]:
    """What each alteration takes from the MRR of each part of the queries.

    Args:
        true: with the features as they are.
        tried: the same queries with others, for each seed.
        graph: of the training.
        bootstrap: samples for the interval of the difference; 0 = none.

    Returns:
        Rows of `modality` and `features` (None and `true` for the features as they are), `part`, `queries`, `seeds`,
        `mrr`, the mean over the seeds; `deviation`, their standard deviation, None of one; `difference` from the true
        features, and `low` and `high`, the ends of its interval (see `bootstrapped`), None without.
    """
    parts, before = parts_of(true, graph), 1 / true.realistic
    rows = [_row(None, TRUE, part, [before[mine]]) for part, mine in parts.items()]
    for altered, several in tried:
        after = [1 / ranks.realistic for ranks in several]
        change = torch.stack(after).mean(0) - before
        for part, mine in parts.items():
            row = _row(altered.modality, altered.features, part, [values[mine] for values in after])
            row["difference"] = float(change[mine].mean())
            if bootstrap:
                found = bootstrapped(true.triples[mine], {"mrr": change[mine]}, bootstrap)["mrr"]
                row |= dict(zip(("low", "high"), found, strict=True))
            rows.append(row)
    return rows


def _row(modality: str | None, features: str, part: str, values: Sequence[Tensor]) -> dict[str, Any]:
    means = torch.stack([one.mean() for one in values])
    return {
        "modality": modality,
        "features": features,
        "part": part,
        "queries": len(values[0]),
        "seeds": len(values),
        "mrr": float(means.mean()),
        "deviation": float(means.std()) if len(values) > 1 else None,
        "difference": None,
        "low": None,
        "high": None,
    }


def sight_by_relation(
    true: Ranks, tried: Sequence[tuple[Altered, Sequence[Ranks]]], graph: KnowledgeGraph
) -> list[dict[str, Any]]:
    """What each alteration takes from the MRR of each relation that has ten queries or more, the most first.

    Args:
        true, tried, graph: see `sight`.

    Returns:
        Rows of `relation`, `modality`, `features`, `queries`, `mrr` with the true features, and `difference`.
    """
    relation, before = true.triples[:, 1], 1 / true.realistic
    queries = torch.bincount(relation, minlength=len(graph.relations))

    def means(values: Tensor) -> Tensor:
        return torch.bincount(relation, values, minlength=len(queries)) / queries.clamp(min=1)

    mrr, rows = means(before), list[dict[str, Any]]()
    for altered, several in tried:
        change = means(torch.stack([1 / ranks.realistic for ranks in several]).mean(0) - before)
        rows += [
            {
                "relation": graph.relations[place],
                "modality": altered.modality,
                "features": altered.features,
                "queries": int(queries[place]),
                "mrr": float(mrr[place]),
                "difference": float(change[place]),
            }
            for place in (queries >= TOO_FEW).nonzero().squeeze(1).tolist()
        ]
    return sorted(rows, key=lambda row: row["difference"])
