"""Hyper-parameter search: which settings to try next, given how those before have done."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmrns.errors import UsageError
from mmrns.rng import stream_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Settings = dict[str, Any]
"""Values by dotted key."""

Space = Mapping[str, Any]
"""By dotted key, what may be tried: a list of values, or a range `{low: .., high: .., log: true, int: true}`."""


class Trial(NamedTuple):
    """What was tried.

    Attributes:
        settings: the settings.
        mrr: their validation MRR; None = the training failed.
        pruned: the step at which the training was ended early; None = it was not.
    """

    settings: Settings
    mrr: float | None
    pruned: int | None = None


_ASKED = 100
"""How often the estimator may propose what was tried already, where a space has so few settings that it does."""


class Range(BaseModel):
    """A range of numbers.

    Attributes:
        low, high: its ends, both within.
        log: draw uniformly on a logarithmic scale.
        whole: whole numbers only; written `int`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    whole: bool = Field(False, alias="int")

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        if self.low > self.high:
            raise ValueError("low is above high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("whole numbers lie between whole numbers")
        return self

    @property
    def ends(self) -> list[float | int]:
        """The ends, as what is drawn from it has them."""
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]

    @property
    def size(self) -> float:
        """How many values it has."""
        if self.low == self.high:
            return 1.0
        return self.high - self.low + 1 if self.whole else math.inf


def is_range(values: Any) -> bool:
    """Whether something is meant as a range."""
    return isinstance(values, Mapping) and not {"low", "high"}.isdisjoint(values)


def size(space: Space) -> float:
    """How many settings a space holds, those that are listed twice counted once; infinite with a range of fractions.

    >>> size({"training.lr": [0.001, 1e-3, 0.003], "objective.gamma": [6, 9, 12]})
    6.0
    """
    sizes = (
        len(distinct(values)) if isinstance(values, list) else range_of("", values).size for values in space.values()
    )
    return math.prod(sizes, start=1.0)


def distinct(values: Sequence[Any]) -> list[Any]:
    """Values without those that came before: 1 and 1.0 are the same, 1 and `true` are not."""
    return [*{_key(value): value for value in reversed(values)}.values()][::-1]


def _key(value: Any) -> str:
    """What two values have in common that are the same."""

    def number(value: Any) -> Any:
        match value:
            case bool():
                return value
            case float() if value.is_integer():
                return int(value)
            case list() | tuple():
                return [number(inner) for inner in value]
            case Mapping():
                return {str(name): number(inner) for name, inner in value.items()}
            case _:
                return value

    return json.dumps(number(value), sort_keys=True, default=repr)


def propose(space: Space, tried: Sequence[Trial], seed: int, *purpose: int | str) -> Settings:
    """The next settings to try: of a space of lists, other ones than before, at random; of one with a range, by the
    tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; its first
    ten are random), for which the extra `hpo` (Optuna) is needed.

    The estimator splits what was tried into better and worse and models both. A training that was ended early counts
    among the worse, by how far it came. One that failed has no value; it is told as ended before its first validation,
    behind all others, so that no value is made up.

    A function of its arguments, so that a search that was interrupted goes on as if it had not been.

    Args:
        space: what may be tried.
        tried: what was tried, in order.
        seed, purpose: of the random stream.

    Raises:
        UsageError: Optuna is not installed, a range is not one, or all settings of the space have been tried.
    """
    number = stream_seed(seed, *purpose, len(tried))
    lists = {key: distinct(values) for key, values in space.items() if isinstance(values, list)}
    ranges = {key: range_of(key, values) for key, values in space.items() if key not in lists}
    before = {_key(trial.settings) for trial in tried if _within(trial.settings, space, lists, ranges)}
    if len(before) >= size(space):
        raise UsageError(f"all {len(before)} settings of the space have been tried")
    stream = random.Random(number)
    if not ranges:
        while _key(settings := {key: stream.choice(lists[key]) for key in space}) in before:
            pass
        return settings
    for settings in itertools.islice(_estimated(space, lists, ranges, tried, number), _ASKED):
        if _key(settings) not in before:
            return settings
    # Few are left: there are but so many, and one of those is taken.
    each = [lists.get(key) or range(int(ranges[key].low), int(ranges[key].high) + 1) for key in space]
    left = (dict(zip(space, values, strict=True)) for values in itertools.product(*each))
    return stream.choice([settings for settings in left if _key(settings) not in before])


def _estimated(
    space: Space, lists: Mapping[str, list[Any]], ranges: Mapping[str, Range], tried: Sequence[Trial], number: int
) -> Any:
    """What the estimator proposes, again and again."""
    try:
        import optuna
        from optuna.distributions import CategoricalDistribution
        from optuna.trial import TrialState, create_trial
    except ImportError as error:
        raise UsageError("a search over ranges needs Optuna; pip install 'mmrns[hpo]', or list the values") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Places in the lists, since what is listed may be lists itself.
    distributions = {
        key: CategoricalDistribution(range(len(lists[key]))) if key in lists else distribution_of(ranges[key])
        for key in space
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=number % 2**32))
    for settings, mrr, pruned in tried:
        if not _within(settings, space, lists, ranges):
            continue
        told: dict[str, Any] = {"state": TrialState.COMPLETE, "value": mrr}
        if pruned is not None and mrr is not None:
            told = {"state": TrialState.PRUNED, "value": mrr, "intermediate_values": {pruned: mrr}}
        elif mrr is None:
            told = {"state": TrialState.PRUNED}
        params = {key: _place(lists[key], settings[key]) if key in lists else settings[key] for key in space}
        study.add_trial(create_trial(params=params, distributions=distributions, **told))
    while True:
        asked = study.ask(distributions).params
        yield {key: lists[key][asked[key]] if key in lists else asked[key] for key in space}


def _within(settings: Settings, space: Space, lists: Mapping[str, list[Any]], ranges: Mapping[str, Range]) -> bool:
    """Whether settings that were tried are of this space."""
    if not settings.keys() >= space.keys():
        return False
    listed = all(_place(values, settings[key]) is not None for key, values in lists.items())
    return listed and all(
        isinstance(settings[key], int | float) and given.low <= settings[key] <= given.high
        for key, given in ranges.items()
    )


def _place(values: Sequence[Any], value: Any) -> int | None:
    """Where a value is in a list."""
    keys = [_key(listed) for listed in values]
    return keys.index(_key(value)) if _key(value) in keys else None


def check(space: Space) -> None:
    """Refuse what is no space.

    Raises:
        UsageError: a value that is neither a list nor a range.
    """
    for key, values in space.items():
        if not (isinstance(values, list) and values):
            range_of(key, values)


def range_of(key: str, values: Any) -> Range:
    """The range that a mapping stands for.

    Raises:
        UsageError: it is none.
    """
    if not is_range(values):
        given = (
            "[[]] for the empty list alone" if values == [] else "a list of values or {low: .., high: .., log: true}"
        )
        raise UsageError(f"{key}: {values!r} is no space; give {given}", key)
    try:
        return Range.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([key, *map(str, fault["loc"])])
        reason = fault["msg"].removeprefix("Value error, ").lower()
        raise UsageError(f"{where}: {reason}; {values!r} is no space", key) from error


def distribution_of(values: Range) -> BaseDistribution:
    """A range as Optuna has it."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
