"""What a training step takes on a GPU, and what it launches there: `python benchmarks/gpu.py [--json]`.

    python benchmarks/gpu.py [--json] [--device cuda] [--dataset DB15K-resplit] [--beside MKG-W] [--steps 20]
        [--part methods]

Of every method, TransE at d 200, 1,024 rows and 64 negatives on one dataset: the operations of a step
(`operations.py`), its wall time, the time in which the device is busy with its kernels, the kernels and copies that
it launches, and the most memory that its tensors take, each operation launched by itself; under `recorded` wall and
busy time and memory of the steps that `training.capture` replays. The same of the published setting
(`mmrns_step.py`). Ranking and training beside PyKEEN on another dataset (`ranking.py`, `training.py`), in queries and
triples a second. And of each comparison of queries with rows of a table, forward and backward, the share of the
device's bandwidth of copying that it attains, if it moved no more than it must. Under `tables` is what a step takes
whose tables of entities are on the device (`training.sparse`) or stay in the machine's memory (`host`).

It takes less than five minutes on one GPU; `--part` measures one of these alone. With `--device cpu` it shows that it
runs: what only a device can tell is null. Datasets are found through $MMRNS_DATA.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import attention
import mmrns_step
import ranking
import torch
from operations import cycle, operations
from peer import PEERS
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import mmrns
import training
from mmrns.data.datasets import Dataset
from mmrns.nn.kernels.comparisons import compare_rows
from mmrns.training.trainer import Trainer

PARTS = ("methods", "published", "beside", "bandwidth", "tables")
OF_STEP = ("aten_ops", "step_ms", "busy_ms", "launches", "peak_gb")
PUBLISHED = ("mmrns", "mmrns-published")
KINDS = ("l1", "modulus", "dot")
HOSTED = ("self-adversarial", "shared-pool", "hard", "domain-range", "mmrns")
COPIED = 2**28
"""Bytes that are copied to measure the bandwidth."""


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def run(trainer: Trainer, first: int, steps: int, device: str) -> float:
    """Seconds of some steps, the device awaited."""
    wait(device)
    started = time.perf_counter()
    for step in range(first, first + steps):
        trainer.step(step)
    wait(device)
    return time.perf_counter() - started


def busy(work: Callable[[], object], device: str) -> tuple[float | None, float | None]:
    """Milliseconds of the kernels of some work, and kernels and copies that it launches; None on a processor."""
    if device == "cpu":
        return None, None
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        work()
        wait(device)
    # Marks of the optimizer are among the events of the device.
    events = [
        event
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return sum(event.time_range.elapsed_us() for event in events) / 1e3, len(events)


def busy_steps(trainer: Trainer, first: int, steps: int, device: str) -> tuple[float | None, float | None]:
    """The same of a step, in the mean."""
    taken, launched = busy(lambda: run(trainer, first, steps, device), device)
    return (None, None) if taken is None or launched is None else (taken / steps, launched / steps)


def peak(trainer: Trainer, first: int, steps: int, device: str) -> float | None:
    """GiB that tensors on the device take at most; None on a processor."""
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    run(trainer, first, steps, device)
    return torch.cuda.max_memory_allocated() / 2**30


def of_step(trainer: Trainer, steps: int, device: str) -> dict[str, float | None]:
    """What is measured of a step, in the mean over whole cycles of at least so many steps."""
    whole = cycle(trainer)
    steps = -(-steps // whole) * whole
    trainer.record(False)
    found: dict[str, float | None] = {"aten_ops": operations(trainer)}
    first = 2 * whole
    found["step_ms"] = 1e3 * run(trainer, first, steps, device) / steps
    found["busy_ms"], found["launches"] = busy_steps(trainer, first + steps, whole, device)
    found["peak_gb"] = peak(trainer, first + steps + whole, whole, device)
    return found


def of_recorded(trainer: Trainer, steps: int, device: str) -> dict[str, float | None] | None:
    """The same of steps that are replayed; None where none can be."""
    trainer.record("auto")
    whole = cycle(trainer)
    steps = -(-steps // whole) * whole
    # Each kind is recorded on its third time.
    run(trainer, 0, 3 * whole, device)
    if trainer.capture is None or not trainer.capture.n_recorded:
        return None
    first = 3 * whole
    taken = 1e3 * run(trainer, first, steps, device) / steps
    worked, _ = busy_steps(trainer, first + steps, whole, device)
    return {"step_ms": taken, "busy_ms": worked, "peak_gb": peak(trainer, first + steps + whole, whole, device)}


def beside_peer(
    dataset: Dataset, scorers: list[str], setting: dict[str, Any], device: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Queries ranked, and triples trained, a second, by scorer."""
    found: dict[str, dict[str, dict[str, float]]] = {"ranking": {}, "training": {}}
    for name in scorers:
        with torch.no_grad():
            ranked = ranking.measure(name, dataset.graph, setting["d"], 1, 32, device)
        trained = training.measure(name, dataset, 2, setting, device)
        for what, row, unit in (("ranking", ranked, "qps"), ("training", trained, "tps")):
            found[what][name] = {
                "ours": row[f"ours_{unit}"],
                "pykeen": row[f"pykeen_{unit}"],
                "ratio": row["ratio"],
            }
    return found


