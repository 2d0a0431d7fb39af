"""The composition root: the only place that turns a configuration into objects."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from mmrns.data.batches import Batches
from mmrns.data.datasets import Dataset, load_dataset
from mmrns.errors import UsageError
from mmrns.nn.losses import SelfAdversarialLoss
from mmrns.nn.model import Model
from mmrns.nn.regularizers import LpRegularizer
from mmrns.registry import sampler_class, scorer_class
from mmrns.rng import seeded
from mmrns.runs.config import Config
from mmrns.samplers.base import Sampler
from mmrns.training.optimizer import Group, Optimizer, schedule_of, sparse_tables
from mmrns.training.trainer import Plan, Trainer


def build_dataset(config: Config) -> Dataset:
    """The dataset, with the configured treatment of its validation split."""
    dataset = load_dataset(config.data.dataset)
    return dataset.without_leaked_valid() if config.data.drop_leaked_valid else dataset


def build_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps, cpu that is there.

    Raises:
        UsageError: the named device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        raise UsageError(f"device {name!r} is not available here; use --device cpu or auto")
    return torch.device(name)


def build_model(config: Config, n_entities: int, n_relations: int) -> Model:
    """A freshly initialised model; embeddings start within (gamma + 2) / d as in the RotatE code base."""
    options = config.model.model_extra or {}
    dim = config.model.dim
    with seeded(config.seed, "model"):
        scorer = scorer_class(config.model.scorer)(dim, (config.objective.gamma + 2) / dim, **options)
        return Model(scorer, n_entities, n_relations, sparse=config.training.sparse)


def build_sampler(config: Config, dataset: Dataset, model: Model) -> Sampler:
    """A freshly initialised sampler; it is given what it needs of the objective."""
    method = config.method
    cls = sampler_class(method.sampler)
    options: dict[str, Any] = dict(config.sampler.model_extra or {})
    if "alpha" in inspect.signature(cls).parameters:
        options["alpha"] = method.alpha
    with seeded(config.seed, "sampler"):
        return cls(dataset.graph, dataset.features, model.spec, seed=config.seed, **options)


def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Everything that trains, on the configured device."""
    device, graph, method = build_device(config.device), dataset.graph, config.method
    model = build_model(config, len(graph.entities), len(graph.relations))
    sampler = build_sampler(config, dataset, model)
    model.to(device)
    sampler.to(device)
    objective = SelfAdversarialLoss(gamma=config.objective.gamma if model.scorer.distance else 0.0, alpha=method.alpha)
    optimizer = build_optimizer(config, model, sampler)
    batches = Batches(
        graph,
        size=config.training.batch_size,
        sides=method.sides,
        seed=config.seed,
        subsampling=config.objective.subsampling,
    )
    regularizer = LpRegularizer(weight=config.objective.l3)
    return Trainer(model, sampler, objective, regularizer, optimizer, batches, device)


def build_optimizer(config: Config, model: Model, sampler: Sampler) -> Optimizer:
    """The groups `model`, `tables` (those with sparse gradients) and `sampler`, and their schedule."""
    t = config.training
    tables = sparse_tables(model)
    within = {id(table) for table in tables}
    groups = [
        Group("model", [p for p in model.parameters() if id(p) not in within], t.lr),
        Group("tables", tables, t.lr, sparse=True),
        Group("sampler", list(sampler.parameters()), t.sampler_lr),
    ]
    return Optimizer(groups, kind=t.optimizer, schedule=schedule_of(t.schedule, t.steps, t.warmup))


def build_plan(config: Config) -> Plan:
    """When the loop logs, validates, saves and stops."""
    t = config.training
    return Plan(t.steps, t.log_every, t.evaluate_every, t.checkpoint_every, t.patience)
