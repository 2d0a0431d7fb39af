"""Names to classes.

A sampler is registered by being a file in `mmrns/samplers`; its name is the file's name and listing the names imports
nothing. A scorer is registered by being a `Scorer` class in `mmrns/nn/scorers.py`.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from mmrns.errors import unknown

_HERE = Path(__file__).parent


def sampler_names() -> list[str]:
    """Names of all samplers, by file name."""
    return sorted(p.stem for p in (_HERE / "samplers").glob("*.py") if p.stem not in {"__init__", "base"})


def sampler_class(name: str) -> type[Any]:
    """The one `Sampler` class defined in `mmrns/samplers/NAME.py`.

    Raises:
        UsageError: no such sampler; the message lists the known ones.
    """
    if name not in sampler_names():
        raise unknown("sampler", name, sampler_names())
    module = importlib.import_module(f"mmrns.samplers.{name}")
    base = importlib.import_module("mmrns.samplers.base").Sampler
    (cls,) = _classes(module, base)
    return cls


def scorer_names() -> list[str]:
    """Names of all scorers, in the order of the file."""
    return [cls.__name__ for cls in _scorers()]


def scorer_class(name: str) -> type[Any]:
    """The `Scorer` class of that name.

    Raises:
        UsageError: no such scorer; the message lists the known ones.
    """
    for cls in _scorers():
        if cls.__name__ == name:
            return cls
    raise unknown("scorer", name, scorer_names())


def _scorers() -> list[type[Any]]:
    module = importlib.import_module("mmrns.nn.scorers")
    return _classes(module, module.Scorer)


def _classes(module: Any, base: type[Any]) -> list[type[Any]]:
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls is not base and cls.__module__ == module.__name__
    ]
