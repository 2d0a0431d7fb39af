"""Threads that calculate, so that the service goes on listening; and predictions of several clients made together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mmrns.errors import notes_heard
from mmrns.runs.queries import Known, Queries
from mmrns.runs.run import Run
from mmrns.serve.limits import Limits, Refusal

T = TypeVar("T")
Row = dict[str, Any]
TOGETHER = 256
"""Queries that are answered in one call of the model."""


class Workers:
    """Threads for calculations, with a bound on how many run and on how many wait.

    A calculation that was begun cannot be stopped: when its client gives up it goes on and keeps its thread, so that no
    more than `threads` ever run. One that waits is dropped.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.active = 0
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="mmrns")
        self._slow = asyncio.Semaphore(max(1, limits.threads - 1))

    async def admitted(self, work: Awaitable[T]) -> T:
        """What some work gives, if there is room for it and it comes in time.

        Raises:
            Refusal: there is no room (503), or it takes too long (504).
        """
        if self.active >= self.limits.threads + self.limits.queue:
            if isinstance(work, Coroutine):
                work.close()
            raise Refusal(503, "too many questions at a time; ask again in a second", headers={"Retry-After": "1"})
        self.active += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await work
        except TimeoutError:
            message = (
                f"no answer within {self.limits.seconds:g} seconds; ask for less, or start the service with --timeout"
            )
            raise Refusal(504, message) from None
        finally:
            self.active -= 1

    async def quick(self, call: Callable[[], T]) -> T:
        """Call something in a thread."""
        return await asyncio.wrap_future(self._threads.submit(quietly, call))

    async def slow(self, call: Callable[[], T], alone: asyncio.Lock) -> T:
        """Call something that takes seconds: not two with one lock at a time, and never in the last free thread."""
        await alone.acquire()
        try:
            await self._slow.acquire()
        except BaseException:
            alone.release()
            raise

        def release() -> None:
            self._slow.release()
            alone.release()

        loop = asyncio.get_running_loop()
        future = self._threads.submit(quietly, call)
        # When it has ended, and not when its client gives up.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(release))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End what waits, and wait for what runs."""
        self._threads.shutdown(cancel_futures=True)


@dataclass
class _Asked:
    query: tuple[int, int, int]
    top: int
    known: Known
    answer: asyncio.Future[list[Row]]


@dataclass
class Predictor:
    """Answers the queries of one run: those that come while others are answered are then answered together.

    A call of the model costs about as much for one query as for some dozens of them.
    """

    run: Run
    workers: Workers
    _waiting: list[_Asked] = field(default_factory=list[_Asked])
    _task: asyncio.Task[None] | None = None

    async def ask(self, query: tuple[int, int, int], top: int, known: Known) -> list[Row]:
        """The rows of `Run.answers` for one query in ids, -1 for what is asked for."""
        loop = asyncio.get_running_loop()
        asked = _Asked(query, top, known, loop.create_future())
        self._waiting.append(asked)
        if self._task is None:
            self._task = loop.create_task(self._answer_all())
        return await asked.answer

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                part, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                part = [asked for asked in part if not asked.answer.done()]
                kinds: set[Known] = {asked.known for asked in part}
                for known in kinds:
                    await self._answer([asked for asked in part if asked.known == known], known)
        finally:
            self._task = None

    async def _answer(self, part: list[_Asked], known: Known) -> None:
        try:
            queries, top = [asked.query for asked in part], max(asked.top for asked in part)
            found = await self.workers.quick(lambda: answered(self.run, queries, top, known))
        except BaseException as error:
            for asked in part:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for asked, own in zip(part, found, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(own[: asked.top])


def answered(run: Run, queries: list[tuple[int, int, int]], top: int, known: Known) -> list[list[Row]]:
    """The rows of `Run.answers` for each of some queries in ids."""
    frame = run.answers(Queries(torch.tensor(queries)), top=top, known=known)
    rows: list[list[Row]] = [[] for _ in queries]
    for row in frame.iter_rows(named=True):
        rows[row.pop("query") - 1].append(row)
    return rows


def quietly(call: Callable[[], T]) -> T:
    """What a call gives; what it notes is for the owner of a run, who was told when it was opened."""
    with notes_heard():
        return call()
