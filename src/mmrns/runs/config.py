"""The configuration of a run: frozen, validated, complete once written down."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

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

from mmrns.data.features import Alteration
from mmrns.errors import UsageError, nearest
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.runs.methods import Method, method_of
from mmrns.runs.places import PATHS, seen_from
from mmrns.runs.values import YAMLError, dump_yaml, parse_yaml, plain
from mmrns.samplers.base import Inner, Sampler
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracker
from mmrns.types import SidePolicy

_Schema = TypeVar("_Schema", bound=BaseModel)


Share = Annotated[float, Field(ge=0, le=1)]

_INNER = "uniform"
"""What draws for another sampler where it needs one and none is named."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Which triples and features."""

    dataset: str | None = Field(
        "countries", description="name of a dataset, or its folder; null for one made in Python"
    )
    drop_leaked_valid: bool = Field(False, description="validate without the rows that are also in train or test")
    drop_modality: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of each modality's entities that lose it, at random; for robustness studies",
    )
    altered: dict[str, Literal["shuffled", "noise"] | Share] = Field(
        default_factory=dict[str, Alteration],
        description="modalities whose features are not the true ones: shuffled among the entities that have them, "
        "noise of the same mean and deviation, or lost by a share of the entities; for studies of what a model sees",
    )
    features_mb: NonNegativeInt = Field(
        8192,
        description="a modality of at most so many MiB is kept on the accelerator; of a larger one every step gathers "
        "rows from the file, for which the device waits",
    )


class ModelConfig(_Section):
    """The model; further keys are options of the scorer (TransE: p), of the embedder and of the mixture."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    scorer: str = Field("TransE", description="name of the scorer")
    dim: PositiveInt = Field(200, description="d, the embedding dimension")
    embedder: str | None = Field(
        None, description="name of the embedder of entities; by default table, and fused where there are modalities"
    )
    modalities: list[str] = Field(
        default_factory=list[str], description="what entities are scored by beside their structural vectors"
    )
    mixture: str = Field(
        "gated", description="name of what makes one score of the views' scores, where there are several"
    )
    reciprocal: bool = Field(False, description="a second vector for each relation, to ask for heads with")


class ObjectiveConfig(_Section):
    """The loss; further keys are its options."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    loss: str | None = Field(None, description="name of the loss of the scores; the method's own by default")
    gamma: PositiveFloat | None = Field(
        None,
        description="margin of distance scorers and of the margin loss; also sets the range of initial embeddings; by "
        "default a sixth of the cube root of the number of train's triples for distances, else 9",
    )
    alpha: NonNegativeFloat | None = Field(
        None, description="inverse temperature of self-adversarial weights; 0 = mean"
    )
    unseen_negatives: bool = Field(
        False,
        description="count entities as negatives that no train triple has and the model knows by their features alone; "
        "of these features it then learns that they are false",
    )
    subsampling: bool = Field(True, description="weigh triples by the inverse root of their frequency")
    l2: NonNegativeFloat = Field(0.0, description="weight of the L2 penalty on the batch's vectors")
    l3: NonNegativeFloat = Field(0.0, description="weight of the L3 penalty on the batch's vectors")
    n3: NonNegativeFloat = Field(0.0, description="weight of the N3 penalty on the batch's vectors")


