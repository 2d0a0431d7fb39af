"""The protocol every sampler follows.

To add a sampler: one file `mmrns/samplers/NAME.py` with one subclass of `Sampler`, one test, and the method that
names it in `mmrns.runs.config.METHODS`. The keyword arguments of its constructor are its options
(`--set sampler.OPTION=value`), checked against their annotations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.mmrns.attention import AttentionMap
from mmrns.samplers.reinforce import Reinforce
from mmrns.types import Batch, Negatives

if TYPE_CHECKING:
    from mmrns.training.trainer import Trainer


@dataclass(frozen=True)
class Evidence:
    """What a sampler compares entities by, for the eyes of people (`mmrns inspect`).

    Attributes:
        similarities: by name, Float[B n] between each row's true entity and n entities; NaN where one of the two has
            nothing to compare.
        weights: by the same names, Float[B], what each similarity is multiplied by in the sum, 0 where the true entity
            has nothing to compare; absent where there is no sum.
        maps: the attention over the tokens of each row's true entity under the row's relation, one for each modality
            that is read.
        modalities: names of the modalities that the maps are of.
        why_not: in words, why some of it is missing.
    """

    similarities: Mapping[str, Float[Tensor, "B n"]] = field(default_factory=dict[str, Tensor])
    weights: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict[str, Tensor])
    maps: tuple[AttentionMap, ...] = ()
    modalities: tuple[str, ...] = ()
    why_not: str = ""


class Sampler(nn.Module, ABC):
    """Draws negatives x- ~ q_phi( . | anchor, r, step) for the rows of a batch.

    A sampler never stores the model and may read `graph.train` and `graph.train_index` only. Its parameters and buffers
    are trained and stored with the model's; its random numbers are functions of (seed, step).

    Args:
        graph: the knowledge graph.
        features: the modalities.
        spec: widths of the model's vectors.
        seed: of every draw.
    """

    def __init__(self, graph: KnowledgeGraph, features: Features, spec: ModelSpec, *, seed: int = 0):
        super().__init__()
        self.seed = seed

    @abstractmethod
    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        """Negatives for each row of the batch."""

    def loss(
        self,
        batch: Batch,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The sampler's own term of the loss; default 0."""
        return 0.0

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"] | None:
        """How evenly each row's negatives were drawn, for the record: `1 / (n sum_e q(e)^2)` over its n candidates.

        1 = uniform, 1 / n = always the same one, NaN = nothing to draw from. Default None: the distribution is not
        known.
        """
        return None

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"] | None:
        """q: with what probability the first counting draw of some rows is each entity, given the step's candidates.

        For the record, of a few rows. Default None: not known in closed form. NaN or all 0 = nothing to draw from.
        """
        return None

    def serves(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Whether the sampler can draw for each row; a row of train always is True. Default: every row."""
        return torch.ones(len(batch), dtype=torch.bool, device=batch.h.device)

    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """What it knows of some entities beside their draws; default nothing."""
        return Evidence(why_not="it compares no modalities")

    def notes(self, batch: Batch) -> list[str]:
        """What to know before a training whose batches are like this one; default nothing."""
        return []

    def pretrain(self, trainer: Trainer) -> None:
        """Called once before the first step; default nothing."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of each epoch (from 0); default nothing."""


Inner = Callable[..., Sampler]
"""Builds the sampler inside another one, which calls it with `negatives`: how many a row it is to draw.

A keyword of a constructor that is annotated so (or so or None) is a section of the configuration: the method's `name`,
and the other options of its sampler.
"""


class Rewarded(Sampler):
    """A sampler trained by REINFORCE: the reward of a draw is its score under the step's model.

    `draw` leaves `(ln q of the draws, q of all candidates)` as the trace, the former with a gradient; nothing where the
    draw is not its own but uniform.

    Args:
        graph, features, spec, seed: see `Sampler`.
    """

    def __init__(self, graph: KnowledgeGraph, features: Features, spec: ModelSpec, *, seed: int = 0):
        super().__init__(graph, features, spec, seed=seed)
        self.reinforce = Reinforce()

    def loss(
        self,
        batch: Batch,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The sampler's own; it reaches nothing of the model."""
        if negatives.trace is None:
            return 0.0
        return self.reinforce(negatives.trace[0], s_neg, negatives.mask)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """Of q over the candidates."""
        if negatives.trace is None:
            assert negatives.ids is not None
            return torch.ones(len(negatives.ids), device=negatives.ids.device)
        q = negatives.trace[1]
        return 1 / (q.shape[1] * q.square().sum(1))


def uniform_law(n_entities: int, index: TripleIndex | None, batch: Batch, rows: slice) -> Float[Tensor, "n E"]:
    """The law of a uniform draw, over the entities that an index does not hold for a row where one is given."""
    q = torch.ones(rows.stop - rows.start, n_entities, device=batch.h.device)
    if index is not None:
        row, entity = index.to(q.device).batch_targets(batch)
        own = (row >= rows.start) & (row < rows.stop)
        q[row[own] - rows.start, entity[own]] = 0.0
    return q / q.sum(1, keepdim=True)
