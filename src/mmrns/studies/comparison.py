"""What is compared: entries, what each may try, and whether two comparisons are the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from mmrns.errors import DataError, UsageError, unknown
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named
from mmrns.runs.config import Config, apply_settings, make_config, validated
from mmrns.runs.methods import method_names, method_of
from mmrns.runs.train import with_absolute_paths
from mmrns.runs.values import find, plain, read_config
from mmrns.samplers.base import Sampler
from mmrns.studies.budget import budget_told, budgets_of, laid_over, with_budget
from mmrns.studies.journal import Prune, Search
from mmrns.studies.search import Settings, Space, check, is_range, range_of, size

DEFAULT_SPACE: dict[str, Any] = {
    "training.lr": {"low": 3e-4, "high": 1e-2, "log": True},
    "objective.gamma": [3, 6, 9, 12],
    "objective.alpha": [0.5, 1, 2],
}
"""What a search tries where nothing else is said; alpha only for methods that weigh their negatives by it."""


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
        common: settings of every training, by dotted key; what is left out of `mmrns.studies.budget.BUDGET` is added,
            and K is for those that draw K negatives.
        entries: what is compared, by label.
        trials: trainings with seed 0 among which each entry's settings are chosen, by validation MRR.
        seeds: trainings of the chosen settings, with seeds 0, 1, ...
        threads: of each training; None = those that are fastest, the same for all.
        prune: the rule by which trials are ended early; None = all go to their end.
        reference: the label of what all others are held against; None = `self-adversarial` with the same scorer, where
            it takes part.
        published: the test MRR that somebody has published for an entry, in percent, by label.
    """

    common: Settings
    entries: Mapping[str, Entry]
    trials: int = 0
    seeds: int = 3
    threads: int | None = None
    prune: Prune | None = None
    reference: str | None = None
    published: Mapping[str, float] = field(default_factory=dict[str, float])

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
        settings: Mapping[str, Any] | None = None,
        threads: int | None = None,
        prune: Prune | None = None,
    ) -> Comparison:
        """Every scorer with every method.

        Args:
            dataset: its name or folder.
            scorers, methods: names, `package.module:Class`, or classes.
            seeds, trials, threads, prune: see the class.
            space: what a search may try, by dotted key; a key that is a method's name or `SCORER-METHOD` holds what it
                may try beside or instead.
            settings: of every training, by dotted key.

        Raises:
            UsageError: an unknown name, key or value.
        """
        tried: dict[str, Any] = plain(space or DEFAULT_SPACE) if trials else {}
        pairs = [(_name(a, Scorer), _name(b, Sampler)) for a in scorers for b in methods]
        labels = {f"{_short(a)}-{_short(b)}" if len(scorers) > 1 else _short(b): (a, b) for a, b in pairs}
        if len(labels) < len(pairs):
            raise UsageError("a comparison names something twice")
        own = {key: tried.pop(key) for key in [*tried] if key in method_names() or key in labels}
        entries = {
            label: Entry(
                {"model.scorer": scorer, "method": method},
                _fitting(tried, method) | own.get(method, {}) | own.get(label, {}),
            )
            for label, (scorer, method) in labels.items()
        }
        common = {"data.dataset": str(dataset)} | by_key(plain(settings or {}))
        return cls(common, entries, trials, seeds, threads, prune).checked()

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """From a YAML file with `common`, `methods`, and optionally `space`, `trials`, `seeds`, `threads`, `prune`,
        `reference` and `published`.

        Under `methods` each label has a mapping by dotted key, of which single values are settings and lists and ranges
        are what its search may try beside `space`; or it has a list of settings to try. The label is the name of the
        method unless there is a `method`.

        Raises:
            DataError: not such a file.
            UsageError: an unknown name, key or value.
        """
        values = read_config(path)
        strange = set(values) - {*_Study.model_fields}
        if strange or not values.get("methods"):
            what = f"unknown key {sorted(strange)[0]!r}" if strange else "holds no `methods`"
            line = _line(path, sorted(strange))
            optional = "space, trials, prune, seeds, threads, reference, published"
            raise DataError(path, what, f"give common, methods, and optionally {optional}", line)
        try:
            study = validated(_Study, {key: value for key, value in values.items() if value is not None}, "")
            common = by_key(study.common)
            entries: dict[str, Entry] = {}
            for label, given in study.methods.items():
                if _short(label) in entries:
                    raise DataError(path, "names something twice", "give labels of their own, with `method`")
                entries[_short(label)] = _with_method(_entry(label, given, study.space), label, common)
            given = study.trials, study.seeds, study.threads, study.prune, study.reference, study.published
            return cls(common, entries, *given).checked()
        except UsageError as error:
            label, key = getattr(error, "label", None), error.key
            places = (
                [key, str(key).partition(".")[0]]
                if label is None
                else [f"methods.{label}.{key}", f"space.{key}", f"common.{key}"]
            )
            at = _line(path, [*places, f"methods.{label}"])
            if at is None:
                raise
            raise UsageError(f"{path}:{at}: {error}") from error

    def checked(self) -> Comparison:
        """The same in values that YAML and JSON know, without what is listed twice.

        Raises:
            UsageError: a label, a key or a value that does not fit, of any entry and anything that it may try.
        """
        if not self.entries or self.seeds < 1 or self.trials < 0:
            raise UsageError("a comparison needs a scorer, a method and a seed")
        check_labels([*self.entries])
        for key, labels in (("reference", [self.reference]), ("published", [*self.published])):
            for label in labels:
                if label is not None and label not in self.entries:
                    raise UsageError(f"{key}: {unknown('entry', label, self.entries)}", f"{key}.{label}")
        common = by_key(plain(self.common))
        # Whatever the number is, what is trained is the same but for the last bits.
        threads = config_of({"threads": common.pop("threads", "auto")}).threads
        entries = {label: _plain(label, entry) for label, entry in self.entries.items()}
        firsts = [e.settings | first_of(e.space) | one for e in entries.values() for one in e.listed or [{}]]
        common = with_budget(common, firsts)
        for label, entry in entries.items():
            try:
                entries[label] = _checked(entry, common, self.trials)
            except UsageError as error:
                raise EntryError(label, str(error), error.key) from error
        threads = self.threads if threads == "auto" else threads
        return replace(self, common=common, entries=entries, threads=threads)

    def configs(self, entry: Entry) -> Iterator[Config]:
        """The configurations of an entry with its first setting, and with each other one that it lists."""
        first = first_of(entry.space)
        for given in entry.listed or [first]:
            yield config_of(self.given(entry, given))
        for key, values in entry.space.items():
            for value in values[1:] if isinstance(values, list) else []:
                yield config_of(self.given(entry, first | {key: value}))

    def given(self, entry: Entry, settings: Settings) -> Settings:
        """All settings of a training of an entry, by dotted key."""
        return laid_over(self.common, entry.settings | settings)

    def budget(self, entry: Entry) -> int:
        """Trials of an entry: all of a space that holds fewer, none where there is nothing to choose."""
        found = len(entry.listed) if entry.listed else int(min(self.trials, size(entry.space)))
        return found if found > 1 or size(entry.space) > 1 else 0

    def search(self, label: str, folder: Path) -> Search | None:
        """The search of an entry in the journal of a folder; None where there is no need of one.

        A journal is kept where trials are ended early, and of ranges; whatever else is tried is known beforehand.
        """
        entry = self.entries[label]
        if self.prune is None and not any(is_range(values) for values in entry.space.values()):
            return None
        space: dict[str, Any] = dict(entry.space)
        for key, value in ((key, value) for given in entry.listed for key, value in given.items()):
            space.setdefault(key, []).append(value)
        every = next(self.configs(entry)).training.evaluate_every
        return Search(folder, label, space, every, self.prune, self.budget(entry))

    @property
    def trainings(self) -> int:
        """How many trainings there are in all."""
        return sum(self.budget(entry) + self.seeds for entry in self.entries.values())

    @property
    def notes(self) -> list[str]:
        """What is worth knowing before it is trained: what trainings may take, and which entries have few settings."""
        return [self.budget_told] + [
            f"{label}: there are {self.budget(entry)} settings to try, fewer than {self.trials} trials; each is tried "
            "once."
            for label, entry in self.entries.items()
            if not entry.listed and 1 < size(entry.space) < self.trials
        ]

    @property
    def budget_told(self) -> str:
        """What each training may take, in a sentence."""
        return budget_told({label: budgets_of(self.configs(entry)) for label, entry in self.entries.items()})

    def difference(self, other: Comparison) -> str | None:
        """What another comparison has otherwise, apart from further seeds and entries; None where it has not.

        Compared are the configurations that they stand for, not how they are written.
        """
        for key in ("trials", "prune"):
            if getattr(self, key) != getattr(other, key):
                return key
        for label, entry in self.entries.items():
            if not _same(self, entry, replace(self, common=other.common), entry):
                return "common"
            there = other.entries.get(label)
            if there and not _same(self, entry, other, there):
                return label
        return None


