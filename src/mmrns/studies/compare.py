"""Comparing methods on one footing: the same budget for each, settings chosen on validation, several seeds on test."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mmrns.errors import DataError, UsageError, unknown
from mmrns.files import refuse_unwritable, write_text
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named
from mmrns.runs.config import apply_settings, make_config
from mmrns.runs.methods import method_names, method_of
from mmrns.runs.train import Interrupted, train
from mmrns.runs.values import dump_yaml, read_config
from mmrns.samplers.base import Sampler
from mmrns.studies.records import Records
from mmrns.studies.search import Settings, Space, check, propose, size

BUDGET: Settings = {"training.steps": 1000, "training.evaluate_every": 100, "training.patience": 0}
"""Of every training of a comparison, unless it says otherwise."""


@dataclass(frozen=True)
class Entry:
    """What is compared: a method with a scorer.

    Attributes:
        settings: what makes it, by dotted key.
        space: what its search may try; empty = nothing to search.
        listed: instead, the settings to try, each once.

    With one setting in all there is nothing to search: it is taken.
    """

    settings: Settings
    space: Space = field(default_factory=dict[str, Any])
    listed: Sequence[Settings] = ()


@dataclass(frozen=True)
class Comparison:
    """A comparison, whole: what a folder of results belongs to.

    Attributes:
        common: settings of every training, by dotted key.
        entries: what is compared, by label.
        trials: trainings with seed 0 among which each entry's settings are chosen, by validation MRR.
        seeds: trainings of the chosen settings, with seeds 0, 1, ...
        threads: of each training; None = as torch would.
    """

    common: Settings
    entries: Mapping[str, Entry]
    trials: int = 0
    seeds: int = 3
    threads: int | None = None

    @classmethod
    def of(
        cls,
        dataset: str,
        scorers: Sequence[str | type[Scorer]],
        methods: Sequence[str | type[Sampler]],
        *,
        seeds: int = 3,
        trials: int = 0,
        space: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        threads: int | None = None,
    ) -> Comparison:
        """Every scorer with every method.

        Args:
            dataset: its name or folder.
            scorers, methods: names, `package.module:Class`, or classes.
            seeds, trials, threads: see the class.
            space: what a search may try, by dotted key; a key that is a method's name or `SCORER-METHOD` holds what it
                may try beside or instead.
            settings: of every training, by dotted key.

        Raises:
            UsageError: an unknown name, key or value.
        """
        space = dict(space or DEFAULT_SPACE if trials else {})
        pairs = [(_name(a, Scorer), _name(b, Sampler)) for a in scorers for b in methods]
        labels = {f"{_short(a)}-{_short(b)}" if len(scorers) > 1 else _short(b): (a, b) for a, b in pairs}
        if len(labels) < len(pairs):
            raise UsageError("a comparison names something twice")
        own = {key: space.pop(key) for key in [*space] if key in method_names() or key in labels}
        entries = {
            label: Entry(
                {"model.scorer": scorer, "method": method},
                _fitting(space, method) | own.get(method, {}) | own.get(label, {}),
            )
            for label, (scorer, method) in labels.items()
        }
        common = BUDGET | {"data.dataset": dataset} | (settings or {})
        return cls(common, entries, trials, seeds, threads)._checked()

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """From a YAML file with `common`, `methods`, and optionally `space`, `trials`, `seeds` and `threads`.

        Under `methods` each label has a mapping by dotted key, of which single values are settings and lists and ranges
        are what its search may try beside `space`; or it has a list of settings to try. The label is the name of the
        method unless there is a `method`.

        Raises:
            DataError: not such a file.
            UsageError: an unknown name, key or value.
        """
        values = read_config(path)
        methods = values.get("methods")
        strange = set(values) - {"common", "methods", "space", "trials", "seeds", "threads"}
        if not isinstance(methods, dict) or not methods or strange:
            what = f"unknown key {sorted(strange)[0]!r}" if strange else "holds no `methods`"
            raise DataError(path, what, "give common, methods, and optionally space, trials, seeds, threads")
        common: Settings = dict(values.get("common", {}))
        entries: dict[str, Entry] = {}
        for label, given in methods.items():
            if isinstance(given, list):
                entry = Entry({}, listed=given)
            else:
                given = given or {}
                settings = {key: value for key, value in given.items() if not isinstance(value, list | dict)}
                tried = {key: value for key, value in given.items() if key not in settings}
                entry = Entry(settings, values.get("space", {}) | tried)
            entries[_short(label)] = _with_method(entry, label, common)
        if len(entries) < len(methods):
            raise DataError(path, "names something twice", "give labels of their own, with `method`")
        numbers = {key: values[key] for key in ("trials", "seeds", "threads") if key in values}
        return cls(common, entries, **numbers)._checked()

    def _checked(self) -> Comparison:
        if not self.entries or self.seeds < 1 or self.trials < 0:
            raise UsageError("a comparison needs a scorer, a method and a seed")
        for label, entry in self.entries.items():
            check(entry.space)
            if not self.trials and size(entry.space) > 1:
                raise UsageError(f"{label}: a space needs trials to search it")
            first = _first(entry.space)
            each = [first | {key: value} for key, values in entry.space.items() for value in _values(values)]
            for settings in entry.listed or each or [first]:
                make_config(apply_settings({}, self.common | entry.settings | settings))
        return self

    def budget(self, entry: Entry) -> int:
        """Trials of an entry: all of a space that holds fewer, none where there is nothing to choose."""
        found = len(entry.listed) if entry.listed else int(min(self.trials, size(entry.space)))
        return found if found > 1 or size(entry.space) > 1 else 0

    @property
    def trainings(self) -> int:
        """How many trainings there are in all."""
        return sum(self.budget(entry) + self.seeds for entry in self.entries.values())


DEFAULT_SPACE: dict[str, Any] = {
    "training.lr": {"low": 3e-4, "high": 1e-2, "log": True},
    "objective.gamma": [3, 6, 9, 12],
    "objective.alpha": [0.5, 1, 2],
}
"""What a search tries where nothing else is said; alpha only for methods that weigh their negatives by it."""


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Attributes:
        label: of its entry.
        name: of its record, `LABEL-trial-N` or `LABEL-seed-N`.
        settings: those that were tried or chosen.
        given: all settings, by dotted key.
        test: read the test split; keep the run folder.
        folder: of the comparison.
    """

    label: str
    name: str
    settings: Settings
    given: Settings
    test: bool
    folder: Path

    @property
    def run(self) -> Path:
        """Where it is trained."""
        return self.folder / "trained" / self.name


