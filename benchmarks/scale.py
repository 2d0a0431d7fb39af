"""Seconds and memory of a training step against the number of entities: `python benchmarks/scale.py [--json]`.

    python benchmarks/scale.py [--json] [--entities 10000 1000000] [--methods domain-range mmrns:16 1-vs-all]
                               [--dense] [--plain] [--triples 5] [--out FILE.png]

TransE (d 100), batch 512, 32 negatives, or as many as the method says behind a colon; two modalities of 4 tokens of 64
and 8 tokens of 32 reals, half precision, written once to a folder and mapped; 5 random triples an entity over 100
relations. Each method and number of entities runs in a process of its own, one thread; seconds are those of the
processor, the median over steps and, of methods that draw for several steps at once, the mean.
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
from mmrns.runs.figures import End, grid, label_ends, magnitudes, new_figure, save_figure
from mmrns.runs.methods import method_of
from mmrns.runs.palette import styles_of
from mmrns.samplers.base import Sampler

SHAPES = {"image": (8, 32), "text": (4, 64)}
N_RELATIONS = 100


def write(folder: Path, n: int, triples: int, plain: bool) -> None:
    """A dataset folder with random triples and, unless it is plain, features; if it is not there."""
    if (folder / "test.tsv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(0)
    names = [f"e{i:08d}" for i in range(n)]
    for name, shape in {} if plain else SHAPES.items():
        (folder / "features").mkdir(exist_ok=True)
        values = torch.from_numpy(stream.standard_normal((n, *shape), dtype=np.float32)).half()
        mask = torch.ones(n, shape[0], dtype=torch.bool)
        save_file({"values": values, "mask": mask}, folder / "features" / f"{name}.safetensors")
        (folder / "features" / f"{name}.entities").write_text("\n".join(names) + "\n", encoding="utf-8")
    for split, rows in (("train", triples * n), ("valid", 100), ("test", 100)):
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
    name, _, negatives = method.partition(":")
    every = Sampler.registry.get(method_of(name).sampler).every
    values = {
        "data": {"dataset": str(folder)},
        "model": {"dim": 100},
        "method": name,
        "sampler": {} if every else {"negatives": int(negatives or 32)},
        "training": {"batch_size": 512, "sparse": sparse and not every},
        "device": "cpu",
    }
    torch.set_num_threads(1)
    trainer = build_trainer(make_config(apply_settings(values, settings)), load_dataset(folder))
    float(trainer.step(0))
    before = resident_gb()
    taken: list[float] = []
    for step in range(1, 1 + steps):
        started = time.process_time()
        float(trainer.step(step))
        taken.append(time.process_time() - started)
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
    parser.add_argument("--methods", nargs="+", default=["domain-range"], metavar="METHOD[:NEGATIVES]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a further setting; repeatable")
    parser.add_argument("--dense", action="store_true", help="update whole tables in every step")
    parser.add_argument("--plain", action="store_true", help="without features")
    parser.add_argument("--triples", type=int, default=5, help="an entity")
    parser.add_argument("--out", type=Path, help="a picture of the median step")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmrns-scale")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with freed_memory_kept():
            (method,) = arguments.methods
            print(json.dumps(measure(arguments.folder, method, arguments.steps, arguments.set, not arguments.dense)))
        return
    found: dict[str, dict[str, Any]] = {method: {} for method in arguments.methods}
    for n in arguments.entities:
        folder = arguments.folder / f"{n}-{arguments.triples}{'-plain' if arguments.plain else ''}"
        write(folder, n, arguments.triples, arguments.plain)
        for method, of_method in found.items():
            command = [sys.executable, __file__, "--child", "--folder", str(folder), "--methods", method]
            command += ["--steps", str(arguments.steps), *(f"--set={setting}" for setting in arguments.set)]
            command += ["--dense"] if arguments.dense else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            of_method[str(n)] = json.loads(done.stdout)
            if not arguments.json:
                print(f"{method:<20} {n:>10,} {of_method[str(n)]}", flush=True)
    if arguments.json:
        print(json.dumps(found))
    if arguments.out is not None:
        draw(found, arguments.out)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """The seconds of a step of each method against the number of entities, both logarithmic."""
    figure, (axes,) = new_figure("Seconds of a training step against the number of entities", "one core", width=9.0)
    styles = styles_of([method.partition(":")[0] for method in found])
    ends = list[End]()
    for (method, by_size), style in zip(found.items(), styles, strict=True):
        sizes = [int(n) for n in by_size]
        seconds = [by_size[n]["step_seconds"] for n in by_size]
        axes.plot(sizes, seconds, linewidth=2, linestyle=style.line, markersize=8, **style.marked)
        ends.append(End(sizes[-1], seconds[-1], f"{method} {seconds[-1]:.2g}", seconds[-1], style))
    axes.set_xscale("log")
    magnitudes(axes, [of["step_seconds"] for by_size in found.values() for of in by_size.values()])
    axes.set_xlabel("entities")
    axes.set_ylabel("seconds of a step")
    grid(axes)
    label_ends(axes, ends)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