class EntryError(UsageError):
    """An entry of a comparison that does not fit; `label` is its own."""

    def __init__(self, label: str, message: str, key: str | None = None):
        super().__init__(f"{label}: {message}", key)
        self.label = label


def config_of(settings: Settings) -> Config:
    """The configuration that settings by dotted key stand for, with its paths as they are from here."""
    return with_absolute_paths(make_config(apply_settings({}, settings)))


def by_key(values: Mapping[str, Any]) -> Settings:
    """Settings by dotted key, where a section of the configuration may be a mapping."""
    found: Settings = {}
    for key, value in values.items():
        inside = key in Config.model_fields and isinstance(value, Mapping)
        found |= {f"{key}.{name}": inner for name, inner in value.items()} if inside else {key: value}
    return found


def _plain(label: str, entry: Entry) -> Entry:
    """An entry in plain values."""
    try:
        space = plain(entry.space)
        check(space)
        return Entry(by_key(plain(entry.settings)), space, [by_key(plain(given)) for given in entry.listed])
    except UsageError as error:
        raise EntryError(label, str(error), error.key) from error


def _checked(entry: Entry, common: Settings, trials: int) -> Entry:
    """An entry without what is listed twice.

    Raises:
        UsageError: a key or a value that does not fit, of anything that may be tried.
    """
    settings, space, listed = entry.settings, dict(entry.space), entry.listed
    for key, reason in _RESERVED.items():
        # Read for all alike: the test split may be left out in common.
        if any(key in given for given in (settings, space, *listed, common if key == "seed" else {})):
            raise UsageError(f"{key}: {reason}", key)
    if not trials and size(space) > 1:
        raise UsageError("a space needs trials to search it")
    first = first_of(space)

    def config(given: Settings) -> Config:
        return config_of(laid_over(common, settings | given))

    for key, values in space.items():
        if isinstance(values, list):
            by_config = {config(first | {key: value}).model_dump_json(): value for value in reversed(values)}
            space[key] = [*by_config.values()][::-1]
            continue
        between = range_of(key, values)
        for end in between.ends:
            config(first | {key: end})
        if not between.whole and between.low < between.high:
            try:
                # A fraction, unlike what the ends may be.
                config(first | {key: between.low + (between.high - between.low) / 2**0.5})
            except UsageError as error:
                raise UsageError(f"{error}; for whole numbers the range has int: true", key) from error
    each = {config(given).model_dump_json(): given for given in reversed(listed or [first])}
    return Entry(settings, space, [*each.values()][::-1] if listed else ())


