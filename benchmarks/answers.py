"""Queries answered a second by a finished run, beside its own ranking: `python benchmarks/answers.py RUN [--json]`.

The test split of the run's dataset, both sides: ranked; asked in one call, by name, for the best ten; and some of its
queries one call each. The three take turns. One query is one side of one triple.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import torch

import mmrns
from mmrns.errors import Note
from mmrns.runs.queries import Queries

ALONE = 50
"""Queries that are asked one by one."""


def measure(run: mmrns.Run, repeats: int) -> dict[str, float]:
    """Median queries a second of ranking, of one call and of single calls."""
    triples = run.dataset.graph.test.repeat(2, 1)
    half = len(triples) // 2
    triples[:half, 2], triples[half:, 0] = -1, -1
    asked = run.named(Queries(triples)).select("head", "relation", "tail").rows()
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "ranked_qps": (run.ranks, len(asked)),
        "one_call_qps": (lambda: run.predict(queries=asked), len(asked)),
        "single_calls_qps": (lambda: [run.predict(*query) for query in asked[:ALONE]], ALONE),
    }
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for job, _ in jobs.values():  # Compiles the fused kernels.
        job()
    for _ in range(repeats):
        for name, (job, _) in jobs.items():
            started = time.perf_counter()
            job()
            taken[name].append(time.perf_counter() - started)
    return {name: n / statistics.median(taken[name]) for name, (_, n) in jobs.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", Note)
    found = measure(mmrns.load_run(options.run), options.repeats)
    found["one_call_by_ranked"] = found["one_call_qps"] / found["ranked_qps"]
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value:,.2f}")


if __name__ == "__main__":
    main()
