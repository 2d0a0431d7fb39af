"""How hard the drawn negatives are: the record `hardness` of `metrics.jsonl`.

Nothing here draws a random number, changes a value or reads the test split. The functions wait for the device, so they
are meant for the ends of log intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.index import TripleIndex
from mmrns.evaluation.ranking import ScoresAll, ScoresPart
from mmrns.nn.model import Model
from mmrns.samplers.base import Sampler
from mmrns.samplers.explanation import effective_sample_size
from mmrns.types import AllNegatives, Batch, Negatives

CELLS = 2**18
"""Rows times entities that a measurement scores, which bounds its time. Few rows are enough, since each has K
negatives."""


@torch.no_grad()
def measure(
    model: Model, sampler: Sampler, batch: Batch, negatives: Negatives, train: TripleIndex, valid: TripleIndex
) -> dict[str, Any]:
    """How hard the negatives of one step were, asked just after its update.

    The scores are those of the updated model. The proposal is the one that was drawn from. The gradients are those of
    the step; they stay until the next step clears them.

    Args:
        model, sampler: after the update.
        batch, negatives: those of the step.
        train: what is true in train, and so takes no part in the comparison.
        valid: what is true in the validation split.

    Returns:
        `score_percentile`, `effective_sample_size`, `valid_negatives` (all within [0, 1]; see the functions below) and
        `gradient_norm` of `model` and `sampler`; None where something is unknown or not finite.
    """
    return {
        "score_percentile": mean_score_percentile(model, batch, negatives, train),
        "effective_sample_size": mean_effective_sample_size(sampler, batch, negatives),
        "valid_negatives": share_true(batch, negatives, valid),
        "gradient_norm": {"model": gradient_norm(model), "sampler": gradient_norm(sampler)},
    }


def average(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each entry over the measurements that have it; None where none has.

    >>> average([{"a": 1.0, "b": {"c": None}}, {"a": 2.0, "b": {"c": 3.0}}])
    {'a': 1.5, 'b': {'c': 3.0}}
    """
    found: dict[str, Any] = {}
    for key, first in parts[0].items():
        column = [part[key] for part in parts]
        if isinstance(first, Mapping):
            found[key] = average(column)
        else:
            known = [value for value in column if value is not None]
            found[key] = sum(known) / len(known) if known else None
    return found


def score_percentiles(
    scores: Float[Tensor, "B E"], true: Bool[Tensor, "B E"], ids: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """The share of the other entities that each negative outscores, ties counting half: 0 is easiest, 1 hardest.

        ( #{c in C: s_c < s_x} + #{c in C: s_c = s_x} / 2 ) / #C

    C are the entities that are not true for the row, x itself left out; NaN where there are none. One sort and one
    search a row: nothing of shape B x K x E.

    Args:
        scores: finite, of every entity.
        true: what takes no part in the comparison.
        ids: x, the negatives.
    """
    drawn = scores.gather(1, ids)
    ranked = scores.masked_fill(true, torch.inf).sort(dim=1).values
    lower = torch.searchsorted(ranked, drawn)
    itself = (~true).gather(1, ids).long()
    equal = torch.searchsorted(ranked, drawn, right=True) - lower - itself
    others = (~true).sum(1, keepdim=True) - itself
    return (lower + equal / 2) / others


@torch.no_grad()
def mean_score_percentile(
    model: ScoresAll,
    batch: Batch,
    negatives: Negatives,
    train: TripleIndex,
    *,
    cells: int = CELLS,
    memory_mb: float | int = 64,
) -> float | None:
    """Mean of `score_percentiles` over the counting negatives of some rows, entities true in train left out.

    It looks at the rows of `spaced_rows`; as a batch is sorted by side, they are of both sides in proportion.

    Args:
        model: scores every entity.
        batch, negatives: what was drawn.
        train: the train index.
        cells: rows times entities to score.
        memory_mb: bound on the working memory, in MiB; the rows are taken in chunks.

    Returns:
        None where no negative counts, where every entity is a negative, or where a score is not finite.
    """
    if isinstance(negatives, AllNegatives) or not len(batch):
        return None
    ids = negatives.entities(len(batch))
    spaced = spaced_rows(batch, train.n_entities, cells)
    triples, head = torch.stack([batch.h, batch.r, batch.t], dim=1), batch.head
    train = train.to(ids.device)
    found: list[Tensor] = []
    # One half for the model; the scores, their masked copy, the sorted copy and its positions, the mask.
    chunk = int(max(1, memory_mb * 2**19 // (4 * train.n_entities * 6)))
    for rows in spaced.split(chunk):
        part = Batch.of(triples[rows], head[rows], batch.weight[rows])
        scores = model.score_all(part, memory_mb / 2)
        if not torch.isfinite(scores).all():
            return None
        percentiles = score_percentiles(scores, train.batch_mask(part), ids[rows])
        counts = ~percentiles.isnan()
        if negatives.mask is not None:
            counts &= negatives.mask[rows]
        found.append(percentiles[counts])
    return _mean(torch.cat(found))


@torch.no_grad()
def mean_effective_sample_size(sampler: Sampler, batch: Batch, negatives: Negatives) -> float | None:
    """Mean of `effective_sample_size` of the proposal over the rows that `mean_score_percentile` looks at.

    None where the sampler does not know its proposal, or no row has anything to draw from.
    """
    proposal = sampler.proposal(batch, negatives, spaced_rows(batch, sampler.n_entities))
    if proposal is None:
        return None
    sizes = effective_sample_size(proposal)
    return _mean(sizes[~sizes.isnan()])


def spaced_rows(batch: Batch, n_entities: int, cells: int = CELLS) -> Int[Tensor, " n"]:
    """Some rows of a batch, evenly spaced: `cells / E` of them, at least 8 and at most 500, all of a smaller batch."""
    count = min(len(batch), 500, max(8, cells // n_entities))
    return torch.arange(count, device=batch.h.device) * len(batch) // max(count, 1)


def share_true(batch: Batch, negatives: Negatives, index: TripleIndex) -> float | None:
    """The share of the counting negatives that are true triples of an index; None where no negative counts."""
    if isinstance(negatives, AllNegatives):
        return None
    true = index.to(batch.h.device).batch_contains(batch, negatives.entities(len(batch)))
    return _mean(true if negatives.mask is None else true[negatives.mask])


def gradient_norm(module: nn.Module) -> float | None:
    """L2 norm of the gradients of all parameters together; None where there are none."""
    parted = {id(p) for p in module.parted.values()} if isinstance(module, ScoresPart) else set[int]()
    norms = {False: list[Tensor](), True: list[Tensor]()}
    # Where the module is, but for tables that stay in the machine's memory.
    device = max((p.device for p in module.parameters()), key=lambda device: device.type != "cpu", default=None)
    for p in module.parameters():
        if (g := p.grad) is not None:
            norm = torch.linalg.vector_norm(g.coalesce().values() if g.is_sparse else g)
            norms[id(p) in parted].append(norm.to(device))
    if isinstance(module, ScoresPart):
        # What other processes have of the same tables.
        squares = torch.stack([norm.square() for norm in norms[True]])
        norms[True] = [*module.world.sum(squares).sqrt()]
    both = norms[False] + norms[True]
    return _finite(torch.linalg.vector_norm(torch.stack(both))) if both else None


def _mean(values: Tensor) -> float | None:
    # On the host, since not every device has 64-bit numbers.
    return _finite(values.cpu().double().mean()) if values.numel() else None


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
