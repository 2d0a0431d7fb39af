"""Seconds and memory of a training step against the number of entities: `python benchmarks/scale.py [--json]`.

    python benchmarks/scale.py [--json] [--entities 10000 1000000] [--method domain-range] [--dense]

TransE (d 100), batch 512, 32 negatives, pool 512; two modalities of 4 tokens of 64 and 8 tokens of 32 reals, half
precision, written once to a folder and mapped; 5 random triples an entity over 100 relations. Each number of entities
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from mmrns_step import resident_gb
from safetensors.torch import save_file

from mmrns.data.datasets import load_dataset
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_trainer
from mmrns.runs.config import apply_settings, make_config

SHAPES = {"image": (8, 32), "text": (4, 64)}
N_RELATIONS, TRIPLES_PER_ENTITY = 100, 5


def write(folder: Path, n: int) -> None:
    """A dataset folder with random triples and features, unless it is there."""
    if (folder / "test.tsv").exists():
        return
    (folder / "features").mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(0)
    names = [f"e{i:08d}" for i in range(n)]
    for name, shape in SHAPES.items():
        values = torch.from_numpy(stream.standard_normal((n, *shape), dtype=np.float32)).half()
        mask = torch.ones(n, shape[0], dtype=torch.bool)
        save_file({"values": values, "mask": mask}, folder / "features" / f"{name}.safetensors")
        (folder / "features" / f"{name}.entities").write_text("\n".join(names) + "\n", encoding="utf-8")
    for split, rows in (("train", TRIPLES_PER_ENTITY * n), ("valid", 100), ("test", 100)):
        h, t = stream.integers(n, size=(2, rows))
        r = stream.integers(N_RELATIONS, size=rows)
        frame = pl.DataFrame({"h": h, "r": r, "t": t}).select(
            pl.format("e{}", pl.col("h").cast(pl.String).str.zfill(8)),
            pl.format("r{}", pl.col("r")).alias("r"),
            pl.format("e{}", pl.col("t").cast(pl.String).str.zfill(8)).alias("t"),
        )
        frame.write_csv(folder / f"{split}.tsv", separator="\t", include_header=False)


def measure(folder: Path, method: str, steps: int, settings: list[str], sparse: bool) -> dict[str, Any]:
    """Median seconds of a step, and what the steps add to the resident memory."""
    values = {
        "data": {"dataset": str(folder)},
        "model": {"dim": 100},
        "method": method,
        "sampler": {"negatives": 32},
        "training": {"batch_size": 512, "sparse": sparse},
        "device": "cpu",
    }
    trainer = build_trainer(make_config(apply_settings(values, settings)), load_dataset(folder))
    float(trainer.step(0))
    before = resident_gb()
    taken: list[float] = []
    for step in range(1, 1 + steps):
        started = time.perf_counter()
        float(trainer.step(step))
        taken.append(time.perf_counter() - started)
    return {
        "step_seconds": statistics.median(taken),
        "mean_step_seconds": statistics.mean(taken),
        "before_gb": before,
        "peak_gb": resident_gb(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--method", default="domain-range", help="mmrns is the same with its attention")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a further setting; repeatable")
    parser.add_argument("--dense", action="store_true", help="update whole tables in every step")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmrns-scale")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with freed_memory_kept():
            found = measure(arguments.folder, arguments.method, arguments.steps, arguments.set, not arguments.dense)
            print(json.dumps(found))
        return
    found: dict[str, Any] = {}
    for n in arguments.entities:
        folder = arguments.folder / str(n)
        write(folder, n)
        command = [sys.executable, __file__, "--child", "--folder", str(folder), "--method", arguments.method]
        command += ["--steps", str(arguments.steps), *(f"--set={setting}" for setting in arguments.set)]
        command += ["--dense"] if arguments.dense else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[str(n)] = json.loads(done.stdout)
    print(json.dumps(found) if arguments.json else "\n".join(f"{n:>10} {found[n]}" for n in found))


if __name__ == "__main__":
    main()
