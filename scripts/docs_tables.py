"""Write the tables of the documentation that say what the code says: options, defaults, methods, registries.

    python scripts/docs_tables.py

rewrites every region between `<!-- table: NAME -->` and `<!-- end -->` in `docs/`. Descriptions are those of the
configuration's fields and of the docstrings of the classes. A test compares the pages with what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.prepare.encoders import ENCODERS
from mmrns.prepare.formats import LAYOUTS
from mmrns.registry import Registry
from mmrns.runs.config import (
    EMBEDDER_KEYWORDS,
    LOSS_KEYWORDS,
    SAMPLER_KEYWORDS,
    Config,
    options_of,
)
from mmrns.runs.methods import method_names, method_of
from mmrns.runs.presets import presets
from mmrns.samplers.base import Sampler
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracker

ROOT = Path(__file__).parents[1]
REGION = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite the pages that have tables."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))


def rewritten(text: str) -> str:
    """A page with its tables as the code has them now."""
    return REGION.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def prose(text: str) -> str:
    """Text of a docstring as it may stand in a cell."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|])", r"\\\1", part) for part in parts)


def shown(default: Any) -> str:
    """A default as YAML has it."""
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"`{text}`"


def values(schema: dict[str, Any]) -> str:
    """What values a key takes, from its JSON schema."""
    if "anyOf" in schema:
        kinds = [values(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return "a name, or a section" if kinds == ["text", "section"] else " or ".join(kinds)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return "list of names"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"section of {values(schema['additionalProperties'])}"
    kind = {"boolean": "`true`, `false`", "string": "text", "object": "section"}.get(schema["type"])
    if kind:
        return kind
    kind = "whole number" if schema["type"] == "integer" else "number"
    low = schema.get("minimum")
    bounds = "" if low is None else f" from {low:g}"
    if "exclusiveMinimum" in schema:
        above = schema["exclusiveMinimum"]
        bounds = " from 1" if schema["type"] == "integer" and above == 0 else f" above {above:g}"
    if "exclusiveMaximum" in schema:
        return f"{kind}{bounds} to below {schema['exclusiveMaximum']:g}"
    return kind + bounds + (f" to {schema['maximum']:g}" if "maximum" in schema else "")


def section(model: type[BaseModel], prefix: str, describe: Callable[[str], str]) -> str:
    """The keys of one section."""
    schemas = model.model_json_schema()["properties"]
    return table(
        ("key", "default", "values", "meaning"),
        (
            (
                f"`{prefix}{name}`",
                shown(field.get_default(call_default_factory=True)),
                values(schemas[name]),
                prose(describe(name)).removesuffix("."),
            )
            for name, field in model.model_fields.items()
            if "$ref" not in schemas[name]
        ),
    )


def of_config(name: str | None) -> str:
    """The keys of a section of the configuration, or of its top level."""
    model: Any = Config if name is None else Config.model_fields[name].annotation
    described = {key: field.description or "" for key, field in model.model_fields.items() if name or field.description}
    return section(model, "" if name is None else f"{name}.", described.__getitem__)


def arguments(cls: type[Any]) -> dict[str, str]:
    """The `Args:` of a class's docstring; one that is not there, or refers to a base class, has the words of that."""
    found: dict[str, str] = {}
    block = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE | re.DOTALL)
    for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n     +.*)*)", block[1] if block else "", re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    for base in cls.__mro__[1:]:
        inherited = arguments(base) if hasattr(base, "registry") else {}
        for name, text in inherited.items():
            if found.get(name, f"see `{base.__name__}`.") == f"see `{base.__name__}`.":
                found[name] = text
    return found


def described(cls: type[Any], option: str) -> str:
    """What an option of a class is."""
    texts = arguments(cls)
    if option not in texts:
        raise SystemExit(f"{cls.__module__}: say what `{option}` is under `Args:` in the docstring of {cls.__name__}")
    return texts[option]


def options(registry: Registry[Any], prefix: str, reserved: Iterable[str] = ()) -> str:
    """The options of every class of a registry that has some."""
    parts: list[str] = []
    without: list[str] = []
    for name, cls in ours(registry):
        schema = options_of(cls, reserved)
        if not schema.model_fields:
            without.append(f"`{name}`")
            continue
        parts.append(f"Options of the {registry.kind} `{name}`:\n\n" + section(schema, prefix, partial(described, cls)))
    if without:
        parts.append(f"Without options: {', '.join(without)}.\n")
    return "\n".join(parts)


def ours(registry: Registry[Any]) -> list[tuple[str, type[Any]]]:
    """The names and classes of a registry by module, but for those that were defined outside of the package."""
    found = [(name, registry.get(name)) for name in registry.names()]
    return sorted(((n, c) for n, c in found if c.__module__.startswith("mmrns.")), key=lambda pair: pair[1].__module__)


def link(name: str, cls: type[Any]) -> str:
    """A name that leads to its class."""
    return f"[`{name}`](reference.md#{cls.__module__}.{cls.__qualname__})"


