"""Seconds of a training step with each sampler, relative to uniform: `python benchmarks/samplers.py [--json]`.

TransE, d 200, batch 1,024, 128 negatives a row, MKG-W (found through $MMRNS_DATA); the samplers take turns, so that all
meet the same machine. KBGAN has 256 candidates, NSCaching caches of 30 and 30 candidates, `domain-range` and `mmrns`
their defaults, `file` one negative of each side for every triple, beside uniform ones. The model of `mans` reads all
modalities, those of the others structure alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.runs.methods import method_names, method_of
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer
from mmrns.types import Batch

DRAWING = [name for name in method_names() if method_of(name).sampler != "1-vs-all"]
# A draw of so many negatives in the authors' arithmetic, one after the other, takes gigabytes.
USUAL = [name for name in DRAWING if name != "mmrns-published"]


def write_negatives(path: Path, dataset: Dataset) -> Path:
    """For every triple of train one negative of each side, the first entity that is not true."""
    graph, lines = dataset.graph, list[str]()
    first = torch.zeros(len(graph.train), 1, dtype=torch.int64)
    for head in (False, True):
        batch = Batch.of(graph.train, torch.full((len(graph.train),), head))
        ids = graph.train_index.batch_absent(batch, first)[0].flatten()
        negative = (ids, batch.r, batch.t) if head else (batch.h, batch.r, ids)
        for row in torch.stack([batch.h, batch.r, batch.t, *negative], dim=1).tolist():
            names = [(graph.relations if i % 3 == 1 else graph.entities)[value] for i, value in enumerate(row)]
            lines.append("\t".join(names) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def trainer_of(name: str, dataset: Dataset, table: Path) -> Trainer:
    """A training with one of the methods."""
    needs = Sampler.registry.get(method_of(name).sampler).needs_modalities
    values: dict[str, Any] = {
        "model": {"scorer": "TransE", "dim": 200, "modalities": list(dataset.features) if needs else []},
        "method": name,
        "sampler": {"negatives": 128} | ({"path": str(table)} if name == "file" else {}),
        "training": {"batch_size": 1024},
        "device": "cpu",
    }
    return build_trainer(make_config(values), dataset)


def measure(names: list[str], dataset: Dataset, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Median over the rounds of the mean seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "negatives.tsv"
        if "file" in names:
            write_negatives(table, dataset)
        trainers = {name: trainer_of(name, dataset, table) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for trainer in trainers.values():
        for step in range(2):
            trainer.step(step)
    for i in range(rounds):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            for step in range(2 + i * steps, 2 + (i + 1) * steps):
                trainer.step(step)
            found[name].append((time.perf_counter() - started) / steps)
    seconds = {name: statistics.median(values) for name, values in found.items()}
    return {name: {"step_seconds": s, "relative": s / seconds["uniform"]} for name, s in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dataset", default="MKG-W")
    parser.add_argument("--sampler", action="append", choices=DRAWING, help="only these methods, beside uniform")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each sampler in a round")
    arguments = parser.parse_args()
    names = [name for name in DRAWING if name == "uniform" or name in (arguments.sampler or USUAL)]
    with freed_memory_kept():
        found = measure(names, mmrns.load_dataset(arguments.dataset), arguments.rounds, arguments.steps)
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{n:>16} {v['step_seconds']:.4f} s  {v['relative']:.2f}" for n, v in found.items()))


if __name__ == "__main__":
    main()
