"""What every training of a comparison may take, so that methods are compared and not their budgets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mmrns.errors import UsageError
from mmrns.runs.config import Config, takes
from mmrns.runs.methods import method_of
from mmrns.samplers.base import Sampler
from mmrns.studies.search import Settings

NEGATIVES = "sampler.negatives"
"""K, the negatives of a triple. What scores every entity has none."""

BUDGET: Settings = {
    "training.steps": 1000,
    "training.evaluate_every": 100,
    "training.patience": 0,
    "training.batch_size": 512,
    NEGATIVES: 64,
}
"""Of every training of a comparison, unless it says otherwise: some samplers have another K of their own."""

_PARTS = (("training.steps", "steps"), ("training.batch_size", "triples a step"), (NEGATIVES, "negatives a triple"))


def with_budget(common: Settings, trainings: Sequence[Settings]) -> Settings:
    """The common settings of trainings, with those parts of `BUDGET` that neither they nor each training says.

    Args:
        common: settings of every training, by dotted key.
        trainings: the own settings of each.
    """
    missing = {
        key: value
        for key, value in BUDGET.items()
        if key not in common and any(key not in own for own in trainings if key != NEGATIVES or _draws(common | own))
    }
    return missing | common


def laid_over(common: Settings, own: Settings) -> Settings:
    """A training's own settings over the common ones, of which a K is for samplers that draw so many."""
    if NEGATIVES in common and NEGATIVES not in own and not _draws(common | own):
        common = {key: value for key, value in common.items() if key != NEGATIVES}
    return common | own


def _draws(settings: Settings) -> bool:
    """Whether the sampler of a training draws K negatives; a name that is none is refused elsewhere."""
    sampler = settings.get("sampler.name")
    try:
        name = sampler if isinstance(sampler, str) else method_of(str(settings.get("method", "mmrns"))).sampler
        return takes(Sampler.registry.get(name), "negatives")
    except UsageError:
        return True


def budgets_of(configs: Iterable[Config]) -> dict[str, set[int | None]]:
    """What trainings with some configurations may take: numbers of steps, of positives a step and K, or None for it."""
    found: dict[str, set[int | None]] = {key: set() for key, _ in _PARTS}
    for config in configs:
        t, negatives = config.training, (config.sampler.model_extra or {}).get("negatives")
        for (key, _), value in zip(_PARTS, (t.steps, t.batch_size, negatives), strict=True):
            found[key].add(value)
    return found


def budget_told(budgets: Mapping[str, Mapping[str, Collection[int | None]]]) -> str:
    """What trainings may take, in a sentence that tells whose budgets differ; nothing where there are none.

    >>> budget = {"training.steps": {1000}, "training.batch_size": {512}, "sampler.negatives": {64}}
    >>> budget_told({"uniform": budget, "sans": budget})
    'Each training: 1,000 steps, 512 triples a step, 64 negatives a triple.'
    >>> budget_told({"uniform": budget, "sans": budget, "k-vs-all": budget | {"sampler.negatives": {None}}})
    'Each training: 1,000 steps, 512 triples a step, 64 (k-vs-all: all) negatives a triple.'
    """
    if not budgets:
        return ""
    parts: list[str] = []
    for key, unit in _PARTS:
        by_value: dict[str, list[str]] = {}
        for label, budget in budgets.items():
            values = [*sorted(n for n in budget[key] if n is not None), *([None] if None in budget[key] else [])]
            by_value.setdefault(" or ".join("all" if n is None else f"{n:,}" for n in values), []).append(label)
        # What most have is told first.
        most, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
        told = "; ".join(f"{', '.join(by_value[value])}: {value}" for value in others)
        parts.append(f"{most} ({told}) {unit}" if told else f"{most} {unit}")
    return f"Each training: {', '.join(parts)}."
