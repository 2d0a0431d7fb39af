"""The configuration of a run: frozen, validated, complete once written down."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
)

from mmrns.errors import DataError, UsageError, nearest, unknown
from mmrns.registry import sampler_class, scorer_class
from mmrns.samplers.base import Inner
from mmrns.training.batches import SidePolicy

_Schema = TypeVar("_Schema", bound=BaseModel)


class Method(BaseModel):
    """What a method's name stands for: a sampler, its objective, the side policy and what a batch is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str
    alpha: float
    sides: SidePolicy = "alternate"
    loss: str = "self-adversarial"
    queries: bool = False


METHODS: dict[str, Method] = {
    "uniform": Method(sampler="uniform", alpha=0.0),
    "self-adversarial": Method(sampler="uniform", alpha=1.0),
    "bernoulli": Method(sampler="uniform", alpha=0.0, sides="bernoulli"),
    "shared-pool": Method(sampler="shared", alpha=1.0),
    "inbatch": Method(sampler="inbatch", alpha=1.0),
    "frequency": Method(sampler="frequency", alpha=1.0),
    "hard": Method(sampler="hard", alpha=1.0),
    "kbgan": Method(sampler="kbgan", alpha=0.0, sides="bernoulli"),
    "igan": Method(sampler="igan", alpha=0.0, sides="bernoulli"),
    "nscaching": Method(sampler="nscaching", alpha=0.0),
    "sans": Method(sampler="sans", alpha=1.0),
    "mmrns": Method(sampler="mmrns", alpha=1.0),
    "file": Method(sampler="file", alpha=1.0),
    "1-vs-all": Method(sampler="all", alpha=0.0, loss="cross-entropy"),
    "k-vs-all": Method(sampler="all", alpha=0.0, loss="k-vs-all", queries=True),
}
"""Methods are named whole; `objective.loss`, `objective.alpha` and `training.sides` override what a name stands for."""

_INNER = "uniform"
"""What draws for another sampler where it needs one and none is named."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Which triples and features."""

    dataset: str = Field("countries", description="name of a dataset, or its folder")
    drop_leaked_valid: bool = Field(False, description="validate without the rows that are also in train or test")
    drop_modality: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of each modality's entities that lose it, at random; for robustness studies",
    )
    features_mb: NonNegativeInt = Field(
        8192,
        description="a modality of at most so many MiB is kept on the accelerator; of a larger one every step gathers "
        "rows from the file, for which the device waits",
    )


class ModelConfig(_Section):
    """The model; further keys are options of the scorer (TransE: p)."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    scorer: str = Field("TransE", description="name of the scorer")
    dim: PositiveInt = Field(200, description="d, the embedding dimension")
    modalities: list[str] = Field(
        default_factory=list[str], description="what entities are scored by beside their structural vectors"
    )
    reciprocal: bool = Field(False, description="a second vector for each relation, to ask for heads with")


class ObjectiveConfig(_Section):
    """The loss."""

    loss: Literal["self-adversarial", "softplus", "margin", "cross-entropy", "k-vs-all"] | None = Field(
        None, description="of the scores; the method's own by default"
    )
    gamma: PositiveFloat = Field(
        9.0, description="margin of distance scorers and of the margin loss; also sets the range of initial embeddings"
    )
    alpha: NonNegativeFloat | None = Field(
        None, description="inverse temperature of self-adversarial weights; 0 = mean"
    )
    subsampling: bool = Field(True, description="weigh triples by the inverse root of their frequency")
    l2: NonNegativeFloat = Field(0.0, description="weight of the L2 penalty on the batch's vectors")
    l3: NonNegativeFloat = Field(0.0, description="weight of the L3 penalty on the batch's vectors")
    n3: NonNegativeFloat = Field(0.0, description="weight of the N3 penalty on the batch's vectors")


class SamplerConfig(_Section):
    """The method's name; further keys are options of its sampler."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = Field("mmrns", description="the method, named whole")