class SamplerConfig(_Section):
    """What draws; further keys are options of the sampler."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str | None = Field(None, description="name of the sampler; the method's own by default")


class TrainingConfig(_Section):
    """The loop; all lengths are in steps."""

    steps: PositiveInt = Field(5000, description="training ends here at the latest")
    batch_size: PositiveInt = Field(512, description="B, positives per step")
    optimizer: Literal["adam", "adagrad"] = Field("adam", description="the rule of the updates")
    sparse: bool | Literal["host"] = Field(
        False,
        description="update only the rows of the step: for many entities; rows not touched keep their moments; host: "
        "vectors of entities also stay in the machine's memory, and a GPU is given the rows of each step, a step ahead",
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
    memory_mb: PositiveInt = Field(
        2048,
        description="bound on what 1-vs-all and k-vs-all hold for a batch's scores of every entity, in MiB; beyond it "
        "rows are taken in parts, each compared again in the backward pass",
    )
    compile: bool = Field(
        False,
        description="have torch compile the scorer's and the loss's formulas, which takes a C++ compiler and most of a "
        "minute: pays for formulas of many small operations, as PairRE's",
    )
    capture: bool | Literal["auto"] = Field(
        "auto",
        description="on a CUDA device, record a step of each kind and replay it for those like it, one launch instead "
        "of hundreds, to the same numbers; true refuses what cannot be recorded, which auto goes on without",
    )
    sides: SidePolicy | None = Field(None, description="alternate or bernoulli; the method's own by default")
    evaluate_every: PositiveInt = Field(500, description="interval of validation")
    log_every: PositiveInt = Field(100, description="interval of the loss in metrics.jsonl")
    hardness: bool = Field(True, description="measure the drawn negatives' hardness beside each loss in metrics.jsonl")
    callbacks: list[str] = Field(
        default_factory=list[str], description="names of further callbacks, each made without arguments"
    )
    track: list[str] = Field(
        default_factory=list[str],
        description="names of trackers that are told the configuration, the metrics and the pictures, e.g. tensorboard",
    )
    checkpoint_every: PositiveInt = Field(500, description="interval of checkpoint/last.safetensors")
    patience: NonNegativeInt = Field(5, description="validations without improvement before training stops; 0 = never")


class EvaluationConfig(_Section):
    """Ranking."""

    memory_mb: PositiveInt = Field(512, description="bound on the working memory of ranking, in MiB")
    test: bool = Field(True, description="read the test split at the end; false while hyper-parameters are chosen")
    calibrate: bool = Field(
        False, description="calibrate at the end, as `mmrns calibrate RUN` does: predictions then have probabilities"
    )


class Config(_Section):
    """Everything needed to repeat a run."""

    method: str = Field("mmrns", description="what draws and what it is trained with, under one name")
    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    objective: ObjectiveConfig = ObjectiveConfig()  # pyright: ignore[reportCallIssue]
    sampler: SamplerConfig = SamplerConfig()  # pyright: ignore[reportCallIssue]
    training: TrainingConfig = TrainingConfig()  # pyright: ignore[reportCallIssue]
    evaluation: EvaluationConfig = EvaluationConfig()  # pyright: ignore[reportCallIssue]
    seed: NonNegativeInt = Field(0, description="seed of everything random: initial values, order, draws")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute; auto is the first of cuda, mps and cpu that is there"
    )
    threads: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="of the CPU; auto times a few steps with 1, 2, 4, ... up to torch's own number before the run "
        "begins, and takes the fastest; a run that goes on takes the recorded number",
    )

    @property
    def recipe(self) -> Method:
        """What the method stands for, with this configuration's overrides."""
        method = method_of(self.method)
        return Method(
            sampler=self.sampler.name or method.sampler,
            alpha=method.alpha if self.objective.alpha is None else self.objective.alpha,
            sides=self.training.sides or method.sides,
            loss=self.objective.loss or method.loss,
            queries=method.queries,
        )

    def with_method(self, name: str) -> Config:
        """The same with another method, which is named whole: none of this one's options and overrides.

        Raises:
            UsageError: no such method.
        """
        values = self.model_dump()
        own = options_of(Loss.registry.get(self.recipe.loss), LOSS_KEYWORDS).model_fields
        objective = {key: value for key, value in values["objective"].items() if key not in own}
        values |= {"method": name, "sampler": {}, "objective": objective | {"loss": None, "alpha": None}}
        values["training"] |= {"sides": None, "sparse": False}
        return make_config(values)

    @property
    def default_folder(self) -> Path:
        """`runs/DATASET-SCORER-METHOD-sSEED`."""
        # Resolved, so that `--dataset .` has a name too.
        dataset = "triples" if self.data.dataset is None else Path(self.data.dataset).resolve().name
        scorer, method = (name.replace(":", ".").rpartition(".")[2] for name in (self.model.scorer, self.method))
        return Path("runs") / f"{dataset}-{scorer}-{method}-s{self.seed}"


SAMPLER_KEYWORDS = frozenset({"seed", "alpha", "gamma"})
EMBEDDER_KEYWORDS = frozenset({"width", "init_range", "sparse", "modalities"})
LOSS_KEYWORDS = frozenset({"gamma", "alpha"})
"""Keywords that the composition root gives: they are no options of a class's own."""


