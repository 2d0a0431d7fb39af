"""The configuration that a comparison recommends, as a file that `mmrns train` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mmrns.errors import one_line
from mmrns.runs.config import Config, apply_settings, flatten
from mmrns.runs.places import PATHS, seen_from
from mmrns.runs.values import dump_yaml
from mmrns.studies.comparison import Comparison, config_of
from mmrns.studies.report import by_label, ranked_split, worked

FILE = "best.yaml"
"""Name of the file in the folder of a comparison."""


def best_label(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The entry with the best mean validation MRR of its seeds; None where every training failed.

    Test has no say: a model is selected on validation, and so is a method.
    """
    groups = {label: worked(runs) for label, runs in by_label(records).items()}
    reached = {label: mean(run["valid_mrr"] for run in runs) for label, runs in groups.items() if runs}
    return max(reached, key=reached.__getitem__) if reached else None


def recipe(records: Sequence[Mapping[str, Any]], comparison: Comparison, folder: Path) -> str | None:
    """The settings of the best entry with seed 0, as YAML; None where every training failed.

    It holds what the comparison and its search say, so that other settings may be laid over it; the rest is default.

    Args:
        records: of the seeds.
        comparison: what they are of.
        folder: where the file is to be: its paths are as seen from there.
    """
    label = best_label(records)
    if label is None:
        return None
    runs = worked(by_label(records)[label])
    given = comparison.given(comparison.entries[label], runs[0]["settings"]) | {"seed": 0}
    if ranked_split(records) == "valid":
        given["evaluation.test"] = False
    placed = flatten(config_of(given).model_dump(mode="json"))
    given |= {key: seen_from(folder, placed[key]) for key in PATHS if isinstance(given.get(key), str)}
    reached = f"{100 * mean(run['valid_mrr'] for run in runs):.2f}"
    said = f"# {one_line(label)}: the best entry by validation, with a mean MRR of {reached} %; its first seed.\n"
    nested = apply_settings({}, given)
    return said + dump_yaml({key: nested[key] for key in Config.model_fields if key in nested})
