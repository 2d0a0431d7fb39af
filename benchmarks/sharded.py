"""What processes that train together send, hold and take: `python benchmarks/sharded.py [--json]`.

Synthetic triples, `self-adversarial` with TransE, d 200, batch 1,024, 64 negatives, 50,000 entities, 200 relations.
With `--modalities N` entities have N more views, of 2 tokens of width 64 that a tenth of them lack (`residual`).
Bytes are counted in a wrapper of the collectives of `torch.distributed`, a process a step, as rings send them: of n
bytes that all processes come to have, (W - 1) / W n, and of n bytes that are summed up twice as many. The formula is
that of `ShardedModel`. Processes share the cores of the machine, so that seconds do not fall with their number where it
has few.

`python benchmarks/sharded.py --limit MIB [--json]` has a graph of a million entities trained, evaluated and asked by
one process and by two, none of which may have more than so many MiB of memory of its own (`RLIMIT_DATA`; what is mapped
from a file is not of it). Tables that do not fit one process end it with one line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.data.writing import write_graph
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer
from mmrns.training.world import World, world_of

SIZES = (1, 2, 4)
WARM, TIMED = 2, 4


def dataset_of(entities: int, relations: int, modalities: int = 0, triples: int = 100_000) -> Dataset:
    """Random triples and features; nothing that is measured depends on what they say."""
    stream = torch.Generator().manual_seed(0)
    sizes = entities, relations, entities
    train = torch.stack([torch.randint(n, (triples,), generator=stream) for n in sizes], dim=1)
    names = [Vocabulary([f"{kind}{i:07d}" for i in range(n)]) for kind, n in (("e", entities), ("r", relations))]
    graph = KnowledgeGraph(names[0], names[1], train, train[:100], train[100:200])
    rows = torch.where(torch.rand(entities, generator=stream) < 0.1, -1, torch.arange(entities))
    values, mask = torch.randn(entities, 2, 64, generator=stream), torch.ones(entities, 2, dtype=torch.bool)
    features = {f"m{number}": Modality(values, mask, rows) for number in range(modalities)}
    return Dataset("synthetic", None, graph, Features(features))


class Counted:
    """Counts what the collectives of this process send until it is ended."""

    def __init__(self, size: int):
        self.size, self.bytes = size, 0.0
        self.all_reduce, self.all_to_all_single = dist.all_reduce, dist.all_to_all_single
        self._put(self._reduced, self._exchanged)

    def end(self) -> None:
        """Let the collectives be as they were."""
        self._put(self.all_reduce, self.all_to_all_single)

    def _put(self, all_reduce: Any, all_to_all_single: Any) -> None:
        patched: Any = dist
        patched.all_reduce, patched.all_to_all_single = all_reduce, all_to_all_single

    def _reduced(self, values: Tensor, *given: Any) -> Any:
        self.bytes += 2 * (self.size - 1) / self.size * values.nbytes
        return self.all_reduce(values, *given)

    def _exchanged(self, out: Tensor, values: Tensor, received: list[int], sent: list[int]) -> Any:
        row = values.nbytes / max(1, len(values))
        self.bytes += row * (sum(sent) - sent[dist.get_rank()])
        return self.all_to_all_single(out, values, received, sent)


def formula(trainer: Trainer) -> float:
    """Bytes that a process sends in a step, as `ShardedModel` has it."""
    size, rows = trainer.world.size, trainer.batches.size
    alike, model = sum(parameter.numel() for parameter in trainer.alike), trainer.model
    views = len(model.views)
    width, sums = views * model.scorer.entity_width, 24
    if views > 1:
        width, sums = width + views, sums + 16 * (views + model.n_view_losses)
    return 2 * (size - 1) / size * (4 * rows * width + 4 * alike + sums * rows)


def held(trainer: Trainer) -> float:
    """MiB of the entity table of this process, its gradient and what the optimizer keeps of it."""
    (table,) = (
        parameter for name, parameter in trainer.model.entity.named_parameters() if name in trainer.model.entity.rows
    )
    kept = [state for part in trainer.optimizer.parts for p, state in part.state.items() if p is table]
    moments = [value for state in kept for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in (table, table.grad, *moments) if isinstance(tensor, Tensor)) / 2**20


def process(rank: int, size: int, port: int, cases: Sequence[dict[str, Any]], answer: Connection) -> None:
    """One of so many processes of trainings of a few steps, one after the other."""
    told = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in told.items()})
    torch.set_num_threads(1)
    with world_of().started() as world:
        for settings in cases:
            answer.send(measured(trainer_of(settings, world), world))


def trainer_of(settings: dict[str, Any], world: World) -> Trainer:
    """A training of random triples, of which this process has its part."""
    modalities: int = settings.get("modalities", 0)
    dataset = dataset_of(settings["entities"], settings["relations"], modalities)
    views = {"modalities": [*dataset.features], "mixture": "residual"} if modalities else {}
    values = {
        "method": settings["method"],
        "model": {"scorer": settings["scorer"], "dim": settings["dim"], **views},
        "sampler": settings["sampler"],
        "training": {"batch_size": settings["batch"]},
        "device": "cpu",
    }
    return build_trainer(make_config(values), dataset, world=world)


def measured(trainer: Trainer, world: World) -> dict[str, float]:
    """What some steps send and take, and what there is then."""
    for step in range(WARM):
        trainer.step(step)
    counted, seconds = Counted(world.size), list[float]()
    for step in range(WARM, WARM + TIMED):
        started = time.perf_counter()
        trainer.step(step)
        seconds.append(time.perf_counter() - started)
    counted.end()
    return {
        "counted": counted.bytes / TIMED,
        "formula": formula(trainer),
        "table_mb": held(trainer),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "seconds": statistics.median(seconds),
    }


def together(size: int, *cases: dict[str, Any]) -> list[list[dict[str, float]]]:
    """What each of so many processes has measured, case by case. What it holds at most is that of the cases so far."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    given = [(rank, size, port, cases, pipe[1]) for rank, pipe in enumerate(pipes)]
    processes = [context.Process(target=process, args=each) for each in given]
    for each, (_, sends) in zip(processes, pipes, strict=True):
        each.start()
        sends.close()  # So that one that ends without an answer is noticed.
    answers = [[pipe[0].recv() for pipe in pipes] for _ in cases]
    for each in processes:
        each.join()
    return answers