def compare(
    comparison: Comparison,
    folder: str | Path,
    *,
    jobs: int = 1,
    done: Callable[[Mapping[str, Any]], None] = lambda record: None,
    note: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train what is missing, and return the records of the seeds, entry by entry.

    Each finished training is appended to `records.jsonl` in the folder at once; the runs of the seeds are in
    `trained/`. What is recorded is not trained again, and a training that was interrupted goes on from its checkpoint.

    Args:
        comparison: what to compare.
        folder: of the results; made where it is missing.
        jobs: trainings at a time, each in a process of its own. Only this process writes records.
        done: called with each record, also with those that were there.
        note: told what is worth knowing, such as a record that was cut off.

    Raises:
        DataError: the folder holds another comparison, or what is no record.
        Interrupted: after Ctrl-C; the same call continues.
    """
    folder = Path(folder)
    refuse_unwritable(folder, folder=True)
    _claim(folder, comparison)
    book = _Book(Records(folder, note), done)
    if jobs == 1:
        before = torch.get_num_threads()
        _set_threads(comparison.threads)
        try:
            entries = [_entry(comparison, label, folder, book, train_once) for label in comparison.entries]
        except Interrupted as error:
            raise _stopped(folder) from error
        finally:
            torch.set_num_threads(before)
        return [record for entry in entries for record in entry]
    threads = comparison.threads or max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    # A thread an entry, since its trials depend on those before; the trainings are in the processes.
    with (
        ProcessPoolExecutor(jobs, context, _set_threads, (threads,)) as processes,
        ThreadPoolExecutor(len(comparison.entries)) as waiting,
    ):

        def elsewhere(training: Training) -> dict[str, Any]:
            return processes.submit(train_once, training).result()

        asked = [waiting.submit(_entry, comparison, label, folder, book, elsewhere) for label in comparison.entries]
        try:
            return [record for entry in asked for record in entry.result()]
        except (KeyboardInterrupt, Interrupted) as error:
            processes.shutdown(wait=True, cancel_futures=True)
            raise _stopped(folder) from error


class _Book:
    """The records, for the threads of several entries; `done` is told of each."""

    def __init__(self, records: Records, done: Callable[[Mapping[str, Any]], None]):
        self.records, self.done, self.lock = records, done, threading.Lock()

    def of(self, training: Training, run: Callable[[Training], dict[str, Any]]) -> dict[str, Any]:
        """The record of a training, which is run where there is none."""
        found = self.records.get(training.name)
        if found is None:
            record = run(training)
            with self.lock:
                self.records.add(record)
            found = record
        if not training.test:
            shutil.rmtree(training.run, ignore_errors=True)
        with self.lock:
            self.done(found)
        return found


def _entry(
    comparison: Comparison, label: str, folder: Path, book: _Book, run: Callable[[Training], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Choose an entry's settings, then train them with every seed."""
    entry = comparison.entries[label]

    def record(name: str, settings: Settings, seed: int, test: bool) -> dict[str, Any]:
        given = comparison.common | entry.settings | settings | {"seed": seed, "evaluation.test": test}
        return book.of(Training(label, f"{label}-{name}", settings, given, test, folder), run)

    tried: list[tuple[Settings, float]] = []
    for i in range(comparison.budget(entry)):
        before = book.records.get(f"{label}-trial-{i}")
        if before is not None:
            settings = before["settings"]
        elif entry.listed:
            settings = entry.listed[i]
        else:
            settings = propose(entry.space, tried, 0, label)
        tried.append((settings, record(f"trial-{i}", settings, 0, False)["valid_mrr"]))
    only = entry.listed[0] if entry.listed else _first(entry.space)
    chosen = max(tried, key=lambda trial: trial[1])[0] if tried else only
    return [record(f"seed-{seed}", chosen, seed, True) for seed in range(comparison.seeds)]


def train_once(training: Training) -> dict[str, Any]:
    """Train once and return the record of it; a training that was interrupted goes on."""
    unfinished = (training.run / "config.yaml").exists()
    run = train(out=training.run, settings=training.given, resume=unfinished)
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
    if training.test:
        validated = run.history.drop_nulls("valid_mrr")
        curve = [list(row) for row in validated.select("step", "seconds", "valid_mrr").rows()]
        record |= {"test": results["test"]["both"], "baseline": results["baseline"], "curve": curve}
    return record


def _claim(folder: Path, comparison: Comparison) -> None:
    """Say whose the folder is; refuse one that is another comparison's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "comparison.yaml"
    # What may change from one call to the next: further seeds, further entries.
    shared: dict[str, Any] = {"common": comparison.common, "trials": comparison.trials}
    entries = {label: json.loads(json.dumps(asdict(entry))) for label, entry in comparison.entries.items()}
    before: dict[str, Any] = read_config(path) if path.exists() else shared
    known: dict[str, Any] = before.get("entries", {})
    changed = [key for key, value in shared.items() if before.get(key) != value]
    changed += [label for label, entry in entries.items() if known.get(label, entry) != entry]
    if changed:
        raise DataError(path, f"was begun with another {changed[0]!r}", "choose another --out")
    write_text(path, dump_yaml(shared | {"entries": known | entries}))


def _stopped(folder: Path) -> Interrupted:
    return Interrupted(f"{folder}: interrupted; the same command continues")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _fitting(space: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Without the temperature of weights that a method does not use."""
    return {key: values for key, values in space.items() if key != "objective.alpha" or method_of(method).alpha}


def _with_method(entry: Entry, label: str, common: Settings) -> Entry:
    """An entry that says which method it is: the one that its label names, where it has none of its own.

    Raises:
        UsageError: neither.
    """
    own = [common | entry.settings | dict(entry.space) | settings for settings in entry.listed or [{}]]
    if all({"method", "sampler.name"} & set(settings) for settings in own):
        return entry
    if label not in method_names() and ":" not in label:
        raise unknown("method", label, method_names())
    return replace(entry, settings={"method": label} | entry.settings)


def _name(given: str | type[Any], base: type[Named]) -> str:
    """The name that a class goes by."""
    return given if isinstance(given, str) else base.registry.name_of(base.registry.get(given))


def _short(name: str) -> str:
    """What a name is called in labels and folders: of `package.module:Class` the class."""
    return name.rpartition(":")[2]


def _first(space: Space) -> Settings:
    return {key: _values(values)[0] for key, values in space.items()}


def _values(values: Any) -> list[Any]:
    """What may be tried; of a range, its ends."""
    return values if isinstance(values, list) else [values["low"], values["high"]]
