"""What samplers draw for a triple with a run's model, and why: plain values, for `mmrns inspect`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.tokens import WHOLE
from mmrns.errors import UsageError
from mmrns.evaluation.ranking import refuse_not_finite
from mmrns.inspection.pictures import pictures_of
from mmrns.nn.model import Model
from mmrns.samplers.base import Sampler
from mmrns.samplers.explanation import AttentionMap, Evidence
from mmrns.training.batches import Batches
from mmrns.types import Batch

Side = Literal["head", "tail"]
SPLITS = ("train", "valid", "test")
_EXACT = 1e-6
"""Two proposals that differ by no more are the same: the rounding of a product depends on the batch around it."""


class Negative(TypedDict):
    """One entity that was drawn.

    `probability` and `drawn` are those of `Drawn`; `score` and `rank` the model's, rank 1 being the best of all
    entities; `known` the first split that holds the triple with this entity; `similarities` by what the sampler
    compares, None where one of the two entities has nothing to compare; `pmi` their weighted sum, None where one of
    them is None or the sampler has no weights.
    """

    entity: str
    probability: float
    drawn: int
    score: float
    rank: int
    known: str | None
    similarities: dict[str, float | None]
    pmi: float | None


class Cells(TypedDict):
    """A grid over a picture of the entity, whose cells in reading order are rows x columns tokens; see `Patches`."""

    picture: str | None
    rows: int
    columns: int
    box: tuple[float, float, float, float] | None


class TokenList(TypedDict):
    """The tokens of an entity in one modality, as far as its features say what they are (`Modality.made_of`).

    Which of them are `present`; the words of each of these as `labels`; or the `grids` over the entity's pictures whose
    cells they are, one grid after the other. `grid` are the rows and columns where there is one grid, over the whole of
    a picture.
    """

    present: list[bool]
    labels: list[str] | None
    grid: tuple[int, int] | None
    grids: list[Cells]


class HeatMap(TypedDict):
    """How the tokens of the modality `reads` are read, guided by those of `guide`; numbers by [token read][guiding
    token]: `affinity` C, `attention` its softmax over the tokens read, `gate` of the relation.
    """

    reads: str
    guide: str
    affinity: list[list[float]]
    attention: list[list[float]]
    gate: list[list[float]]


class Attention(TypedDict):
    """The attention over an `entity` under the relation of its query: `maps` and `tokens` by modality.

    Where several modalities guide one together, their tokens are there as well under the name of that `guide`.
    """

    entity: str
    tokens: dict[str, TokenList]
    maps: list[HeatMap]


class Drawn(TypedDict):
    """What one sampler drew for one query.

    `trained` is None where a sampler has nothing to train. `probability` of a negative is that of a draw (without
    replacement: of a row's first), `exact` where it is the same in every step and known in closed form; otherwise the
    mean over the steps of the proposals given their candidates (`closed_form`), or how often it was drawn (otherwise).
    `draws` counts all draws, `per_step` how many a step makes, `distinct` the entities drawn; `median_rank` is the
    model's rank of half of the draws or better; `known` the share of draws that each split holds. `why_not` says in
    words what a sampler cannot tell.
    """

    method: str
    trained: bool | None
    closed_form: bool
    exact: bool
    per_step: int
    draws: int
    distinct: int
    median_rank: int | None
    known: dict[str, float]
    weights: dict[str, float]
    why_not: str
    negatives: list[Negative]
    attention: Attention | None


class Query(TypedDict):
    """A triple whose `side` is replaced; `split` is the first that holds it; `score` and `rank` are the true one's."""

    head: str
    relation: str
    tail: str
    side: Side
    split: str | None
    score: float
    rank: int
    samplers: list[Drawn]


class About(TypedDict):
    """Readable `names` of entities and relations, `descriptions` and `images` (paths within the dataset folder) of
    entities, where the dataset has them.
    """

    names: dict[str, str]
    descriptions: dict[str, str]
    images: dict[str, str]


class Inspection(About):
    """The answer of `Run.inspect`: the `queries`, one a triple and side, and what occurs in them; the draws are `steps`
    for each, from `first_step` on.
    """

    dataset: str
    scorer: str
    method: str
    seed: int
    selected_step: int
    entities: int
    first_step: int
    steps: int
    queries: list[Query]


@dataclass(frozen=True)
class Drawing:
    """A sampler ready to draw: the method it is of, the batches of that method, and whether it is trained."""

    method: str
    sampler: Sampler
    batches: Batches
    trained: bool | None


@dataclass
class _Tally:
    """What the queries of a side drew so far: how often each entity, the most in a step, the sum of the proposals."""

    counts: Int[Tensor, "n E"]
    per_step: Int[Tensor, " n"]
    proposal: Float[Tensor, "n E"] | None = None
    first: Float[Tensor, "n E"] | None = None
    spread: float = 0.0

    @property
    def entities(self) -> Int[Tensor, " m"]:
        """What was drawn for any of them, ascending."""
        return (self.counts > 0).any(0).nonzero().squeeze(1)


def against(dataset: Dataset, triple: tuple[int, int, int], relation: int) -> tuple[int, int, int]:
    """A triple of another relation with the same head, or else the same tail: the first by id, of train if it can be.

    Raises:
        UsageError: the dataset holds none; the message names relations that would do.
    """
    graph = dataset.graph
    h, r, t = torch.tensor(triple)[:, None].unbind()
    asked = torch.tensor([relation])
    for anchor, head in ((h, False), (t, True)):
        for index in (graph.train_index, graph.known_index):
            found = index.targets(anchor, asked, head)[1]
            if len(found):
                other = int(found[0])
                return (other, relation, triple[2]) if head else (triple[0], relation, other)
    every = torch.cat([graph.train, graph.valid, graph.test])
    fit = every[((every[:, 0] == h) | (every[:, 2] == t)) & (every[:, 1] != r)][:, 1].unique()
    names = ", ".join(graph.relations[i] for i in fit.tolist()) or "none"
    head_name, tail_name = graph.entities[triple[0]], graph.entities[triple[2]]
    raise UsageError(
        f"no triple of {graph.relations[relation]!r} has the head {head_name!r} or the tail {tail_name!r}; "
        f"relations that do: {names}"
    )


@torch.no_grad()
def inspect(
    model: Model,
    dataset: Dataset,
    drawings: Sequence[Drawing],
    triples: Int[Tensor, "n 3"],
    sides: Sequence[Side],
    *,
    first_step: int,
    steps: int,
    top: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Query]:
    """The negatives that samplers draw for triples, as in training: in the batch of a step, to which they are added.

    Args:
        model: whose scores count.
        dataset: the triples' own.
        drawings: the samplers.
        triples: (h, r, t) ids.
        sides: which to replace.
        first_step: even; the draws of the tail side are those of the even steps from here, of the head side of the odd.
        steps: draws a side.
        top: negatives to list.
        device: where model and samplers are.
        progress: told of draws made, `steps` for each side and drawing.
    """
    found: list[Query] = []
    for side in sides:
        queries = Batch.of(triples, torch.full((len(triples),), side == "head")).to(device)
        # Tallies and scores are compared on the host: not every device has 64-bit numbers.
        scores = model.score_all(queries).cpu()
        refuse_not_finite(scores)
        ranks = _ranks(scores)
        known = _known(dataset, triples, side == "head")
        drawn = [
            _draw(d, model, queries, triples, side == "head", first_step, steps, dataset, progress) for d in drawings
        ]
        evidence = [
            d.sampler.evidence(queries, tally.entities.to(device), model)
            for d, tally in zip(drawings, drawn, strict=True)
        ]
        for i, (h, r, t) in enumerate(triples.tolist()):
            target = h if side == "head" else t
            found.append(
                {
                    "head": dataset.graph.entities[h],
                    "relation": dataset.graph.relations[r],
                    "tail": dataset.graph.entities[t],
                    "side": side,
                    "split": _first_split(known[i, :, target]),
                    "score": float(scores[i, target]),
                    "rank": int(ranks[i, target]),
                    "samplers": [
                        _described(dataset, d, tally, seen, scores[i], ranks[i], known[i], i, target, top)
                        for d, tally, seen in zip(drawings, drawn, evidence, strict=True)
                    ],
                }
            )
    # Triple by triple, the sides of each together.
    return [found[s * len(triples) + i] for i in range(len(triples)) for s in range(len(sides))]


def about(dataset: Dataset, queries: Sequence[Query]) -> About:
    """What the dataset tells in words and pictures of what occurs in some queries."""
    entities = {q[end] for q in queries for end in ("head", "tail")}
    entities |= {n["entity"] for q in queries for s in q["samplers"] for n in s["negatives"]}

    def those(column: Mapping[str, str], among: set[str]) -> dict[str, str]:
        return {key: column[key] for key in sorted(among) if key in column}

    names = those(dataset.labels, entities) | those(dataset.relation_labels, {q["relation"] for q in queries})
    pictures = {entity: pictures_of(dataset, entity) for entity in entities}
    return {
        "names": names,
        "descriptions": those(dataset.descriptions, entities),
        "images": those({entity: found[0] for entity, found in pictures.items() if found}, entities),
    }


def _draw(
    drawing: Drawing,
    model: Model,
    queries: Batch,
    triples: Int[Tensor, "n 3"],
    head: bool,
    first_step: int,
    steps: int,
    dataset: Dataset,
    progress: Callable[[int], None],
) -> _Tally:
    device, n = queries.h.device, len(queries)
    shape = (n, len(dataset.graph.entities))
    counted = torch.zeros(shape, dtype=torch.int64)
    tally = _Tally(counted, counted.new_zeros(n))
    sides = torch.full((n,), head)
    serves = drawing.sampler.serves(queries).cpu()[:, None]
    for i in range(steps):
        step = first_step + 2 * i + head
        own = drawing.batches.at(step)
        around = torch.stack([own.h, own.r, own.t], dim=1), own.head, own.weight
        parts = [torch.cat([a, b]) for a, b in zip(around, (triples, sides, torch.ones(n)), strict=True)]
        batch = Batch.of(*parts).to(device)
        # Rows are sorted by side, stably: the queries are the last of theirs.
        end = len(batch) if head else batch.n_tail
        rows = slice(end - n, end)
        negatives = drawing.sampler.draw(model.lookup(batch), model, step)
        ids = negatives.entities(len(batch))[rows].cpu()
        counts = serves & negatives.counts(len(batch))[rows].cpu()
        tally.counts.scatter_add_(1, ids, counts.long())
        tally.per_step = torch.maximum(tally.per_step, counts.sum(1))
        places = torch.arange(end - n, end, device=device)
        proposal = drawing.sampler.proposal(batch, negatives, places)
        if proposal is not None:
            proposal = torch.where(serves, proposal.cpu().double().nan_to_num(), 0.0)
            if tally.proposal is None or tally.first is None:
                tally.proposal, tally.first = torch.zeros_like(proposal), proposal
            tally.proposal += proposal
            tally.spread = max(tally.spread, float((proposal - tally.first).abs().max()))
        progress(1)
    if tally.proposal is not None:
        tally.proposal /= steps
    return tally


def _described(
    dataset: Dataset,
    drawing: Drawing,
    tally: _Tally,
    evidence: Evidence,
    scores: Float[Tensor, " E"],
    ranks: Int[Tensor, " E"],
    known: Tensor,
    row: int,
    target: int,
    top: int,
) -> Drawn:
    counts = tally.counts[row]
    total = int(counts.sum())
    closed_form = tally.proposal is not None
    probability = counts.double() / max(total, 1) if tally.proposal is None else tally.proposal[row]
    column = {e: i for i, e in enumerate(tally.entities.tolist())}
    order = counts.nonzero().squeeze(1)
    # By probability, then by draws, then by id; what an exact proposal holds equal may differ by rounding.
    order = order[torch.argsort(counts[order], descending=True, stable=True)]
    order = order[torch.argsort(probability[order].float(), descending=True, stable=True)]
    weights = {name: float(w[row]) for name, w in evidence.weights.items()}
    negatives: list[Negative] = []
    for e in order[:top].tolist():
        similarities = {name: _finite(s[row, column[e]]) for name, s in evidence.similarities.items()}
        negatives.append(
            {
                "entity": dataset.graph.entities[e],
                "probability": float(probability[e]),
                "drawn": int(counts[e]),
                "score": float(scores[e]),
                "rank": int(ranks[e]),
                "known": _first_split(known[:, e]),
                "similarities": similarities,
                "pmi": _pmi(similarities, weights),
            }
        )
    why_not = evidence.why_not
    if not total:
        why_not = "it has nothing to draw for this query: " + (
            "every entity is true in train" if bool(known[0].all()) else "no triple of train asks it"
        )
    return {
        "method": drawing.method,
        "trained": drawing.trained,
        "closed_form": closed_form,
        "exact": closed_form and tally.spread <= _EXACT,
        "per_step": int(tally.per_step[row]),
        "draws": total,
        "distinct": len(order),
        "median_rank": _median_rank(counts, ranks) if total else None,
        "known": {split: float((counts * known[s]).sum()) / max(total, 1) for s, split in enumerate(SPLITS)},
        "weights": weights,
        "why_not": why_not,
        "negatives": negatives,
        "attention": _attention(dataset, evidence, row, target) if evidence.maps else None,
    }


def _pmi(similarities: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    total = 0.0
    for name, weight in weights.items():
        similarity = similarities[name]
        if weight and similarity is None:
            return None
        total += weight * (similarity or 0.0)
    return total if any(weights.values()) else None


def _attention(dataset: Dataset, evidence: Evidence, row: int, target: int) -> Attention:
    entity = dataset.graph.entities[target]
    own = {one.reads: _tokens(dataset, one.reads, entity, one.read_mask[row]) for one in evidence.maps}
    together = {
        one.guide: _joined({name: tokens for name, tokens in own.items() if name != one.reads})
        for one in evidence.maps
        if one.guide not in own
    }
    return {"entity": entity, "tokens": own | together, "maps": [_heat_map(one, row) for one in evidence.maps]}


def _joined(parts: Mapping[str, TokenList]) -> TokenList:
    """The tokens of modalities that guide together, one modality after the other."""
    labels: list[str] = []
    for name, part in parts.items():
        numbered = [f"{name} {i + 1}" for i, there in enumerate(part["present"]) if there]
        labels += part["labels"] or numbered
    present = [there for part in parts.values() for there in part["present"]]
    return {"present": present, "labels": labels, "grid": None, "grids": []}


def _heat_map(one: AttentionMap, row: int) -> HeatMap:
    def numbers(values: Tensor) -> list[list[float]]:
        return values[row].tolist()

    return {
        "reads": one.reads,
        "guide": one.guide,
        "affinity": numbers(one.affinity),
        "attention": numbers(one.attention),
        "gate": numbers(one.gate),
    }


def _tokens(dataset: Dataset, modality: str, entity: str, mask: Tensor) -> TokenList:
    present: list[bool] = mask.tolist()
    made_of = dataset.features[modality].made_of(dataset.graph.entities.id(entity))
    labels = [one for one in made_of if isinstance(one, str)]
    cells = [one for one in made_of if not isinstance(one, str)]
    grids = cells if sum(one.tokens for one in cells) == sum(present) else []
    whole = len(grids) == 1 and grids[0].box == WHOLE and grids[0].tokens == len(present)
    return {
        "present": present,
        "labels": labels if labels and len(labels) == sum(present) else None,
        "grid": (grids[0].rows, grids[0].columns) if whole else None,
        "grids": [{"picture": g.picture, "rows": g.rows, "columns": g.columns, "box": g.box} for g in grids],
    }


def _ranks(scores: Float[Tensor, "n E"]) -> Int[Tensor, "n E"]:
    """1 + the number of entities that score higher."""
    ascending = (-scores).sort(dim=1).values
    return torch.searchsorted(ascending, -scores) + 1


def _known(dataset: Dataset, triples: Int[Tensor, "n 3"], head: bool) -> Tensor:
    """Bool[n 3 E]: which entities make a triple of each split in the place of each triple's head or tail."""
    graph = dataset.graph
    known = torch.zeros(len(triples), len(SPLITS), len(graph.entities), dtype=torch.bool)
    anchor = 2 if head else 0
    for i, triple in enumerate(triples):
        for s, rows in enumerate((graph.train, graph.valid, graph.test)):
            same = (rows[:, anchor] == triple[anchor]) & (rows[:, 1] == triple[1])
            known[i, s, rows[same][:, 2 - anchor]] = True
    return known


def _first_split(held: Tensor) -> str | None:
    return next((split for split, held_by in zip(SPLITS, held.tolist(), strict=True) if held_by), None)


def _median_rank(counts: Int[Tensor, " E"], ranks: Int[Tensor, " E"]) -> int:
    order = torch.argsort(ranks)
    half = torch.searchsorted(counts[order].cumsum(0), (int(counts.sum()) + 1) // 2)
    return int(ranks[order[half]])


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
