"""From a configuration to a finished run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.folders import dataset_folders
from mmrns.errors import DataError, MmrnsError, UsageError
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import Ranks
from mmrns.evaluation.report import policies, report
from mmrns.files import JsonLines, read_json, read_json_lines, refuse_unwritable, write_json, write_text
from mmrns.memory import freed_memory_kept
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.scorers import Scorer
from mmrns.registry import Registry
from mmrns.runs.build import Parts, build_callbacks, build_dataset, build_plan, build_trainer, usable_device
from mmrns.runs.config import (
    Config,
    apply_settings,
    dump_config,
    flatten,
    make_config,
    options_of,
    shortened,
    with_paths,
)
from mmrns.runs.methods import method_names
from mmrns.runs.places import absolute, dataset_of_run
from mmrns.runs.record import Record, Row, continued, provenance
from mmrns.runs.run import Run, Split, rank_split
from mmrns.runs.values import read_config, told_of
from mmrns.samplers.base import Sampler
from mmrns.training.callbacks import Callback, CallbackList
from mmrns.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from mmrns.training.progress import Progress
from mmrns.training.trainer import Trainer


class Interrupted(MmrnsError):
    """Training was interrupted; the checkpoint is written."""

    exit_code = 130


def train(
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    dataset: str | Path | Dataset | None = None,
    scorer: str | type[Scorer] | Scorer | None = None,
    method: str | None = None,
    sampler: str | type[Sampler] | Sampler | None = None,
    embedder: str | type[Embedder] | Embedder | None = None,
    modalities: Sequence[str] | None = None,
    loss: str | type[Loss] | Loss | None = None,
    dim: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Train a model and its sampler and return the finished run.

    >>> run = train(dataset="countries", scorer="RotatE", sampler="self-adversarial", dim=20, steps=10, device="cpu")
    >>> run.config.model.scorer, run.results["selected_step"]
    ('RotatE', 10)

    A name may be given by a class of your own, or by an object. What is not given takes its default, or what `config`
    says.

    Args:
        config: nested values, or a YAML file of them.
        dataset: a name, a folder, or a `Dataset`.
        scorer: the formula of the scores.
        method: a sampler and what it is trained with, by name.
        sampler: what draws negatives. A name of a method is understood as `method`.
        embedder: what makes vectors of entities.
        modalities: what entities are scored by beside their own vectors; that makes the embedder `fused` by default.
        loss: of the scores; by default that of the method.
        dim: d, the embedding dimension.
        steps: of the training at most.
        seed: of everything random.
        device: where to train: auto, cpu, cuda or mps.
        settings: further settings by dotted key: a mapping, or texts `a.b=value` whose values are read as YAML.
        callbacks: told of the progress.
        out: a folder to write the run to. None keeps it in memory; `Run.save` writes it later.
        resume: continue the run in `out` with its own configuration; anything given here must agree with it.

    Raises:
        UsageError, DataError: see `make_config` and `load_dataset`; also when `out` holds a run and `resume` is not
            set.
        Interrupted: after Ctrl-C, with the checkpoint written where there is a folder.
    """
    values = _values(config)
    parts = Parts(
        dataset=dataset if isinstance(dataset, Dataset) else None,
        scorer=scorer if isinstance(scorer, Scorer) else None,
        embedder=embedder if isinstance(embedder, Embedder) else None,
        sampler=sampler if isinstance(sampler, Sampler) else None,
        objective=loss if isinstance(loss, Loss) else None,
    )
    if isinstance(sampler, str) and method is None and sampler in method_names():
        method, sampler = sampler, None
    named: dict[str, Any] = {
        "data.dataset": None if dataset is None else _dataset_name(dataset),
        "model.scorer": _given("scorer", scorer, Scorer.registry),
        "model.dim": scorer.dim if isinstance(scorer, Scorer) else dim,
        "model.embedder": _given("embedder", embedder, Embedder.registry),
        "model.modalities": None if modalities is None else list(modalities),
        "method": method,
        "sampler.name": _given("sampler", sampler, Sampler.registry),
        "objective.loss": _given("loss", loss, Loss.registry),
        "training.steps": steps,
        "seed": seed,
        "device": device,
    }
    for part, section in ((parts.scorer, "model"), (parts.sampler, "sampler"), (parts.objective, "objective")):
        named |= {} if part is None else _options(part, section)
    if parts.dataset is not None:
        # A dataset that was made in memory has no name that another process could find it by.
        values = apply_settings(values, {"data.dataset": named.pop("data.dataset")})
    values = apply_settings(values, {key: value for key, value in named.items() if value is not None})
    values = apply_settings(values, settings)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_unwritable(folder, folder=True)
    own = [name for name in ("scorer", "embedder", "sampler", "objective") if getattr(parts, name) is not None]
    if folder is not None and own:
        raise UsageError(f"a folder cannot tell how the {own[0]} object was made; give its class, or out=None")
    if resume:
        if folder is None:
            raise UsageError("resume needs the folder of the run; give it by out")
        chosen = _config_of(folder, values)
        if (folder / "results.json").exists():
            return Run.load(folder, dataset=parts.dataset or chosen.data.dataset)
    else:
        with told_of(Path(config) if isinstance(config, str | Path) else None, values):
            chosen = with_absolute_paths(make_config(values))
        if folder is not None and (folder / "config.yaml").exists():
            raise DataError(folder, "holds a run already", "continue it with --resume or choose another --out")
    with freed_memory_kept():
        return _train(chosen, folder, parts, callbacks)


