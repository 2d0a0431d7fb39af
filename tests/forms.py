"""Every registered sampler as a configuration names it, and beside it the forms whose parts its defaults leave out."""

from __future__ import annotations

import inspect
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmrns.nn.embedders import Embedder
from mmrns.nn.scorers import Scorer
from mmrns.runs.methods import method_of
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer

FORMS: dict[str, dict[str, Any]] = {name: {"name": name} for name in Sampler.registry.names()} | {
    "domain-range, half its pool from nscaching": {"name": "domain-range", "pool": 20, "pool_sampler": "nscaching"},
    "domain-range, pool alone, half from a shared list": {
        "name": "domain-range",
        "pool": 20,
        "domain_range": 0,
        "pool_sampler": "inbatch",
    },
    "mmrns, half its pool from kbgan": {
        "name": "mmrns",
        "pool": 20,
        "pool_sampler": {"name": "kbgan", "candidates": 8, "pretrain": 20},
    },
    "mmrns with attention": {"name": "mmrns", "attention": True},
    "mmrns without domain and range": {"name": "mmrns", "domain_range": 0},
    "mmrns without guidance": {"name": "mmrns", "guidance": False},
    "mmrns without a contrastive loss": {"name": "mmrns", "contrastive": False},
    "mmrns without a gradient": {"name": "mmrns", "gradient": False},
    "mmrns, uncorrected": {"name": "mmrns", "corrected": False},
    # Its default of 500 steps before the training takes longer than all else that is done with a form.
    "kbgan": {"name": "kbgan", "pretrain": 20},
    # With every entity in the pool there would be one draw only.
    "hard": {"name": "hard", "pool": 20},
    "hard, corrected": {"name": "hard", "pool": 20, "choice": "corrected"},
    "inbatch, uncorrected": {"name": "inbatch", "corrected": False},
    "dhns, heads from the tails' chains": {"name": "dhns", "head_chain": False, "detach_diffusion": False},
    "mans, hybrid": {"name": "mans", "strategy": "hybrid"},
    "sans, whole balls": {"name": "sans", "walks": 0, "hops": 2},
    "file with kbgan": {"name": "file", "share": 0.4, "other": {"name": "kbgan", "candidates": 8, "pretrain": 20}},
    "file with nscaching": {"name": "file", "other": "nscaching"},
    "file with a shared list": {"name": "file", "other": "inbatch"},
}


def model_of(name: str, dim: int = 6) -> dict[str, Any]:
    """The section `model` that a form, a sampler or a method is trained with: with modalities where it needs them."""
    needs = Sampler.registry.get(FORMS[name]["name"] if name in FORMS else method_of(name).sampler).needs_modalities
    return {"dim": dim} | ({"modalities": ["image", "text"]} if needs else {})


def scorer_for(embedder: str) -> str:
    """A scorer that an embedder gives vectors for."""
    kind = Embedder.registry.get(embedder).scorer
    return next(name for name in Scorer.registry.names() if issubclass(Scorer.registry.get(name), kind))


def form_of(name: str, negatives: int) -> dict[str, Any]:
    """The section `sampler` of a form, with so many negatives where it draws any, and a file where it reads one."""
    form = FORMS[name]
    table = {"path": str(_negatives())} if form["name"] == "file" else {}
    draws = "negatives" in inspect.signature(Sampler.registry.get(form["name"])).parameters
    return form | table | ({"negatives": negatives} if draws else {})


@cache
def _negatives() -> Path:
    from toy import write_negatives

    return write_negatives(Path(tempfile.mkdtemp(prefix="toy-")) / "negatives.tsv")


def convert(trainer: Trainer, dtype: torch.dtype) -> None:
    """Have a trainer that has not begun compute in another precision."""
    for module in (trainer.model, trainer.sampler):
        module.to(dtype)
    # Adagrad has its sums from the start.
    for state in (state for part in trainer.optimizer.parts for state in part.state.values() if "sum" in state):
        state["sum"] = state["sum"].to(dtype)