def _same(one: Comparison, entry: Entry, two: Comparison, other: Entry) -> bool:
    """Whether two entries of two comparisons stand for the same trainings."""
    if (entry, one.common) == (other, two.common):
        return True
    try:
        return _means(one, entry) == _means(two, other)
    except UsageError:
        return False


def _means(comparison: Comparison, entry: Entry) -> Any:
    """What an entry stands for: its configurations, and what its search may try."""
    first = first_of(entry.space)

    def dumped(given: Settings) -> str:
        return config_of(comparison.given(entry, given)).model_dump_json()

    tried = {
        key: [dumped(first | {key: value}) for value in values] if isinstance(values, list) else range_of(key, values)
        for key, values in entry.space.items()
    }
    return [dumped(given) for given in entry.listed or [first]], tried


class _Study(BaseModel):
    """A comparison as it is written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    common: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, Any]
    space: dict[str, Any] = Field(default_factory=dict)
    trials: NonNegativeInt = 0
    seeds: PositiveInt = 3
    threads: PositiveInt | None = None
    prune: Prune | None = None
    reference: str | None = None
    published: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)


_RESERVED = {
    "seed": "a comparison trains with seeds 0, 1, ...; say how many by seeds",
    "evaluation.test": "whether test is read is said for all alike, in common or by --set",
}
"""What no entry may set."""

_FORBIDDEN = '/\\:*?"<>|'
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
_LABEL_BYTES = 150


def check_labels(labels: Sequence[Any]) -> None:
    """Refuse labels that cannot be names of files, here or where the folder is copied to.

    Raises:
        UsageError: one is not fit, or two differ only in their case.
    """
    met: dict[str, str] = {}
    for label in labels:
        reason = _unfit(label)
        same = unicodedata.normalize("NFC", str(label)).casefold()
        if reason is None and same in met:
            reason = f"is {met[same]!r} for systems that do not tell case apart"
        if reason is not None:
            raise EntryError(str(label)[:60], f"the label {reason}; labels become names of files")
        met[same] = label


def _unfit(label: Any) -> str | None:
    """Why a label cannot be the name of a file; None where it can."""
    if not isinstance(label, str):
        return "is no text"
    if not label.strip():
        return "is empty"
    strange = next((c for c in label if c in _FORBIDDEN or not c.isprintable()), None)
    if strange is not None:
        return f"holds {strange!r}" if strange.isprintable() else f"holds the character U+{ord(strange):04X}"
    if label != label.strip() or label[0] == "." or label[-1] == ".":
        return "begins or ends with a blank or a dot"
    if label.partition(".")[0].casefold() in _DEVICES:
        return "is the name of a device on Windows"
    if len(label.encode(errors="replace")) > _LABEL_BYTES:
        return f"has more than {_LABEL_BYTES} bytes"
    return None


def first_of(space: Space) -> Settings:
    """The first settings of a space: of a range, its lower end."""
    return {
        key: values[0] if isinstance(values, list) else range_of(key, values).ends[0] for key, values in space.items()
    }


def _entry(label: str, given: Any, space: Mapping[str, Any]) -> Entry:
    """An entry of a file: a mapping of settings and of what is tried, or a list of settings."""
    if isinstance(given, list):
        if not given or not all(isinstance(settings, dict) for settings in given):
            raise EntryError(label, "a list holds the settings to try, each a mapping by dotted key")
        return Entry({}, listed=given)
    if not (given is None or isinstance(given, dict)):
        raise EntryError(label, f"{given!r} is neither settings by dotted key nor a list of them")
    given = given or {}
    tried = {key: value for key, value in given.items() if isinstance(value, list) or is_range(value)}
    return Entry({key: value for key, value in given.items() if key not in tried}, {**space, **tried})


def _with_method(entry: Entry, label: str, common: Settings) -> Entry:
    """An entry that says which method it is: the one that its label names, where it has none of its own.

    Raises:
        UsageError: neither.
    """
    own = [common | entry.settings | dict(entry.space) | settings for settings in entry.listed or [{}]]
    if all({"method", "sampler.name"} & set(settings) for settings in own):
        return entry
    if label not in method_names() and ":" not in label:
        raise EntryError(label, str(unknown("method", label, method_names())))
    return replace(entry, settings={"method": label} | entry.settings)


def _line(path: Path, keys: Sequence[str | None]) -> int | None:
    """The line of the first of some keys that a file has."""
    return next((found[0] for key in keys if key and (found := find(path, key)) is not None), None)


def _fitting(space: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Without the temperature of weights that a method does not use."""
    return {key: values for key, values in space.items() if key != "objective.alpha" or method_of(method).alpha}


def _name(given: str | type[Any], base: type[Named]) -> str:
    """The name that a class goes by."""
    return given if isinstance(given, str) else base.registry.name_of(base.registry.get(given))


def _short(name: str) -> str:
    """What a name is called in labels and folders: of `package.module:Class` the class."""
    return name.rpartition(":")[2]
