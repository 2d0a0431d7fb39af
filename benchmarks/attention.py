"""What the debiasing of `mmrns` adds to a training step: `python benchmarks/attention.py [--json]`.

    python benchmarks/attention.py [--json] [--dataset DB15K-resplit] [--cycles 4]

Processor seconds of a step of `mmrns` and of the same without debiasing (`domain-range`), in the mean over whole blocks
and cycles of training, the two in turns; TransE at d 64 (batch 512, 32 negatives) and d 200 (1,024, 64). And the ATen
operations of a step of every method (`operations.py`), in the mean over a cycle. The dataset, with its features, is
found through $MMRNS_DATA; `experiments/resplit.py` makes DB15K-resplit.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from operations import cycle, operations

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_dataset, build_trainer
from mmrns.runs.config import make_config
from mmrns.runs.methods import method_names, method_of
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer
from samplers import write_negatives

SETTINGS = {"d64": (64, 512, 32), "d200": (200, 1024, 64)}
WITHOUT, WITH = "domain-range", "mmrns"


def build(
    method: str,
    dataset: Dataset,
    setting: tuple[int, int, int],
    device: str = "cpu",
    training: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """A training with one of the methods; `options` are of its sampler, `training` of that section."""
    dim, batch, negatives = setting
    sampler = Sampler.registry.get(method_of(method).sampler)
    drawn = {"negatives": negatives} if "negatives" in inspect.signature(sampler).parameters else {}
    values: dict[str, Any] = {
        "model": {
            "scorer": "TransE",
            "dim": dim,
            "modalities": list(dataset.features) if sampler.needs_modalities else [],
        },
        "method": method,
        "sampler": drawn | options,
        "training": {"batch_size": batch} | (training or {}),
        "device": device,
    }
    config = make_config(values)
    return build_trainer(config, build_dataset(config, dataset))


def build_each(
    dataset: Dataset, setting: tuple[int, int, int], device: str = "cpu", options: dict[str, Any] | None = None
) -> Iterator[tuple[str, Trainer]]:
    """A training with each of the methods, by name; `options` are of the sampler of mmrns."""
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, dict[str, Any]] = {WITH: options or {}}
        given["file"] = {"path": str(write_negatives(Path(folder) / "negatives.tsv", dataset))}
        # In the published arithmetic each negative has a tensor of all rows and the pool.
        given["mmrns-published"] = {"negatives": min(setting[2], 20)}
        for name in method_names():
            yield name, build(name, dataset, setting, device, **given.get(name, {}))


def seconds(trainer: Trainer, first: int, steps: int) -> float:
    """Of the processor, a step."""
    started = time.process_time()
    for step in range(first, first + steps):
        trainer.step(step)
    return (time.process_time() - started) / steps


def compare(dataset: Dataset, setting: tuple[int, int, int], cycles: int, options: dict[str, Any]) -> dict[str, float]:
    """Median over the cycles, in which the two take turns."""
    trainers = {WITHOUT: build(WITHOUT, dataset, setting), WITH: build(WITH, dataset, setting, **options)}
    steps = cycle(trainers[WITH])
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(cycles + 1):
        for name, trainer in trainers.items():
            taken = seconds(trainer, i * steps, steps)
            if i:  # In the first everything is fetched.
                found[name].append(taken)
    without, with_it = (statistics.median(found[name]) for name in (WITHOUT, WITH))
    return {"no_attention_seconds": without, "mmrns_seconds": with_it, "ratio": with_it / without}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dataset", default="DB15K-resplit")
    parser.add_argument("--cycles", type=int, default=4, help="measured")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of the sampler of mmrns")
    arguments = parser.parse_args()
    options = {name: json.loads(value) for name, value in (given.split("=", 1) for given in arguments.set)}
    torch.set_num_threads(1)
    dataset = mmrns.load_dataset(arguments.dataset)
    with freed_memory_kept():
        found: dict[str, Any] = {
            name: compare(dataset, setting, arguments.cycles, options) for name, setting in SETTINGS.items()
        }
        found["aten_ops"] = {
            name: operations(trainer) for name, trainer in build_each(dataset, SETTINGS["d200"], options=options)
        }
    if arguments.json:
        print(json.dumps(found))
        return
    for name in SETTINGS:
        row = found[name]
        milliseconds = [1e3 * row[key] for key in ("no_attention_seconds", "mmrns_seconds")]
        print(
            f"{name:>5}  {milliseconds[0]:6.1f} ms without attention, {milliseconds[1]:6.1f} with: {row['ratio']:.2f}"
        )
    print("  ".join(f"{name} {count:.0f}" for name, count in found["aten_ops"].items()), "ATen operations a step")


if __name__ == "__main__":
    main()
