"""The trials of searches as Optuna stores them, and its rules for ending those early that promise little.

`optuna.jsonl` in the folder of a comparison is a journal of Optuna's
(https://optuna.readthedocs.io/en/stable/reference/generated/optuna.storages.JournalStorage.html): a study for each
entry, by its label, with the settings, the validations and the state of each trial. Optuna's own tools read it. A trial
that is under way has its settings and its validations there, so that it goes on after an interruption, and whether it
is ended early depends on the trials before it alone. Results are in `records.jsonl`: from these a journal that is
missing is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrns.errors import DataError, UsageError
from mmrns.studies.search import Settings, Space, distinct, distribution_of, range_of
from mmrns.training.callbacks import Callback

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

    from mmrns.training.callbacks import Training

FILE = "optuna.jsonl"
"""Name of the journal in the folder of a comparison."""

Prune = Literal["median", "halving"]
"""Which trials are ended early. `median`: those whose best validation MRR so far is below the median that earlier
trials had at that step. `halving`: those that are not in the best third of all that came to a step, which is looked at
after the first validation, and after three, nine, ... times as many steps (successive halving: Li et al., "A System for
Massively Parallel Hyperparameter Tuning", 2020)."""

_THIRD = 3
_STARTUP = 5
"""Trials at most that the median rule lets run to their end before it ends any."""


def refuse_without_optuna(what: str) -> None:
    """Refuse what needs Optuna where it is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("optuna") is None:
        raise UsageError(f"{what} needs Optuna; pip install 'mmrns[hpo]', or do without")


@dataclass(frozen=True)
class Search:
    """The search of an entry, as the journal has it.

    Attributes:
        folder: of the comparison.
        label: of the entry.
        space: what is tried, by dotted key: a list of values or a range.
        every: steps between validations.
        prune: the rule for ending trials early; None = none is.
        trials: how many there will be.
    """

    folder: Path
    label: str
    space: Space
    every: int
    prune: Prune | None
    trials: int

    def running(self, name: str) -> Settings | None:
        """The settings of a trial that was begun and not ended, by the name of its record; None where there is none."""
        found = _found(self._study(), name)
        return None if found is None or found.state.is_finished() else dict(found.user_attrs["settings"])

    def begin(self, name: str, settings: Settings) -> None:
        """Write that a trial is under way, unless that is written."""
        if self.running(name) is not None:
            return
        study = self._study()
        distributions = {key: _distribution(key, self.space[key]) for key in settings}
        params = {
            key: json.dumps(value) if isinstance(self.space[key], list) else value for key, value in settings.items()
        }
        study.enqueue_trial(params, user_attrs={"name": name, "settings": settings})
        study.ask(distributions)

    def settle(self, record: Mapping[str, Any]) -> None:
        """Write what a trial came to, by its record, unless that is written; what is missing of it is made up for."""
        from optuna.trial import TrialState

        study, name = self._study(), record["name"]
        found = _found(study, name)
        if found is not None and found.state.is_finished():
            return
        self.begin(name, record["settings"])
        trial, curve = self.trial(name), record.get("curve", [])
        for step, _, mrr in curve:
            tell(trial, int(step), mrr, last=(step == curve[-1][0] and "pruned" not in record))
        failed, pruned = "failed" in record, "pruned" in record
        state = TrialState.FAIL if failed else TrialState.PRUNED if pruned else TrialState.COMPLETE
        value = record["valid_mrr"] if state is TrialState.COMPLETE else None
        trial.study.tell(trial.number, value, state)

    def trial(self, name: str) -> optuna.Trial:
        """A trial that was begun."""
        from optuna.trial import Trial

        study = self._study()
        found = _found(study, name)
        assert found is not None, "it was begun"
        return Trial(study, found._trial_id)  # pyright: ignore[reportPrivateUsage]

    def _study(self) -> optuna.Study:
        """The study, read from the file.

        Raises:
            DataError: it is no journal.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = self.folder / FILE
        try:
            # Links, of which Optuna's other lock is made, are not for everyone on Windows.
            storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
            if self.label not in optuna.get_all_study_names(storage):
                optuna.create_study(storage=storage, study_name=self.label, direction="maximize")
            # Settings come from elsewhere, as a function of what was tried: this sampler draws none.
            sampler, pruner = optuna.samplers.RandomSampler(0), self._pruner()
            return optuna.load_study(study_name=self.label, storage=storage, sampler=sampler, pruner=pruner)
        except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
            reason = f"is no journal of Optuna ({type(error).__name__}: {error})"
            raise DataError(path, reason, "remove it: it is made anew from the records") from error

    def _pruner(self) -> BasePruner:
        from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

        if self.prune == "median":
            return MedianPruner(n_startup_trials=max(2, min(_STARTUP, self.trials // _THIRD)))
        if self.prune == "halving":
            return SuccessiveHalvingPruner(min_resource=self.every, reduction_factor=_THIRD)
        return NopPruner()


def drop_cut_line(folder: Path) -> None:
    """Drop the end of a journal whose writer was killed in a line, behind which no other could be read."""
    path = folder / FILE
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _found(study: optuna.Study, name: str) -> FrozenTrial | None:
    """The last trial of a name: one that failed may have been tried again."""
    trials = study.get_trials(deepcopy=False)
    return next((trial for trial in reversed(trials) if trial.user_attrs.get("name") == name), None)


def _distribution(key: str, values: Any) -> BaseDistribution:
    """What is listed is told as JSON, since it may be lists itself, and 1 is not `true`."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(values, list):
        return CategoricalDistribution([json.dumps(value) for value in distinct(values)])
    return distribution_of(range_of(key, values))


def tell(trial: optuna.Trial, step: int, mrr: float, *, last: bool) -> bool:
    """Write a validation of a trial, unless that is written, and say whether the trial is to end there.

    Args:
        trial: that was begun.
        step: of the validation.
        mrr: its MRR.
        last: the trial ends there anyway.
    """
    if step in trial.storage.get_trial(trial._trial_id).intermediate_values:  # pyright: ignore[reportPrivateUsage]
        return trial.user_attrs.get("pruned") == step
    trial.report(mrr, step)
    if last or not trial.should_prune():
        return False
    # Written, since asked again the rule may say otherwise.
    trial.set_user_attr("pruned", step)
    return True


class Reports(Callback):
    """Writes the validations of a training into the journal, and stops it where the rule says so.

    Args:
        trial: of the journal.

    Attributes:
        pruned: after how many steps; None = not.
    """

    def __init__(self, trial: optuna.Trial):
        self.trial = trial
        self.steps = 0
        self.pruned: int | None = None

    def on_start(self, training: Training) -> None:
        self.steps = training.plan.steps
        before = self.trial.user_attrs.get("pruned")
        self.pruned = before if before is not None and before <= training.progress.step else None

    def on_validation(self, step: int, mrr: float) -> None:
        if tell(self.trial, step, mrr, last=step == self.steps):
            self.pruned = step

    def should_stop(self) -> bool:
        return self.pruned is not None