def limited(limit: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What becomes of one process and of two, by their number, that have so many MiB each."""
    with TemporaryDirectory() as place:
        graph, found = Path(place) / "graph", dict[str, Any]()
        made = dataset_of(settings["entities"], settings["relations"], settings["entities"])
        few = replace(made.graph, valid=made.graph.valid[:10], test=made.graph.test[:10])
        write_graph(replace(made, graph=few), graph)
        for size in (1, 2):
            run = Path(place) / f"run{size}"
            found[str(size)] = {"train": ended(size, limit, trained(settings, graph, run))}
            if (run / "results.json").exists():
                evaluate, predict = ["evaluate", str(run)], ["predict", str(run), "--queries", str(graph / "queries")]
                (graph / "queries").write_text("e0000000\tr0000000\t?\n?\tr0000001\te0000001\n")
                # A run of two is opened by one as well, as far as it has room.
                found[str(size)] |= {
                    f"{words[0]} by {n}": ended(n, limit, words) for words in (evaluate, predict) for n in (1, size)
                }
        return found


def trained(settings: dict[str, Any], graph: Path, run: Path) -> list[str]:
    """The words of a short training."""
    values: dict[str, Any] = {
        "model.dim": settings["dim"],
        "training.batch_size": settings["batch"],
        "training.steps": 10,
        "training.evaluate_every": 10,
        "training.hardness": "false",
        "training.sparse": "true",
        "evaluation.memory_mb": 128,
        "sampler.negatives": settings["sampler"]["negatives"],
        "threads": 1,
    }
    words = ["train", "--dataset", str(graph), "--scorer", settings["scorer"], "--method", settings["method"]]
    words += ["--device", "cpu", "--out", str(run)]
    return words + [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def ended(size: int, limit: int, words: list[str]) -> dict[str, Any]:
    """How a command by so many processes has ended, what it has said of that, and the most that one of them had."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit * 2**20, limit * 2**20))

    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
    command, since, peak = [sys.executable, *start, "-m", "mmrns", *words], time.perf_counter(), 0
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, preexec_fn=bounded, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            peak = max(peak, *(_own_mb(pid) for pid in _with_children(process.pid)))
            time.sleep(0.05)
        errors.seek(0)
        said = [line.rstrip() for line in errors if line.startswith("mmrns: ")]
    seconds = round(time.perf_counter() - since, 1)
    return {"exit": process.returncode, "said": said, "peak_mb": peak, "seconds": seconds}


def _with_children(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(found for child in children for found in _with_children(int(child)))]


def _own_mb(pid: int) -> int:
    """MiB that a process has of its own, which is what the limit is of; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 2**10 for line in lines if line.startswith("VmData:")), 0)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--limit", type=int, metavar="MIB", help="what a process may have, with 1,000,000 entities")
    parser.add_argument("--entities", type=int)
    parser.add_argument("--relations", type=int, default=200)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--scorer", default="TransE")
    parser.add_argument("--method", default="self-adversarial")
    parser.add_argument("--negatives", type=int, default=64)
    parser.add_argument("--modalities", type=int, default=0)
    settings = vars(parser.parse_args())
    as_json, negatives, limit = (settings.pop(key) for key in ("json", "negatives", "limit"))
    settings["sampler"] = {"negatives": negatives}
    settings["entities"] = settings["entities"] or (1_000_000 if limit else 50_000)
    if limit:
        answer = {"setting": settings, "limit_mb": limit, "processes": limited(limit, settings)}
        print(json.dumps(answer, indent=None if as_json else 2))
        return
    found = {str(size): together(size, settings)[0] for size in SIZES}

    def mean(size: str, key: str) -> float:
        return statistics.mean(answer[key] for answer in found[size])

    largest = str(SIZES[-1])
    results: dict[str, Any] = {
        "setting": settings | {"processes": SIZES[-1]},
        "bytes": {key: round(mean(largest, key)) for key in ("counted", "formula")},
        "table_mb_per_rank": {size: round(max(a["table_mb"] for a in found[size]), 2) for size in found},
        "peak_mb_per_rank": {size: round(max(a["peak_mb"] for a in found[size]), 1) for size in found},
        "step_seconds": {size: round(mean(size, "seconds"), 4) for size in found},
    }
    print(json.dumps(results, indent=None if as_json else 2))


if __name__ == "__main__":
    main()
