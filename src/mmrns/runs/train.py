"""From a configuration to a finished run folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmrns.data.datasets import Dataset
from mmrns.data.folders import dataset_folders
from mmrns.errors import DataError, MmrnsError, UsageError, nearest
from mmrns.evaluation.frequency import SlotFrequency
from mmrns.evaluation.hardness import measure
from mmrns.evaluation.ranking import Ranks
from mmrns.evaluation.report import policies, report
from mmrns.files import JsonLines, read_json, read_json_lines, write_json, write_tensors, write_text
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import (
    build_dataset,
    build_plan,
    build_trainer,
)
from mmrns.runs.config import Config, apply_settings, dump_config, flatten, make_config, read_config
from mmrns.runs.record import listing, plot_curves, plot_hardness, provenance
from mmrns.runs.run import Run, Split, rank_split
from mmrns.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from mmrns.training.trainer import Observer, Progress
from mmrns.types import Batch, Negatives


class Interrupted(MmrnsError):
    """Training was interrupted; the checkpoint is written."""

    exit_code = 130


@dataclass(frozen=True)
class Reporter:
    """Where a training reports to; the Python interface keeps silent, the command line draws a progress bar.

    Attributes:
        note: told things worth saying once.
        start: called with the steps already done and the steps in all.
        advance: called after each step with the steps done and, at intervals, the mean loss.
        evaluated: called with the step and the validation MRR.
        ranking: called with what is about to be ranked and the number of queries; returns what is told of those done.
    """

    note: Callable[[str], None] = lambda message: None
    start: Callable[[int, int], None] = lambda done, total: None
    advance: Callable[[int, float | None], None] = lambda done, loss: None
    evaluated: Callable[[int, float], None] = lambda step, mrr: None
    ranking: Callable[[str, int], Callable[[int], None]] = lambda what, queries: lambda done: None


def train(
    config: Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path | None = None,
    settings: tuple[str, ...] | list[str] = (),
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train into a run folder and return the finished run.

    Args:
        config: nested values, or a YAML file of them; what is left out takes its default.
        out: the run folder; by default `runs/DATASET-SCORER-SAMPLER-sSEED`.
        settings: `a.b=value` laid over the configuration.
        resume: continue the run in `out` with its own configuration; anything given here must agree with it.
        reporter: told of the progress.

    Raises:
        UsageError, DataError: see `make_config` and `load_dataset`; also when `out` holds a run and `resume` is not
            set.
        Interrupted: after Ctrl-C, with the checkpoint written.
    """
    values = read_config(Path(config)) if isinstance(config, str | Path) else dict(config or {})
    values = apply_settings(values, settings)
    folder = Path(out) if out is not None else make_config(values).default_folder
    if resume:
        chosen = _config_of(folder, values)
        if (folder / "results.json").exists():
            return Run(folder)
    else:
        chosen = _with_folder_resolved(make_config(values))
        if (folder / "config.yaml").exists():
            raise DataError(folder, "holds a run already", "continue it with --resume or choose another --out")
    with freed_memory_kept():
        _train(chosen, folder, reporter or Reporter())
    return Run(folder)


