"""How similar entities are, by what a model has learned and by each modality."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mmrns.data.datasets import Dataset
from mmrns.data.features import Modality
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.model import Model

CHUNK = 4096
"""Entities whose tokens are in memory at a time."""


class Similarities:
    """Cosines of entities, by one measure at a time.

    By `structure` they are of the model's own vectors (of phases, as pRotatE has them, of the points on the circle), by
    a modality of the means of the entities' tokens, as the dataset has them.

    Args:
        model: whose vectors.
        dataset: whose features, in the ids of the model.
        device: where the model is.

    Attributes:
        known: the names of the measures.
        measures: those whose features are at hand.
    """

    def __init__(self, model: Model, dataset: Dataset, device: torch.device):
        self._model, self._dataset, self._device = model, dataset, device
        structure = [STRUCTURE] if STRUCTURE in model.views else []
        self.known = [*structure, *dataset.features]
        self.measures = [*structure, *(name for name, _ in dataset.features.items())]

    @torch.no_grad()
    def to(self, entity: int, ids: Int[Tensor, " n"], measure: str) -> Float[Tensor, " n"]:
        """The cosines of entities with one, NaN where one of the two has nothing to compare."""
        own, there = self._vectors(measure, torch.tensor([entity]))
        found = [torch.empty(0)]
        for part in ids.split(CHUNK):
            vectors, present = self._vectors(measure, part)
            found.append(cosine_similarity(vectors, own).masked_fill(~(present & there), torch.nan))
        return torch.cat(found)

    def _vectors(self, measure: str, ids: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n width"], Bool[Tensor, " n"]]:
        """What entities are compared by, and which of them have it."""
        model = self._model
        if measure == STRUCTURE:
            views = model.entities(ids.to(self._device))
            view = model.views.index(STRUCTURE)
            vectors, present = views.vectors[:, view], views.present[:, view].cpu()
            return model.scorer.points(vectors).float().cpu(), present & self._dataset.graph.seen_entities[ids]
        return _means(self._dataset.features[measure], ids)


def _means(modality: Modality, ids: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n width"], Bool[Tensor, " n"]]:
    """The mean of each entity's tokens."""
    values, mask = (part.cpu() for part in modality.gather(ids))
    return values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), mask.any(1)