class TrainingConfig(_Section):
    """The loop; all lengths are in steps."""

    steps: PositiveInt = Field(5000, description="training ends here at the latest")
    batch_size: PositiveInt = Field(512, description="B, positives per step")
    optimizer: Literal["adam", "adagrad"] = Field("adam", description="the rule of the updates")
    sparse: bool = Field(
        False, description="update only the rows of the step: for many entities; rows not touched keep their moments"
    )
    lr: PositiveFloat = Field(1e-3, description="learning rate of the model")
    sampler_lr: PositiveFloat = Field(1e-3, description="learning rate of the sampler")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of both learning rates; linear and cosine fall to 0 at `steps`"
    )
    warmup: NonNegativeInt = Field(0, description="steps in which they first rise from 0")
    autocast: bool = Field(
        False, description="matrix products of bfloat16: pays where a step is mostly products, as with k-vs-all"
    )
    compile: bool = Field(
        False,
        description="have torch compile the scorer's and the loss's formulas, which takes a C++ compiler and most of a "
        "minute: pays for formulas of many small operations, as PairRE's",
    )
    sides: SidePolicy | None = Field(None, description="alternate or bernoulli; the method's own by default")
    evaluate_every: PositiveInt = Field(500, description="interval of validation")
    log_every: PositiveInt = Field(100, description="interval of the loss in metrics.jsonl")
    hardness: bool = Field(True, description="measure the drawn negatives' hardness beside each loss in metrics.jsonl")
    checkpoint_every: PositiveInt = Field(500, description="interval of checkpoint/last.safetensors")
    patience: NonNegativeInt = Field(5, description="validations without improvement before training stops; 0 = never")


class EvaluationConfig(_Section):
    """Ranking."""

    memory_mb: PositiveInt = Field(512, description="bound on the working memory of ranking, in MiB")
    test: bool = Field(True, description="read the test split at the end; false while hyper-parameters are chosen")


class Config(_Section):
    """Everything needed to repeat a run."""

    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    objective: ObjectiveConfig = ObjectiveConfig()  # pyright: ignore[reportCallIssue]
    sampler: SamplerConfig = SamplerConfig()  # pyright: ignore[reportCallIssue]
    training: TrainingConfig = TrainingConfig()  # pyright: ignore[reportCallIssue]
    evaluation: EvaluationConfig = EvaluationConfig()  # pyright: ignore[reportCallIssue]
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @property
    def method(self) -> Method:
        """What the sampler's name stands for, with this configuration's overrides."""
        method = METHODS[self.sampler.name]
        alpha = method.alpha if self.objective.alpha is None else self.objective.alpha
        loss, sides = self.objective.loss or method.loss, self.training.sides or method.sides
        return method.model_copy(update={"alpha": alpha, "loss": loss, "sides": sides})

    def with_method(self, name: str) -> Config:
        """The same with another method, which is named whole: none of this one's options and overrides.

        Raises:
            UsageError: no such method.
        """
        values = self.model_dump()
        values["sampler"] = {"name": name}
        values["objective"] |= {"loss": None, "alpha": None}
        values["training"] |= {"sides": None, "sparse": False}
        return make_config(values)

    @property
    def default_folder(self) -> Path:
        """`runs/DATASET-SCORER-SAMPLER-sSEED`."""
        # Resolved, so that `--dataset .` has a name too.
        name = f"{Path(self.data.dataset).resolve().name}-{self.model.scorer}-{self.sampler.name}-s{self.seed}"
        return Path("runs") / name


def make_config(values: Mapping[str, Any]) -> Config:
    """Validate nested values, fill in every default, the scorer's and the sampler's options among them.

    Raises:
        UsageError: an unknown key (with the nearest known one) or a value that does not fit.
    """
    config = _validated(Config, values, "")
    if config.sampler.name not in METHODS:
        raise unknown("sampler", config.sampler.name, METHODS)
    _check_fit(config)
    sampler = _sampler_options(config.sampler.name, config.sampler.model_extra or {}, "sampler.")
    scorer_options = options_of(scorer_class(config.model.scorer))
    model = _validated(scorer_options, config.model.model_extra or {}, "model.", ModelConfig.model_fields)
    complete = config.model_dump()
    complete["sampler"] |= sampler
    complete["model"] |= model.model_dump()
    return Config.model_validate(complete)


