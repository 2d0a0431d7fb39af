"""Queries, triples of which one part is asked for: as users give them, and what answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.data.arrays import triples_frame
from mmrns.data.folders import COLUMNS
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_lines
from mmrns.errors import DataError, UsageError, note
from mmrns.evaluation.answers import drop_anchors, drop_known
from mmrns.evaluation.calibration import Calibration
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import SCORES, refuse_not_finite
from mmrns.nn.model import Model
from mmrns.runs.names import Names
from mmrns.runs.probabilities import totals, totals_of
from mmrns.types import Batch

Known = Literal["flag", "drop", "keep"]
ASKED = "?"
"""What stands for the part that is asked for; an empty field does too."""
SHOWN = 5
"""Mistakes of a file that are told at once."""
_SCHEMA = {
    "head": pl.String,
    "relation": pl.String,
    "tail": pl.String,
    "score": pl.Float64,
    "probability": pl.Float64,
    "rank": pl.Int64,
    "known": pl.Boolean,
    "seen": pl.Boolean,
    "asked": pl.String,
    "query": pl.Int64,
    **{f"{part}_name": pl.String for part in COLUMNS},
}


def schema(calibrated: bool) -> dict[str, Any]:
    """The columns of predictions; `probability` is among them where there is a calibration."""
    return {name: kind for name, kind in _SCHEMA.items() if calibrated or name != "probability"}


@dataclass(frozen=True)
class Queries:
    """Queries in ids.

    Attributes:
        triples: Int[n 3] (h, r, t), -1 for the part that is asked for.
    """

    triples: Int[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.triples)

    @property
    def asked(self) -> Int[Tensor, " n"]:
        """Which part is asked for: 0 the head, 1 the relation, 2 the tail."""
        return (self.triples < 0).int().argmax(1)

    def frame(self, entities: Names, relations: Names) -> pl.DataFrame:
        """The names of the parts, and their readable names, as in predictions; null for what is asked for."""
        # A place that is null gathers null.
        places = [pl.Series(ids.numpy()).replace(-1, None) for ids in self.triples.unbind(1)]
        parts = list(zip(COLUMNS, (entities, relations, entities), places, strict=True))
        named = {part: kind.known.names.gather(place) for part, kind, place in parts}
        return pl.DataFrame(named | {f"{part}_name": kind.labels.gather(place) for part, kind, place in parts})


def every_query(graph: KnowledgeGraph, head: bool) -> Queries:
    """Every entity and relation that some triple of the graph has together, asked for the head, or for the tail."""
    triples = torch.cat([graph.train, graph.valid, graph.test])
    triples[:, 0 if head else 2] = -1
    # By relation: so they are answered in the fewest comparisons.
    return Queries(torch.unique(triples[:, [1, 0, 2]], dim=0)[:, [1, 0, 2]])


def queries_of(triples: Any, entities: Names, relations: Names) -> Queries:
    """Queries of what `Dataset.from_triples` takes, with None, `?` or nothing for what is asked for.

    Raises:
        UsageError: not two names in a row, or they are unknown or ambiguous.
    """
    frame = triples_frame(triples, "queries", gaps=True)
    queries, mistakes = _parsed(frame, entities, relations)
    if mistakes:
        row = min(mistakes)
        told = _text(mistakes[row])
        raise UsageError(told if len(frame) == 1 else f"queries: row {row} (counted from 0): {told}")
    return queries


def read_queries(path: Path, entities: Names, relations: Names) -> Queries:
    """Read a file of queries, or with `-` the standard input.

    Rows are head TAB relation TAB tail, with `?` or nothing for what is asked for. A first row that names the columns
    tells their order, and is said. Blank lines count for nothing.

    Raises:
        DataError: unreadable, or rows that are no queries, the first few by line.
    """
    lines = read_lines(path)
    where = "standard input" if str(path) == "-" else path
    numbers = (lines.str.strip_chars() != "").arg_true()
    lines = lines.gather(numbers)
    tabs = lines.str.count_matches("\t", literal=True)
    fields = lines.str.split_exact("\t", 2).struct.rename_fields(COLUMNS).struct.unnest()
    first = 0
    if len(fields) and tabs[0] == 2 and (order := _header(fields.row(0), entities, relations)):
        note(f"{where}: the first line was taken for a header ({', '.join(order)})")
        fields = fields.rename(dict(zip(COLUMNS, order, strict=True))).select(COLUMNS)
        first = 1
    queries, mistakes = _parsed(fields, entities, relations)
    for row in (tabs != 2).arg_true():
        columns = int(tabs[row]) + 1
        mistakes[row] = f"{columns} column{'s' * (columns != 1)} where {' TAB '.join(COLUMNS)} is expected"
    told = sorted(row for row in mistakes if row >= first)
    if told:
        texts = [_text(mistakes[row]) for row in told[:SHOWN]]
        others = [f"line {numbers[row] + 1}: {text}" for row, text in zip(told[1:], texts[1:], strict=False)]
        more = [f"{len(told) - SHOWN:,} more"] if len(told) > SHOWN else []
        raise DataError(where, "; ".join([texts[0], *others, *more]), "mend the rows", numbers[told[0]] + 1)
    if first == len(fields):
        note(f"{where} holds no query")
    return Queries(queries.triples[first:])


def _header(first: tuple[str, ...], entities: Names, relations: Names) -> list[str] | None:
    """The order of the columns, where the first row names them and is no query of names that are known."""
    order = [_HEADERS.get(cell.strip().casefold(), "") for cell in first]
    if sorted(order) != sorted(COLUMNS):
        return None
    kinds = zip(first, (entities, relations, entities), strict=True)
    return None if any(int(kind.find(pl.Series([cell]))[0]) >= 0 for cell, kind in kinds) else order


_HEADERS = {
    **dict.fromkeys(("head", "h", "subject", "source"), "head"),
    **dict.fromkeys(("relation", "r", "predicate", "property"), "relation"),
    **dict.fromkeys(("tail", "t", "object", "target"), "tail"),
}


Mistakes = dict[int, "str | Callable[[], str]"]
"""What is wrong, by row; what takes long to say is said only where it is asked."""


def _text(mistake: str | Callable[[], str]) -> str:
    return mistake if isinstance(mistake, str) else mistake()


def _parsed(frame: pl.DataFrame, entities: Names, relations: Names) -> tuple[Queries, Mistakes]:
    """Rows of names as queries, and what is wrong with those that are none."""
    given = frame.select(
        pl.when((pl.col(part) != ASKED) & (pl.col(part).str.strip_chars() != "")).then(pl.col(part)) for part in COLUMNS
    )
    kinds = dict(zip(COLUMNS, (entities, relations, entities), strict=True))
    ids = torch.stack([kind.find(given[part]) for part, kind in kinds.items()], dim=1)
    mistakes: Mistakes = {}
    asked = given.select(pl.sum_horizontal(pl.col(part).is_null() for part in COLUMNS)).to_series()
    for row in (asked != 1).arg_true():
        many = "for nothing" if not asked[row] else f"for {asked[row]} of head, relation and tail"
        mistakes[row] = f"a query names two of head, relation and tail, and asks for the third; this asks {many}"
    for part, kind in kinds.items():
        unknown = pl.Series((ids[:, COLUMNS.index(part)] < 0).numpy()) & given[part].is_not_null()
        for row in unknown.arg_true():
            mistakes.setdefault(row, partial(kind.mistake, given[part][row]))
    return Queries(ids), mistakes


def answers(
    model: Model,
    graph: KnowledgeGraph,
    queries: Queries,
    entities: Names,
    relations: Names,
    *,
    trained: KnowledgeGraph,
    top: int,
    known: Known,
    among: Candidates | None,
    calibration: Calibration | None,
    device: torch.device,
    memory_mb: float | int,
) -> pl.DataFrame:
    """The best answers of each query, in the order of the queries; see `Run.predict`.

    Args:
        model: scores.
        graph: whose ids the queries are, and whose triples are known.
        queries: the queries.
        entities, relations: what they are called.
        trained: what occurs in its train is seen.
        top: answers a query.
        known: what becomes of triples of the graph.
        among: the entities that may answer; None = every one.
        calibration: what makes probabilities; None = there is no such column.
        device: where the model is.
        memory_mb: bound on what the model holds beside the scores, in MiB.

    Raises:
        Diverged: a score is not finite.
    """
    best = [_Best.none()]
    for part in range(3):
        rows = (queries.asked == part).nonzero().squeeze(1)
        # Each distinct query is answered once. Sorted by relation, so that a chunk holds few of them.
        distinct, place = torch.unique(queries.triples[rows][:, [1, 0, 2]], dim=0, return_inverse=True)
        count = len(graph.relations) if part == 1 else len(graph.entities)
        # A relation's score takes a row of a batch.
        size = max(1, SCORES // ((32 if part == 1 else 4) * count))
        for first in range(0, len(distinct), size):
            triples = distinct[first : first + size, [1, 0, 2]]
            if part == 1:
                scores, total = _of_relations(model, graph, triples, among, device), None
            else:
                scores, total = _of_entities(model, graph, triples, part == 0, among, calibration, device, memory_mb)
            if known == "drop":
                _drop_known(scores, graph, triples)
            answer, score = largest(scores, top)
            mine = ((place >= first) & (place < first + len(triples))).nonzero().squeeze(1)
            mine_of = place[mine] - first
            total = torch.full((len(triples),), torch.nan, dtype=torch.float64) if total is None else total
            best.append(_Best.of(rows[mine], answer[mine_of], score[mine_of], total[mine_of]))
    found = _Best.together(best)
    triples = queries.triples[found.query]
    triples = torch.where(triples < 0, found.answer[:, None], triples)
    # What is true has been dropped, or is looked up where it was found.
    true = torch.zeros(len(triples), dtype=torch.bool) if known == "drop" else graph.known_index.contains(*triples.T)
    probability = None
    if calibration is not None:
        # A relation that was asked for is judged by what else belongs behind the head.
        total, bare = found.total.clone(), queries.asked[found.query] == 1
        total[bare] = totals(model, graph, triples[bare], False, calibration, device, memory_mb)[1]
        probability = calibration.probability(found.score, total, triples[:, 1])
    places = [pl.Series(column.numpy()) for column in triples.unbind(1)]
    kinds = (entities, relations, entities)
    parts = list(zip(COLUMNS, kinds, places, strict=True))
    nothing = pl.Series([None], dtype=pl.Boolean).new_from_index(0, len(triples))
    return pl.DataFrame(
        {
            **{part: kind.known.names.gather(place) for part, kind, place in parts},
            "score": found.score.double().numpy(),
            **({} if probability is None else {"probability": probability.numpy()}),
            "rank": found.rank.numpy(),
            "known": nothing if known == "keep" else true.numpy(),
            "seen": trained.seen_triples(triples).numpy(),
            "asked": pl.Series(COLUMNS).gather(pl.Series(queries.asked[found.query].numpy())),
            "query": found.query.numpy() + 1,
            **{f"{part}_name": kind.labels.gather(place) for part, kind, place in parts},
        },
        schema=schema(calibration is not None),
    )


@dataclass(frozen=True)
class _Best:
    """The answers of some queries, flat: whose, which, its score and rank, and the total of its query."""

    query: Int[Tensor, " n"]
    answer: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    rank: Int[Tensor, " n"]
    total: Float[Tensor, " n"]

    @classmethod
    def none(cls) -> _Best:
        empty = torch.empty(0, dtype=torch.int64)
        return cls(empty, empty, torch.empty(0), empty, torch.empty(0, dtype=torch.float64))

    @classmethod
    def of(
        cls,
        queries: Int[Tensor, " B"],
        answer: Int[Tensor, "B k"],
        score: Float[Tensor, "B k"],
        total: Float[Tensor, " B"],
    ) -> _Best:
        """From the best of each query, whose score is -inf where there is none any more."""
        row, place = (score > -torch.inf).nonzero().unbind(1)
        return cls(queries[row], answer[row, place], score[row, place], place + 1, total[row])

    @staticmethod
    def together(parts: Sequence[_Best]) -> _Best:
        """All of them, in the order of the queries."""
        every = [torch.cat([getattr(part, field.name) for part in parts]) for field in fields(_Best)]
        order = torch.argsort(every[0], stable=True)
        return _Best(*(column[order] for column in every))


def largest(scores: Float[Tensor, "B C"], top: int) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
    """The places and values of the `top` largest of each row; of equal ones the lower place is first."""
    n = scores.shape[1]
    top = min(top, n)
    # One more shows whether the last one has equals that were left out.
    value, place = (found.cpu() for found in scores.topk(min(top + 1, n), dim=1))
    tied = (value[:, top - 1] == value[:, -1]) & (value[:, -1] > -torch.inf) if n > top else value[:, :0].any(1)
    # Equal ones come in any order.
    place, order = place.sort(dim=1)
    value, order = value.gather(1, order).sort(dim=1, descending=True, stable=True)
    place = place.gather(1, order)
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        own = scores[rows.to(scores.device)].cpu()
        place[rows, :top] = torch.argsort(own, dim=1, descending=True, stable=True)[:, :top]
        value[rows, :top] = own.gather(1, place[rows, :top])
    return place[:, :top], value[:, :top]


def _batch(triples: Int[Tensor, "B 3"]) -> Batch:
    """Queries for entities, all for the head or all for the tail, as a batch; the part asked for is any entity."""
    head = triples[:, 0] < 0
    anchor = torch.where(head, triples[:, 2], triples[:, 0])
    # One side only, so that the rows keep their order.
    return Batch.of(torch.stack([anchor, triples[:, 1], anchor], dim=1), head)


def _of_entities(
    model: Model,
    graph: KnowledgeGraph,
    triples: Int[Tensor, "B 3"],
    head: bool,
    among: Candidates | None,
    calibration: Calibration | None,
    device: torch.device,
    memory_mb: float | int,
) -> tuple[Float[Tensor, "B E"], Float[Tensor, " B"] | None]:
    """The scores of every entity, -inf where it may not be listed; and the totals for a calibration."""
    batch = _batch(triples)
    scores = model.score_all(batch.to(device), memory_mb)
    refuse_not_finite(scores)
    drop_anchors(scores, batch, graph.reflexive_relations)
    total = None if calibration is None else totals_of(scores, batch, graph, calibration)
    if among is not None:
        mask = among.mask(batch.relations, head)
        scores.masked_fill_(~mask.to(device)[batch.relation_index.to(device)], -torch.inf)
    return scores, total


def _drop_known(scores: Float[Tensor, "B C"], graph: KnowledgeGraph, triples: Int[Tensor, "B 3"]) -> None:
    """Take what is true already from the scores of what is asked for."""
    if (triples[:, 1] < 0).any():
        h, t = triples[:, 0, None].expand(scores.shape), triples[:, 2, None].expand(scores.shape)
        true = graph.known_index.contains(h, torch.arange(scores.shape[1]).expand(scores.shape), t)
        scores.masked_fill_(true.to(scores.device), -torch.inf)
        return
    drop_known(scores, _batch(triples), graph.known_index)


def _of_relations(
    model: Model, graph: KnowledgeGraph, triples: Int[Tensor, "B 3"], among: Candidates | None, device: torch.device
) -> Float[Tensor, "B R"]:
    """The scores of every relation, -inf where it may not be listed."""
    every = torch.arange(len(graph.relations))
    shape = len(triples), len(every)
    h, t = triples[:, 0, None].expand(shape), triples[:, 2, None].expand(shape)
    r = every.expand(shape)
    scores = score_triples(model, torch.stack([h, r, t], dim=2).view(-1, 3), device).view(shape)
    refuse_not_finite(scores)
    if among is not None:
        scores.masked_fill_(~(among.may(h, r, True) & among.may(t, r, False)), -torch.inf)
    return scores


@torch.no_grad()
def score_triples(model: Model, triples: Int[Tensor, "n 3"], device: torch.device) -> Float[Tensor, " n"]:
    """The scores of triples, on the host; the tail side's where the sides differ."""
    found: list[Tensor] = [torch.empty(0)]
    for part in triples.split(4096):
        batch = Batch.of(part, torch.zeros(len(part), dtype=torch.bool)).to(device)
        found.append(model.score(model.lookup(batch)).cpu())
    return torch.cat(found)
