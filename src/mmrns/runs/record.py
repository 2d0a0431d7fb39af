"""What a run writes beside its weights: where it came from, and its metrics."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt

from mmrns.data.datasets import Dataset
from mmrns.runs.config import Config

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
    valid_negatives: FiniteFloat | None = None
    gradient_norm: GradientNorms


class Row(Kept):
    """A line of `metrics.jsonl`."""

    step: int
    seconds: FiniteFloat = 0.0
    loss: FiniteFloat = 0.0
    model_loss: FiniteFloat = 0.0
    sampler_loss: FiniteFloat = 0.0
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


_SITTING = ("device", "threads", "packages", "python", "processes")
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


def listing(names: pl.Series) -> str:
    """What `entities.txt` and `relations.txt` of a run hold: a name a line."""
    return "\n".join(names.to_list()) + "\n"
