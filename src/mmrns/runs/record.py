"""What a run writes beside its weights: where it came from, its metrics, its picture."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt

from mmrns.data.datasets import Dataset
from mmrns.runs.config import Config
from mmrns.runs.figures import legend, logarithmic, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("mmrns", "torch", "numpy", "polars", "safetensors")


class Kept(BaseModel):
    """What a file of ours says at least, when it is read back; it may say more. What has a default may be left out."""

    model_config = ConfigDict(extra="allow", strict=True)


class Metrics(Kept):
    """Of some ranks, under one policy for ties."""

    mrr: FiniteFloat


class Policies(Kept):
    """Metrics by policy."""

    realistic: Metrics


class NoQueries(Kept):
    """What stands in the place of metrics where there was nothing to rank."""

    model_config = ConfigDict(extra="forbid")


class SplitResults(Kept):
    """The metrics of a split."""

    both: Policies | NoQueries


class Results(Kept):
    """`results.json`."""

    valid: SplitResults
    test: SplitResults = SplitResults(both=NoQueries())
    selected_step: int
    seconds: dict[str, FiniteFloat]


class Fingerprint(Kept):
    """See `Dataset.fingerprint`."""

    name: str
    sha256: dict[str, str]
    bytes: dict[str, int] = {}
    spots: dict[str, str] = {}


class Record(Kept):
    """`record.json`."""

    dataset: Fingerprint
    threads: PositiveInt = 1


class GradientNorms(Kept):
    """Of the groups of parameters."""

    model: FiniteFloat | None


class Measured(Kept):
    """See `Hardness`."""

    score_percentile: FiniteFloat | None
    effective_sample_size: FiniteFloat | None
    gradient_norm: GradientNorms


class Row(Kept):
    """A line of `metrics.jsonl`."""

    step: int
    seconds: FiniteFloat = 0.0
    loss: FiniteFloat = 0.0
    valid_mrr: FiniteFloat = 0.0
    hardness: Measured = Measured(
        score_percentile=None, effective_sample_size=None, gradient_norm=GradientNorms(model=None)
    )


def provenance(config: Config, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Code version, package versions, device, threads, seed, dataset checksums; no user or host names."""
    return {
        "code": _code_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "dataset": {"name": dataset.name, **dataset.fingerprint()},
    }


def continued(record: dict[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The record of a training that goes on, and what is not as it was before, in words.

    What it was is kept under `earlier`, a list, if anything is not: a resumed training is equal to an uninterrupted one
    on the same device, with the same versions and number of threads.

    Args:
        record: of this sitting.
        before: of the last one.
    """
    earlier = list(before.get("earlier", ()))
    old = {key: before[key] for key in (*_SITTING, "code") if key in before}
    changed = [key for key in _SITTING if key in before and before[key] != record[key]]
    if changed:
        earlier.append(old)
    words: list[str] = []
    for key in changed:
        now, then = record[key], before[key]
        if key == "packages":
            differ = [name for name in now if now[name] != then.get(name)]
            words += [f"{name} {now[name]} (before {then.get(name, 'none')})" for name in differ]
        else:
            words.append(f"{key} {now} (before {then})")
    return record | ({"earlier": earlier} if earlier else {}), ", ".join(words)


_SITTING = ("device", "threads", "packages", "python")
"""What may differ from one sitting of a training to the next, and make it another one in the last bits."""


def _code_version() -> dict[str, Any]:
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside somebody else's repository: only a checkout that tracks this file counts.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"version": importlib.metadata.version("mmrns"), "commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "version": importlib.metadata.version("mmrns"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def plot_curves(rows: Sequence[Mapping[str, Any]], title: str, selected: int) -> Figure:
    """Training loss and validation MRR against steps, the selected step marked."""
    figure, left = new_figure(title)
    right = left.twinx()
    for axis, key, label, colour in ((left, "loss", "training loss", "0.6"), (right, "valid_mrr", "MRR", "tab:blue")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            # A line needs two points to be seen.
            marked = key == "valid_mrr" or len(points) == 1
            axis.plot(*zip(*points, strict=True), color=colour, marker="o" if marked else None, markersize=4)
        axis.set_ylabel("validation MRR" if label == "MRR" else label, color=colour if label == "MRR" else "0.4")
    left.set_xlabel("step")
    right.set_ylim(bottom=0)
    left.axvline(selected, color="tab:blue", linestyle=":", linewidth=1)
    return figure


def plot_hardness(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Score percentile and effective sample size of the negatives, and the model's gradient norm on a logarithmic
    right axis, against steps; what a sampler does not tell is left out.
    """
    figure, left = new_figure(title)
    right = left.twinx()
    measured = [(row["step"], row["hardness"]) for row in rows if "hardness" in row]
    curves = [
        (left, "score percentile", "tab:red", [(s, h["score_percentile"]) for s, h in measured]),
        (left, "effective sample size", "tab:blue", [(s, h["effective_sample_size"]) for s, h in measured]),
        (right, "gradient norm (right)", "0.5", [(s, h["gradient_norm"]["model"]) for s, h in measured]),
    ]
    lines: list[Any] = []
    names: list[str] = []
    for axis, label, colour, points in curves:
        points = [(step, value) for step, value in points if value is not None]
        if points:
            lines += axis.plot(*zip(*points, strict=True), color=colour, marker=".")
            names.append(label)
    # The percentile of negatives drawn at random.
    left.axhline(0.5, color="tab:red", linestyle=":", linewidth=1)
    left.set_ylim(0, 1.04)  # A uniform sampler's line is at 1.
    left.set_xlabel("step")
    left.set_ylabel("score percentile, effective sample size")
    # A loss of 0 throughout has no gradient.
    logarithmic(right, "y", (norm for _, norm in curves[2][3] if norm is not None))
    right.set_ylabel("gradient norm of the model", color="0.4")
    legend(figure, lines, names, "outside lower center", columns=3)
    return figure


def listing(names: pl.Series) -> str:
    """What `entities.txt` and `relations.txt` of a run hold: a name a line."""
    return "\n".join(names.to_list()) + "\n"
