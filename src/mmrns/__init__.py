"""Multimodal knowledge graph completion with relation-enhanced negative sampling.

import mmrns

run = mmrns.train({"data": {"dataset": "countries"}, "sampler": {"name": "mmrns"}})
run.evaluate()
run.predict(head="country/France", relation="borders")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrns.data.datasets import load_dataset
    from mmrns.runs.run import Run, load_run
    from mmrns.runs.train import train

__all__ = ["Run", "__version__", "load_dataset", "load_run", "train"]
__version__ = "0.1.0"

_HOMES = {
    "load_dataset": "mmrns.data.datasets",
    "load_run": "mmrns.runs.run",
    "train": "mmrns.runs.train",
    "Run": "mmrns.runs.run",
}


def __getattr__(name: str) -> Any:
    # Nothing heavy is imported before it is used.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmrns' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
