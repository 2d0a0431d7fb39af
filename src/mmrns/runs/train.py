"""From a configuration to a finished run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmrns.data.datasets import Dataset
from mmrns.data.folders import dataset_folders
from mmrns.errors import DataError, Diverged, MmrnsError, UsageError, memory_told, note, notes_heard
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import Ranks
from mmrns.evaluation.report import policies, report
from mmrns.files import (
    JsonLines,
    locked,
    read_json,
    read_json_lines,
    refuse_unwritable,
    write_json,
    write_text,
)
from mmrns.launch import launched, restarts
from mmrns.memory import freed_memory_kept
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.registry import Registry
from mmrns.runs.build import Parts, build_callbacks, build_dataset, build_plan, build_trainer, usable_device, with_gamma
from mmrns.runs.checkpoints import RATES, InFolder, InMemory, first_difference
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
from mmrns.runs.digests import PLACES, RUN_FILES
from mmrns.runs.methods import method_names
from mmrns.runs.notes import said_before
from mmrns.runs.places import absolute, dataset_of_run
from mmrns.runs.presets import with_preset
from mmrns.runs.record import Record, Row, continued, provenance
from mmrns.runs.run import Run, Split, rank_split
from mmrns.runs.threads import threads_restored, use_threads
from mmrns.runs.tracking import Tracking
from mmrns.runs.values import read_config, told_of
from mmrns.samplers.base import Sampler
from mmrns.training.callbacks import Callback, CallbackList
from mmrns.training.checkpoint import Checkpoint
from mmrns.training.interruption import Interruption
from mmrns.training.lines import HeldLines
from mmrns.training.progress import Progress
from mmrns.training.world import ALONE, Ended, Parting, World, world_of


class Interrupted(MmrnsError):
    """Training was interrupted; the checkpoint is written.

    Args:
        message: where, and how to go on.
        number: of the signal that asked for it.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


