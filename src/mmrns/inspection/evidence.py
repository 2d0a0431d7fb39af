"""What speaks for a triple in train and in the model: plain values, for `mmrns explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import refuse_not_finite
from mmrns.inspection.draws import SPLITS, Side
from mmrns.inspection.influence import influence
from mmrns.inspection.parts import Part, candidates_of, parts_of, rank_among
from mmrns.inspection.rules import Paths, Rules, Steps
from mmrns.inspection.similarity import Similarities
from mmrns.nn.losses import Loss
from mmrns.nn.model import Model
from mmrns.types import Batch


class Statement(TypedDict):
    """A triple of train, by ids."""

    head: str
    relation: str
    tail: str


class Similar(Statement):
    """A train triple of the same relation in which `entity` stands in the place of the head or the tail of the triple
    that is explained (`instead_of`): its `similarity` to that, a cosine, `by` structure or by a modality.
    """

    entity: str
    instead_of: Side
    by: str
    similarity: float


class Inverse(Statement):
    """A train triple of the same two entities, in either direction, by a relation that implies the one asked about.

    Of the other pairs that this relation joins in train (in this direction) `confidence` is the share that the relation
    asked about joins as well, `support` their number.
    """

    confidence: float
    support: int


class Path(TypedDict):
    """Two train `triples`, (head, relation, tail) each, that lead from the head to the tail over another entity.

    Each may be followed in either direction. `confidence` and `support` are as those of `Inverse`, of all other pairs
    that two such steps join.
    """

    triples: list[list[str]]
    confidence: float
    support: int


class Influence(Statement):
    """A train triple without which the score would `change` by so much, to first order; see `influence`."""

    change: float


class Explanation(TypedDict):
    """The answer of `Run.explain`: what speaks for a triple whose end `side` is asked for.

    `score` is the model's; `rank` its place among `candidates` entities, those that make no other known triple (of
    equal ones the mean, rounded down; the anchor itself is none, unless some triple of the relation is of one entity);
    `known` the first split that holds the triple. `names` are the readable names of the entities and relations that
    occur, where they have one. The lists have the strongest first, `similar` by one measure after the other. All
    triples in them are of train, and none is the triple itself, but in `influence`, where train has it.
    """

    head: str
    relation: str
    tail: str
    side: Side
    names: dict[str, str]
    score: float
    rank: int
    candidates: int
    known: str | None
    parts: list[Part]
    similar: list[Similar]
    inverse: list[Inverse]
    paths: list[Path]
    influence: list[Influence]


@torch.no_grad()
def explain(
    model: Model,
    dataset: Dataset,
    trained: KnowledgeGraph,
    rules: Rules,
    objective: Loss,
    triple: tuple[int, int, int],
    side: Side,
    *,
    top: int,
    device: torch.device,
) -> Explanation:
    """The evidence for a triple.

    Args:
        model: whose score is explained.
        dataset: its names, its features, and which triples are known.
        trained: the graph of the training, in the same ids: the evidence is of its train.
        rules: of that graph.
        objective: the loss of the training.
        triple: (h, r, t), true or not.
        side: the end that is asked for.
        top: so many of each list; of `similar`, by each measure.
        device: where the model is.

    Raises:
        Diverged: a score is not finite.
    """
    said = _Said(dataset)
    h, r, t = triple
    batch = Batch.of(torch.tensor([triple]), side == "head")
    among, target = candidates_of(dataset.graph, batch), int(batch.target[0])
    lookup, every = model.lookup(batch.to(device)), model.entity.all()
    scores = model.compare(lookup.query, every)[0].cpu()
    refuse_not_finite(scores)
    similarities = Similarities(model, dataset, device)
    near, change = influence(model, trained, triple, side == "head", objective, device)
    found: Explanation = {
        **said.triple(h, r, t),
        "side": side,
        "names": {},
        "score": float(scores[target]),
        "rank": rank_among(scores, among, target),
        "candidates": int(among.sum()),
        "known": _split(dataset.graph, triple),
        "parts": parts_of(model, lookup, every, among, target),
        "similar": [
            one for by in similarities.measures for one in _similar(said, trained, triple, similarities, by, top)
        ],
        "inverse": _inverse(said, rules.steps(h, r, t), h, t, top),
        "paths": _paths(said, rules.paths(h, r, t), h, t, top),
        "influence": _harmful(said, near, change, top),
    }
    found["names"] = said.names
    return found


class _Said:
    """Says ids in names, and remembers the readable names of what it said."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.names: dict[str, str] = {}

    def entity(self, i: int) -> str:
        return self._named(self._dataset.graph.entities[i], self._dataset.labels)

    def triple(self, h: int, r: int, t: int) -> Statement:
        relation = self._named(self._dataset.graph.relations[r], self._dataset.relation_labels)
        return {"head": self.entity(h), "relation": relation, "tail": self.entity(t)}

    def step(self, x: int, step: int, y: int) -> Statement:
        """The triple of a step from one entity to another."""
        r, backward = divmod(step, 2)
        return self.triple(y, r, x) if backward else self.triple(x, r, y)

    def _named(self, name: str, labels: Mapping[str, str]) -> str:
        if name in labels:
            self.names[name] = labels[name]
        return name