def make_config(values: Mapping[str, Any]) -> Config:
    """Validate nested values and fill in every default, those of the chosen classes' options among them.

    Wherever a name is expected the class itself may stand.

    Raises:
        UsageError: an unknown key (with the nearest known one) or a value that does not fit.
    """
    values = dict(plain(values))
    _refuse_old_names(values)
    given = values.get("sampler", {}) if isinstance(values.get("sampler", {}), Mapping) else {}
    if "method" not in values and isinstance(given.get("name"), str):
        values["method"] = given["name"]
    config = validated(Config, values, "")
    method = method_of(config.method)
    sampler = config.sampler.name or method.sampler
    complete = config.model_dump()
    complete["sampler"] = {"name": sampler, **_sampler_options(sampler, config.sampler.model_extra or {}, "sampler.")}
    embedder = config.model.embedder or ("fused" if config.model.modalities else "table")
    complete["model"] |= {"embedder": embedder, **_model_options(config.model, embedder)}
    loss = Loss.registry.get(config.objective.loss or method.loss)
    complete["objective"] |= validated(
        options_of(loss, LOSS_KEYWORDS), config.objective.model_extra or {}, "objective.", ObjectiveConfig.model_fields
    ).model_dump()
    found = Config.model_validate(complete)
    _check_fit(found)
    return found


def _refuse_old_names(values: Mapping[str, Any]) -> None:
    """Names of version 0.1 that now are others end in one line that names the new one.

    Raises:
        UsageError: one is used.
    """
    sampler = values.get("sampler")
    if not isinstance(sampler, Mapping):
        return
    name = sampler.get("name")
    if not isinstance(name, str | None):
        return
    if name in _METHODS_ONCE_SAMPLERS:
        raise UsageError(f"sampler.name: {name} is the name of a method; write method: {name}")
    if name in _OLD_SAMPLERS:
        raise UsageError(f"sampler.name: {name} is {_OLD_SAMPLERS[name]} now")
    method = name or values.get("method", "mmrns")
    for key in sampler:
        told = _OLD_OPTIONS.get((str(method), str(key)))
        if told:
            raise UsageError(f"sampler.{key}: {told}")
    if method == "mmrns" and sampler.get("discount", 1) == 0:
        raise UsageError("sampler.discount: 0 is a sampler of its own now; write method: domain-range")


_METHODS_ONCE_SAMPLERS = ("self-adversarial", "bernoulli", "k-vs-all")
_OLD_SAMPLERS = {"shared": "shared-pool", "all": "1-vs-all"}
_PUBLISHED = "the authors' arithmetic is a sampler of its own now; write method: mmrns-published"
_OLD_OPTIONS = {
    ("mmrns", "reference"): _PUBLISHED,
    ("mmrns", "temperature"): _PUBLISHED,
    ("mmrns", "loss_rate"): _PUBLISHED,
    ("mmrns", "slots"): "it is sampler.domain_range now",
    ("mmrns", "feed"): "it is sampler.pool_sampler now",
    ("sans", "reference"): "reference: true is sampler.restart=false now",
}


def _sampler_options(
    name: str, values: Mapping[str, Any], prefix: str, reserved: frozenset[str] = SAMPLER_KEYWORDS
) -> dict[str, Any]:
    """All options of a sampler, and of those inside it."""
    cls = Sampler.registry.get(name)
    found = validated(options_of(cls, reserved), values, prefix, SamplerConfig.model_fields).model_dump()
    for option in inner_options(cls):
        if (given := found[option]) is None:
            continue
        inner = {"name": given} if isinstance(given, str) else {"name": _INNER, **given}
        within, place = str(inner.pop("name")), f"{prefix}{option}."
        other = Sampler.registry.get(within)
        if inner_options(other) or other.needs_modalities or not takes(other, "negatives"):
            raise UsageError(f"{place}name: {within} cannot draw for another sampler")
        found[option] = {"name": within, **_sampler_options(within, inner, place, reserved | {"negatives"})}
    return found


