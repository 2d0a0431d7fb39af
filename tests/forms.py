"""Every registered sampler as a configuration names it, and beside it the forms whose parts its defaults leave out."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mmrns.registry import sampler_names
from mmrns.runs.config import METHODS

METHOD_OF = {method.sampler: name for name, method in reversed(METHODS.items())}
FORMS: dict[str, dict[str, Any]] = {name: {"name": METHOD_OF[name]} for name in sampler_names()} | {
    "mmrns with attention": {"name": "mmrns", "discount": 0.25},
    "mmrns fed by nscaching": {"name": "mmrns", "pool": 20, "feed": "nscaching"},
    "mmrns with attention fed by kbgan": {
        "name": "mmrns",
        "pool": 20,
        "discount": 0.25,
        "feed": {"name": "kbgan", "candidates": 8},
    },
    "mmrns without slots fed by a shared list": {"name": "mmrns", "pool": 20, "slots": 0, "feed": "inbatch"},
    # With every entity in the pool there would be one draw only.
    "hard": {"name": "hard", "pool": 20},
    "hard, corrected": {"name": "hard", "pool": 20, "choice": "corrected"},
    "inbatch, uncorrected": {"name": "inbatch", "corrected": False},
    "sans, whole balls": {"name": "sans", "walks": 0, "hops": 2},
    "file with kbgan": {"name": "file", "share": 0.4, "other": {"name": "kbgan", "candidates": 8}},
    "file with nscaching": {"name": "file", "other": "nscaching"},
    "file with a shared list": {"name": "file", "other": "inbatch"},
}


def form_of(name: str, negatives: int) -> dict[str, Any]:
    """The section `sampler` of a form, with so many negatives where it draws any, and a file where it reads one."""
    table = {"path": str(_negatives())} if FORMS[name]["name"] == "file" else {}
    return FORMS[name] | table | ({} if name == "all" else {"negatives": negatives})


@cache
def _negatives() -> Path:
    from toy import write_negatives

    return write_negatives(Path(tempfile.mkdtemp(prefix="toy-")) / "negatives.tsv")
