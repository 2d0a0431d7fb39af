"""Comparing methods on one footing: the same budget for each, settings chosen on validation, several seeds on test."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from mmrns.errors import DataError, UsageError
from mmrns.files import read_json, read_json_lines, write_json, write_text
from mmrns.runs.config import METHODS, apply_settings, make_config, read_config
from mmrns.runs.train import Interrupted, train
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
        scorers: Sequence[str],
        samplers: Sequence[str],
        *,
        seeds: int = 3,
        trials: int = 0,
        space: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        threads: int | None = None,
    ) -> Comparison:
        """Every scorer with every method.

        Args:
            dataset, scorers, samplers: names.
            seeds, trials, threads: see the class.
            space: what a search may try, by dotted key; a key that is a method's name or `SCORER-METHOD` holds what it
                may try beside or instead.
            settings: of every training, by dotted key.

        Raises:
            UsageError: an unknown name, key or value.
        """
        space = dict(space or DEFAULT_SPACE if trials else {})
        labels = {f"{a}-{b}" if len(scorers) > 1 else b: (a, b) for a in scorers for b in samplers}
        own = {key: space.pop(key) for key in [*space] if key in METHODS or key in labels}
        entries = {
            label: Entry(
                {"model.scorer": scorer, "sampler.name": method},
                _fitting(space, method) | own.get(method, {}) | own.get(label, {}),
            )
            for label, (scorer, method) in labels.items()
        }
        common = BUDGET | {"data.dataset": dataset} | (settings or {})
        return cls(common, entries, trials, seeds, threads)._checked()

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """From a YAML file with `common`, `methods`, and optionally `space`, `trials`, `seeds` and `threads`.

        A method's value is what its search may try beside `space`, or a list of settings to try. Its label is its name
        unless it has a `sampler.name`.

        Raises:
            DataError: not such a file.
            UsageError: an unknown name, key or value.
        """
        values = read_config(path)
        methods = values.get("methods")
        unknown = set(values) - {"common", "methods", "space", "trials", "seeds", "threads", "modalities"}
        if not isinstance(methods, dict) or not methods or unknown:
            what = f"unknown key {sorted(unknown)[0]!r}" if unknown else "holds no `methods`"
            raise DataError(path, what, "give common, methods, and optionally space, trials, seeds, threads")
        entries: dict[str, Entry] = {}
        for label, given in methods.items():
            settings: Settings = {"sampler.name": label} if label in METHODS else {}
            if isinstance(given, list):
                entries[label] = Entry(settings, listed=given)
            else:
                entries[label] = Entry(settings, values.get("space", {}) | (given or {}))
        numbers = {key: values[key] for key in ("trials", "seeds", "threads") if key in values}
        return cls(dict(values.get("common", {})), entries, **numbers)._checked()

    def _checked(self) -> Comparison:
        if not self.entries or self.seeds < 1 or self.trials < 0:
            raise UsageError("a comparison needs a scorer, a sampler and a seed")
        for label, entry in self.entries.items():
            check(entry.space)
            if not self.trials and entry.space:
                raise UsageError(f"{label}: a space needs trials to search it")
            first = {key: _values(values)[0] for key, values in entry.space.items()}
            each = [first | {key: value} for key, values in entry.space.items() for value in _values(values)]
            for settings in entry.listed or each or [first]:
                make_config(apply_settings({}, _pairs(self.common | entry.settings | settings)))
        return self

    def budget(self, entry: Entry) -> int:
        """Trials of an entry: all of a space that holds fewer."""
        return len(entry.listed) if entry.listed else int(min(self.trials, size(entry.space)))

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
        settings: of this training beside those of all.
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
    def path(self) -> Path:
        """Its record."""
        return self.folder / f"{self.name}.json"


def compare(
    comparison: Comparison,
    folder: str | Path,
    *,
    jobs: int = 1,
    done: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Train what is missing, and return the records of the seeds, entry by entry.

    Each finished training is recorded in the folder at once, as `LABEL-trial-N.json` or `LABEL-seed-N.json`; the runs
    of the seeds are in `trained/`. What is recorded is not trained again, and a training that was interrupted goes on
    from its checkpoint.

    Args:
        comparison: what to compare.
        folder: of the results; made where it is missing.
        jobs: trainings at a time, each in a process of its own.
        done: called with each record, also with those that were there.

    Raises:
        DataError: the folder holds another comparison.
        Interrupted: after Ctrl-C; the same call continues.
    """
    folder = Path(folder)
    _claim(folder, comparison)
    if jobs == 1:
        before = torch.get_num_threads()
        _set_threads(comparison.threads)
        try:
            return [
                record for label in comparison.entries for record in _entry(comparison, label, folder, train_once, done)
            ]
        except Interrupted as error:
            raise _stopped(folder) from error
        finally:
            torch.set_num_threads(before)
    threads = comparison.threads or max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    # A thread an entry, since its trials depend on those before; the trainings are in the processes.
    with (
        ProcessPoolExecutor(jobs, context, _set_threads, (threads,)) as processes,
        ThreadPoolExecutor(len(comparison.entries)) as entries,
    ):

        def elsewhere(training: Training) -> dict[str, Any]:
            return processes.submit(train_once, training).result()

        asked = [entries.submit(_entry, comparison, label, folder, elsewhere, done) for label in comparison.entries]
        try:
            return [record for entry in asked for record in entry.result()]
        except (KeyboardInterrupt, Interrupted) as error:
            processes.shutdown(wait=True, cancel_futures=True)
            raise _stopped(folder) from error


