"""Hyper-parameter search: which settings to try next, given how those before have done."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmrns.errors import UsageError
from mmrns.rng import stream_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Settings = dict[str, Any]
"""Values by dotted key."""

Space = Mapping[str, Any]
"""By dotted key, what may be tried: a list of values, or a range `{low: .., high: .., log: true, int: true}`."""


def size(space: Space) -> float:
    """How many settings a space holds; infinite with a range.

    >>> size({"training.lr": [0.001, 0.003], "objective.gamma": [6, 9, 12]})
    6.0
    """
    return math.prod((len(values) if isinstance(values, list) else math.inf for values in space.values()), start=1.0)


def propose(space: Space, tried: Sequence[tuple[Settings, float]], seed: int, *purpose: int | str) -> Settings:
    """The next settings to try: of a space of lists, other ones than before, at random; of one with a range, by the
    tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; its first
    ten are random), for which the extra `hpo` (Optuna) is needed.

    A function of its arguments, so that a search that was interrupted goes on as if it had not been.

    Args:
        space: what may be tried; if all of it are lists, more than has been tried.
        tried: settings and their validation MRR, in order.
        seed, purpose: of the random stream.

    Raises:
        UsageError: Optuna is not installed, or a range is not one.
    """
    number = stream_seed(seed, *purpose, len(tried))
    if size(space) < math.inf:
        stream, before = random.Random(number), [settings for settings, _ in tried]
        while (settings := {key: stream.choice(values) for key, values in space.items()}) in before:
            pass
        return settings
    try:
        import optuna
        from optuna.trial import create_trial
    except ImportError as error:
        raise UsageError("a search over ranges needs Optuna; pip install 'mmrns[hpo]', or list the values") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(key, values) for key, values in space.items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=number % 2**32))
    for settings, value in tried:
        params = {key: _code(space[key], settings[key]) for key in space}
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    asked = study.ask(distributions).params
    return {key: values[asked[key]] if isinstance(values, list) else asked[key] for key, values in space.items()}


def check(space: Space) -> None:
    """Refuse what is no space.

    Raises:
        UsageError: a value that is neither a list nor a range.
    """
    for key, values in space.items():
        ranged = isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {"low", "high", "log", "int"}
        if not ranged and not (isinstance(values, list) and values):
            raise UsageError(
                f"{key}: {values!r} is no space; give a list of values or {{low: .., high: .., log: true}}"
            )


def _distribution(key: str, values: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        # Places in the list, since what is listed may be lists itself.
        return CategoricalDistribution(range(len(values)))
    kind = IntDistribution if values.get("int") else FloatDistribution
    try:
        return kind(values["low"], values["high"], log=bool(values.get("log", False)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: {error}") from error


def _code(values: Any, value: Any) -> Any:
    return values.index(value) if isinstance(values, list) else value
