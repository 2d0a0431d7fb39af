"""Queries, triples of which one part is asked for: as users give them, and what answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.arrays import triples_frame
from mmrns.data.folders import COLUMNS
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_lines
from mmrns.errors import DataError, UsageError, note
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import SCORES, refuse_not_finite
from mmrns.nn.model import Model
from mmrns.runs.names import Names
from mmrns.types import Batch

Known = Literal["flag", "drop", "keep"]
ASKED = "?"
"""What stands for the part that is asked for; an empty field does too."""
SHOWN = 5
"""Mistakes of a file that are told at once."""
SCHEMA = {
    "head": pl.String,
    "relation": pl.String,
    "tail": pl.String,
    "score": pl.Float64,
    "rank": pl.Int64,
    "known": pl.Boolean,
    "seen": pl.Boolean,
    "asked": pl.String,
    "query": pl.Int64,
}


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

    def frame(self, graph: KnowledgeGraph) -> pl.DataFrame:
        """The names of the parts, null for what is asked for."""
        columns = zip(COLUMNS, self.triples.unbind(1), strict=True)
        return pl.DataFrame([_names(graph, part, ids).alias(part) for part, ids in columns])


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


def _names(graph: KnowledgeGraph, part: str, ids: Int[Tensor, " n"]) -> pl.Series:
    names = (graph.relations if part == "relation" else graph.entities).names
    return names.gather(pl.Series(torch.where(ids < 0, 0, ids).numpy())).set(pl.Series((ids < 0).numpy()), None)


def answers(
    model: Model,
    graph: KnowledgeGraph,
    queries: Queries,
    *,
    top: int,
    known: Known,
    among: Candidates | None,
    device: torch.device,
    memory_mb: float | int,
    triples_known: bool,
) -> pl.DataFrame:
    """The best answers of each query, in the order of the queries; see `Run.predict`.

    Args:
        model: scores.
        graph: whose ids the queries are.
        queries: the queries.
        top: answers a query.
        known: what becomes of triples of the graph.
        among: the entities that may answer; None = every one.
        device: where the model is.
        memory_mb: bound on what the model holds beside the scores, in MiB.
        triples_known: whether the graph has its triples, not only the names.

    Raises:
        Diverged: a score is not finite.
    """
    best: list[_Best] = []
    for part in range(3):
        rows = (queries.asked == part).nonzero().squeeze(1)
        count = len(graph.relations) if part == 1 else len(graph.entities)
        # A relation's score takes a row of a batch.
        for chunk in rows.split(max(1, SCORES // ((32 if part == 1 else 4) * count))):
            triples = queries.triples[chunk]
            if part == 1:
                scores, listed, true = _relations(model, graph, triples, among, device)
            else:
                scores, listed, true = _entities(model, graph, triples, part == 0, among, device, memory_mb)
            refuse_not_finite(scores)
            best.append(_best(chunk, scores, listed & ~true if known == "drop" else listed, true, top))
    query = torch.cat([found.query for found in best])
    answer, score = torch.cat([found.answer for found in best]), torch.cat([found.score for found in best])
    rank, true = torch.cat([found.rank for found in best]), torch.cat([found.true for found in best])
    order = torch.argsort(query, stable=True)
    query, answer, score, rank, true = (column[order] for column in (query, answer, score, rank, true))
    triples = queries.triples[query]
    triples = torch.where(triples < 0, answer[:, None], triples)
    seen = graph.seen_triples(triples)
    asked = pl.Series(queries.asked[query].numpy())
    nothing = pl.Series([None], dtype=pl.Boolean).new_from_index(0, len(query))
    return pl.DataFrame(
        {
            **{part: _names(graph, part, triples[:, i]) for i, part in enumerate(COLUMNS)},
            "score": score.double().numpy(),
            "rank": rank.numpy(),
            "known": nothing if known == "keep" or not triples_known else true.numpy(),
            "seen": seen.numpy() if triples_known else nothing,
            "asked": pl.Series(COLUMNS).gather(asked),
            "query": query.numpy() + 1,
        },
        schema=SCHEMA,
    )


@dataclass(frozen=True)
class _Best:
    """The answers of some queries, flat: whose, which, its score and rank, and whether it is true."""

    query: Int[Tensor, " n"]
    answer: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    rank: Int[Tensor, " n"]
    true: Bool[Tensor, " n"]


def _best(
    queries: Int[Tensor, " B"],
    scores: Float[Tensor, "B C"],
    listed: Bool[Tensor, "B C"],
    true: Bool[Tensor, "B C"],
    top: int,
) -> _Best:
    """The best of what is listed for each row; of equal scores the lower id is first."""
    scores = scores.masked_fill(~listed, -torch.inf)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :top]
    row, place = (torch.arange(order.shape[1]) < listed.sum(1, keepdim=True)).nonzero().unbind(1)
    answer = order[row, place]
    return _Best(queries[row], answer, scores[row, answer], place + 1, true[row, answer])


def _entities(
    model: Model,
    graph: KnowledgeGraph,
    triples: Int[Tensor, "B 3"],
    head: bool,
    among: Candidates | None,
    device: torch.device,
    memory_mb: float | int,
) -> tuple[Float[Tensor, "B E"], Bool[Tensor, "B E"], Bool[Tensor, "B E"]]:
    """The scores of every entity, whether it may be listed, and whether it is true."""
    anchor, r = triples[:, 2 if head else 0], triples[:, 1]
    # One side only, so that the rows keep their order.
    batch = Batch.of(torch.stack([anchor, r, anchor], dim=1), torch.full((len(r),), head))
    scores = model.score_all(batch.to(device), memory_mb).cpu()
    listed = torch.ones_like(scores, dtype=torch.bool)
    listed[torch.arange(len(r)), anchor] = graph.reflexive_relations[r]
    if among is not None:
        listed &= among.mask(batch.relations, head)[batch.relation_index]
    return scores, listed, graph.known_index.batch_mask(batch)


def _relations(
    model: Model, graph: KnowledgeGraph, triples: Int[Tensor, "B 3"], among: Candidates | None, device: torch.device
) -> tuple[Float[Tensor, "B R"], Bool[Tensor, "B R"], Bool[Tensor, "B R"]]:
    """The scores of every relation, whether it may be listed, and whether it is true."""
    every = torch.arange(len(graph.relations))
    shape = len(triples), len(every)
    h, t = triples[:, 0, None].expand(shape), triples[:, 2, None].expand(shape)
    r = every.expand(shape)
    scores = score_triples(model, torch.stack([h, r, t], dim=2).view(-1, 3), device).view(shape)
    listed = (
        torch.ones_like(scores, dtype=torch.bool) if among is None else among.may(h, r, True) & among.may(t, r, False)
    )
    return scores, listed, graph.known_index.contains(h, r, t)


@torch.no_grad()
def score_triples(model: Model, triples: Int[Tensor, "n 3"], device: torch.device) -> Float[Tensor, " n"]:
    """The scores of triples, on the host; the tail side's where the sides differ."""
    found: list[Tensor] = [torch.empty(0)]
    for part in triples.split(4096):
        batch = Batch.of(part, torch.zeros(len(part), dtype=torch.bool)).to(device)
        found.append(model.score(model.lookup(batch)).cpu())
    return torch.cat(found)
