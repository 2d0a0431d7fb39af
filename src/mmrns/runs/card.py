"""The model card of a run: what it is, how good, from what, under which licence, in the form that the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrns.data.datasets import Dataset
from mmrns.errors import DataError
from mmrns.evaluation.report import shortcomings
from mmrns.files import read_json
from mmrns.runs.config import Config
from mmrns.runs.values import dump_yaml

METRICS = ("mrr", "hits@1", "hits@3", "hits@10")


def model_card(
    name: str,
    config: Config,
    results: Mapping[str, Any],
    record: Mapping[str, Any],
    dataset: Dataset,
    *,
    reads: Sequence[str],
    views: Sequence[str],
    features: bool,
) -> str:
    """The `README.md` of a repository of the Hub: metadata in YAML, then Markdown.

    Args:
        name: of the repository.
        config, results, record: of the run.
        dataset: of the training.
        reads: the modalities that its model or its sampler reads.
        views: the modalities that its model knows entities by.
        features: whether they are in the repository.
    """
    from jinja2 import Environment, StrictUndefined

    called, graph, data = record["dataset"]["name"], dataset.graph, _about(dataset)
    test, valid = results.get("test"), results["valid"]
    found = {"test": test, "validation": valid}
    rows = [
        [split, policy, *(f"{100 * metrics[key]:.2f}" for key in METRICS)]
        for split, part in found.items()
        for policy, metrics in (part or {}).get("both", {}).items()
    ]
    if results.get("baseline"):
        base = results["baseline"]["realistic"]
        rows.append(["test, how often an entity is there", "realistic", *(f"{100 * base[key]:.2f}" for key in METRICS)])
    ranked = test or valid
    limits = [escaped(line) for line in (*shortcomings(ranked), *data.get("defects", ()))]
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    source = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        metadata=dump_yaml(_metadata(config, called, ranked, "test" if test else "validation", data)),
        title=escaped(f"{config.model.scorer}, {config.method}, {called}"),
        name=name,
        dataset=escaped(called),
        data={"title": escaped(str(data.get("title", "")))},
        version=record["packages"]["mmrns"],
        method=config.method,
        scorer=config.model.scorer,
        seed=config.seed,
        step=results["selected_step"],
        train=len(graph.train),
        entities=len(graph.entities),
        relations=len(graph.relations),
        reads=reads,
        without=escaped(without_features(reads, views)),
        views=[escaped(view) for view in views],
        features=features and bool(reads),
        rows=rows,
        queries=f"{ranked['queries']:,} queries, {ranked['ties']:,} of them tied with another candidate.",
        limits=limits,
        licence=_licence(called, data),
    )


def without_features(reads: Sequence[str], views: Sequence[str]) -> str:
    """What is missing where the features that a run reads are not at hand, in a sentence without its end."""
    by_model = [name for name in reads if name in views]
    if by_model:
        return f"The model reads {' and '.join(by_model)} of each entity, so that its use takes the dataset"
    what = " and ".join(reads)
    return f"It answers without features; its sampler reads {what}, so that explaining its draws takes the dataset"


def _metadata(
    config: Config, dataset: str, ranked: Mapping[str, Any], split: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """What the Hub reads of a card."""
    licence = data.get("licence")
    metrics = [
        {"type": key, "name": f"{key}, {split}, filtered, ties at their mean rank", "value": value}
        for key in METRICS
        if (value := ranked["both"].get("realistic", {}).get(key)) is not None
    ]
    result = {
        "task": {"type": "graph-ml", "name": "link prediction"},
        "dataset": {"type": dataset, "name": dataset, "split": split},
        "metrics": metrics,
    }
    return {
        "library_name": "mmrns",
        # The Hub's own list lacks most licences of data; it takes other ones in small letters and hyphens.
        **({"license": "other", "license_name": _slug(str(licence))} if licence else {"license": "unknown"}),
        "pipeline_tag": "graph-ml",
        "tags": [*dict.fromkeys(["knowledge-graph", "link-prediction", "mmrns", config.model.scorer, config.method])],
        "datasets": [dataset],
        "metrics": [*METRICS],
        "model-index": [{"name": f"{config.model.scorer}, {config.method}", "results": [result] if metrics else []}],
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _about(dataset: Dataset) -> dict[str, Any]:
    """What `dataset.json` says of the data; nothing where there is none, or none that can be understood."""
    path = None if dataset.folder is None else dataset.folder / "dataset.json"
    if path is None or not path.exists():
        return {}
    try:
        found = read_json(path, None, "mend it")
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def _licence(name: str, data: Mapping[str, Any]) -> str:
    """The licence and the sources of the data, in sentences."""
    licence = data.get("licence")
    told = (
        f"The data are under {escaped(str(licence))}."
        if licence
        else (
            f"The dataset {escaped(name)} does not say its licence: ask those who made it before you use or pass it on."
        )
    )
    sources = data.get("sources") or ([data["source"]] if data.get("source") else [])
    lines = [told]
    for source in sources:
        about = source if isinstance(source, dict) else {"url": source}
        where = f"<{about['url']}>" if about.get("url") else ""
        own = f"under {escaped(str(about['licence']))}" if about.get("licence") else ""
        lines.append("- " + ", ".join(part for part in (where, own) if part))
    return "\n".join([lines[0], *([""] if len(lines) > 1 else []), *lines[1:]])


def escaped(text: str) -> str:
    """A text as Markdown that shows it as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|$])", r"\\\1", " ".join(text.split()))
