"""What a sampler can say of its own draws: the half of a sampler that is for people and not for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.nn.model import Model
from mmrns.types import Batch, Negatives

NO_MODALITY = "without a modality it compares structure alone"
"""Why the samplers with an attention have no map of it."""

NO_ATTENTION = "without sampler.attention no token attends to another"
"""Why `mmrns` has no map of what it reads by default."""


@dataclass(frozen=True)
class AttentionMap:
    """How the L tokens of one modality are read, guided by the M tokens of another, for n entities.

    Attributes:
        reads, guide: names of the two modalities.
        affinity: Float[n L M], C, the products of their tokens.
        attention: Float[n L M], softmax of C over the L tokens; absent ones have no weight.
        gate: Float[n L M], of the entity's relation; what guides is `gate * affinity`.
        read_mask: Bool[n L], the tokens read that are present.
        guide_mask: Bool[n M], the guiding tokens that are present.
    """

    reads: str
    guide: str
    affinity: Float[Tensor, "n L M"]
    attention: Float[Tensor, "n L M"]
    gate: Float[Tensor, "n L M"]
    read_mask: Bool[Tensor, "n L"]
    guide_mask: Bool[Tensor, "n M"]


@dataclass(frozen=True)
class Evidence:
    """What a sampler compares entities by.

    Attributes:
        similarities: by name, Float[B n] between each row's true entity and n entities; NaN where one of the two has
            nothing to compare.
        weights: by the same names, Float[B], what each similarity is multiplied by in the sum, 0 where the true entity
            has nothing to compare; absent where there is no sum.
        maps: the attention over the tokens of each row's true entity under the row's relation, one for each modality
            that is read.
        why_not: says in words why some of it is missing.
    """

    similarities: Mapping[str, Float[Tensor, "B n"]] = field(default_factory=dict[str, Tensor])
    weights: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict[str, Tensor])
    maps: tuple[AttentionMap, ...] = ()
    why_not: str = ""


class Explanation:
    """The questions about its draws that every sampler answers. The defaults say that nothing is known."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the modalities that the draws depend on. By default none."""
        return ()

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"] | None:
        """The proposal distribution q of some rows: with what probability the first counting draw is each entity.

        It is conditional on the candidates of the step, where a step has candidates. The answer is dense, so ask it of
        a few rows. A row of zeros or NaN has nothing to draw from.

        Args:
            batch, negatives: of the draw.
            rows: positions in the batch, ascending.

        Returns:
            None where q is not known in closed form, which is the default.
        """
        return None

    def serves(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Whether the sampler can draw for each row. For a row of train that is always True. By default every row."""
        return torch.ones(len(batch), dtype=torch.bool, device=batch.h.device)

    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """What the sampler knows of some entities beside their draws. By default nothing."""
        return Evidence(why_not="it compares no modalities")

    def notes(self, batch: Batch) -> list[str]:
        """What a user should know before a training whose batches are like this one. By default nothing."""
        return []


def effective_sample_size(proposal: Float[Tensor, "n E"]) -> Float[Tensor, " n"]:
    """How evenly a proposal spreads over all entities: `(sum_e q(e))^2 / (E sum_e q(e)^2)`.

    E is the number of all entities of the graph, for every sampler and every form of negatives, so that the numbers of
    samplers can be compared; q is the proposal as `Explanation.proposal` tells it, up to a factor (Kish, "Survey
    Sampling", 1965). It is 1 for a uniform draw from every entity, 1 / E if the draw is always the same one, and the
    share s if the draw is uniform over a share s of the entities: a draw that chooses among a pool of P cannot exceed
    P / E, and one that leaves out the m true ones 1 - m / E. NaN where there is nothing to draw from.

    Args:
        proposal: q of some rows.
    """
    # Relative to the largest, so that no square vanishes.
    q = proposal / proposal.amax(1, keepdim=True)
    mass = q.sum(1)
    found = mass.square() / (q.shape[1] * q.square().sum(1))
    return found.masked_fill(~(mass > 0), torch.nan)
