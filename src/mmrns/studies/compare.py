"""Comparing methods on one footing: the same budget for each, settings chosen on validation, several seeds on test."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from mmrns.data.datasets import Dataset
from mmrns.errors import DataError, Diverged, MmrnsError, UsageError
from mmrns.files import locked, read_json_lines, refuse_unwritable, write_text
from mmrns.runs.build import build_dataset, build_device, build_model, build_sampler, build_trackers
from mmrns.runs.config import Config, flatten, shortened, validated
from mmrns.runs.record import Row
from mmrns.runs.threads import fastest, measure, threads_restored
from mmrns.runs.threads import told as told_threads
from mmrns.runs.train import Interrupted, refuse_nothing_to_validate_on, train
from mmrns.runs.values import dump_yaml, read_config
from mmrns.studies.comparison import Comparison, Entry, EntryError, config_of, first_of
from mmrns.studies.journal import FILE as JOURNAL
from mmrns.studies.journal import Prune, Reports, Search, drop_cut_line, refuse_without_optuna
from mmrns.studies.records import Records
from mmrns.studies.search import Settings, Trial, is_range, propose
from mmrns.studies.workers import Workers, callbacks
from mmrns.training.interruption import Interruption
from mmrns.training.lines import ProgressLines


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Attributes:
        label: of its entry.
        name: of its record, `LABEL-trial-N` or `LABEL-seed-N`.
        settings: those that were tried or chosen.
        given: all settings, by dotted key.
        trial: it chooses settings: its run folder is not kept.
        folder: of the comparison.
        search: what a trial is of, where there is a journal of it.
        progress: say on standard error how far it is.
    """

    label: str
    name: str
    settings: Settings
    given: Settings
    trial: bool
    folder: Path
    search: Search | None = None
    progress: bool = False

    @property
    def run(self) -> Path:
        """Where it is trained."""
        return self.folder / "trained" / self.name


Each = Callable[[Callable[[Training], dict[str, Any]], list[Training]], Iterable[dict[str, Any]]]
"""Trains several, one by one or at a time, and gives their records in order, as `map` does."""


