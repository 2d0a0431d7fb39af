"""The vectors of a run's model with their names, and who is similar to whom by them."""

from __future__ import annotations

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mmrns.data.datasets import Dataset
from mmrns.data.features import Modality
from mmrns.errors import UsageError, unknown
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.model import Model
from mmrns.runs.names import Names

CHUNK = 4096
"""Entities whose tokens are in memory at a time."""


def vectors_frame(model: Model, names: Names, device: torch.device) -> pl.DataFrame:
    """The vectors of all entities, or of all relations, as `Run.embeddings` returns them."""
    if names.kind == "relation":
        vectors = model.relations(torch.arange(len(model.relation.weight), device=device)).cpu()
        parts = dict(zip(("vector", "inverse"), vectors.split(len(names.known)), strict=False))
        columns = [_arrays(name, part, None) for name, part in parts.items()]
    else:
        views = model.entity.all()
        vectors, present = views.vectors.cpu(), views.present.cpu()
        columns = [_arrays(name, vectors[:, v], present[:, v]) for v, name in enumerate(model.views)]
    return pl.DataFrame([names.known.names.alias(names.kind), names.labels, *columns])


def _arrays(name: str, vectors: Tensor, present: Tensor | None) -> pl.Series:
    """A column of arrays, null where they are not present."""
    found = pl.Series(name, vectors.numpy())
    if present is None or present.all():
        return found
    there = pl.Series("present", present.numpy())
    return pl.select(pl.when(there).then(found).alias(name))[name]


def neighbours(
    model: Model, dataset: Dataset, names: Names, entity: int, by: str, top: int, device: torch.device
) -> pl.DataFrame:
    """The entities that are most similar to one; see `Run.neighbours`."""
    structure = [STRUCTURE] if STRUCTURE in model.views else []
    if by not in (*structure, *dataset.features):
        raise unknown("measure of similarity", by, [*structure, *dataset.features])
    # What is not at hand is told where it is asked for.
    measures = [*structure, *(name for name, _ in dataset.features.items())]

    def similarity(measure: str, ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cosines with the entity, NaN where one of the two has nothing."""
        own, there = _vectors(model, dataset, measure, torch.tensor([entity]), device)
        found = [torch.empty(0)]
        for part in ids.split(CHUNK):
            vectors, present = _vectors(model, dataset, measure, part, device)
            found.append(cosine_similarity(vectors, own).masked_fill(~(present & there), torch.nan))
        return torch.cat(found)

    every = torch.arange(len(names.known))
    found = similarity(by, every)
    if found.isnan().all():
        lacks = "vector that was trained: train has no triple of it" if by == STRUCTURE else f"feature {by!r}"
        others = ", ".join(measure for measure in measures if measure != by) or "nothing else"
        raise UsageError(f"{names.known[entity]!r} has no {lacks}; ask by another: {others}")
    found[entity] = torch.nan
    order = torch.argsort(found.nan_to_num(-torch.inf), descending=True, stable=True)[:top]
    order = order[~found[order].isnan()]
    columns = {measure: found[order] if measure == by else similarity(measure, order) for measure in measures}
    place = pl.Series(order.numpy())
    return pl.DataFrame(
        {
            "rank": pl.Series(range(1, len(order) + 1), dtype=pl.Int64),
            "entity": names.known.names.gather(place),
            "name": names.labels.gather(place),
            "similarity": pl.Series(found[order].double().numpy()),
            **{name: pl.Series(part.double().numpy()).fill_nan(None) for name, part in columns.items()},
        }
    )


def _vectors(
    model: Model, dataset: Dataset, measure: str, ids: Int[Tensor, " n"], device: torch.device
) -> tuple[Float[Tensor, "n width"], Bool[Tensor, " n"]]:
    """What entities are compared by, and which of them have it."""
    if measure == STRUCTURE:
        views = model.entities(ids.to(device))
        view = model.views.index(STRUCTURE)
        vectors, present = views.vectors[:, view], views.present[:, view].cpu()
        return model.scorer.points(vectors).float().cpu(), present & dataset.graph.seen_entities[ids]
    return _means(dataset.features[measure], ids)


def _means(modality: Modality, ids: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n width"], Bool[Tensor, " n"]]:
    """The mean of each entity's tokens."""
    values, mask = (part.cpu() for part in modality.gather(ids))
    return values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), mask.any(1)