def train(
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    preset: str | None = None,
    dataset: str | Path | Dataset | None = None,
    scorer: str | type[Scorer] | Scorer | None = None,
    method: str | None = None,
    sampler: str | type[Sampler] | Sampler | None = None,
    embedder: str | type[Embedder] | Embedder | None = None,
    modalities: Sequence[str] | None = None,
    mixture: str | type[Mixture] | Mixture | None = None,
    loss: str | type[Loss] | Loss | None = None,
    dim: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    group: str | None = None,
    plots: bool = True,
) -> Run:
    """Train a model and its sampler and return the finished run.

    >>> run = train(dataset="countries", scorer="RotatE", sampler="self-adversarial", dim=20, steps=10, device="cpu")
    >>> run.config.model.scorer, run.results["selected_step"]
    ('RotatE', 10)

    A name may be given by a class of your own, or by an object. What is not given takes its default, or what `config`
    says.

    Args:
        config: nested values, or a YAML file of them.
        preset: settings by name (`best`, `fast`, `large`), which all else goes before.
        dataset: a name, a folder, or a `Dataset`.
        scorer: the formula of the scores.
        method: a sampler and what it is trained with, by name.
        sampler: what draws negatives. A name of a method is understood as `method`.
        embedder: what makes vectors of entities.
        modalities: what entities are scored by beside their own vectors; that makes the embedder `fused` by default.
        mixture: what makes one score of the views' scores, where there are several.
        loss: of the scores; by default that of the method.
        dim: d, the embedding dimension.
        steps: of the training at most.
        seed: of everything random.
        device: where to train: auto, cpu, cuda or mps.
        settings: further settings by dotted key: a mapping, or texts `a.b=value` whose values are read as YAML.
        callbacks: told of the progress.
        out: a folder to write the run to. None keeps it in memory; `Run.save` writes it later.
        resume: continue the run in `out` with its own configuration; anything given here must agree with it, but for
            the learning rates.
        progress: say on standard error how far it is, after five seconds and then every minute.
        group: what trackers (`training.track`) call the study that the run is part of.
        plots: draw the training's pictures into the folder when it is finished, which takes about a second.

    Raises:
        UsageError, DataError: see `make_config` and `load_dataset`; also when `out` holds a run and `resume` is not
            set, another process writes to it, or what it holds is damaged.
        Interrupted: after Ctrl-C, or a signal to end or hang up, with the checkpoint written where there is a folder.
        Diverged: the loss or the weights are not finite; the last checkpoint is from before.
        OutOfMemory: memory cannot be had.
    """
    values = with_preset(preset, _values(config))
    parts = Parts(
        dataset=dataset if isinstance(dataset, Dataset) else None,
        scorer=scorer if isinstance(scorer, Scorer) else None,
        embedder=embedder if isinstance(embedder, Embedder) else None,
        mixture=mixture if isinstance(mixture, Mixture) else None,
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
        "model.mixture": _given("mixture", mixture, Mixture.registry),
        "method": method,
        "sampler.name": _given("sampler", sampler, Sampler.registry),
        "objective.loss": _given("loss", loss, Loss.registry),
        "training.steps": steps,
        "seed": seed,
        "device": device,
    }
    for part, section in (
        (parts.scorer, "model"),
        (parts.mixture, "model"),
        (parts.sampler, "sampler"),
        (parts.objective, "objective"),
    ):
        named |= {} if part is None else _options(part, section)
    if parts.dataset is not None:
        # A dataset that was made in memory has no name that another process could find it by.
        values = apply_settings(values, {"data.dataset": named.pop("data.dataset")})
    values = apply_settings(values, {key: value for key, value in named.items() if value is not None})
    values = apply_settings(values, settings)
    rank, processes = launched()
    callbacks = [*callbacks, HeldLines()] if progress and rank == 0 else callbacks
    folder = None if out is None else Path(out)
    own = [
        name for name in ("scorer", "embedder", "mixture", "sampler", "objective") if getattr(parts, name) is not None
    ]
    if folder is not None and own:
        raise UsageError(f"a folder cannot tell how the {own[0]} object was made; give its class, or out=None")
    if resume and folder is None:
        raise UsageError("resume needs the folder of the run; give it by out")
    if processes > 1 and folder is None:
        raise UsageError("a training by several processes needs a folder for what each of them has; give it by out")
    # A part of the processes' command, which torchrun starts again as it was.
    resume = resume or (restarts() > 0 and folder is not None and (folder / "config.yaml").exists())
    if resume and folder is not None and (folder / "results.json").exists():
        chosen = _config_of(folder, values, finished=True)
        return Run.load(folder, dataset=parts.dataset or chosen.data.dataset)
    chosen = None
    if not resume:
        with told_of(Path(config) if isinstance(config, str | Path) else None, values):
            chosen = with_absolute_paths(make_config(values))
    if folder is None:
        assert chosen is not None
        with freed_memory_kept(), threads_restored(), memory_told():
            return _train(chosen, None, parts, callbacks, group=group)
    with world_of().started("--resume goes on from the last checkpoint") as world:
        return _in_folder(folder, chosen, parts, callbacks, values if resume else None, group, plots, world)


def _in_folder(
    folder: Path,
    chosen: Config | None,
    parts: Parts,
    callbacks: Sequence[Callback],
    resumed: Mapping[str, Any] | None,
    group: str | None,
    plots: bool,
    world: World,
) -> Run:
    """Train in a folder, of which this process, or the first of several, is the only writer.

    Args:
        chosen: the configuration; None = that of the run in the folder.
        resumed: what was given to go on with; None for a new run.
    """
    resume = resumed is not None
    with ExitStack() as held:
        if world.first:
            _refuse_misuse(folder, resume)
            held.enter_context(locked(folder, "checkpoint", "plots"))
            _refuse_misuse(folder, resume)  # It may have become a run since.
        else:
            held.enter_context(notes_heard())
        world.tell(None)
        held.enter_context(freed_memory_kept())
        held.enter_context(threads_restored())
        try:
            chosen = chosen or _config_of(folder, resumed or {})
            return _train(chosen, folder, parts, callbacks, resumed, group, plots, world)
        except KeyboardInterrupt as error:
            raise Interrupted(f"{folder}: interrupted; continue with --resume") from error


