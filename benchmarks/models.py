"""What a training step of a model takes beside its products alone: `python benchmarks/models.py [--json]`.

    python benchmarks/models.py [--json] [--dataset DB15K-resplit] [--dim 1000] [--models ComplEx,BiQUE,residual]

Structure: every scorer that compares by products. Views: every mixture, and every embedder that reads modalities, with
ComplEx, or the scorer that it is for, and all features of the dataset. Each is trained by k-vs-all with Adagrad and N3,
512 rows, reciprocal relations, for a few steps in a process of its own. Of a step are told the seconds, in the median;
the FLOP of its matrix products, forward and backward (`torch.utils.flop_counter`); the ratio of these seconds to what
the FLOP take at the machine's rate, which is that of a square product of the same precision, measured in alternation
with the steps; and the most memory that the process took beyond what it had before the model was made, the features'
own among it (on a GPU: that of tensors). Work that is no product, and products in the package's own kernels, count as
seconds alone.

With `--autocast` products are of bfloat16, those that measure the rate as well. A model whose size is that of a cube of
d, or of a square for each relation, is measured at the d of `LARGEST`. Datasets are found through $MMRNS_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from mmrns_step import resident_gb
from torch.utils.flop_counter import FlopCounterMode

from mmrns.data.datasets import load_dataset
from mmrns.memory import freed_memory_kept
from mmrns.nn.embedders import Embedder
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_dataset, build_trainer
from mmrns.runs.config import apply_settings, make_config, takes
from mmrns.training.trainer import Trainer

SETTING: dict[str, Any] = {
    "method": "k-vs-all",
    "model.scorer": "ComplEx",
    "model.reciprocal": True,
    "objective.n3": 0.01,
    "training.optimizer": "adagrad",
    "training.lr": 0.1,
}
LARGEST = {"TuckER": 200, "RESCAL": 500}
"""The largest d of models that are larger than their vectors."""


def settings_of(name: str, modalities: list[str]) -> dict[str, Any]:
    """What makes a model of its name: that of a scorer, of a mixture, or of an embedder."""
    if name in Scorer.registry.names():
        return {"model.scorer": name}
    kind = "mixture" if name in Mixture.registry.names() else "embedder"
    if not modalities:
        raise SystemExit(f"{name} reads features, and the dataset has none; give another --dataset")
    wanted = Embedder.registry.get(name).scorer if kind == "embedder" else Scorer
    scorer = {} if wanted is Scorer else {"model.scorer": Scorer.registry.name_of(wanted)}
    return {f"model.{kind}": name, "model.modalities": modalities} | scorer


def every_model(modalities: list[str]) -> list[str]:
    """The names of all that can be measured here."""
    scorers = [name for name in Scorer.registry.names() if Scorer.registry.get(name).comparison == "dot"]
    embedders = [name for name in Embedder.registry.names() if takes(Embedder.registry.get(name), "modalities")]
    # With the embedder `fused` the mixtures are measured.
    views = [*Mixture.registry.names(), *(name for name in embedders if name != "fused")]
    return scorers + (views if modalities else [])


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(trainer: Trainer, step: int, device: str) -> float:
    """Wall time of one step, the device awaited."""
    wait(device)
    started = time.perf_counter()
    trainer.step(step)
    wait(device)
    return time.perf_counter() - started


def flop_rate(device: str, dtype: torch.dtype, n: int) -> float:
    """FLOP a second of one square matrix product [n n] in a precision."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    wait(device)
    started = time.perf_counter()
    torch.mm(a, b)
    wait(device)
    return 2 * n**3 / (time.perf_counter() - started)


def flop_of(trainer: Trainer, steps: range) -> float:
    """FLOP of the products of a step, forward and backward, in the mean."""
    with FlopCounterMode(display=False) as counter:
        for step in steps:
            trainer.step(step)
    return counter.get_total_flops() / len(steps)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float | None]:
    """A model's row."""
    device, steps = arguments.device, arguments.steps
    dataset = load_dataset(arguments.dataset)
    values = (
        SETTING
        | settings_of(name, list(dataset.features))
        | {
            "model.dim": min(arguments.dim, LARGEST.get(name, arguments.dim)),
            "training.batch_size": arguments.batch,
            "training.autocast": arguments.autocast,
            "device": device,
        }
    )
    config = make_config(apply_settings({}, values))
    before = resident_gb()
    trainer = build_trainer(config, build_dataset(config, dataset))
    dtype = torch.bfloat16 if arguments.autocast else torch.float32
    # The first two, one of each side, make room and tables.
    flop = flop_of(trainer, range(2))
    taken: list[float] = []
    times_rate: list[float] = []
    flop_rate(device, dtype, arguments.square)
    for step in range(2, 2 + steps):
        rate = flop_rate(device, dtype, arguments.square)
        taken.append(seconds(trainer, step, device))
        times_rate.append(taken[-1] * rate)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 1024 * (resident_gb() - before)
    return {
        "seconds": statistics.median(taken),
        "flop": flop,
        "ratio": statistics.median(times_rate) / flop if flop else None,
        "memory_mb": peak,
    }


def main() -> None:
    """Measure each in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dataset", default="DB15K-resplit")
    parser.add_argument("--dim", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--models", help="names, with commas between; all by default")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--square", type=int, default=1536, help="rows of the product that measures the rate")
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with freed_memory_kept():
            print(json.dumps(measure(arguments.one, arguments)))
        return
    named = arguments.models.split(",") if arguments.models else None
    found: dict[str, dict[str, float | None]] = {}
    for name in named or every_model(list(load_dataset(arguments.dataset).features)):
        made = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", name], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(made.stdout.splitlines()[-1])
        if not arguments.json:
            row = found[name]
            ratio = "no product" if row["ratio"] is None else f"{row['ratio']:.2f} times its products"
            print(f"{name:12} {row['seconds']:.4f} s, {ratio}, {row['memory_mb']:,.0f} MB")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