def _model_options(model: ModelConfig, embedder: str) -> dict[str, Any]:
    """All options of the scorer, of the embedder and of the mixture."""
    of_scorer = options_of(Scorer.registry.get(model.scorer))
    others = (
        options_of(Embedder.registry.get(embedder), EMBEDDER_KEYWORDS),
        options_of(Mixture.registry.get(model.mixture)),
    )
    rest, found = dict(model.model_extra or {}), dict[str, Any]()
    for schema in others:
        own = {key: rest.pop(key) for key in schema.model_fields if key in rest}
        found |= validated(schema, own, "model.").model_dump()
    beside = [*ModelConfig.model_fields, *(key for schema in others for key in schema.model_fields)]
    return validated(of_scorer, rest, "model.", beside).model_dump() | found


def inner_options(cls: type[Any]) -> list[str]:
    """The options of a sampler that are samplers inside it."""
    return [name for name, hint in get_type_hints(cls.__init__).items() if Inner in (hint, *get_args(hint))]


def takes(cls: type[Any], keyword: str) -> bool:
    """Whether a class's constructor has a keyword."""
    return keyword in inspect.signature(cls).parameters


def _check_fit(config: Config) -> None:
    recipe = config.recipe
    every = Sampler.registry.get(recipe.sampler).every
    if Loss.registry.get(recipe.loss).needs_all and not every:
        raise UsageError(f"objective.loss={recipe.loss} needs every entity as a candidate; use --method k-vs-all")
    if every and config.training.sparse:
        raise UsageError(f"{config.method} touches every row in a step; leave training.sparse out")
    embedder = config.model.embedder or "table"
    if config.model.modalities and not takes(Embedder.registry.get(embedder), "modalities"):
        raise UsageError(f"model.modalities: the embedder {embedder} reads none; use model.embedder=fused")
    if embedder == "table":
        refuse_unmixed(config, 1)
    for name in config.training.callbacks:
        Callback.registry.get(name)
    for name in config.training.track:
        Tracker.registry.get(name)


def refuse_unmixed(config: Config, views: int) -> None:
    """What mixes the scores of views is left at its default where there is but one.

    Raises:
        UsageError: it is not.
    """
    if views == 1 and config.model.mixture != ModelConfig.model_fields["mixture"].default:
        raise UsageError(
            f"model.mixture: the embedder {config.model.embedder} has a single view, so that there is nothing to mix; "
            "give model.modalities of a dataset that has features (`mmrns encode` makes some), or leave model.mixture "
            "and --preset multimodal out"
        )


def options_of(cls: type[Any], reserved: Iterable[str] = ()) -> type[BaseModel]:
    """A schema of a class's options: its keyword-only constructor arguments, by annotation and default.

    A sampler inside another one is its name, or a mapping with that and its options.
    """
    return _options_of(cls, frozenset(reserved))


