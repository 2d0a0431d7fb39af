"""Ablations of the MMRNS sampler: `python experiments/ablations.py STUDY.yaml [--only NAME ...]`.

Takes the settings that the study chose for `mmrns` (its recorded seed 0), with DISCOUNT so that there is an attention
to ablate, and leaves one part out at a time. What is not an option of the sampler is replaced in this process only.
Each finished training is written to the folder `ablations` beside the study at once; what is there is not repeated.
The table goes to `ablations.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmrns.files import read_json
from mmrns.samplers import mmrns as module
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.samplers.mmrns.similarity import GuidedSimilarity
from mmrns.studies.compare import Training, train_once
from mmrns.studies.report import spread

DISCOUNT = 0.25


def without_relation_guidance(patch: pytest.MonkeyPatch) -> None:
    """All gates one half, whatever the relation; the temperature too is that of no relation."""
    relations = GuidedSimilarity.relations
    patch.setattr(GuidedSimilarity, "relations", lambda self, *given: torch.zeros_like(relations(self, *given)))


def without_contrast(patch: pytest.MonkeyPatch) -> None:
    """The attention is trained by the gradient of the draw alone."""
    patch.setattr(Mmrns, "loss", lambda self, *arguments: 0.0)


def without_gumbel_gradient(patch: pytest.MonkeyPatch) -> None:
    """Plain sampling: draws of the same law, without a gradient."""
    patch.setattr(module, "straight_through_top_k", lambda drawn, *arguments: drawn)


def without_correction(patch: pytest.MonkeyPatch) -> None:
    """Negatives weigh as they come."""
    draw = Mmrns.draw

    def uncorrected(self: Mmrns, *arguments: Any) -> Any:
        negatives = draw(self, *arguments)
        object.__setattr__(negatives, "logp", None)
        return negatives

    patch.setattr(Mmrns, "draw", uncorrected)


Patch = Callable[[pytest.MonkeyPatch], None]
VARIANTS: dict[str, tuple[dict[str, Any], Patch | None]] = {
    "complete": ({}, None),
    "without KCA": ({"sampler.discount": 0}, None),
    "without relation guidance": ({}, without_relation_guidance),
    "without the contrastive loss": ({}, without_contrast),
    "without the Gumbel gradient": ({}, without_gumbel_gradient),
    "without the correction": ({}, without_correction),
    "without the slot": ({"sampler.slots": 0}, None),
    "first modality alone": ({"sampler.modalities": [0]}, None),
    "second modality alone": ({"sampler.modalities": [1]}, None),
    "structure alone": ({"sampler.modalities": []}, None),
    "attention trained in every step": ({"sampler.refresh": 1}, None),
    "authors' sampler": ({"sampler.reference": True, "sampler.pool": 256}, None),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--only", action="append", choices=VARIANTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the study's")
    arguments = parser.parse_args()
    study = yaml.safe_load(arguments.study.read_text(encoding="utf-8"))
    torch.set_num_threads(study["threads"])
    folder = arguments.study.with_name("ablations")
    folder.mkdir(exist_ok=True)
    chosen = json.loads((arguments.study.with_suffix("") / "mmrns-seed-0.json").read_text(encoding="utf-8"))["settings"]
    modalities = study["modalities"]
    rows = ["| variant | valid MRR | test MRR | train s |", "|---|---|---|---|"]
    for name in arguments.only or VARIANTS:
        changes, patch = VARIANTS[name]
        settings = chosen | {"sampler.discount": DISCOUNT} | changes
        if arguments.steps:
            settings["training.steps"] = arguments.steps
        if settings.get("sampler.modalities"):
            settings["sampler.modalities"] = [modalities[i] for i in settings["sampler.modalities"]]
            name = f"{settings['sampler.modalities'][0]} alone"
        runs: list[dict[str, Any]] = []
        for seed in range(arguments.seeds):
            path = folder / f"{name.replace(' ', '-').replace(chr(39), '')}-seed-{seed}.json"
            given = study["common"] | {"sampler.name": "mmrns"} | settings | {"seed": seed}
            training = Training("mmrns", path.stem, settings, given, True, folder)
            with pytest.MonkeyPatch.context() as patched:
                if patch is not None:
                    patch(patched)
                runs.append(read_json(path) if path.exists() else train_once(training))
        cells = [spread([run["valid_mrr"] for run in runs])]
        cells.append(spread([run["test"]["realistic"]["mrr"] for run in runs]))
        seconds = sum(run["seconds"]["train"] for run in runs) / len(runs)
        rows.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
    table = "\n".join(rows) + "\n"
    if not arguments.only:
        arguments.study.with_name("ablations.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
