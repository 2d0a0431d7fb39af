"""What a service of one run stands: `python benchmarks/serve.py RUN [--clients 50] [--seconds 60] [--json]`.

`mmrns serve` runs in a process of its own, the clients in this one; each asks again as soon as it has its answer. Of
ten questions five are predictions of queries of the test split, two searches (one of them misspelt), two are for the
page of an entity and one for its neighbours. Times are those of the clients, who take a share of the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import httpx

import mmrns
from mmrns.errors import Note

Question = tuple[str, str, dict[str, Any]]


def questions(run: mmrns.Run, count: int, seed: int = 0) -> list[Question]:
    """Kind, path and parameters of so many questions."""
    rng = random.Random(seed)
    graph = run.dataset.graph
    rows = graph.test.tolist() or graph.train.tolist()
    names = [run.dataset.labels.get(name, name) for name in graph.entities]
    found: list[Question] = []
    for _ in range(count):
        h, r, t = rng.choice(rows)
        head, relation, tail = graph.entities[h], graph.relations[r], graph.entities[t]
        asked = rng.randrange(10)
        if asked < 5:
            side = {"head": head} if rng.random() < 0.5 else {"tail": tail}
            found.append(("predict", "predict", {**side, "relation": relation, "top": 10}))
        elif asked < 7:
            name = names[h]
            wrong = name[:2] + name[3:] if asked == 5 else name[: max(3, len(name) // 2)]
            found.append(("search", "entities", {"q": wrong}))
        elif asked < 9:
            found.append(("entity", "entity", {"entity": head}))
        else:
            found.append(("neighbours", "neighbours", {"entity": head, "top": 10}))
    return found


async def client(
    address: str, own: list[Question], end: float, times: dict[str, list[float]], wrong: list[str]
) -> None:
    """Ask one question after the other until the time is over."""
    async with httpx.AsyncClient(base_url=f"{address}/api/v1/", timeout=60) as http:
        while True:
            for kind, path, parameters in own:
                started = time.perf_counter()
                if started > end:
                    return
                try:
                    response = await http.get(path, params=parameters)
                    if response.status_code != 200:
                        wrong.append(f"{path}: {response.status_code} {response.text[:100]}")
                except httpx.HTTPError as error:
                    wrong.append(f"{path}: {type(error).__name__}")
                times.setdefault(kind, []).append(time.perf_counter() - started)


async def load(address: str, every: list[list[Question]], seconds: float) -> tuple[dict[str, list[float]], list[str]]:
    """The seconds of each answer by kind, and what went wrong."""
    times: dict[str, list[float]] = {}
    wrong: list[str] = []
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(address, own, end, times, wrong) for own in every))
    return times, wrong


def of(times: list[float]) -> dict[str, float]:
    """How many, and the time in ms that half and that 99 of 100 stay below."""
    parts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {"count": len(times), "p50_ms": 1000 * parts[49], "p99_ms": 1000 * parts[98]}


def measure(folder: str, clients: int, seconds: float) -> dict[str, Any]:
    """Start the service, load it, end it."""
    warnings.simplefilter("ignore", Note)
    run = mmrns.load_run(folder)
    every = [questions(run, 200, seed) for seed in range(clients)]
    command = [sys.executable, "-m", "mmrns", "serve", folder, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next(match[1] for line in lines if (match := re.search(r"serving .* at (http\S+);", line)))
        try:
            asyncio.run(load(address, every, min(3.0, seconds)))
            started = time.perf_counter()
            times, wrong = asyncio.run(load(address, every, seconds))
            taken = time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
    total = [one for part in times.values() for one in part]
    return {
        "setting": {
            "entities": len(run.dataset.graph.entities),
            "clients": clients,
            "seconds": seconds,
            "processors": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        **of(total),
        "errors": len(wrong),
        "first_error": wrong[0] if wrong else None,
        "answers_per_second": len(total) / taken,
        "exit_code": process.returncode,
        "said": said.strip(),
        "by_question": {kind: of(part) for kind, part in sorted(times.items())},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.run, options.clients, options.seconds)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