def _split(graph: KnowledgeGraph, triple: tuple[int, int, int]) -> str | None:
    """The first split that holds a triple."""
    wanted = torch.tensor(triple)
    return next((split for split in SPLITS if (getattr(graph, split) == wanted).all(1).any()), None)


def _similar(
    said: _Said,
    trained: KnowledgeGraph,
    triple: tuple[int, int, int],
    similarities: Similarities,
    by: str,
    top: int,
) -> list[Similar]:
    """The train triples of the relation in which an entity takes the place of a similar one, by one measure."""
    h, r, t = triple
    found: list[tuple[float, bool, int]] = []
    for head, anchor, replaced in ((True, t, h), (False, h, t)):
        _, others = trained.train_index.targets(torch.tensor([anchor]), torch.tensor([r]), head)
        others = others[others != replaced]
        similarity = similarities.to(replaced, others, by).nan_to_num(-1)
        value, place = similarity.sort(descending=True, stable=True)
        found += [(float(value[i]), head, int(others[place[i]])) for i in range(min(top, len(others)))]
    found = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
    return [
        {
            **(said.triple(entity, r, t) if head else said.triple(h, r, entity)),
            "entity": said.entity(entity),
            "instead_of": "head" if head else "tail",
            "by": by,
            "similarity": similarity,
        }
        for similarity, head, entity in found[:top]
    ]


def _inverse(said: _Said, steps: Steps, h: int, t: int, top: int) -> list[Inverse]:
    columns = (column[:top].tolist() for column in (steps.step, steps.confidence, steps.support))
    return [
        {**said.step(h, step, t), "confidence": confidence, "support": support}
        for step, confidence, support in zip(*columns, strict=True)
    ]


def _paths(said: _Said, paths: Paths, h: int, t: int, top: int) -> list[Path]:
    columns = (paths.first, paths.via, paths.second, paths.confidence, paths.support)
    found: list[Path] = []
    for first, via, second, confidence, support in zip(*(column[:top].tolist() for column in columns), strict=True):
        two = said.step(h, first, via), said.step(via, second, t)
        triples = [[one["head"], one["relation"], one["tail"]] for one in two]
        found.append({"triples": triples, "confidence": confidence, "support": support})
    return found


def _harmful(said: _Said, near: Int[Tensor, "n 3"], change: Float[Tensor, " n"], top: int) -> list[Influence]:
    """Those whose removal would lower the score, the most harmful first."""
    order = change.argsort(stable=True)[:top]
    order = order[change[order] < 0]
    return [
        {**said.triple(h, r, t), "change": by}
        for (h, r, t), by in zip(near[order].tolist(), change[order].tolist(), strict=True)
    ]
