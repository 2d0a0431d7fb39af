"""The vectors of a run's model with their names, and who is similar to whom by them."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError, unknown
from mmrns.inspection.similarity import Similarities
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.model import Model
from mmrns.runs.names import Names


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
    similarities = Similarities(model, dataset, device)
    if by not in similarities.known:
        raise unknown("measure of similarity", by, similarities.known)
    # What is not at hand is told where it is asked for.
    measures = similarities.measures
    found = similarities.to(entity, torch.arange(len(names.known)), by)
    if found.isnan().all():
        lacks = "vector that was trained: train has no triple of it" if by == STRUCTURE else f"feature {by!r}"
        others = ", ".join(measure for measure in measures if measure != by) or "nothing else"
        raise UsageError(f"{names.known[entity]!r} has no {lacks}; ask by another: {others}")
    found[entity] = torch.nan
    order = torch.argsort(found.nan_to_num(-torch.inf), descending=True, stable=True)[:top]
    order = order[~found[order].isnan()]
    columns = {m: found[order] if m == by else similarities.to(entity, order, m) for m in measures}
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