def first_line(cls: type[Any]) -> str:
    """What a class is: the first paragraph of its docstring."""
    return prose(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0])


def cost(cls: type[Any]) -> str:
    """What a class's docstring says behind `Cost of a draw:`."""
    found = re.search(
        r"^Cost of a draw: (.*?)(?=\n\n|\Z)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE | re.DOTALL
    )
    return prose(found[1]) if found else ""


def methods() -> str:
    """What a method's name stands for."""
    foreign = set(Sampler.registry.names()) - {name for name, _ in ours(Sampler.registry)}
    rows = ((name, method_of(name)) for name in method_names() if name not in foreign)
    return table(
        ("method", "sampler", "`objective.alpha`", "`objective.loss`", "`training.sides`", "a batch holds"),
        (
            (
                f"`{name}`",
                f"`{m.sampler}`",
                f"{m.alpha:g}",
                f"`{m.loss}`",
                f"`{m.sides}`",
                "queries" if m.queries else "triples",
            )
            for name, m in rows
        ),
    )


def samplers() -> str:
    """What every sampler draws, and at what cost."""
    return table(
        ("sampler", "draws", "cost of a draw"),
        ((link(name, cls), first_line(cls), cost(cls)) for name, cls in sorted(ours(Sampler.registry))),
    )


def scorers() -> str:
    """Formulas and widths."""
    rows: list[tuple[str, ...]] = []
    for name, cls in ours(Scorer.registry):
        made = cls(12, 1.0)
        widths = [f"{w // 12 if w > 12 else ''}d" for w in (made.entity_width, made.relation_width)]
        own = ", ".join(f"`model.{option}`" for option in options_of(cls).model_fields)
        distance = "yes" if cls.distance else "no"
        rows.append((link(name, cls), first_line(cls), distance, *widths, own))
    header = ("scorer", "score", "distance", "reals of an entity", "reals of a relation", "options")
    return table(header, rows)


def losses() -> str:
    """What every loss is."""
    return table(
        ("loss", "is"),
        ((link(name, cls), first_line(cls)) for name, cls in ours(Loss.registry)),
    )


def mixtures() -> str:
    """What every mixture is."""
    rows = (
        (link(name, cls), first_line(cls), ", ".join(f"`model.{option}`" for option in options_of(cls).model_fields))
        for name, cls in ours(Mixture.registry)
    )
    return table(("mixture", "score", "options"), rows)


REGISTRIES: list[tuple[Registry[Any], str, str]] = [
    (Sampler.registry, "`method`, `sampler.name`, `train(sampler=)`", "how-to/add-a-sampler.md"),
    (Scorer.registry, "`model.scorer`, `train(scorer=)`", "how-to/add-a-scorer.md"),
    (Embedder.registry, "`model.embedder`, `train(embedder=)`", "how-to/add-an-embedder.md"),
    (Mixture.registry, "`model.mixture`, `train(mixture=)`", "how-to/add-a-mixture.md"),
    (Loss.registry, "`objective.loss`, `train(loss=)`", "how-to/add-a-loss.md"),
    (Callback.registry, "`training.callbacks`, `train(callbacks=)`", "how-to/add-a-callback.md"),
    (Tracker.registry, "`training.track`", "how-to/track-training.md#a-tracker-of-your-own"),
    (LAYOUTS, "`--from`, `--to` of `mmrns data convert SRC DST`", "how-to/add-a-format.md"),
    (ENCODERS, "`--text`, `--image` of `mmrns encode DIR`", "how-to/add-an-encoder.md"),
]


def registries() -> str:
    """Everything that has names."""
    return table(
        ("kind", "names", "given by", "add your own"),
        (
            (registry.kind, ", ".join(f"`{n}`" for n, _ in ours(registry)), given, f"[page]({page})")
            for registry, given, page in REGISTRIES
        ),
    )


def of_presets() -> str:
    """The presets: what they are for, and what they set."""
    rows = [
        (
            f"`{name}`",
            prose(one.about),
            ", ".join(f"`{key}: {shown(value)[1:-1]}`" for key, value in one.settings.items()),
        )
        for name, one in presets().items()
    ]
    return table(("preset", "for", "settings"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "presets": of_presets,
    "top level": lambda: of_config(None),
    **{
        name: lambda name=name: of_config(name)
        for name in ("data", "model", "objective", "sampler", "training", "evaluation")
    },
    "options of scorers": lambda: options(Scorer.registry, "model."),
    "options of embedders": lambda: options(Embedder.registry, "model.", EMBEDDER_KEYWORDS),
    "options of mixtures": lambda: options(Mixture.registry, "model."),
    "options of losses": lambda: options(Loss.registry, "objective.", LOSS_KEYWORDS),
    "options of samplers": lambda: options(Sampler.registry, "sampler.", SAMPLER_KEYWORDS),
    "methods": methods,
    "samplers": samplers,
    "scorers": scorers,
    "mixtures": mixtures,
    "losses": losses,
    "registries": registries,
}


if __name__ == "__main__":
    main()