def _entry(
    comparison: Comparison,
    label: str,
    folder: Path,
    run: Callable[[Training], dict[str, Any]],
    done: Callable[[Mapping[str, Any]], None],
) -> list[dict[str, Any]]:
    """Choose an entry's settings, then train them with every seed."""
    entry = comparison.entries[label]

    def record(name: str, settings: Settings, seed: int, test: bool) -> dict[str, Any]:
        given = comparison.common | entry.settings | settings | {"seed": seed, "evaluation.test": test}
        training = Training(label, f"{label}-{name}", settings, given, test, folder)
        found = read_json(training.path) if training.path.exists() else run(training)
        done(found)
        return found

    tried: list[tuple[Settings, float]] = []
    for i in range(comparison.budget(entry)):
        path = folder / f"{label}-trial-{i}.json"
        if path.exists():
            settings = read_json(path)["settings"]
        elif entry.listed:
            settings = entry.listed[i]
        else:
            settings = propose(entry.space, tried, 0, label)
        tried.append((settings, record(f"trial-{i}", settings, 0, False)["valid_mrr"]))
    chosen = max(tried, key=lambda trial: trial[1])[0] if tried else {}
    return [record(f"seed-{seed}", chosen, seed, True) for seed in range(comparison.seeds)]


def train_once(training: Training) -> dict[str, Any]:
    """Train once and record the outcome; a training that was interrupted goes on."""
    folder = training.folder / "trained" / training.name
    unfinished = (folder / "config.yaml").exists()
    run = train(out=folder, settings=_pairs(training.given), resume=unfinished)
    results, code = run.results, read_json(folder / "record.json")["code"]
    outcome: dict[str, Any] = {
        "method": training.label,
        "scorer": run.config.model.scorer,
        "sampler": run.config.sampler.name,
        "settings": training.settings,
        "seed": run.config.seed,
        "valid_mrr": results["valid"]["both"]["realistic"]["mrr"],
        "selected_step": results["selected_step"],
        "seconds": results["seconds"],
        "commit": code["commit"],
    }
    if training.test:
        rows = [row for row in read_json_lines(folder / "metrics.jsonl") if "valid_mrr" in row]
        curve = [[row["step"], row["seconds"], row["valid_mrr"]] for row in rows]
        outcome |= {"test": results["test"]["both"], "baseline": results["baseline"], "curve": curve}
    write_json(training.path, outcome)
    if not training.test:
        shutil.rmtree(folder)
    return outcome


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
    write_text(path, yaml.safe_dump(shared | {"entries": known | entries}, sort_keys=False, allow_unicode=True))


def _stopped(folder: Path) -> Interrupted:
    return Interrupted(f"{folder}: interrupted; the same command continues")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _fitting(space: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Without the temperature of weights that a method does not use."""
    return {key: values for key, values in space.items() if key != "objective.alpha" or METHODS[method].alpha}


def _values(values: Any) -> list[Any]:
    """What may be tried; of a range, its ends."""
    return values if isinstance(values, list) else [values["low"], values["high"]]


def _pairs(settings: Settings) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