def _sampler_options(
    method: str, values: Mapping[str, Any], prefix: str, reserved: frozenset[str] = frozenset({"seed", "alpha"})
) -> dict[str, Any]:
    """All options of a method's sampler, and of those inside it."""
    cls = sampler_class(METHODS[method].sampler)
    found = _validated(options_of(cls, reserved), values, prefix, SamplerConfig.model_fields).model_dump()
    for option in inner_options(cls):
        if (given := found[option]) is None:
            continue
        inner = {"name": given} if isinstance(given, str) else {"name": _INNER, **given}
        name, place = inner.pop("name"), f"{prefix}{option}."
        if name not in METHODS:
            raise unknown("sampler", str(name), METHODS)
        within = sampler_class(METHODS[name].sampler)
        if inner_options(within) or "negatives" not in inspect.signature(within).parameters:
            raise UsageError(f"{place}name: {name} cannot draw for another sampler")
        found[option] = {"name": name, **_sampler_options(name, inner, place, reserved | {"negatives"})}
    return found


def inner_options(cls: type[Any]) -> list[str]:
    """The options of a sampler that are samplers inside it."""
    return [name for name, hint in get_type_hints(cls.__init__).items() if Inner in (hint, *get_args(hint))]


def _check_fit(config: Config) -> None:
    method = config.method
    if method.loss == "k-vs-all" and method.sampler != "all":
        raise UsageError("objective.loss=k-vs-all needs every entity as a candidate; use --sampler k-vs-all")
    if method.sampler == "all" and config.training.sparse:
        raise UsageError(f"{config.sampler.name} touches every row in a step; leave training.sparse out")


def options_of(cls: type[Any], reserved: Iterable[str] = ()) -> type[BaseModel]:
    """A schema of a class's options: its keyword-only constructor arguments, by annotation and default.

    A sampler inside another one is the name of its method, or a mapping with that and its options.
    """
    hints = get_type_hints(cls.__init__, include_extras=True)
    named = str | dict[str, Any]
    inner = {name: (named, _INNER) if hints[name] == Inner else (named | None, None) for name in inner_options(cls)}
    fields: dict[str, Any] = {
        p.name: inner.get(p.name, (hints[p.name], p.default))
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in set(reserved)
    }
    return create_model(f"{cls.__name__}Options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def read_config(path: Path) -> dict[str, Any]:
    """The nested values of a YAML file, not yet validated.

    Raises:
        DataError: unreadable or not a mapping, with the line.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DataError(path, f"is not valid YAML ({error.problem})", "mend the line", line) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "give a YAML file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise DataError(path, "holds no mapping", "write `section: {key: value}`", 1)
    return values


def apply_settings(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Nested values with `a.b=value` settings laid over them; values are read as YAML.

    >>> apply_settings({"seed": 1}, ["sampler.modalities=[text, image]"])
    {'seed': 1, 'sampler': {'modalities': ['text', 'image']}}

    Raises:
        UsageError: a setting without `=`, or a value that is not YAML.
    """
    merged = deepcopy(dict(values))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE, e.g. --set training.steps=1000")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {setting}: {text!r} is not a YAML value") from error
        *sections, name = key.split(".")
        inner: Any = merged
        for i, section in enumerate(sections):
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {setting}: {'.'.join(sections[: i + 1])!r} is not a section")
        inner[name] = value
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key.

    >>> flatten({"seed": 1, "model": {"dim": 5}})
    {'seed': 1, 'model.dim': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def dump_config(config: Config) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _validated(schema: type[_Schema], values: Mapping[str, Any], prefix: str, beside: Iterable[str] = ()) -> _Schema:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(schema, prefix, beside)
            hint = nearest(key, known, limit=2) or f"; known: {', '.join(known)}"
            raise UsageError(f"unknown configuration key {key!r}{hint}") from error
        raise UsageError(f"{key}: {first['msg'].lower()} (got {first['input']!r})") from error


def _known_keys(schema: type[BaseModel], prefix: str, beside: Iterable[str] = ()) -> list[str]:
    keys = [prefix + name for name in beside]
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _known_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
