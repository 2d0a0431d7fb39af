"""Every registered class of the package has a test of its own, and what lacks one learns where to write it.

Samplers and scorers have more precise forms of this in their own contracts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.prepare.encoders import ENCODERS
from mmrns.prepare.formats import LAYOUTS
from mmrns.registry import Registry
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracker

ROOT = Path(__file__).parents[2]
# Where the tests of a registry's classes are, and what is to be tested there.
ROOMS: list[tuple[Registry[Any], str, str]] = [
    (Embedder.registry, "tests/nn/embedders/test_{module}.py", "its vectors by hand, and which entity has which view"),
    (Mixture.registry, "tests/nn/test_mixture.py", "scores mixed by hand, and who lacks which view"),
    (Loss.registry, "tests/nn/test_losses.py", "values and gradients worked out by hand"),
    (Callback.registry, "tests/training/test_callbacks.py", "what it does in a short training"),
    (Tracker.registry, "tests/training/trackers", "what is found in its own files after a training that went on"),
    (LAYOUTS, "tests/prepare/formats", "a small source that it reads, and what it says of a broken one"),
    (ENCODERS, "tests/prepare/encoders", "tokens of a small input by hand, and of an entity without any"),
]


@pytest.mark.parametrize(("registry", "room", "what"), ROOMS, ids=[room[0].kind for room in ROOMS])
def test_every_class_has_a_test(registry: Registry[Any], room: str, what: str) -> None:
    for name in registry.names():
        cls = registry.get(name)
        if not cls.__module__.startswith("mmrns."):
            continue
        place = room.format(module=cls.__module__.rpartition(".")[2])
        files = sorted((ROOT / place).rglob("test_*.py")) if (ROOT / place).is_dir() else [ROOT / place]
        texts = [file.read_text(encoding="utf-8") for file in files if file.exists()]
        assert any(cls.__name__ in text or f'"{name}"' in text for text in texts), (
            f"the {registry.kind} {name!r} has no test; write one in {place}: {what}"
        )