def seconds(function: Callable[[], object], device: str, times: int = 5) -> float:
    """The least of some runs of a function, the device awaited."""
    taken: list[float] = []
    for _ in range(times + 1):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        taken.append(time.perf_counter() - started)
    # In the first everything is compiled.
    return min(taken[1:])


def bandwidth(n_entities: int, setting: tuple[int, int, int], device: str) -> dict[str, float]:
    """Bytes a second of copying, and the share of it that comparisons attain, by kind.

    They must read a query and its candidates and write a score, then read these again with the scores' gradients, and
    write the gradient of the queries and of the table.
    """
    width, rows, k = setting
    query = torch.randn(rows, width, device=device, requires_grad=True)
    table = torch.randn(n_entities, width, device=device, requires_grad=True)
    ids = torch.randint(n_entities, (rows, k), device=device)
    source = torch.empty(COPIED // 4, device=device)
    target = torch.empty_like(source)

    def taken(function: Callable[[], object]) -> float:
        """Seconds of a function's kernels; of the function itself on a processor."""
        whole = seconds(function, device)
        of_kernels, _ = busy(function, device)
        return whole if of_kernels is None else of_kernels / 1e3

    rate = 2 * COPIED / taken(lambda: target.copy_(source))
    read = rows * (k + 1) * width * 4
    moved = 2 * read + 2 * rows * k * 4 + rows * width * 4 + table.nbytes
    found = {"copy_gb_s": rate / 1e9}
    for kind in KINDS:

        def compared(kind: Any = kind) -> None:
            torch.autograd.grad(compare_rows(kind, query, table, ids).sum(), (query, table))

        found[kind] = moved / taken(compared) / rate
    return found


def methods(dataset: Dataset, setting: tuple[int, int, int], steps: int, device: str) -> dict[str, Any]:
    """Of every method: each of its numbers by name, and those of replayed steps."""
    found: dict[str, Any] = {key: {} for key in (*OF_STEP, "recorded")}
    for name, trainer in attention.build_each(dataset, setting, device):
        for key, value in of_step(trainer, steps, device).items():
            found[key][name] = value
        found["recorded"][name] = of_recorded(trainer, steps, device)
    return found


def published(dataset: Dataset, batch: int, steps: int, device: str) -> dict[str, Any]:
    """The setting of the paper, on the graph of a dataset."""
    found: dict[str, Any] = {}
    for name in PUBLISHED:
        trainer = mmrns_step.build(batch, device, name, dataset.graph)
        found[name] = of_step(trainer, steps, device) | {"recorded": of_recorded(trainer, steps, device)}
    return found


def tables(dataset: Dataset, setting: tuple[int, int, int], steps: int, device: str) -> dict[str, Any]:
    """Milliseconds of a step and the memory of the device, with the tables there and with them on the host."""
    found: dict[str, Any] = {}
    for name in HOSTED:
        found[name] = {}
        for place, sparse in (("device", True), ("host", "host")):
            trainer = attention.build(name, dataset, setting, device, training={"sparse": sparse})
            run(trainer, 0, 3, device)
            taken = 1e3 * run(trainer, 3, steps, device) / steps
            found[name][place] = {"step_ms": taken, "peak_gb": peak(trainer, 3 + steps, 3, device)}
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All parts, or the one that is asked for."""
    device = arguments.device
    dataset, other = mmrns.load_dataset(arguments.dataset), mmrns.load_dataset(arguments.beside)
    other = replace(other, graph=replace(other.graph, test=other.graph.test[: arguments.triples]))
    setting = arguments.dim, arguments.batch, arguments.negatives
    beside = training.SETTING | {"dataset": other.name, "d": arguments.dim, "batch": arguments.batch}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "methods": lambda: methods(dataset, setting, arguments.steps, device),
        "published": lambda: {"published": published(other, min(arguments.batch, 400), arguments.steps, device)},
        "beside": lambda: beside_peer(other, arguments.scorer or list(PEERS), beside, device),
        "bandwidth": lambda: {"bandwidth": bandwidth(len(dataset.graph.entities), setting, device)},
        "tables": lambda: {"tables": tables(dataset, setting, arguments.steps, device)},
    }
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "torch": torch.__version__,
        "setting": dict(zip(("d", "batch", "negatives"), setting, strict=True)),
    }
    for name in [arguments.part] if arguments.part else PARTS:
        found |= parts[name]()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, help="this alone")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dataset", default="DB15K-resplit", help="of the methods")
    parser.add_argument("--beside", default="MKG-W", help="dataset of what is compared with PyKEEN")
    parser.add_argument("--steps", type=int, default=20, help="of each method that are timed, at least")
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--negatives", type=int, default=64)
    parser.add_argument("--scorer", action="append", choices=PEERS)
    parser.add_argument("--triples", type=int, help="only so many of the test split are ranked")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    for name in found.get("aten_ops", ()):
        row = {key: found[key][name] for key in OF_STEP}
        print(f"{name:>16}  " + "  ".join(f"{key} {_shown(value)}" for key, value in row.items()))
    for key in ("recorded", "published", "ranking", "training", "bandwidth", "tables"):
        if key in found:
            print(key, json.dumps(found[key]))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
