"""Memory and seconds of loading a large dataset: `python benchmarks/loading.py [--json]`.

    python benchmarks/loading.py [--json] [--triples 5000000] [--entities 1000000] [--relations 500]

A dataset folder of random triples, whose names are those of Freebase in length, is loaded by `mmrns.load_dataset` in a
process of its own, then its train index is made. Seconds are those of the processor. Bytes are a triple (a name: an
entity), above what the process holds before: `load_peak` at most while loading, `load` afterwards, `index` of the train
index's tensors, `index_peak` at most until they are made, `name` of the entities' names, as polars holds strings.
"""

from __future__ import annotations

import argparse
import ctypes
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

VALID = 1_000


def write(folder: Path, triples: int, entities: int, relations: int) -> None:
    """A dataset folder of random triples: names such as `/m/0000abc1`, relations of three words."""
    stream = np.random.default_rng(0)
    for split, rows in (("train", triples), ("valid", VALID), ("test", VALID)):
        h, t = stream.integers(entities, size=(2, rows))
        frame = pl.DataFrame({"h": h, "r": stream.integers(relations, size=rows), "t": t})
        named = [
            pl.format("/m/{}", pl.col("h").cast(pl.String).str.zfill(8)),
            pl.format("/people/person/relation_{}", "r").alias("r"),
            pl.format("/m/{}", pl.col("t").cast(pl.String).str.zfill(8)),
        ]
        frame.select(named).write_csv(folder / f"{split}.tsv", separator="\t", include_header=False)


def resident() -> float:
    """Bytes that this process holds now, without freed memory that the allocator keeps (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> float:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def measure(folder: Path) -> dict[str, Any]:
    """Seconds and memory of the dataset, and of its train index."""
    from mmrns.data.datasets import load_dataset
    from mmrns.data.graph import KnowledgeGraph

    found: dict[str, Any] = {"megabytes": round((folder / "train.tsv").stat().st_size / 1e6)}
    before, started = resident(), time.process_time()
    graph: KnowledgeGraph = load_dataset(folder).graph
    n, entities = len(graph.train), len(graph.entities)
    found |= {"triples": n, "entities": entities, "load_seconds": round(time.process_time() - started, 2)}
    found |= {"load_peak_bytes": round((peak() - before) / n, 1), "load_bytes": round((resident() - before) / n, 1)}
    started = time.process_time()
    index = graph.train_index
    found["index_seconds"] = round(time.process_time() - started, 2)
    found["index_peak_bytes"] = round((peak() - before) / n, 1)
    tensors = [value for value in vars(vars(index)["_rows"]).values() if hasattr(value, "nbytes")]
    found["index_bytes"] = round(sum(value.nbytes for value in tensors) / n, 1)
    letters = graph.entities.names.str.len_bytes()  # Up to 12 of them lie in the 16 bytes that each name takes.
    found["name_bytes"] = round(16 + float(letters.filter(letters > 12).sum()) / entities, 1)
    return found


def main() -> None:
    """Write the dataset, then measure in a child process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--triples", type=int, default=5_000_000)
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--relations", type=int, default=500)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.triples, options.entities, options.relations)
        command = [sys.executable, __file__, "--measure", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if options.json:
        print(json.dumps(found))
    else:
        print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")


if __name__ == "__main__":
    main()
