"""Negatives that all rows of a batch share."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.samplers.base import Sampler, even
from mmrns.types import Batch, Negatives


class SharedPool(Sampler, name="shared-pool"):
    """K uniform entities a step, with replacement, that every row is compared with, but for those true in train for it.

    Their vectors are looked up once for the whole batch, and a scorer whose comparison is a dot product compares in one
    matrix product: K negatives a row cost much less than K of each row's own. Rows of a batch are no longer
    independent.

    Cost of a draw: B K searches of the train index.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
    """

    alike = True
    undivided = ""

    def propose(self, batch: Batch, step: int) -> Int[Tensor, " P"]:
        device = batch.h.device
        stream = self.stream(step, "shared", device=device)
        # Ascending, which makes the searches for the true ones cheaper.
        return torch.randint(self.n_entities, (self.negatives,), generator=stream, device=device).sort().values

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """Uniform over what counts."""
        return even(self.absent(batch, rows))