@lru_cache(maxsize=256)
def _options_of(cls: type[Any], reserved: frozenset[str]) -> type[BaseModel]:
    hints = get_type_hints(cls.__init__, include_extras=True)
    named = str | dict[str, Any]
    inner = {name: (named, _INNER) if hints[name] == Inner else (named | None, None) for name in inner_options(cls)}
    fields: dict[str, Any] = {
        p.name: inner.get(p.name, (hints[p.name], p.default))
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in reserved
    }
    return create_model(f"{cls.__name__}Options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def apply_settings(values: Mapping[str, Any], settings: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Nested values with settings by dotted key laid over them: a mapping, or texts `a.b=value` that are read as YAML.

    >>> apply_settings({"seed": 1}, ["sampler.modalities=[text, image]"])
    {'seed': 1, 'sampler': {'modalities': ['text', 'image']}}

    Raises:
        UsageError: a text without `=`, or a value that is not YAML.
    """
    merged = plain(values)
    pairs = settings.items() if isinstance(settings, Mapping) else map(_setting, settings)
    for key, value in pairs:
        *sections, name = str(key).split(".")
        if not all([*sections, name]):
            raise UsageError(f"--set {key}: a key is missing; write KEY=VALUE, e.g. --set training.steps=1000")
        inner: Any = merged
        for i, section in enumerate(sections):
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {key}: {'.'.join(sections[: i + 1])!r} is not a section")
        inner[name] = plain(value, f"{key}.")
    return merged


def _setting(text: object) -> tuple[str, Any]:
    key, equals, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not equals:
        raise UsageError(f"--set {shortened(text)}: write KEY=VALUE, e.g. --set training.steps=1000")
    try:
        return key, parse_yaml(value)
    except YAMLError as error:
        raise UsageError(f"--set {key}: {shortened(value)} is not a YAML value") from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key.

    >>> flatten({"seed": 1, "model": {"dim": 5}})
    {'seed': 1, 'model.dim': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def with_paths(config: Config, change: Callable[[str, str], str]) -> Config:
    """The same with what `change` makes of the key and the value of each path."""
    for key in PATHS:
        section, name = key.split(".")
        part = getattr(config, section)
        if isinstance(value := getattr(part, name, None), str):
            config = config.model_copy(update={section: part.model_copy(update={name: change(key, value)})})
    return config


def dump_config(config: Config, folder: Path | None = None) -> str:
    """The configuration as YAML; for a file within a folder, with its paths as seen from there."""
    if folder is not None:
        config = with_paths(config, lambda key, value: seen_from(folder, value))
    return dump_yaml(config.model_dump(mode="json"))


def shortened(value: Any) -> str:
    """A value as one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def validated(schema: type[_Schema], values: Mapping[str, Any], prefix: str, beside: Iterable[str] = ()) -> _Schema:
    """Values as a schema has them; a text that YAML reads as a number stands for it where a number is meant.

    Raises:
        UsageError: an unknown key, or a value that does not fit.
    """
    try:
        found = schema.model_validate(values)
    except ValidationError as error:
        read = _numbers_read(values, error)
        if read is not None:
            return validated(schema, read, prefix, beside)
        first = error.errors()[0]
        place = _place(values, first["loc"])
        key = prefix + ".".join(place)
        if first["type"] == "extra_forbidden":
            known = _known_keys(schema, prefix, beside)
            hint = nearest(key, known, limit=2) or f"; known: {', '.join(known)}"
            raise UsageError(f"unknown configuration key {key!r}{hint}", key) from error
        hint = "; write it in quotes" if first["type"] == "string_type" and isinstance(first["input"], int) else ""
        # Of a value that may be of several kinds, each says what it should be.
        reasons = [fault["msg"].lower() for fault in error.errors() if _place(values, fault["loc"]) == place]
        raise UsageError(f"{key}: {', or '.join(reasons)} (got {shortened(first['input'])}){hint}", key) from error
    _refuse_truth_as_number(found, values, prefix)
    return found


def _place(values: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Where a value is that was refused, without the kind that it was held against where it may be of several."""
    found: list[str] = []
    for part in loc:
        found.append(str(part))
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        if not isinstance(values, Mapping | list):
            break
    return found


def _numbers_read(values: Mapping[str, Any], error: ValidationError) -> dict[str, Any] | None:
    """The values with texts that were refused read as YAML; None where that makes no other value of any."""
    read: dict[str, Any] = {}
    for fault in error.errors():
        if isinstance(text := fault["input"], str) and fault["type"].endswith(("_parsing", "_type")):
            try:
                value = parse_yaml(text)
            except YAMLError:
                continue
            if isinstance(value, int | float):
                read[".".join(str(part) for part in fault["loc"])] = value
    # A place within a list is left alone: a list is replaced as a whole.
    known = flatten(values)
    return apply_settings(values, read) if read and all(key in known for key in read) else None


def _refuse_truth_as_number(found: BaseModel, values: Mapping[str, Any], prefix: str) -> None:
    """`true` is no 1."""
    for key, value in values.items():
        kept = getattr(found, key, None)
        if isinstance(kept, BaseModel) and isinstance(value, Mapping):
            _refuse_truth_as_number(kept, value, f"{prefix}{key}.")
        elif isinstance(value, bool) and kept is not None and not isinstance(kept, bool):
            raise UsageError(f"{prefix}{key}: input should be a number (got {value})", f"{prefix}{key}")


def _known_keys(schema: type[BaseModel], prefix: str, beside: Iterable[str] = ()) -> list[str]:
    keys = [prefix + name for name in beside]
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _known_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
