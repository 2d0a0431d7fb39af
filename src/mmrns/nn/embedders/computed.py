"""Entities whose vectors are computed, each one once where a step or a ranking looks at it several times."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmrns.nn.embedders.base import Embedder
from mmrns.types import Views


class ComputedEmbedder(Embedder):
    """The views of the distinct entities among those asked for, from `views_of`, handed to each place.

    To add one: subclass it and define `views_of` in place of `forward`. What a step leaves out depends on the entity
    and on `at`, so that all looks at an entity in a step are the same.

    Attributes:
        at: the step of the training that goes on; None outside of a step.
        seed: of what is left out in a step.
    """

    def __init__(self, n_entities: int):
        super().__init__(n_entities)
        self.at: int | None = None
        self.seed = torch.initial_seed()
        self._all: tuple[list[int], Views] | None = None

    @abstractmethod
    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        """The views of these entities, computed."""

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        if ids.is_cpu:
            distinct, place = torch.unique(ids, return_inverse=True)
        elif ids.numel() < self.n_entities:
            # How many are distinct would have to be asked of the device.
            distinct, place = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        else:
            distinct, place = torch.arange(self.n_entities, device=ids.device), ids
        views = self.views_of(distinct)
        flat = nn.functional.embedding(place, views.vectors.flatten(1))
        return Views(flat.unflatten(-1, views.vectors.shape[1:]), views.present[place])

    def all(self) -> Views:
        """The views of every entity. Without gradients they are kept until a parameter changes or `constrain`."""
        ids = torch.arange(self.n_entities, device=next(self.parameters()).device)
        if torch.is_grad_enabled():
            return self.views_of(ids)
        state = [
            -1 if self.at is None else self.at,
            *(number for p in self.parameters() for number in (p.data_ptr(), p._version)),
        ]
        if self._all is None or self._all[0] != state:
            # In parts, so that the tokens of all entities are never in memory at once.
            self._all = state, Views.concatenate([self.views_of(part) for part in ids.split(4096)])
        return self._all[1]

    def begin(self, step: int) -> None:
        """From here to `constrain` what is left out is chosen by the step."""
        self.at = step

    def constrain(self) -> None:
        """Let go of what `all` keeps: some optimizers change parameters without a trace."""
        self._all = self.at = None
