"""Every registered sampler as a configuration names it, and beside it the forms whose parts its defaults leave out."""

from __future__ import annotations

from typing import Any

from mmrns.registry import sampler_names
from mmrns.runs.config import METHODS

METHOD_OF = {method.sampler: name for name, method in reversed(METHODS.items())}
FORMS: dict[str, dict[str, Any]] = {name: {"name": METHOD_OF[name]} for name in sampler_names()} | {
    "mmrns with attention": {"name": "mmrns", "discount": 0.25},
}


def form_of(name: str, negatives: int) -> dict[str, Any]:
    """The section `sampler` of a form, with so many negatives where it draws any."""
    return FORMS[name] | ({} if name == "all" else {"negatives": negatives})