def _values(config: object) -> dict[str, Any]:
    """The nested values of what was given as a configuration."""
    if isinstance(config, str | Path):
        return read_config(Path(config))
    if config is not None and not isinstance(config, Mapping):
        raise UsageError(f"config is a mapping or a YAML file, not {shortened(config)}; a dataset is given by dataset=")
    return apply_settings(config or {}, {})


def _given(kind: str, value: Any, registry: Registry[Any]) -> str | None:
    """The name that stands for what was given for a seam."""
    if value is None or isinstance(value, str):
        return value
    found = value if isinstance(value, type) else type(value)
    if getattr(found, "registry", None) is not registry:
        raise UsageError(f"{kind}={shortened(value)} is no {kind}; give a name, a class or an object")
    return registry.name_of(registry.get(found))


def _options(part: object, section: str) -> dict[str, Any]:
    """The options that an object was made with, as far as it keeps them under their names."""
    fields = options_of(type(part), ("seed", "gamma", "alpha")).model_fields
    return {f"{section}.{key}": getattr(part, key) for key in fields if hasattr(part, key)}


def _dataset_name(dataset: object) -> str | None:
    if isinstance(dataset, Dataset):
        if dataset.folder is None:
            return None
        known = dataset_folders().get(dataset.name)
        return dataset.name if known == dataset.folder else str(dataset.folder)
    if not isinstance(dataset, str | Path):
        raise UsageError(
            f"dataset={shortened(dataset)} is no dataset; give a name, a folder or Dataset.from_triples(...)"
        )
    return str(dataset)


class _Memory:
    """Where a training without a folder keeps its best weights."""

    def __init__(self) -> None:
        self.best: dict[str, dict[str, Tensor]] = {}

    def save(self, best: bool, trainer: Trainer, progress: Progress, notes: Mapping[str, Any]) -> None:
        if best:
            parts = {"model": trainer.model, "sampler": trainer.sampler}
            self.best = {
                name: {key: value.detach().clone() for key, value in part.state_dict().items()}
                for name, part in parts.items()
            }

    def load_last(self, trainer: Trainer) -> tuple[Progress, dict[str, Any]] | None:
        return None

    def load_best(self, trainer: Trainer) -> None:
        trainer.model.load_state_dict(self.best["model"])
        trainer.sampler.load_state_dict(self.best["sampler"])


class _Folder:
    """The checkpoints of a run folder."""

    def __init__(self, folder: Path):
        self.last, self.best = folder / "checkpoint" / "last.safetensors", folder / "checkpoint" / "best.safetensors"
        self.last.parent.mkdir(parents=True, exist_ok=True)

    def save(self, best: bool, trainer: Trainer, progress: Progress, notes: Mapping[str, Any]) -> None:
        save_checkpoint(self.best if best else self.last, trainer, progress, notes)

    def load_last(self, trainer: Trainer) -> tuple[Progress, dict[str, Any]] | None:
        return load_checkpoint(self.last, trainer) if self.last.exists() else None

    def load_best(self, trainer: Trainer) -> None:
        load_weights(self.best, trainer)


class _Rows(Callback):
    """Keeps the rows of metrics, and writes them to the folder where there is one."""

    def __init__(self, folder: Path | None):
        self.rows: list[dict[str, Any]] = []
        self.path = None if folder is None else folder / "metrics.jsonl"
        self.log: JsonLines | None = None

    def begin(self, length: int) -> None:
        """Go on behind so many bytes of an earlier sitting; the rest was written after the checkpoint."""
        if self.path is not None:
            self.log = JsonLines(self.path, length)
            self.rows = read_json_lines(self.path, Row)

    @property
    def length(self) -> int:
        return 0 if self.log is None else self.log.length

    def on_row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.log is not None:
            self.log.write(row)