def _refuse_misuse(folder: Path, resume: bool) -> None:
    """Nothing that is there is written over.

    Raises:
        UsageError, DataError: the folder cannot be written; it holds a run that is not to be resumed, or none.
    """
    refuse_unwritable(folder, folder=True)
    if resume:
        if not (folder / "config.yaml").exists():
            raise DataError(folder, "holds no run to resume", "leave --resume out to start it")
        return
    if (folder / "config.yaml").exists():
        raise DataError(folder, "holds a run already", "continue it with --resume or choose another --out")
    for name in (*RUN_FILES, "checkpoint/last.safetensors", "checkpoint/best.safetensors"):
        if os.path.lexists(folder / name):
            raise DataError(folder / name, "is there already, and no config.yaml that it is of", "choose another --out")


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


class _Rows(Callback):
    """Keeps the rows of metrics, and writes them to the folder where there is one."""

    def __init__(self, folder: Path | None):
        self.rows: list[dict[str, Any]] = []
        self.path = None if folder is None else folder / "metrics.jsonl"
        self.log: JsonLines | None = None

    def begin(self, extra: Mapping[str, Any]) -> None:
        """Go on behind the rows of an earlier sitting; what lies beyond was written after the checkpoint.

        Raises:
            DataError: they are not what they were.
        """
        if self.path is None:
            return
        length, sha256 = extra.get("metrics_length", 0), extra.get("metrics_sha256")
        if length and not self.path.exists():
            note(f"{self.path} is missing; it begins anew, without the rows before the checkpoint")
            length = sha256 = None
        self.log = JsonLines(self.path, length or 0, sha256)
        self.rows = read_json_lines(self.path, Row)

    def notes(self) -> dict[str, Any]:
        """What a checkpoint says of the rows."""
        return {} if self.log is None else {"metrics_length": self.log.length, "metrics_sha256": self.log.sha256}

    def on_row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.log is not None:
            self.log.write(row)


def _train(
    config: Config,
    folder: Path | None,
    parts: Parts,
    given: Sequence[Callback],
    resumed: Mapping[str, Any] | None = None,
    group: str | None = None,
    plots: bool = True,
    world: World = ALONE,
) -> Run:
    """Train and tell the trackers; `resumed` is what was given to go on with, None for a new run."""
    if not world.first:
        silent = config.model_copy(update={"training": config.training.model_copy(update={"track": []})})
        return _trained(config, folder, parts, given, resumed, Tracking(silent, None), plots, world)
    with Tracking(config, folder, group) as tracking:
        run = _trained(config, folder, parts, given, resumed, tracking, plots, world)
        tracking.finish(run)
    return run