def _train(config: Config, folder: Path, reporter: Reporter) -> None:
    dataset = build_dataset(config)
    if not len(dataset.graph.valid):
        if config.data.drop_leaked_valid:
            raise DataError(dataset.files["valid"], "every row is also in train or test", "split the triples anew")
        raise DataError(dataset.files["valid"], "no triple to validate on", "move some triples from train to valid")
    dataset.refuse_not_finite()
    _say_what_matters(dataset, config.data.drop_modality, reporter)
    trainer = build_trainer(config, dataset)
    for line in trainer.sampler.notes(trainer.batches.at(0)):
        reporter.note(line)
    plan = build_plan(config)

    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    last, best = folder / "checkpoint" / "last.safetensors", folder / "checkpoint" / "best.safetensors"
    write_text(folder / "config.yaml", dump_config(config))
    record = provenance(config, dataset, trainer.device)
    if last.exists():
        _refuse_other_data(folder, dataset, record["dataset"]["sha256"])
    write_json(folder / "record.json", record)

    progress, extra = load_checkpoint(last, trainer) if last.exists() else (Progress(), {})
    log = JsonLines(folder / "metrics.jsonl", extra.get("metrics_length", 0))
    pretrain_seconds: float = extra.get("pretrain_seconds", 0.0)

    def save(is_best: bool) -> None:
        notes = {"metrics_length": log.length, "pretrain_seconds": pretrain_seconds}
        save_checkpoint(best if is_best else last, trainer, progress, notes)

    def model_ranks(split: Split) -> Ranks:
        queries = 2 * len(dataset.graph.test if split == "test" else dataset.graph.valid)
        return rank_split(trainer.model, dataset, split, config, trainer.device, reporter.ranking(split, queries))

    def validate() -> float:
        mrr = policies(model_ranks("valid"))["realistic"]["mrr"]
        reporter.evaluated(progress.step, mrr)
        return mrr

    def hardness(batch: Batch, negatives: Negatives) -> dict[str, Any]:
        graph = dataset.graph
        return measure(trainer.model, trainer.sampler, batch, negatives, graph.train_index, graph.valid_index)

    if not extra:
        started = time.perf_counter()
        trainer.sampler.pretrain(trainer)
        pretrain_seconds = time.perf_counter() - started
        save(False)
    reporter.start(progress.step, plan.steps)
    with _interruptions() as interrupted:
        measured = hardness if config.training.hardness else None
        trainer.fit(progress, plan, Observer(validate, log.write, save, reporter.advance, interrupted, measured))
    if progress.step < plan.steps and not progress.stopped:
        raise Interrupted(f"{folder}: interrupted at step {progress.step}; continue with --resume")
    if progress.stopped:
        reporter.note(f"Stopped at step {progress.step}: no better validation MRR since step {progress.best_step}.")

    started = time.perf_counter()
    load_weights(best, trainer)
    graph = dataset.graph
    results: dict[str, Any] = {"valid": report(model_ranks("valid"), graph)}
    if config.evaluation.test:
        baseline = policies(rank_split(SlotFrequency(graph), dataset, "test", config, torch.device("cpu")))
        results = {
            "test": report(model_ranks("test"), graph),
            **results,
            "baseline_mrr": baseline["realistic"]["mrr"] if baseline else None,
            "baseline": baseline,
        }
    seconds = {
        "pretrain": round(pretrain_seconds, 3),
        "train": round(progress.train_seconds, 3),
        "evaluate": round(progress.evaluate_seconds + time.perf_counter() - started, 3),
    }
    results |= {"selected_step": progress.best_step, "seconds": seconds}
    for name, part in (("model", trainer.model), ("sampler", trainer.sampler)):
        write_tensors(folder / f"{name}.safetensors", part.state_dict())
    write_text(folder / "entities.txt", listing(graph.entities.names))
    write_text(folder / "relations.txt", listing(graph.relations.names))
    title = f"{config.model.scorer}, {config.sampler.name}, {dataset.name}"
    rows = read_json_lines(log.path)
    plot_curves(rows, folder / "plots" / "curves.png", title, progress.best_step)
    if any("hardness" in row for row in rows):
        plot_hardness(rows, folder / "plots" / "hardness.png", title)
    write_json(folder / "record.json", record | {"wall_seconds": sum(seconds.values())})
    write_json(folder / "results.json", results)


def _refuse_other_data(folder: Path, dataset: Dataset, sha256: dict[str, str]) -> None:
    """A run goes on with the data it began with.

    Raises:
        DataError: a file of the dataset is not what it was.
    """
    began: dict[str, str] = read_json(folder / "record.json")["dataset"]["sha256"]
    changed = sorted(name for name in began.keys() | sha256.keys() if began.get(name) != sha256.get(name))
    if changed:
        remedy = "restore it, or train anew into another --out"
        raise DataError(dataset.folder / changed[0], f"has changed since the run in {folder} began", remedy)


def _say_what_matters(dataset: Dataset, dropped: float, reporter: Reporter) -> None:
    graph = dataset.graph
    leaked = int(graph.leaked_valid().sum())
    if leaked:
        reporter.note(
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
        reporter.note(message + ".")


@contextmanager
def _interruptions() -> Generator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the step; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _config_of(folder: Path, values: Mapping[str, Any]) -> Config:
    """The configuration of the run in a folder, which whatever is given must agree with."""
    path = folder / "config.yaml"
    if not path.exists():
        raise DataError(folder, "holds no run to resume", "leave --resume out to start it")
    own = make_config(read_config(path))
    flat = flatten(own.model_dump(mode="json"))
    given = flatten(values)
    if "data.dataset" in given:
        given["data.dataset"] = _resolved(str(given["data.dataset"]))
    strange = set(given) - set(flat)
    if strange:
        key = sorted(strange)[0]
        raise UsageError(f"unknown configuration key {key!r}{nearest(key, flat)}")
    conflicts = [key for key, value in given.items() if flat[key] != value]
    if conflicts:
        key = conflicts[0]
        raise UsageError(
            f"{key} is {flat[key]!r} in {path}, not {given[key]!r}; --resume keeps the run's own configuration"
        )
    return own


def _resolved(name: str) -> str:
    """A dataset's name as it is; a folder as an absolute path, so that the run can be used from elsewhere."""
    return name if name in dataset_folders() or not Path(name).is_dir() else str(Path(name).resolve())


def _with_folder_resolved(config: Config) -> Config:
    data = config.data.model_copy(update={"dataset": _resolved(config.data.dataset)})
    return config.model_copy(update={"data": data})