def _train(config: Config, folder: Path | None, parts: Parts, given: Sequence[Callback]) -> Run:
    started = time.perf_counter()
    dataset = build_dataset(config, parts.dataset)
    refuse_nothing_to_validate_on(dataset, config)
    dataset.refuse_unfit()
    rows, interruption = _Rows(folder), _Interruption()
    callback = CallbackList([interruption, *build_callbacks(config), *given, rows])
    _say_what_matters(dataset, config.data.drop_modality, callback)
    trainer = build_trainer(config, dataset, parts)
    build_seconds = time.perf_counter() - started
    for line in trainer.sampler.notes(trainer.batches.at(0)):
        callback.on_note(line)
    plan = build_plan(config)
    record = provenance(config, dataset, trainer.device)
    checkpoints = _Memory()
    if folder is not None:
        checkpoints = _Folder(folder)
        write_text(folder / "config.yaml", dump_config(config, folder))
        if checkpoints.last.exists():
            _refuse_other_data(folder, dataset, record["dataset"]["sha256"])
            record, others = continued(record, read_json(folder / "record.json", Record))
            if others:
                callback.on_note(
                    f"The run goes on with {others}, so it may differ in the last bits from one in one go."
                )
        write_json(folder / "record.json", record)

    found = checkpoints.load_last(trainer)
    progress, extra = found or (Progress(), {})
    rows.begin(extra.get("metrics_length", 0))
    pretrain_seconds: float = extra.get("pretrain_seconds", 0.0)
    build_seconds: float = extra.get("build_seconds", build_seconds)
    callback.load_state_dict(extra.get("callbacks", {}))

    def save(is_best: bool) -> None:
        notes = {
            "metrics_length": rows.length,
            "pretrain_seconds": pretrain_seconds,
            "build_seconds": build_seconds,
            "callbacks": callback.state_dict(),
        }
        checkpoints.save(is_best, trainer, progress, notes)

    def model_ranks(split: Split) -> Ranks:
        queries = 2 * len(dataset.graph.test if split == "test" else dataset.graph.valid)
        told = callback.on_ranking(split, queries)
        return rank_split(trainer.model, dataset, split, config, trainer.device, told)

    def validate() -> float:
        dataset.refuse_changed()
        return policies(model_ranks("valid"))["realistic"]["mrr"]

    if found is None:
        started = time.perf_counter()
        trainer.sampler.pretrain(trainer.batch)
        pretrain_seconds = time.perf_counter() - started
        save(False)
    with interruption:
        trainer.fit(progress, plan, validate=validate, save=save, callback=callback)
    if progress.step < plan.steps and not progress.stopped:
        where = "interrupted" if folder is None else f"{folder}: interrupted"
        how = "nothing is kept without a folder (out)" if folder is None else "continue with --resume"
        raise Interrupted(f"{where} at step {progress.step}; {how}")
    if progress.stopped:
        callback.on_note(f"Stopped at step {progress.step}: no better validation MRR since step {progress.best_step}.")

    started = time.perf_counter()
    checkpoints.load_best(trainer)
    graph = dataset.graph
    results: dict[str, Any] = {"valid": report(model_ranks("valid"), graph)}
    if config.evaluation.test:
        baseline = policies(rank_split(RelationFrequency(graph), dataset, "test", config, torch.device("cpu")))
        results = {
            "test": report(model_ranks("test"), graph),
            **results,
            "baseline_mrr": baseline["realistic"]["mrr"] if baseline else None,
            "baseline": baseline,
        }
    dataset.refuse_changed()
    seconds = {
        "build": round(build_seconds, 3),
        "pretrain": round(pretrain_seconds, 3),
        "train": round(progress.train_seconds, 3),
        "evaluate": round(progress.evaluate_seconds + time.perf_counter() - started, 3),
    }
    results |= {"selected_step": progress.best_step, "seconds": seconds}
    run = Run(
        config,
        results,
        record | {"wall_seconds": sum(seconds.values())},
        rows=rows.rows,
        folder=folder,
        dataset=dataset,
        model=trainer.model.eval(),
        sampler=trainer.sampler.eval(),
    )
    if folder is not None:
        run.save(folder)
    return run