def _trained(
    config: Config,
    folder: Path | None,
    parts: Parts,
    given: Sequence[Callback],
    resumed: Mapping[str, Any] | None,
    tracking: Tracking,
    plots: bool,
    world: World,
) -> Run:
    started = time.perf_counter()
    # Of several processes each takes its part of the features to its device, once it has a part.
    place = None if world.size == 1 else torch.device("cpu")
    dataset = build_dataset(config, parts.dataset, place)
    config = with_gamma(config, dataset, parts)
    refuse_nothing_to_validate_on(dataset, config)
    n = len(dataset.graph.entities)
    dataset.refuse_unfit(None if world.size == 1 else Parting(n, world.size).ids(world.rank))
    # Of several processes the first one writes what is not its own part.
    written = folder if world.first else None
    rows, interruption = _Rows(written), Interruption()
    callback = CallbackList([interruption, *build_callbacks(config), *given, rows, tracking])
    since = time.perf_counter()
    recorded = None if resumed is None else _recorded_threads(folder)
    if world.size > 1:
        recorded = recorded or torch.get_num_threads()  # As torchrun has it: what processes measured would differ.
    measured = use_threads(config, dataset, parts, recorded)
    started += time.perf_counter() - since
    trainer = build_trainer(config, dataset, parts, world)
    build_seconds = time.perf_counter() - started
    for line in said_before(config, dataset, trainer, measured):
        callback.on_note(line)
    plan = build_plan(config)
    record = provenance(config, dataset, trainer.device)
    record["processes"] = world.size
    record |= {"step_seconds": {str(n): round(s, 6) for n, s in measured.items()}} if measured else {}
    checkpoints = InMemory() if folder is None else InFolder(folder, trainer)
    found = checkpoints.resume() if resumed is not None else None
    progress, extra = (found.progress, found.extra) if found else (Progress(), dict[str, Any]())
    own = flatten(config.model_dump(mode="json"))
    changes: list[dict[str, Any]] = extra.get("changes", [])
    if found and folder is not None:
        _refuse_other_data(folder, dataset, extra["dataset"], record["dataset"]["sha256"])
        changed = _changes(folder, found, own, flatten(resumed or {}))
        for change in changed:
            callback.on_note("{key} is {to} from step {step} on; it was {from}.".format(**change))
        changes = [*changes, *changed]
        found.load(trainer)
        found = replace(found, tensors={})  # Its files, which the next checkpoint takes the place of, are let go.
    rows.begin(extra)
    record["changes"] = changes
    if written is not None:
        if found and (written / "record.json").exists():
            record, others = continued(record, read_json(written / "record.json", Record, _ANEW))
            if others:
                callback.on_note(
                    f"The run goes on with {others}, so it may differ in the last bits from one in one go."
                )
        write_text(written / "config.yaml", dump_config(config, written))
        write_json(written / "record.json", record)
    pretrain_seconds: float = extra.get("pretrain_seconds", 0.0)
    build_seconds: float = extra.get("build_seconds", build_seconds)
    callback.load_state_dict(extra.get("callbacks", {}))
    tracking.begin(progress.step, rows.rows, callback.on_note, goes_on=found is not None)

    saved = progress.step

    def save(is_best: bool) -> None:
        notes = {
            "config": own,
            "dataset": record["dataset"]["sha256"],
            "changes": changes,
            **rows.notes(),
            "pretrain_seconds": pretrain_seconds,
            "build_seconds": build_seconds,
            "callbacks": callback.state_dict(),
        }
        checkpoints.save(is_best, trainer, progress, notes)
        nonlocal saved
        saved = progress.step

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
    elif world.any(changes != extra["changes"] or rows.notes() != {key: extra.get(key) for key in rows.notes()}):
        save(False)  # What is on the disk agrees before it goes on.
    try:
        with interruption:
            trainer.fit(progress, plan, validate=validate, save=save, callback=callback)
    except Diverged as error:
        raise _with_remedy(error, folder, saved, config) from error
    if progress.step < plan.steps and not progress.stopped:
        where = "interrupted" if folder is None else f"{folder}: interrupted"
        how = "nothing is kept without a folder (out)" if folder is None else "continue with --resume"
        raise Interrupted(f"{where} at step {progress.step}; {how}", interruption.number)
    if progress.stopped:
        callback.on_note(f"Stopped at step {progress.step}: no better validation MRR since step {progress.best_step}.")

    started = time.perf_counter()
    checkpoints.load_best(trainer, progress.best_step)
    graph = dataset.graph
    results: dict[str, Any] = {"valid": report(model_ranks("valid"), graph)}
    tested = report(model_ranks("test"), graph) if config.evaluation.test else None
    if tested is not None:
        baseline: dict[str, Any] = {}
        if world.first:  # The others write no results.
            baseline = policies(rank_split(RelationFrequency(graph), dataset, "test", config, torch.device("cpu")))
        results = {
            "test": tested,
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
        world=world,
    )
    if folder is not None:
        run.save(folder, plots=plots)
    if config.evaluation.calibrate:
        try:
            run.calibrate()
        except Ended:
            raise
        except MmrnsError as error:
            callback.on_note(f"The run has no calibration: {error}.")  # It is finished all the same.
    if folder is None or world.size == 1:
        return run
    world.tell(None)
    return Run.load(folder, dataset=parts.dataset)


