"""Record small MMRNS steps: `python scripts/build_golden.py`.

The steps guard the samplers against silent change on machines that lack the authors' recorded steps. They were written
by a version whose sampler in the authors' arithmetic reproduces those; rebuild them only together with a change that
means to alter the numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))

from golden_step import Step, take_step  # noqa: E402
from mmrns.files import write_tensors  # noqa: E402
from mmrns.rng import seeded  # noqa: E402


def inputs() -> dict[str, torch.Tensor]:
    """Random inputs: 14 entities, 3 relations, two modalities with missing tokens and entities."""
    n_entities, batch, pool, draws = 14, 6, 10, 3
    positives = torch.stack(
        [torch.randint(n_entities, (batch,)), torch.randint(3, (batch,)), torch.randint(n_entities, (batch,))], 1
    )
    true = torch.rand(batch, n_entities) < 0.15
    true[torch.arange(batch), positives[:, 2]] = True
    # Rows with the same (head, relation) have the same true tails.
    same = (positives[:, None, :2] == positives[None, :, :2]).all(2)
    true = (same.float() @ true.float()) > 0
    masks = {m: torch.rand(n_entities, n) < 0.8 for m, n in (("image", 5), ("text", 3))}
    masks["image"][4] = False
    masks["text"][9] = False
    return {
        "image": torch.randn(n_entities, 5, 7) * masks["image"][..., None],
        "text": torch.randn(n_entities, 3, 6) * masks["text"][..., None],
        "image_mask": masks["image"],
        "text_mask": masks["text"],
        "positives_hrt": positives,
        "true_mask": true,
        "pool": torch.randperm(n_entities)[:pool],
        "gumbel_noise": -torch.empty(draws, batch, pool).exponential_().log(),
        "subsampling_weight": torch.rand(batch) + 0.5,
    }


def main() -> None:
    """Write one file for `mmrns-published` and one for `mmrns`."""
    for name, published in (("published", True), ("default", False)):
        with seeded(0, "golden"):
            given = inputs()
            if not published:
                # Of two entities from the range of each of the three relations.
                given["own_noise"] = -torch.empty(len(given["positives_hrt"]), 2).exponential_().log()
            step = Step("TransE", dim=6, gamma=6.0, init_range=8 / 6, head=False, published=published, width=5)
            found = take_step(step, given)
        tensors = {f"in.{k}": v for k, v in given.items()} | {f"out.{k}": v for k, v in found.items()}
        write_tensors(TESTS / "golden" / f"{name}.safetensors", tensors)


if __name__ == "__main__":
    main()
