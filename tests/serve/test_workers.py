"""Bounds of the work at a time, and queries that are answered together."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

import mmrns
from mmrns.runs.queries import Queries
from mmrns.serve import answers
from mmrns.serve.app import create_app
from mmrns.serve.guard import API
from mmrns.serve.limits import Limits, Refusal
from mmrns.serve.workers import Predictor, Workers

FRANCE = {"head": "France", "relation": "borders"}
TOKEN = "a-token-of-some-length"


def test_queries_that_come_together_are_answered_in_one_call(
    runs: dict[str, mmrns.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["world"]
    queries = [(i, 0, -1) for i in range(20)] + [(-1, 1, 5)]
    alone = [run.answers(Queries(run.queries([("France", "borders", None)]).triples), top=3).height]
    sizes: list[int] = []
    own = run.answers

    def counted(asked: Queries, **options: Any) -> Any:
        sizes.append(len(asked))
        return own(asked, **options)

    monkeypatch.setattr(run, "answers", counted)

    async def ask() -> list[Any]:
        predictor = Predictor(run, Workers(Limits()))
        tops = [1 + i % 4 for i in range(len(queries))]
        found = await asyncio.gather(*(predictor.ask(q, top, "flag") for q, top in zip(queries, tops, strict=True)))
        assert [len(rows) for rows in found] == tops
        await predictor.ask(queries[0], 1, "drop")
        return found

    found = asyncio.run(ask())
    assert alone == [3]
    assert sizes == [len(queries), 1]
    for (h, r, t), rows in zip(queries, found, strict=True):
        graph = run.dataset.graph
        names = [
            None if i < 0 else one[i] for i, one in ((h, graph.entities), (r, graph.relations), (t, graph.entities))
        ]
        side = "head" if h < 0 else "tail"
        expected = run.predict(*names, top=len(rows))
        assert [row[side] for row in rows] == expected[side].to_list()
        assert [row["score"] for row in rows] == pytest.approx(expected["score"].to_list(), abs=1e-4)


def test_a_failure_reaches_everybody_who_asked(runs: dict[str, mmrns.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(runs["world"], "answers", broken)

    async def ask() -> list[Any]:
        predictor = Predictor(runs["world"], Workers(Limits()))
        return await asyncio.gather(*(predictor.ask((0, 0, -1), 1, "flag") for _ in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask())] == ["no"] * 3


def test_what_is_too_much_is_turned_away_and_slow_work_keeps_a_thread_free() -> None:
    go = threading.Event()

    async def scene() -> None:
        workers = Workers(Limits(threads=2, queue=1, seconds=30.0))
        locks = asyncio.Lock(), asyncio.Lock()
        slow = [asyncio.create_task(workers.admitted(workers.slow(go.wait, lock))) for lock in locks]
        await asyncio.sleep(0.05)
        # One slow call runs, the other one waits; a quick one has a thread.
        assert await workers.admitted(workers.quick(lambda: 7)) == 7
        third = asyncio.create_task(workers.admitted(workers.slow(go.wait, locks[0])))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="too many questions") as refused:
            await workers.admitted(workers.quick(lambda: 7))
        assert refused.value.status == 503
        assert refused.value.headers == {"Retry-After": "1"}
        go.set()
        assert await asyncio.gather(*slow, third) == [True] * 3
        assert workers.active == 0
        workers.close()

    asyncio.run(scene())


def test_what_takes_too_long_is_given_up_but_never_done_twice_at_a_time() -> None:
    go, running, most = threading.Event(), [0], [0]

    def call() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        go.wait()
        running[0] -= 1

    async def scene() -> None:
        workers = Workers(Limits(threads=3, queue=9, seconds=0.1))
        lock = asyncio.Lock()
        for _ in range(3):
            with pytest.raises(Refusal, match=r"no answer within 0\.1 seconds") as refused:
                await workers.admitted(workers.slow(call, lock))
            assert refused.value.status == 504
        go.set()
        await asyncio.sleep(0.05)
        await workers.admitted(workers.slow(call, lock))
        workers.close()

    asyncio.run(scene())
    assert most == [1]


def test_a_token_a_size_and_a_name_are_asked_for(runs: dict[str, mmrns.Run]) -> None:
    limits = Limits(body=2000)
    with TestClient(create_app({"world": runs["world"]}, token=TOKEN, limits=limits)) as client:
        assert client.get(f"{API}/health").status_code == 200
        assert client.get("/").status_code == 200
        for headers in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer é"},
        ):
            encoded = {key: value.encode() for key, value in headers.items()}
            response = client.get(f"{API}/runs", headers=encoded)
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert TOKEN not in response.text
            answers.Failed.model_validate(response.json())
        client.headers["Authorization"] = f"bearer {TOKEN}"
        assert client.get(f"{API}/runs").status_code == 200
        many = {"queries": [FRANCE] * 60}
        large = client.post(f"{API}/predict", json=many)
        assert (large.status_code, large.json()["error"]["status"]) == (413, 413)

        def pieces() -> Any:
            yield from [b"x" * 500] * 9

        assert client.post(f"{API}/predict", content=pieces()).status_code == 413
        assert client.post(f"{API}/predict", json={"queries": [FRANCE] * 3}).status_code == 200
    with TestClient(create_app({"world": runs["world"]}, hosts={"localhost", "[::1]"})) as client:
        for host, status in (
            ("localhost:8765", 200),
            ("LOCALHOST", 200),
            ("[::1]:80", 200),
            ("[::1]", 200),
            ("evil.org", 400),
        ):
            assert client.get(f"{API}/health", headers={"Host": host}).status_code == status, host
