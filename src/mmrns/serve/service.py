"""The service itself: which runs there are, and what answers each question."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import polars as pl

from mmrns.data.names import COLUMNS
from mmrns.errors import MmrnsError
from mmrns.runs.queries import Known
from mmrns.runs.run import Run
from mmrns.serve.answers import Query, Triple
from mmrns.serve.limits import Limits, Refusal
from mmrns.serve.served import ServedRun
from mmrns.serve.workers import Predictor, Row, Workers

T = TypeVar("T")
FAR = 1_000
"""How many answers of each run are compared."""
KEPT = 128
"""Answers of slow questions that are kept: they are the same each time."""


class Service:
    """Runs that answer, by name.

    Args:
        runs: by name, at least one.
        limits: of the work at a time.
    """

    def __init__(self, runs: Mapping[str, Run], limits: Limits):
        self.runs = {name: ServedRun(name, run) for name, run in runs.items()}
        self.limits = limits
        self.workers = Workers(limits)
        self.predictors = {name: Predictor(served.run, self.workers) for name, served in self.runs.items()}
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def warm(self) -> None:
        """Load all that questions need."""
        warm: list[ServedRun] = []
        for served in self.runs.values():
            served.warm(warm)
            warm.append(served)

    def served(self, name: str | None, field: str = "run") -> ServedRun:
        """A run by name; the first one for None.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            return next(iter(self.runs.values()))
        if name in self.runs:
            return self.runs[name]
        raise Refusal(404, f"unknown run {name!r}; served: {', '.join(self.runs)}", field)

    async def quick(self, served: ServedRun, call: Callable[[], T]) -> T:
        """What a short calculation gives."""
        return await self._told(served, self.workers.quick(call))

    async def _told(self, served: ServedRun, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self.workers.admitted(work)
        except MmrnsError as error:
            raise served.refusal(error) from error

    async def slow(self, served: ServedRun, key: Sequence[Any], call: Callable[[], T]) -> T:
        """What a long calculation gives, or gave when it was asked before."""
        place = (served.name, *key)
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        found = await self._told(served, self.workers.slow(call, served.alone))
        self._kept[place] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def triple(self, served: ServedRun, triple: Triple, place: str = "") -> tuple[int, int, int]:
        """A triple in ids."""
        return (
            served.entity(triple.head, f"{place}head"),
            served.relation(triple.relation, f"{place}relation"),
            served.entity(triple.tail, f"{place}tail"),
        )

    def query(self, served: ServedRun, query: Query, notes: list[str], place: str = "") -> tuple[int, int, int]:
        """A query in ids, -1 for what is asked for.

        Raises:
            Refusal: unknown names, or not exactly one part asked for.
        """
        # A part that is empty is one that is left out.
        head, relation, tail = (
            part if part and part.strip() else None for part in (query.head, query.relation, query.tail)
        )
        if [head, relation, tail].count(None) != 1:
            many = 3 - [head, relation, tail].count(None)
            message = f"give two of head, relation and tail; what is left out is asked for ({many} given)"
            raise Refusal(422, message, place.rstrip(".") or "head, relation, tail")
        return (
            -1 if head is None else served.entity(head, f"{place}head", notes),
            -1 if relation is None else served.relation(relation, f"{place}relation", notes),
            -1 if tail is None else served.entity(tail, f"{place}tail", notes),
        )

    async def predict(self, served: ServedRun, query: Query, top: int, known: Known) -> dict[str, Any]:
        """The best answers to a query."""
        notes: list[str] = []
        asked = self.query(served, query, notes)
        rows = await self._told(served, self.predictors[served.name].ask(asked, top, known))
        part = asked.index(-1)
        if part != 1:
            rows = served.with_pictures(rows, COLUMNS[part])
        return {"run": served.name, "notes": notes, "answers": rows}

    async def predict_many(self, served: ServedRun, queries: Sequence[Query], top: int, known: Known) -> dict[str, Any]:
        """The best answers to each of some queries."""
        notes: list[str] = []
        asked = [self.query(served, query, notes, f"queries.{i}.") for i, query in enumerate(queries)]
        predictor = self.predictors[served.name]

        async def every() -> list[list[Row]]:
            return await asyncio.gather(*(predictor.ask(one, top, known) for one in asked))

        rows = await self._told(served, every())
        return {"run": served.name, "notes": [*dict.fromkeys(notes)], "answers": rows}

    async def score(self, served: ServedRun, triples: Sequence[Triple]) -> dict[str, Any]:
        """The scores of triples."""
        graph = served.dataset.graph
        ids = [self.triple(served, one, f"triples.{i}.") for i, one in enumerate(triples)]
        named = [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in ids]
        frame = await self.quick(served, lambda: served.run.score(named))
        return {"run": served.name, "scores": frame.to_dicts()}

    async def neighbours(self, served: ServedRun, entity: str, by: str | None, top: int) -> dict[str, Any]:
        """The entities that are most similar to one."""
        measures = served.measures()
        name = served.dataset.graph.entities[served.entity(entity, "entity")]
        measure = by or measures[0]
        if measure not in measures:
            raise Refusal(422, f"unknown measure {measure!r}; known: {', '.join(measures)}", "by")
        frame = await self.quick(served, lambda: served.run.neighbours(name, by=measure, top=top))
        return {
            "run": served.name,
            "by": measure,
            "measures": measures,
            "neighbours": served.with_pictures(frame.to_dicts()),
        }

    async def inspect(
        self, served: ServedRun, triple: Triple, against: Sequence[str], side: str, steps: int, top: int
    ) -> dict[str, Any]:
        """The negatives drawn for a triple, and beside it for triples of other relations."""
        ids = self.triple(served, triple)
        others = [served.relation(name, "against") for name in against]
        options = {"side": side, "steps": steps, "top": top}
        key = ("inspect", ids, tuple(others), *options.values())
        return await self.slow(served, key, lambda: served.inspected(ids, others, options))

    async def explain(self, served: ServedRun, triple: Triple, side: str, top: int) -> dict[str, Any]:
        """What speaks for a triple."""
        h, r, t = ids = self.triple(served, triple)
        graph = served.dataset.graph
        names = graph.entities[h], graph.relations[r], graph.entities[t]
        explain = partial(served.run.explain, *names, side=side, top=top)
        return dict(await self.slow(served, ("explain", ids, side, top), explain))

    async def compare(self, pair: tuple[ServedRun, ServedRun], query: Query, top: int) -> dict[str, Any]:
        """The answers of two runs to one query."""
        if query.relation is None:
            raise Refusal(422, "give the relation, and one of head and tail", "relation")

        async def asked(served: ServedRun) -> list[Row]:
            ids = self.query(served, query, [])
            return await self._told(served, self.predictors[served.name].ask(ids, FAR, "flag"))

        first, second = await asyncio.gather(*map(asked, pair))
        side = "head" if query.head is None or not query.head.strip() else "tail"
        columns = [(side, "entity"), (f"{side}_name", "name"), ("known", "known")]
        frames = [
            pl.DataFrame(rows, infer_schema_length=None).select(
                *(pl.col(key).alias(name) for key, name in columns),
                pl.col("rank").alias(f"rank{i}"),
                pl.col("score").alias(f"score{i}"),
            )
            for i, rows in enumerate((first, second))
        ]
        rows, shared = _side_by_side(frames[0], frames[1], top)
        return {
            "runs": [one.name for one in pair],
            "asked": side,
            "answers": pair[0].with_pictures(rows),
            "shared": shared,
        }


def _side_by_side(first: pl.DataFrame, second: pl.DataFrame, top: int) -> tuple[list[Row], int]:
    """What either of two runs has among its first answers, with the rank and the score in both; how many both have."""
    both = first.join(second, on="entity", how="full", coalesce=True)
    both = both.with_columns(
        pl.coalesce("name", "name_right"), pl.coalesce("known", "known_right"), best=pl.min_horizontal("rank0", "rank1")
    )
    best = both.filter(pl.col("best") <= top).sort("best", "rank0", "entity", nulls_last=True)
    shared = best.filter((pl.col("rank0") <= top) & (pl.col("rank1") <= top)).height
    rows = [
        {
            "entity": row["entity"],
            "name": row["name"],
            "known": row["known"],
            "ranks": [row["rank0"], row["rank1"]],
            "scores": [row["score0"], row["score1"]],
        }
        for row in best.iter_rows(named=True)
    ]
    return rows, shared
