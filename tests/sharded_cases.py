"""Short trainings by several processes, and what they come to; see `training/test_sharded.py`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forms import convert
from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.features import Features, Modality
from mmrns.evaluation.hardness import measure
from mmrns.evaluation.ranking import rank
from mmrns.files import write_tensors
from mmrns.runs.build import build_dataset, build_trainer
from mmrns.runs.config import make_config
from mmrns.training.sharded import ShardedModel
from mmrns.training.trainer import Trainer
from mmrns.training.world import Parting, World, world_of
from mmrns.types import Batch, Negatives

STEPS = 5


def run_all(rank: int, size: int, port: int, folder: Path, cases: Mapping[str, Any], out: Path) -> None:
    """Take the part of one process in every case."""
    told = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in told.items()})
    torch.set_num_threads(1)
    dataset = load_dataset(str(folder))
    with world_of().started() as world:
        found = {
            f"{name}/{key}": tensor
            for name, values in cases.items()
            for key, tensor in come_to(dataset, values, world).items()
        }
    if world.first:
        write_tensors(out, found)


def come_to(dataset: Dataset, values: Mapping[str, Any], world: World) -> dict[str, Tensor]:
    """Losses, gradients and parameters of some steps, then ranks, best answers and hardness."""
    config = make_config({"device": "cpu"} | {k: v for k, v in values.items() if k not in ("memory_mb", "steps")})
    steps: int = values.get("steps", STEPS)
    dataset = build_dataset(config, dataset)
    if world.size > 1 and config.model.modalities and config.method not in ("mmrns", "domain-range"):
        dataset = replace(dataset, features=only_own(dataset.features, world))
    trainer = build_trainer(config, dataset, world=world)
    trainer.memory_mb = values.get("memory_mb", trainer.memory_mb)
    # In single precision a gradient that cancels leaves a rest, which Adam takes for a whole one.
    convert(trainer, torch.float64)
    trainer.sampler.pretrain(trainer.batch)
    found: dict[str, Tensor] = {}
    seen: list[tuple[Batch, Negatives]] = []

    def see(batch: Batch, negatives: Negatives) -> None:
        seen.append((batch, negatives))

    for step in range(steps):
        found[f"loss {step}"] = trainer.step(step, see).clone()
        if step in (0, steps - 1):
            found |= {f"gradient {step} {name}": value for name, value in gradients(trainer).items()}
        if (step + 1) % trainer.batches.per_epoch == 0:
            trainer.sampler.end_epoch(step // trainer.batches.per_epoch)
    model, graph = trainer.model, dataset.graph
    # Of what the model has in parts, all of it.
    found |= {f"model {name}": whole(trainer, name, p.detach()) for name, p in model.named_parameters()}
    found |= {f"sampler {name}": value for name, value in trainer.sampler.state_dict().items()}
    ranks = rank(model, graph.test, graph.known_index, memory_mb=0.05)
    found |= {"optimistic": ranks.optimistic, "pessimistic": ranks.pessimistic}
    batch = trainer.batch(0)
    with torch.no_grad():
        found["scores"] = model.score_all(batch)
    # What is equal may come in any order.
    found["best"] = found["scores"].topk(5).values
    told = measure(model, trainer.sampler, seen[-1][0], seen[-1][1], graph.train_index, graph.valid_index)
    found |= {"hardness": torch.tensor(told["score_percentile"] or 0.0, dtype=torch.float64)}
    found |= {"gradient norm": torch.tensor(told["gradient_norm"]["model"], dtype=torch.float64)}
    return {name: value.contiguous().clone() for name, value in found.items()}


def only_own(features: Features, world: World) -> Features:
    """The features of the entities of one process, and NaN in place of all others, which spoils whatever reads it."""

    def of(modality: Modality) -> Modality:
        own = torch.zeros(len(modality.values), dtype=torch.bool)
        rows = modality.row[Parting(len(modality.row), world.size).ids(world.rank)]
        own[rows[rows >= 0]] = True
        return replace(modality, values=torch.where(own[:, None, None], modality.values, torch.nan))

    return Features({name: of(modality) for name, modality in features.items()})


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    """The gradients by name, of all entities."""
    return {
        name: whole(trainer, name, p.grad.to_dense() if p.grad.is_sparse else p.grad)
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }


def whole(trainer: Trainer, name: str, values: Tensor) -> Tensor:
    """A tensor whose rows are parted, put together in the order of ids; another one as it is."""
    model = trainer.model
    if not isinstance(model, ShardedModel) or name not in model.parted:
        return values
    parting, every = model.parting, torch.arange(model.n_entities)
    own = every[parting.owner(every) == trainer.world.rank]
    return trainer.world.gather(values[parting.place(own)], parting.owner(every))


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
