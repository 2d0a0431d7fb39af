"""The composition root: the only place that turns a configuration into objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.errors import UsageError, note
from mmrns.nn.embedders import Embedder, keep_on_host
from mmrns.nn.kernels import comparisons
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.nn.scorers import Scorer
from mmrns.rng import seeded
from mmrns.runs.config import EMBEDDER_KEYWORDS, LOSS_KEYWORDS, Config, inner_options, options_of, refuse_unmixed, takes
from mmrns.samplers.base import Inner, Sampler
from mmrns.training.batches import Batches
from mmrns.training.callbacks import Callback
from mmrns.training.optimizer import Group, Optimizer, schedule_of, sparse_tables
from mmrns.training.progress import Plan
from mmrns.training.sharded import ShardedModel, own_entities, refuse_unsharded
from mmrns.training.trackers.base import Tracker
from mmrns.training.trainer import Trainer
from mmrns.training.world import ALONE, World

_GAMMA = 9.0
"""Where it is left open and the size of the graph says nothing of it."""


@dataclass(frozen=True)
class Parts:
    """Objects that are at hand and take the place of what the configuration would make.

    Attributes:
        dataset, scorer, embedder, mixture, sampler, objective: the objects; None = as the configuration says.
    """

    dataset: Dataset | None = None
    scorer: Scorer | None = None
    embedder: Embedder | None = None
    mixture: Mixture | None = None
    sampler: Sampler | None = None
    objective: Loss | None = None


def build_dataset(
    config: Config, given: Dataset | None = None, device: torch.device | None = None, entities: int | None = None
) -> Dataset:
    """The dataset, its validation split and features treated as configured, the features near the device.

    Args:
        config: the configuration.
        given: the dataset itself, where it is at hand.
        device: where it is used, if not where the configuration says.
        entities: how many the training had; those behind them keep the features that they have. None = all.

    Raises:
        UsageError: the configuration names none, since it was made in Python, and it is not given.
    """
    if given is None and config.data.dataset is None:
        raise UsageError("the run's dataset was made in Python; hand it over: load_run(folder, dataset=...)")
    dataset = given if given is not None else load_dataset(config.data.dataset or "")
    features = dataset.features.drop(config.data.drop_modality, config.seed)
    features = features.altered(config.data.altered, config.seed, entities)
    place = device or build_device(config.device)
    dataset = replace(dataset, features=features.on(place, config.data.features_mb))
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


def usable_device(name: str) -> str:
    """The device that a run was trained on, or `auto` where that is not available, which is said."""
    try:
        build_device(name)
    except UsageError:
        note(f"the run was trained on {name}, which is not available here; {build_device('auto')} is used")
        return "auto"
    return name


def with_gamma(config: Config, dataset: Dataset, parts: Parts | None = None) -> Config:
    """The same with gamma as a number: where it is left open it goes by the size of the graph.

    A larger margin asks for a wider range of distances, which takes more triples to fill. What was best on validation
    with TransE at d 200 grew from 2 (1,829 triples in train) to 9 (272,115); docs/results.md has the figures. The
    margin loss has another scale, and for other scores than distances gamma is but the range of initial embeddings.
    """
    if config.objective.gamma is not None:
        return config
    scorer = (parts and parts.scorer) or Scorer.registry.get(config.model.scorer)
    loss = (parts and parts.objective) or Loss.registry.get(config.recipe.loss)
    gamma = _GAMMA
    if scorer.distance and loss.shifts:
        gamma = max(1.0, round(len(dataset.graph.train) ** (1 / 3) / 6, 1))
    return config.model_copy(update={"objective": config.objective.model_copy(update={"gamma": gamma})})


def build_model(config: Config, dataset: Dataset, parts: Parts | None = None, world: World = ALONE) -> Model:
    """A freshly initialised model; embeddings start within (gamma + 2) / d as in the RotatE code base.

    Of several processes each draws the same numbers, and keeps those of its own entities.
    """
    m, sparse, graph = config.model, bool(config.training.sparse), dataset.graph
    parts = parts or Parts()
    gamma = with_gamma(config, dataset, parts).objective.gamma
    assert gamma is not None
    given = m.model_extra or {}
    with seeded(config.seed, "model"):
        scorer = parts.scorer or _scorer(m.scorer, m.dim, (gamma + 2) / m.dim, given)
        embedder = parts.embedder
        if embedder is None:
            cls: Any = Embedder.registry.get(m.embedder or "table")
            cls.refuse_unfit(scorer)
            options = {key: given[key] for key in options_of(cls, EMBEDDER_KEYWORDS).model_fields}
            if takes(cls, "modalities"):
                options["modalities"] = m.modalities or None
            options |= {"width": scorer.entity_width, "init_range": scorer.init_range, "sparse": sparse}
            if world.size > 1:
                own = own_entities(cls, len(graph.entities), world)
                features = dataset.features.part(own, build_device(config.device), config.data.features_mb)
                embedder = cls.of_part(own, graph, features, **options)
            else:
                embedder = cls(graph, dataset.features, **options)
        elif world.size > 1:
            embedder = embedder.part(own_entities(type(embedder), len(graph.entities), world))
        if config.training.sparse == "host":
            keep_on_host(embedder)
        mixture = parts.mixture or _mixture(config, embedder.views)
        sizes = len(graph.entities), len(graph.relations)
        rest: dict[str, Any] = {"reciprocal": m.reciprocal, "sparse": sparse, "embedder": embedder, "mixture": mixture}
        return Model(scorer, *sizes, **rest) if world.size == 1 else ShardedModel(scorer, *sizes, world=world, **rest)


def _scorer(name: str, dim: int, init_range: float, given: Mapping[str, Any]) -> Scorer:
    cls = Scorer.registry.get(name)
    return cls(dim, init_range, **{key: given[key] for key in options_of(cls).model_fields})


def _mixture(config: Config, views: Sequence[str]) -> Mixture | None:
    refuse_unmixed(config, len(views))
    cls, given = Mixture.registry.get(config.model.mixture), config.model.model_extra or {}
    return cls(views, **{key: given[key] for key in options_of(cls).model_fields}) if len(views) > 1 else None


def build_sampler(config: Config, dataset: Dataset, model: Model, device: torch.device | None = None) -> Sampler:
    """A freshly initialised sampler, and those inside it; each is given what it needs of the objective.

    Args:
        config, dataset, model: of the training.
        device: where those that read features are to have them, if it is not where they are.
    """
    of_objective = {"alpha": config.recipe.alpha, "gamma": with_gamma(config, dataset).objective.gamma}

    def of(name: str, options: Mapping[str, Any]) -> Inner:
        cls = Sampler.registry.get(name)
        features = dataset.features
        if device is not None and takes(cls, "modalities"):
            features = features.on(device, config.data.features_mb)
        chosen = dict(options)
        for option in inner_options(cls):
            if chosen[option] is not None:
                inner = dict(chosen[option])
                chosen[option] = of(inner.pop("name"), inner)
        chosen |= {key: value for key, value in of_objective.items() if takes(cls, key)}
        return partial(cls, dataset.graph, features, model.spec, seed=config.seed, **chosen)

    with seeded(config.seed, "sampler"):
        return of(config.recipe.sampler, config.sampler.model_extra or {})()


def build_objective(config: Config, model: Model) -> Loss:
    """The loss of the scores; distances are given the margin gamma, other scores only where it is more than a shift."""
    recipe, o = config.recipe, config.objective
    loss = Loss.registry.get(recipe.loss)
    assert o.gamma is not None, "settled by `with_gamma`"
    gamma = o.gamma if model.scorer.distance or not loss.shifts else 0.0
    given = o.model_extra or {}
    options = {key: given[key] for key in options_of(loss, LOSS_KEYWORDS).model_fields}
    return loss(gamma=gamma, alpha=recipe.alpha, **options)


def build_batches(config: Config, dataset: Dataset) -> Batches:
    """The stream of training batches."""
    recipe = config.recipe
    return Batches(
        dataset.graph,
        size=config.training.batch_size,
        sides=recipe.sides,
        seed=config.seed,
        subsampling=config.objective.subsampling,
        queries=recipe.queries,
    )


def build_trainer(config: Config, dataset: Dataset, parts: Parts | None = None, world: World = ALONE) -> Trainer:
    """Everything that trains, on the configured device; of several processes, what this one has of it."""
    device = build_device(config.device)
    parts = parts or Parts()
    config = with_gamma(config, dataset, parts)
    model = build_model(config, dataset, parts, world)
    # Of several processes the model has its part of the features by itself.
    sampler = parts.sampler or build_sampler(config, dataset, model, None if world.size == 1 else device)
    model.to(device)
    sampler.to(device)
    objective = parts.objective or build_objective(config, model)
    if world.size > 1:
        refuse_unsharded(sampler, objective, device)
    optimizer = build_optimizer(config, model, sampler)
    batches = build_batches(config, dataset)
    o = config.objective
    regularizer = Regularizer(l2=o.l2, l3=o.l3, n3=o.n3)
    if config.training.compile:
        if world.size > 1:
            why = "what it compiles does not know of them"
            raise UsageError(f"training.compile=true cannot be trained by several processes: {why}", "training.compile")
        compile_formulas(model, objective)
    autocast, memory_mb = config.training.autocast, config.training.memory_mb
    parts_of_step = model, sampler, objective, regularizer, optimizer, batches, device
    options: dict[str, Any] = {"autocast": autocast, "memory_mb": memory_mb, "unseen_negatives": o.unseen_negatives}
    trainer = Trainer(*parts_of_step, **options, world=world)
    trainer.record(config.training.capture)
    return trainer


def compile_formulas(model: Model, objective: Loss) -> None:
    """Have torch compile the scorer's and the loss's formulas, which are what has many small operations."""
    # What the formulas load at their first use the compiler would go through line by line, and warn of.
    comparisons.form_on(next(model.parameters()).device)
    # The stubs do not know that methods may be replaced on an instance.
    scorers: Any = dict.fromkeys(model.scorers)
    for scorer in scorers:
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


def build_callbacks(config: Config) -> list[Callback]:
    """The callbacks that the configuration names."""
    names = [*(["hardness"] if config.training.hardness else []), *config.training.callbacks]
    return [Callback.registry.get(name)() for name in names]


def build_trackers(config: Config) -> dict[str, Tracker]:
    """The trackers that the configuration names, none of them opened.

    Raises:
        UsageError: a package that one needs is not installed.
    """
    found = {name: Tracker.registry.get(name)() for name in config.training.track}
    for name, tracker in found.items():
        if tracker.needs and find_spec(tracker.needs) is None:
            ours = type(tracker).__module__.startswith("mmrns.")
            how = f"pip install 'mmrns[{tracker.extra}]'" if ours else "install it"
            raise UsageError(f"training.track: {name} needs the package {tracker.needs}; {how}", "training.track")
    return found
