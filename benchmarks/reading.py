"""Seconds and memory of converting a large table of triples: `python benchmarks/reading.py [--json]`.

    python benchmarks/reading.py [--json] [--triples 10000000] [--entities 1000000] [--relations 500] [--to tsv]

Random triples in a TSV file, read and written by `mmrns.prepare.formats.convert` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl


def write(path: Path, triples: int, entities: int, relations: int) -> None:
    """A table of random triples, without a header."""
    stream = np.random.default_rng(0)
    h, t = stream.integers(entities, size=(2, triples))
    frame = pl.DataFrame({"h": h, "r": stream.integers(relations, size=triples), "t": t})
    named = [
        pl.format("entity/{}", "h"),
        pl.format("relation/{}", "r").alias("r"),
        pl.format("entity/{}", "t").alias("t"),
    ]
    frame.select(named).write_csv(path, separator="\t", include_header=False)


def measure(source: Path, target: str) -> dict[str, Any]:
    """Seconds until the triples are read (also of the processor, all threads) and in all; peak of the memory."""
    from mmrns.prepare.formats import convert

    steps: dict[str, tuple[float, float]] = {}
    started = time.perf_counter()
    done = convert(
        source,
        source.parent / "converted",
        target=target,
        advance=lambda what, *_: steps.setdefault(what, (time.perf_counter(), time.process_time())),
    )
    return {
        "triples": done.triples["train"],
        "entities": done.entities,
        "megabytes": round(source.stat().st_size / 1e6),
        "read_seconds": round(steps["reading tables"][0] - steps["reading triples"][0], 2),
        "read_cpu_seconds": round(steps["reading tables"][1] - steps["reading triples"][1], 2),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Write the table, then measure in a child process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--triples", type=int, default=10_000_000)
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--relations", type=int, default=500)
    parser.add_argument("--to", default="tsv")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.to)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "triples.tsv"
        write(source, options.triples, options.entities, options.relations)
        command = [sys.executable, __file__, "--measure", str(source), "--to", options.to]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if options.json:
        print(json.dumps(found))
    else:
        print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")


if __name__ == "__main__":
    main()