def refuse_nothing_to_validate_on(dataset: Dataset, config: Config) -> None:
    """A model is selected on validation.

    Raises:
        DataError, UsageError: the split is empty.
    """
    if len(dataset.graph.valid):
        return
    if "valid" not in dataset.files:
        message = "the dataset has no validation triples; make some by Dataset.from_triples(..., split="
        raise UsageError(message + '{"valid": 0.1, "test": 0.1})')
    if config.data.drop_leaked_valid:
        raise DataError(dataset.files["valid"], "every row is also in train or test", "split the triples anew")
    raise DataError(dataset.files["valid"], "no triple to validate on", "move some triples from train to valid")


def _refuse_other_data(folder: Path, dataset: Dataset, sha256: dict[str, str]) -> None:
    """A run goes on with the data it began with.

    Raises:
        DataError: a file of the dataset is not what it was.
    """
    began: dict[str, str] = read_json(folder / "record.json", Record)["dataset"]["sha256"]
    changed = sorted(name for name in began.keys() | sha256.keys() if began.get(name) != sha256.get(name))
    if changed:
        remedy = "restore it, or train anew into another --out"
        where = (dataset.folder or Path(dataset.name)) / changed[0]
        raise DataError(where, f"has changed since the run in {folder} began", remedy)


def _say_what_matters(dataset: Dataset, dropped: float, callback: Callback) -> None:
    graph = dataset.graph
    for note in dataset.notes:
        callback.on_note(f"{note}.")
    leaked = int(graph.leaked_valid().sum())
    if leaked:
        callback.on_note(
            f"{leaked:,} of {len(graph.valid):,} validation rows are also rows of train or test, so that validation "
            "rewards memorising; --set data.drop_leaked_valid=true validates on the others, and `mmrns data split "
            "--repair` makes a clean split."
        )
    for name, modality in dataset.features.items():
        message = f"{name}: {modality.covered:,} of {len(graph.entities):,} entities matched"
        if modality.unmatched:
            message += f"; {len(modality.unmatched):,} names match none, first: {modality.unmatched[0]!r}"
        if dropped:
            message += f"; others were left out by data.drop_modality={dropped:g}"
        callback.on_note(message + ".")


class _Interruption(Callback):
    """Within its context, the first Ctrl-C asks to stop after the step; a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.before: Any = None

    def should_stop(self) -> bool:
        return self.asked.is_set()

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, self.before)
        self.asked.set()


def _config_of(folder: Path, values: Mapping[str, Any]) -> Config:
    """The configuration of the run in a folder, which whatever is given must agree with."""
    path = folder / "config.yaml"
    if not path.exists():
        raise DataError(folder, "holds no run to resume", "leave --resume out to start it")
    own = make_config(read_config(path))
    lost = False
    if own.data.dataset is not None:
        there = dataset_of_run(own.data.dataset, Path(own.data.dataset).name, folder)
        lost = there is None
        if there is not None and own.data.dataset not in dataset_folders():
            own = with_paths(own, lambda key, value: str(there.resolve()) if key == "data.dataset" else value)
    named, flat = flatten(values), flatten(own.model_dump(mode="json"))
    try:
        # Laid over the run's own and validated with it, so that values are compared and not how they are written.
        laid = with_absolute_paths(make_config(apply_settings(own.model_dump(), named)))
        found = flatten(laid.model_dump(mode="json"))
    except UsageError:
        # Another sampler or scorer has other options than the run's own, which is not what is to be told.
        found = flat | {key: value for key, value in named.items() if isinstance(value, str) and key in flat}
        if found == flat:
            raise
    # Where it is trained, and where a dataset is that has moved, is not what is trained; both are checked later.
    elsewhere = {"device": True, "data.dataset": lost}
    changed = [key for key in flat | found if flat.get(key) != found.get(key)]
    moved = {key: found[key] for key in changed if elsewhere.get(key)}
    changed = [key for key in changed if key not in moved]
    if changed:
        key = next((key for key in changed if any(f"{key}.".startswith(f"{name}.") for name in named)), changed[0])
        raise UsageError(
            f"{key} is {flat.get(key)!r} in {path}, not {found.get(key)!r}; --resume keeps the run's own configuration"
        )
    own = make_config(apply_settings(own.model_dump(), moved))
    return own if "device" in moved else own.model_copy(update={"device": usable_device(own.device)})


def with_absolute_paths(config: Config) -> Config:
    """So that the run can be used from another working directory."""
    return with_paths(config, absolute)