def compare(
    comparison: Comparison,
    folder: str | Path,
    *,
    jobs: int = 1,
    progress: bool = True,
    done: Callable[[Mapping[str, Any]], None] = lambda record: None,
    note: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train what is missing, and return the records of the seeds, entry by entry.

    Each finished training is appended to `records.jsonl` in the folder at once; the runs of the seeds are in
    `trained/`. What is recorded is not trained again, and a training that was interrupted goes on from its checkpoint.

    A training that comes to numbers that are not finite, or that has too little memory, is recorded as `failed`, with
    the reason, and the others go on: a search takes it for worse than every other. Where all trials of an entry have
    failed, so have its seeds. A trial that a rule ends early (`prune`) is recorded as `pruned`, and is not chosen. The
    test split is left out where the settings say so or where it is empty; then records have the metrics of validation.

    Args:
        comparison: what to compare.
        folder: of the results; made where it is missing.
        jobs: trainings at a time, each in a process of its own. Only this process writes records.
        progress: say on standard error how far each training is, after five seconds and then every minute.
        done: called with each record, also with those that were there.
        note: told what is worth knowing, such as a training that failed or a record that was cut off.

    Raises:
        UsageError: a setting, a name or a device that does not fit, of any entry: before the first training.
        DataError: the folder holds another comparison or is being written to, or the dataset is not fit.
        Interrupted: after Ctrl-C, or a signal to end or hang up; the same call continues.
    """
    comparison, folder = comparison.checked(), Path(folder)
    refuse_unwritable(folder, folder=True)
    with locked(folder):
        _claim(folder, comparison)
        drop_cut_line(folder)
        book = _Book(Records(folder, note), done, note, progress)
        for line in comparison.notes:
            note(line)
        names = [f"{label}-seed-{seed}" for label in comparison.entries for seed in range(comparison.seeds)]
        if any(book.records.get(name) is None for name in names):
            comparison = _with_threads(_looked_through(comparison, note), folder, jobs, note)
        return _train(comparison, folder, jobs, book)


def _train(comparison: Comparison, folder: Path, jobs: int, book: _Book) -> list[dict[str, Any]]:
    """The records of the seeds, entry by entry, of which those that are missing are trained."""
    try:
        return _here(comparison, folder, book) if jobs == 1 else _elsewhere(comparison, folder, book, jobs)
    except (KeyboardInterrupt, Interrupted) as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(f"{folder}: interrupted; the same command continues", number) from error
    except BrokenProcessPool as error:
        what = "a process of the comparison was ended from outside, perhaps for want of memory"
        raise MmrnsError(f"{folder}: {what}; the same command continues, --jobs 1 takes the least") from error


def _here(comparison: Comparison, folder: Path, book: _Book) -> list[dict[str, Any]]:
    """Train one after the other."""
    entries = [_entry(comparison, label, folder, book, train_once, map) for label in comparison.entries]
    return [record for entry in entries for record in entry]


def _elsewhere(comparison: Comparison, folder: Path, book: _Book, jobs: int) -> list[dict[str, Any]]:
    """Train in other processes, several at a time."""
    threads = comparison.threads or _share(jobs)
    # A thread an entry, since its seeds depend on its trials, and some for either; the trainings are in the processes.
    with (
        ThreadPoolExecutor(len(comparison.entries)) as waiting,
        ThreadPoolExecutor(jobs) as several,
        Workers(jobs, threads) as workers,
        Interruption(workers.stop) as interruption,
    ):
        run = partial(workers.run, train_once)
        asked = [
            waiting.submit(_entry, comparison, label, folder, book, run, several.map) for label in comparison.entries
        ]
        try:
            return [record for entry in asked for record in entry.result()]
        except Interrupted as error:
            raise Interrupted(str(error), interruption.number) from error


class _Book:
    """The records, for the threads of several entries; `done` is told of each, `note` of those that failed.

    With `progress` each training says how far it is.
    """

    def __init__(
        self,
        records: Records,
        done: Callable[[Mapping[str, Any]], None],
        note: Callable[[str], None],
        progress: bool,
    ):
        self.records, self._done, self._note, self.progress = records, done, note, progress
        self.lock = threading.Lock()

    def of(self, training: Training, run: Callable[[Training], dict[str, Any]]) -> dict[str, Any]:
        """The record of a training, which is run where there is none."""
        found = self.records.get(training.name)
        if found is None:
            found = run(replace(training, progress=self.progress))
            with self.lock:
                self.records.add(found)
            if "failed" in found:
                again = f"it is tried again once its line is removed from {self.records.path}"
                self.note(f"{training.name} failed: {found['failed']} ({_told(training.settings)}); {again}.")
        if training.trial:
            shutil.rmtree(training.run, ignore_errors=True)
        self.done(found)
        return found

    def done(self, record: Mapping[str, Any]) -> None:
        """A record is there."""
        with self.lock:
            self._done(record)

    def note(self, line: str) -> None:
        """Something is worth knowing."""
        with self.lock:
            self._note(line)


def _entry(
    comparison: Comparison,
    label: str,
    folder: Path,
    book: _Book,
    run: Callable[[Training], dict[str, Any]],
    each: Each,
) -> list[dict[str, Any]]:
    """Choose an entry's settings, then train them with every seed: `each` trains several, one by one or at a time."""
    entry = comparison.entries[label]

    def training(name: str, settings: Settings, **more: Any) -> Training:
        own = {} if comparison.threads is None else {"threads": comparison.threads}
        given = own | comparison.given(entry, settings) | more
        return Training(label, f"{label}-{name}", settings, given, name.startswith("trial"), folder)

    tried = _tried(comparison, label, folder, book, run, each, training)
    ended = [(trial.settings, trial.mrr) for trial in tried if trial.mrr is not None and trial.pruned is None]
    cut = [(trial.settings, trial.mrr) for trial in tried if trial.mrr is not None and trial.pruned is not None]
    only = entry.listed[0] if entry.listed else first_of(entry.space)
    chosen = max(ended or cut, key=lambda trial: trial[1])[0] if ended or cut else only
    seeds = [training(f"seed-{seed}", chosen, seed=seed) for seed in range(comparison.seeds)]
    if ended or cut or not tried:
        counts = {"failed_trials": len(tried) - len(ended) - len(cut), "pruned_trials": len(cut)}
        found = each(lambda seed: book.of(seed, run), seeds)
        return [record | {key: count for key, count in counts.items() if count} for record in found]
    reason = f"all {len(tried)} trials failed"
    book.note(f"{label}: {reason}; there are no settings to train with.")
    lost = [_failed(replace(seed, settings={}), reason) | {"failed_trials": len(tried)} for seed in seeds]
    for record in lost:
        book.done(record)
    return lost


def _tried(
    comparison: Comparison,
    label: str,
    folder: Path,
    book: _Book,
    run: Callable[[Training], dict[str, Any]],
    each: Each,
    training: Callable[..., Training],
) -> list[Trial]:
    """Try settings of an entry: `each` of those that are known beforehand, others one after the other."""
    entry = comparison.entries[label]
    names = [f"{label}-trial-{i}" for i in range(comparison.budget(entry))]
    search = comparison.search(label, folder)
    if not (folder / JOURNAL).exists() and all(book.records.get(name) is not None for name in names):
        search = None  # All has been tried, and whoever looks at it changes nothing.

    def settings_of(i: int, tried: Sequence[Trial]) -> Settings:
        if (before := book.records.get(names[i])) is not None:
            return before["settings"]
        if search is not None and (running := search.running(names[i])) is not None:
            return running
        return entry.listed[i] if entry.listed else propose(entry.space, tried, 0, label)

    def trial_of(i: int, settings: Settings) -> Training:
        trial = training(f"trial-{i}", settings, **{"seed": 0, "evaluation.test": False})
        return replace(trial, search=search)

    tried: list[Trial] = []
    if search is None:
        for i in range(len(names)):
            tried.append(Trial(settings_of(i, tried), None))
        trials = [trial_of(i, trial.settings) for i, trial in enumerate(tried)]
        records = each(lambda trial: book.of(trial, run), trials)
        return [
            Trial(trial.settings, record["valid_mrr"], record.get("pruned"))
            for trial, record in zip(trials, records, strict=True)
        ]
    for i, name in enumerate(names):
        settings = settings_of(i, tried)
        if book.records.get(name) is None:
            search.begin(name, settings)
        record = book.of(trial_of(i, settings), run)
        search.settle(record)
        tried.append(Trial(settings, record["valid_mrr"], record.get("pruned")))
    return tried


def train_once(training: Training) -> dict[str, Any]:
    """Train once and return the record of it; a training that was interrupted goes on.

    Raises:
        UsageError, DataError: as `train` does.
    """
    unfinished = (training.run / "config.yaml").exists()
    reports = None if training.search is None else Reports(training.search.trial(training.name))
    told = [*callbacks(), *([] if reports is None else [reports])]
    told += [ProgressLines(name=training.name)] if training.progress else []
    try:
        how: dict[str, Any] = {"resume": unfinished, "progress": False, "plots": not training.trial}
        group = training.folder.resolve().name
        run = train(out=training.run, settings=training.given, callbacks=told, group=group, **how)
    except Interrupted:
        if reports is None or reports.pruned is None:
            raise
        return _pruned(training, reports.pruned)
    except Diverged as error:
        # The cause leaves out how a run by itself would go on.
        return _failed(training, str(error.__cause__ if isinstance(error.__cause__, Diverged) else error))
    except UsageError as error:
        raise UsageError(f"{training.name} ({_told(training.settings)}): {error}", error.key) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _failed(training, "too little memory")
    results = run.results
    record: dict[str, Any] = {
        "name": training.name,
        "label": training.label,
        "scorer": run.config.model.scorer,
        "sampler": run.config.method,
        "settings": training.settings,
        "seed": run.config.seed,
        "valid_mrr": results["valid"]["both"]["realistic"]["mrr"],
        "selected_step": results["selected_step"],
        "seconds": results["seconds"],
        "commit": run.record["code"]["commit"],
    }
    validations = run.history.drop_nulls("valid_mrr")
    curve = [list(row) for row in validations.select("step", "seconds", "valid_mrr").rows()]
    if training.trial:
        return record | {"curve": curve}
    if "test" in results:
        return record | {"test": results["test"]["both"], "baseline": results["baseline"], "curve": curve}
    return record | {"valid": results["valid"]["both"], "curve": curve}


def _failed(training: Training, reason: str) -> dict[str, Any]:
    """The record of a training that came to nothing."""
    return _about(training) | {"valid_mrr": None, "failed": reason}


def _pruned(training: Training, step: int) -> dict[str, Any]:
    """The record of a trial that was ended after a step, with its best validation until there."""
    rows = read_json_lines(training.run / "metrics.jsonl", Row)
    curve = [[row["step"], row["seconds"], row["valid_mrr"]] for row in rows if "valid_mrr" in row]
    return _about(training) | {"valid_mrr": max(mrr for _, _, mrr in curve), "pruned": step, "curve": curve}


def _about(training: Training) -> dict[str, Any]:
    """What the record of a training without a run holds of it."""
    config = config_of(training.given)
    return {
        "name": training.name,
        "label": training.label,
        "scorer": config.model.scorer,
        "sampler": config.method,
        "settings": training.settings,
        "seed": config.seed,
    }


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch's allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _told(settings: Settings) -> str:
    """Settings in one line."""
    return ", ".join(f"{key}={shortened(value)}" for key, value in settings.items()) or "as every training"


def _looked_through(comparison: Comparison, note: Callable[[str], None]) -> Comparison:
    """Find out before the first training what the data and the machine have against any.

    Every dataset is read, and of every entry each kind that it may make is built once, on the CPU.

    Returns:
        The comparison, without the test split where there is none.

    Raises:
        UsageError, DataError: a dataset, a modality, a device or an option that is not fit.
    """
    if comparison.prune is not None:
        refuse_without_optuna(f"prune: {comparison.prune}")
    if any(is_range(values) for entry in comparison.entries.values() for values in entry.space.values()):
        refuse_without_optuna("a search over ranges")
    datasets: dict[str, Dataset] = {}
    built: set[str] = set()
    untested = False
    for label, entry in comparison.entries.items():
        for config in comparison.configs(entry):
            try:
                build_device(config.device)
                build_trackers(config)
                # Where there is room, and without a context on the accelerator.
                cpu = config.model_copy(update={"device": "cpu"})
                about = config.data.model_dump_json()
                if about not in datasets:
                    datasets[about] = build_dataset(cpu)
                    refuse_nothing_to_validate_on(datasets[about], config)
                untested |= config.evaluation.test and not len(datasets[about].graph.test)
                if (kind := f"{about} {_kind(config)}") not in built:
                    built.add(kind)
                    build_sampler(cpu, datasets[about], build_model(cpu, datasets[about]))
            except UsageError as error:
                raise EntryError(label, str(error), error.key) from error
    if not untested:
        return comparison
    note("The dataset has no test triples: entries are compared by validation, on which settings are chosen as well.")
    return replace(comparison, common=comparison.common | {"evaluation.test": False})


def _share(jobs: int) -> int:
    """The threads of each of so many trainings at a time."""
    return max(1, torch.get_num_threads() // jobs)


def _with_threads(comparison: Comparison, folder: Path, jobs: int, note: Callable[[str], None]) -> Comparison:
    """The comparison with a number of threads for all trainings, so that their seconds compare.

    It is the one that is said, else that of before, else the fastest for the first configuration, which is written into
    `comparison.yaml`; where there is nothing to choose, each training takes what torch has.
    """
    if comparison.threads is not None:
        return comparison
    path = folder / "comparison.yaml"
    claim = read_config(path)
    if claim.get("threads") is None:
        config = next(comparison.configs(next(iter(comparison.entries.values()))))
        with threads_restored():
            torch.set_num_threads(_share(jobs))
            seconds = measure(config, build_dataset(config))
        if not seconds:
            return comparison
        note(told_threads("cpu", fastest(seconds), seconds, config.training.steps))
        entries = claim.pop("entries")
        claim |= {"threads": fastest(seconds), "entries": entries}
        write_text(path, dump_yaml(claim))
    return replace(comparison, threads=claim["threads"])


def _kind(config: Config) -> list[tuple[str, Any]]:
    """A configuration without its numbers, which the schema has checked and which make no other kind."""
    values = flatten(config.model_dump(include={"method", "model", "sampler", "objective"}))
    return [(key, value) for key, value in values.items() if isinstance(value, bool | str | list | None)]


class _ClaimedEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    space: dict[str, Any]
    listed: list[dict[str, Any]]


class _Claim(BaseModel):
    """What `comparison.yaml` in a folder holds."""

    model_config = ConfigDict(extra="forbid")

    common: dict[str, Any]
    trials: int
    prune: Prune | None = None
    threads: PositiveInt | None = None
    entries: dict[str, _ClaimedEntry] = Field(default_factory=dict)


def _claim(folder: Path, comparison: Comparison) -> None:
    """Say whose the folder is; refuse one that is another comparison's."""
    path = folder / "comparison.yaml"
    # What may change from one call to the next: further seeds, further entries. What is there stays as it is written.
    claim: dict[str, Any] = {"common": comparison.common, "trials": comparison.trials}
    claim |= ({} if comparison.prune is None else {"prune": comparison.prune}) | {"entries": {}}
    if path.exists():
        claim = read_config(path)
        try:
            before = validated(_Claim, claim, "")
        except UsageError as error:
            raise DataError(path, f"is no comparison ({error})", "choose another --out") from error
        entries = {label: Entry(**dict(entry)) for label, entry in before.entries.items()}
        changed = Comparison(before.common, entries, before.trials, prune=before.prune).difference(comparison)
        if changed is not None:
            raise DataError(path, f"was begun with another {changed!r}", "choose another --out")
    new = {label: asdict(entry) for label, entry in comparison.entries.items() if label not in claim["entries"]}
    if new or not path.exists():
        write_text(path, dump_yaml(claim | {"entries": claim["entries"] | new}))
