"""Triples trained a second, beside PyKEEN: `python benchmarks/training.py [--json]`.

MKG-W (found through $MMRNS_DATA), d = 200 (complex scorers: 200 complex), batch 1,024, 32 uniform negatives a triple,
the loss of RotatE's paper, Adam; the two take turns, an epoch of the peer and as many triples of ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from peer import PEERS, factory, peer_of
from pykeen.training import SLCWATrainingLoop
from pykeen.training.callbacks import TrainingCallback

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer

SETTING: dict[str, Any] = {"dataset": "MKG-W", "d": 200, "batch": 1024, "negatives": 32, "gamma": 9.0}
FIRST = 6
"""Steps that are not timed."""


class Clock(TrainingCallback):
    """Notes when each of the peer's batches is done."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def post_batch(self, *arguments: Any, **keywords: Any) -> None:
        """Called after the update."""
        self.times.append(time.perf_counter())


def trainer_of(name: str, dataset: Dataset, setting: dict[str, Any], device: str) -> Trainer:
    """Ours."""
    values = {
        "model": {"scorer": name, "dim": setting["d"]},
        "objective": {"gamma": setting["gamma"], "alpha": 1.0},
        "method": "uniform",
        "sampler": {"negatives": setting["negatives"]},
        "training": {"batch_size": setting["batch"]},
        "device": device,
    }
    return build_trainer(make_config(values), dataset)


def peer_epoch(loop: Any, train: Any, epoch: int, batch: int) -> float:
    """Triples a second within one epoch of the peer, its preparations left out."""
    clock = Clock()
    loop.train(
        train,
        num_epochs=epoch,
        batch_size=batch,
        use_tqdm=False,
        use_tqdm_batch=False,
        callbacks=clock,
        # Otherwise it starts anew.
        continue_training=epoch > 1,
        pin_memory=False,
        drop_last=True,
    )
    return (len(clock.times) - 1) * batch / (clock.times[-1] - clock.times[0])


def measure(
    name: str, dataset: Dataset, repeats: int, setting: dict[str, Any] = SETTING, device: str = "cpu"
) -> dict[str, Any]:
    """Median triples a second of both."""
    graph, batch = dataset.graph, int(setting["batch"])
    train = factory(graph, graph.train)
    peer = peer_of(
        name,
        graph,
        int(setting["d"]),
        loss="nssa",
        loss_kwargs={"margin": setting["gamma"], "adversarial_temperature": 1.0},
    ).to(device)
    loop = SLCWATrainingLoop(
        model=peer,
        triples_factory=train,
        optimizer="adam",
        negative_sampler="basic",
        negative_sampler_kwargs={"num_negs_per_pos": setting["negatives"]},
    )
    trainer = trainer_of(name, dataset, setting, device)
    steps = len(graph.train) // batch - 1
    found: dict[str, list[float]] = {"ours": [], "pykeen": []}
    # What is compiled at first use, or recorded on a GPU, for both sides.
    for step in range(FIRST):
        float(trainer.step(step))
    for repeat in range(repeats):
        started = time.perf_counter()
        for step in range(FIRST + repeat * steps, FIRST + (repeat + 1) * steps):
            loss = trainer.step(step)
        # Waits for a device.
        float(loss)
        found["ours"].append(steps * batch / (time.perf_counter() - started))
        found["pykeen"].append(peer_epoch(loop, train, repeat + 1, batch))
    tps = {who: statistics.median(values) for who, values in found.items()}
    return {
        "ours_tps": tps["ours"],
        "pykeen_tps": tps["pykeen"],
        "ratio": tps["ours"] / tps["pykeen"],
        "setting": setting,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scorer", action="append", choices=PEERS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    dataset = mmrns.load_dataset(str(SETTING["dataset"]))
    with freed_memory_kept():
        found = {s: measure(s, dataset, arguments.repeats) for s in arguments.scorer or PEERS}
    print(json.dumps(found) if arguments.json else "\n".join(f"{s:>9} {found[s]}" for s in found))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
