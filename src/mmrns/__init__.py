"""Multimodal knowledge graph completion with relation-enhanced negative sampling.

import mmrns

run = mmrns.train(dataset="countries", scorer="TransE", method="mmrns", steps=500)
run.evaluate()
run.predict(head="country/France", relation="borders")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrns.data.datasets import Dataset, load_dataset
    from mmrns.nn.embedders import Embedder
    from mmrns.nn.losses import Loss
    from mmrns.nn.mixtures import Mixture
    from mmrns.nn.scorers import Scorer
    from mmrns.registry import register
    from mmrns.runs.run import Run, load_run
    from mmrns.runs.train import train
    from mmrns.samplers.base import Sampler
    from mmrns.training.callbacks import Callback
    from mmrns.types import Views

__all__ = [
    "Callback",
    "Dataset",
    "Embedder",
    "Loss",
    "Mixture",
    "Run",
    "Sampler",
    "Scorer",
    "Views",
    "__version__",
    "load_dataset",
    "load_run",
    "register",
    "train",
]
__version__ = "0.1.0"

_HOMES = {
    "Callback": "mmrns.training.callbacks",
    "Dataset": "mmrns.data.datasets",
    "Embedder": "mmrns.nn.embedders",
    "Loss": "mmrns.nn.losses",
    "Mixture": "mmrns.nn.mixtures",
    "Run": "mmrns.runs.run",
    "Sampler": "mmrns.samplers.base",
    "Scorer": "mmrns.nn.scorers",
    "Views": "mmrns.types",
    "load_dataset": "mmrns.data.datasets",
    "load_run": "mmrns.runs.run",
    "register": "mmrns.registry",
    "train": "mmrns.runs.train",
}


def __getattr__(name: str) -> Any:
    # Nothing heavy is imported before it is used.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmrns' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
