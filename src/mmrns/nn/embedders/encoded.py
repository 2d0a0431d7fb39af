"""What embedders have in common whose vectors are computed from features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import STRUCTURE, Embedder
from mmrns.types import Views


class EncodedEmbedder(Embedder):
    """Vectors that are computed, of each entity once: steps repeat ids, and ranking asks for everyone again and again.

    A subclass defines `encode`. What it draws at random in a step follows from `seed`, the step and the entity.

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        modalities: names of the modalities that are read; all of them by default.

    Attributes:
        modalities: those that are read, by name.
        views: `structure`, and the modalities.
        seen: Bool[E], the entities that train mentions. Of any other the structural vector is nothing but its initial
            value.
    """

    seen: Tensor

    def __init__(self, graph: KnowledgeGraph, features: Features, modalities: Sequence[str] | None):
        super().__init__(len(graph.entities))
        names = list(features) if modalities is None else list(modalities)
        self.modalities = {name: features[name] for name in names}
        self.views = (STRUCTURE, *names)
        self.register_buffer("seen", graph.seen_entities, persistent=False)
        self.seed = torch.initial_seed()
        self._step: int | None = None
        self._all: tuple[list[int], Views] | None = None

    @abstractmethod
    def encode(self, ids: Int[Tensor, " n"]) -> Views:
        """The views of these entities, none of which need be there twice."""

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        if ids.is_cpu:
            distinct, place = torch.unique(ids, return_inverse=True)
        elif ids.numel() < self.n_entities:
            # How many are distinct would have to be asked of the device.
            distinct, place = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        else:
            distinct, place = torch.arange(self.n_entities, device=ids.device), ids
        views = self.encode(distinct)
        vectors = nn.functional.embedding(place, views.vectors.flatten(1)).unflatten(-1, views.vectors.shape[1:])
        traits = None if views.traits is None else nn.functional.embedding(place, views.traits)
        return Views(vectors, views.present[place], traits)

    def all(self) -> Views:
        """The views of every entity. Without gradients they are kept until a parameter changes or `constrain`."""
        ids = torch.arange(self.n_entities, device=self.seen.device)
        if torch.is_grad_enabled():
            return self.encode(ids)
        state = [
            -1 if self._step is None else self._step,
            *(number for p in self.parameters() for number in (p.data_ptr(), p._version)),
        ]
        if self._all is None or self._all[0] != state:
            # In parts, so that the tokens of all entities are never in memory at once.
            self._all = state, Views.concatenate([self.encode(part) for part in ids.split(4096)])
        return self._all[1]

    def begin(self, step: int) -> None:
        """From here to `constrain` what is left out at random is what the step leaves out."""
        self._step = step

    def constrain(self) -> None:
        """Let go of what `all` keeps: some optimizers change parameters without a trace."""
        self._all = self._step = None

    def vectors_of(self, ids: Int[Tensor, " n"]) -> list[tuple[Float[Tensor, "n _"], Bool[Tensor, " n"]]]:
        """One vector of each modality, and who has the modality: the mean of the tokens, at mean 0 and length 1.

        Whoever lacks the modality has the vector 0.
        """
        dtype = next(self.parameters()).dtype
        tokens = (modality.gather(ids) for modality in self.modalities.values())
        return [(_normalised(values.to(dtype), mask), mask.any(1)) for values, mask in tokens]

    def known(self, ids: Int[Tensor, " n"], modalities: Sequence[Bool[Tensor, " n"]]) -> Bool[Tensor, "n V"]:
        """Who has which view, by who has which modality: structure by train, or where there is nothing else."""
        there = torch.stack([self.seen[ids], *modalities], dim=1)
        return torch.cat([there[:, :1] | ~there.any(1, keepdim=True), there[:, 1:]], dim=1)


def _normalised(values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Float[Tensor, "n D"]:
    mean = values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return nn.functional.layer_norm(mean, mean.shape[1:]) / mean.shape[1] ** 0.5
