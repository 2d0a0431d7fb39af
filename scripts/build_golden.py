"""Record small MMRNS steps: `python scripts/build_golden.py AUTHORS`, AUTHORS = the folder of the authors' steps.

The steps in `tests/golden/` guard the samplers against silent change on machines that lack the authors' recorded steps:
one of `mmrns-published` for each scorer of the authors' code and each side, with draws, losses and all gradients. They
are written only after the sampler has reproduced the authors' own. Without AUTHORS only the step of `mmrns` is written.
Everything random is seeded, so that the same version of torch writes the same files again. Rebuild them together with a
change that means to alter the numbers, and never otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))

from golden_step import AUTHORS, DEFAULT, SCORERS, Step, reproduce_authors, small, take_step  # noqa: E402
from mmrns.files import write_tensors  # noqa: E402
from mmrns.rng import seeded  # noqa: E402

ENTITIES, BATCH, POOL, DRAWS = 14, 6, 10, 3


def inputs(head: bool) -> dict[str, torch.Tensor]:
    """Random inputs: 14 entities, 3 relations, two modalities with missing tokens and entities."""
    positives = torch.stack(
        [torch.randint(ENTITIES, (BATCH,)), torch.randint(3, (BATCH,)), torch.randint(ENTITIES, (BATCH,))], 1
    )
    true = torch.rand(BATCH, ENTITIES) < 0.15
    true[torch.arange(BATCH), positives[:, 0 if head else 2]] = True
    # Rows of the same query have the same true answers.
    query = positives[:, 1:] if head else positives[:, :2]
    same = (query[:, None] == query[None]).all(2)
    true = (same.float() @ true.float()) > 0
    masks = {m: torch.rand(ENTITIES, n) < 0.8 for m, n in (("image", 5), ("text", 3))}
    masks["image"][4] = False
    masks["text"][9] = False
    return {
        "image": torch.randn(ENTITIES, 5, 7) * masks["image"][..., None],
        "text": torch.randn(ENTITIES, 3, 6) * masks["text"][..., None],
        "image_mask": masks["image"],
        "text_mask": masks["text"],
        "positives_hrt": positives,
        "true_mask": true,
        "pool": torch.randperm(ENTITIES)[:POOL],
        "gumbel_noise": -torch.empty(DRAWS, BATCH, POOL).exponential_().log(),
        "subsampling_weight": torch.rand(BATCH) + 0.5,
    }


def record(name: str, step: Step) -> None:
    """Take a step and write its inputs, parameters and results."""
    with seeded(0, "golden"):
        given = inputs(step.head)
        if not step.published:
            # Of two entities from the range of each of the three relations.
            given["own_noise"] = -torch.empty(BATCH, 2).exponential_().log()
        found = take_step(step, given)
    tensors = {f"in.{k}": v for k, v in given.items()} | {f"out.{k}": v for k, v in found.items()}
    write_tensors(TESTS / "golden" / f"{name}.safetensors", tensors)


def main() -> None:
    """Check the sampler against the authors' steps and write ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("authors", type=Path, nargs="?", help="the folder of the authors' steps, *.npz")
    folder = parser.parse_args().authors
    if folder is None:
        record("default", DEFAULT)
        return
    for name in AUTHORS:
        reproduce_authors(folder / f"{name}.npz")
    for scorer in SCORERS:
        for side in ("head", "tail"):
            record(f"{scorer}_{side}", small(scorer, side))


if __name__ == "__main__":
    main()