def _recorded_threads(folder: Path | None) -> int | None:
    """The number of threads of the run in a folder; None where no record tells it."""
    path = None if folder is None else folder / "record.json"
    return read_json(path, Record, _ANEW).get("threads") if path is not None and path.exists() else None


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


_ANEW = "restore it, or remove it: it is written anew"


def _changes(folder: Path, found: Checkpoint, own: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The learning rates that a resumed run was given anew, with their old values and the step.

    Raises:
        DataError: the configuration is not the one that the checkpoint was made with.
    """
    path, before = folder / "config.yaml", found.extra["config"]
    if differing := first_difference(own, before, (*PLACES, *RATES)):
        reason = f"{differing} as when {found.path.name} was made"
        raise DataError(path, reason, "restore the one that was changed, or train anew into another --out")
    changed = [key for key in RATES if own[key] != before[key]]
    for key in changed:
        if key not in given:
            reason = f"{key} is {own[key]}, not {before[key]} as when {found.path.name} was made"
            raise DataError(path, reason, f"restore it, or go on so by --set {key}={own[key]}")
    step = found.progress.step
    return [{"step": step, "key": key, "from": before[key], "to": own[key]} for key in changed]


def _with_remedy(error: Diverged, folder: Path | None, step: int, config: Config) -> Diverged:
    """A divergence, with what to do about it."""
    if folder is None:
        return error
    rate = f"training.lr={config.training.lr / 10:g}"
    how = f"go on from it at a lower rate by --resume --set {rate}, or start anew with that and another --out"
    return Diverged(f"{folder}: {error}; the checkpoint of step {step} is from before: {how}")


def _refuse_other_data(folder: Path, dataset: Dataset, began: dict[str, str], sha256: dict[str, str]) -> None:
    """A run goes on with the data it began with, of which its record tells.

    Raises:
        DataError: a file of the dataset is not what it was, or the record is not.
    """
    changed = sorted(name for name in began.keys() | sha256.keys() if began.get(name) != sha256.get(name))
    if changed:
        remedy = "restore it, or train anew into another --out"
        where = (dataset.folder or Path(dataset.name)) / changed[0]
        raise DataError(where, f"has changed since the run in {folder} began", remedy)
    path = folder / "record.json"
    told = read_json(path, Record, _ANEW)["dataset"]["sha256"] if path.exists() else began
    if told != began:
        raise DataError(path, "is not what the run wrote", _ANEW)


def _config_of(folder: Path, values: Mapping[str, Any], *, finished: bool = False) -> Config:
    """The configuration of the run in a folder, which whatever is given must agree with.

    The learning rates of a run that is not finished are those that are given.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise DataError(path, "is missing", "restore it, or train anew into another --out")
    written = read_config(path)
    with told_of(path, written):
        own = make_config(written)
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
    elsewhere = {"device": True, "threads": True, "data.dataset": lost}
    changed = [key for key in flat | found if flat.get(key) != found.get(key)]
    moved = {key: found[key] for key in changed if elsewhere.get(key) or (key in RATES and not finished)}
    changed = [key for key in changed if key not in moved]
    if changed:
        key = next((key for key in changed if any(f"{key}.".startswith(f"{name}.") for name in named)), changed[0])
        raise UsageError(
            f"{key} is {flat.get(key)!r} in {path}, not {found.get(key)!r}; --resume keeps the run's own configuration"
            + ("" if finished else ", but for the learning rates")
        )
    own = make_config(apply_settings(own.model_dump(), moved))
    return own if "device" in moved else own.model_copy(update={"device": usable_device(own.device)})


def with_absolute_paths(config: Config) -> Config:
    """So that the run can be used from another working directory."""
    return with_paths(config, absolute)
