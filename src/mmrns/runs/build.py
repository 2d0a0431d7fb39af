"""The composition root: the only place that turns a configuration into objects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.errors import UsageError
from mmrns.nn.embedders.table import FusedEmbedder
from mmrns.nn.fusion import FusedScorer
from mmrns.nn.losses import LOSSES, Loss
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.registry import sampler_class, scorer_class
from mmrns.rng import seeded
from mmrns.runs.config import METHODS, Config, inner_options
from mmrns.samplers.base import Inner, Sampler
from mmrns.training.batches import Batches
from mmrns.training.optimizer import Group, Optimizer, schedule_of, sparse_tables
from mmrns.training.trainer import Plan, Trainer


def build_dataset(config: Config) -> Dataset:
    """The dataset, its validation split and features treated as configured, the features near the device."""
    dataset = load_dataset(config.data.dataset)
    features = dataset.features.drop(config.data.drop_modality, config.seed)
    dataset = replace(dataset, features=features.on(build_device(config.device), config.data.features_mb))
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


def build_model(config: Config, dataset: Dataset) -> Model:
    """A freshly initialised model; embeddings start within (gamma + 2) / d as in the RotatE code base."""
    m, sparse, graph = config.model, config.training.sparse, dataset.graph
    n = len(graph.entities)
    with seeded(config.seed, "model"):
        scorer = scorer_class(m.scorer)(m.dim, (config.objective.gamma + 2) / m.dim, **(m.model_extra or {}))
        entity = None
        if m.modalities:
            chosen = {name: dataset.features[name] for name in m.modalities}
            width, seen = scorer.entity_width, graph.seen_entities
            entity = FusedEmbedder(n, width, scorer.init_range, chosen, seen, sparse=sparse)
            scorer = FusedScorer(scorer, 1 + len(chosen))
        return Model(scorer, n, len(graph.relations), reciprocal=m.reciprocal, sparse=sparse, entity=entity)


def build_sampler(config: Config, dataset: Dataset, model: Model) -> Sampler:
    """A freshly initialised sampler, and those inside it; each is given what it needs of the objective."""
    alpha = config.method.alpha

    def of(method: str, options: Mapping[str, Any]) -> Inner:
        cls = sampler_class(METHODS[method].sampler)
        chosen = dict(options)
        for name in inner_options(cls):
            if chosen[name] is not None:
                inner = dict(chosen[name])
                chosen[name] = of(inner.pop("name"), inner)
        if "alpha" in inspect.signature(cls).parameters:
            chosen["alpha"] = alpha
        return partial(cls, dataset.graph, dataset.features, model.spec, seed=config.seed, **chosen)

    with seeded(config.seed, "sampler"):
        return of(config.sampler.name, config.sampler.model_extra or {})()


def build_batches(config: Config, dataset: Dataset) -> Batches:
    """The stream of training batches."""
    method = config.method
    return Batches(
        dataset.graph,
        size=config.training.batch_size,
        sides=method.sides,
        seed=config.seed,
        subsampling=config.objective.subsampling,
        queries=method.queries,
    )


def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Everything that trains, on the configured device."""
    device, method = build_device(config.device), config.method
    model = build_model(config, dataset)
    sampler = build_sampler(config, dataset, model)
    model.to(device)
    sampler.to(device)
    loss = LOSSES[method.loss]
    gamma = config.objective.gamma if model.scorer.distance or not loss.shifts else 0.0
    objective = loss(gamma=gamma, alpha=method.alpha)
    optimizer = build_optimizer(config, model, sampler)
    batches = build_batches(config, dataset)
    o = config.objective
    regularizer = Regularizer(l2=o.l2, l3=o.l3, n3=o.n3)
    if config.training.compile:
        compile_formulas(model, objective)
    autocast = config.training.autocast
    return Trainer(model, sampler, objective, regularizer, optimizer, batches, device, autocast=autocast)


def compile_formulas(model: Model, objective: Loss) -> None:
    """Have torch compile the scorer's and the loss's formulas, which are what has many small operations."""
    # The stubs do not know that methods may be replaced on an instance.
    scorer: Any = model.scorer
    scorer.query, scorer.compare = torch.compile(scorer.query), torch.compile(scorer.compare)
    loss: Any = objective
    loss.rows = torch.compile(loss.rows)


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
