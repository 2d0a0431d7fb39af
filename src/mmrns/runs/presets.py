"""Presets: settings by name, which whatever else is given goes before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmrns.errors import unknown
from mmrns.runs.config import apply_settings, flatten
from mmrns.runs.values import read_config

_FILE = Path(__file__).with_name("presets.yaml")
_CPU = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Preset:
    """Settings under a name.

    Attributes:
        about: what they are for.
        settings: by dotted key.
    """

    about: str
    settings: Mapping[str, Any]


@cache
def presets() -> dict[str, Preset]:
    """All of them by name, as `presets.yaml` has them."""
    return {name: Preset(one["about"], flatten(one["settings"])) for name, one in read_config(_FILE).items()}


def with_preset(name: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values laid over those of a preset.

    What is asked for where a machine has it, products of bfloat16, is left out where it has not, so that the values are
    plain ones, which another machine repeats.

    Args:
        name: of the preset; None = none.
        values: what goes before.

    Raises:
        UsageError: no such preset.
    """
    if name is None:
        return apply_settings(values, {})
    if name not in presets():
        raise unknown("preset", name, presets())
    settings = dict(presets()[name].settings)
    if settings.get("training.autocast") and not multiplies_bfloat16():
        del settings["training.autocast"]
    return apply_settings(apply_settings({}, settings), flatten(values))


def multiplies_bfloat16() -> bool:
    """Whether the GPU that is there, or else the processor, has instructions for products of bfloat16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return _CPU.exists() and bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _CPU.read_text(encoding="utf-8")))
