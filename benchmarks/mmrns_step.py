"""Seconds and memory of a training step with the MMRNS samplers at the authors' setting.

    python benchmarks/mmrns_step.py [--json] [--blocks N] [--device cpu]

TransE, d 200, batch 400, pool 1,500, 20 negatives, image 24 x 383, text 4 x 384, random float32 features, 15,000
entities; triples of MKG-W where `$MMRNS_DATA` holds them, otherwise synthetic ones with a relation histogram of the
same shape. A step is draw, scores, losses, backward, optimizer: of `mmrns` in the mean over whole blocks, of
`mmrns-published`, and of that with nothing folded. The machine's float32 matrix-product rate is measured in alternation
with the steps, so that step seconds times that rate says what a step costs whatever the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import polars as pl
import torch

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.features import Features, Modality
from mmrns.data.folders import dataset_folders
from mmrns.data.graph import KnowledgeGraph
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_dataset, build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.mmrns.published import PublishedSimilarity
from mmrns.training.trainer import Trainer

SETTING: dict[str, Any] = {
    "scorer": "TransE",
    "d": 200,
    "batch": 400,
    "pool": 1500,
    "negatives": 20,
    "image": [24, 383],
    "text": [4, 384],
}
BLOCK = 10
N_ENTITIES, N_RELATIONS, N_TRIPLES = 15_000, 169, 34_196


class Direct(PublishedSimilarity):
    """The similarities with nothing folded."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """The similarities of the direct form."""
        return super().forward(*arguments, **{**options, "direct": True})


def synthetic_graph() -> KnowledgeGraph:
    """Random triples whose relations follow a power law that gives about 57 distinct ones in a batch of 400."""
    stream = torch.Generator().manual_seed(0)
    frequency = 1 / (torch.arange(N_RELATIONS) + 2.0) ** 1.25
    r = torch.multinomial(frequency, N_TRIPLES, replacement=True, generator=stream)
    h, t = torch.randint(N_ENTITIES, (2, N_TRIPLES), generator=stream)
    frame = pl.DataFrame({"head": h.numpy(), "relation": r.numpy(), "tail": t.numpy()}).cast(pl.String)
    names = pl.Series([str(i) for i in range(N_ENTITIES)])
    return KnowledgeGraph.from_names(frame, frame.clear(), frame.clear(), names)


def build(
    batch: int, device: str, method: str = "mmrns", graph: KnowledgeGraph | None = None, **options: Any
) -> Trainer:
    """A trainer at the setting, on random features, and with options of the sampler."""
    if graph is None:
        graph = load_dataset("MKG-W").graph if "MKG-W" in dataset_folders() else synthetic_graph()
    stream = torch.Generator().manual_seed(1)
    n = len(graph.entities)
    modalities: dict[str, Modality] = {}
    for name in ("image", "text"):
        shape = (n, *SETTING[name])
        mask = torch.ones(shape[:2], dtype=torch.bool)
        modalities[name] = Modality(torch.randn(shape, generator=stream), mask, torch.arange(n))
    dataset = Dataset("benchmark", None, graph, Features(modalities))
    config = make_config(
        {
            "model": {"scorer": SETTING["scorer"], "dim": SETTING["d"]},
            "method": method,
            "sampler": {"pool": SETTING["pool"], "negatives": SETTING["negatives"], **options},
            "training": {"batch_size": batch},
            "device": device,
        }
    )
    return build_trainer(config, build_dataset(config, dataset))


def seconds(trainer: Trainer, step: int) -> float:
    """Wall time of one step, its result awaited."""
    started = time.perf_counter()
    float(trainer.step(step))
    return time.perf_counter() - started


def gemm_gflops(device: str, n: int = 1536) -> float:
    """Rate of one square float32 matrix product."""
    a, b = torch.randn(2, n, n, device=device)
    started = time.perf_counter()
    float((a @ b)[0, 0])
    return 2 * n**3 / (time.perf_counter() - started) / 1e9


def resident_gb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child(method: str, device: str) -> dict[str, float]:
    """In a process of its own: peak memory of a method's steps, and what the features take of it."""
    trainer = build(SETTING["batch"], device, method)
    sampler: Any = trainer.sampler
    features: dict[str, Modality] = sampler.modalities if method == "mmrns" else sampler.similarity.modalities
    size = sum(m.values.nbytes for m in features.values()) / 2**30
    for step in range(4):
        seconds(trainer, step)
    return {"peak_gb": resident_gb(), "features_gb": size}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with freed_memory_kept():
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """All of it, or the part of the child process."""
    device = arguments.device
    if arguments.child:
        print(json.dumps(child(arguments.child, device)))
        return
    above: dict[str, float] = {}
    for method in ("mmrns", "mmrns-published"):
        command = [sys.executable, __file__, "--child", method, "--device", device]
        memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        above[method] = memory["peak_gb"] - memory["features_gb"]

    default = build(SETTING["batch"], device)
    relations = statistics.mean(len(default.batches.at(step).relations) for step in range(20))
    for step in range(BLOCK):
        seconds(default, step)
    gemm_gflops(device)
    rates, steps = [], []
    for block in range(1, 1 + arguments.blocks):
        rates.append(gemm_gflops(device))
        steps.append(statistics.mean(seconds(default, block * BLOCK + step) for step in range(BLOCK)))
    del default
    published = build(SETTING["batch"], device, "mmrns-published")
    seconds(published, 0)
    of_published, authors = [], []
    for step in range(1, 6):
        of_published.append(gemm_gflops(device))
        authors.append(seconds(published, step))
    del published
    small = build(100, device, "mmrns-published")
    direct = build(100, device, "mmrns-published")
    direct.sampler.similarity.__class__ = Direct
    seconds(small, 0), seconds(direct, 0)
    pairs = [(seconds(small, step), seconds(direct, step)) for step in range(1, 4)]
    found = {
        "setting": SETTING,
        "step_seconds": statistics.median(steps),
        "gemm_gflops": statistics.median([*rates, *of_published]),
        "gemm_equivalent_gflop": statistics.median(s * r for s, r in zip(steps, rates, strict=True)),
        "rss_above_features_gb": above["mmrns"],
        "published_step_seconds": statistics.median(authors),
        "published_gemm_equivalent_gflop": statistics.median(s * r for s, r in zip(authors, of_published, strict=True)),
        "published_rss_above_features_gb": above["mmrns-published"],
        "published_step_seconds_b100": statistics.median(p[0] for p in pairs),
        "published_direct_step_seconds_b100": statistics.median(p[1] for p in pairs),
        "relations_per_batch": relations,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")


if __name__ == "__main__":
    main()
