"""Triple classification: which triples a model takes for true, by a threshold for each relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import TripleIndex
from mmrns.errors import UsageError
from mmrns.rng import generator, random_bits

TRIES = 32
"""Entities drawn for a corruption from the relation's domain or range, until one makes no known triple."""


@dataclass(frozen=True)
class Thresholds:
    """The score from which a triple of each relation is taken for true.

    Attributes:
        by_relation: Float[R]; that of all relations together where a relation has none of its own.
        own: Bool[R], whether it has.
    """

    by_relation: Float[Tensor, " R"]
    own: Bool[Tensor, " R"]

    def margin(self, scores: Float[Tensor, " n"], r: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores less their relation's threshold: 0 or more is true."""
        return scores.double() - self.by_relation[r]


def fit_thresholds(
    scores: Float[Tensor, " n"], true: Bool[Tensor, " n"], r: Int[Tensor, " n"], n_relations: int
) -> Thresholds:
    """The thresholds that classify most of some triples rightly (Socher et al., "Reasoning With Neural Tensor Networks
    for Knowledge Base Completion", 2013).

    A threshold lies in the middle between two scores that occur; of several that are as good it is the lowest. A
    relation of which not both true and false triples are given has the threshold of all relations together.

    Args:
        scores: of triples, larger = more plausible.
        true: which of them are.
        r: their relations.
        n_relations: R.

    Raises:
        UsageError: not both true and false ones are given.
    """
    if bool(true.all()) or not bool(true.any()):
        raise UsageError("thresholds are learned of true and of false triples; give both")
    positives = torch.bincount(r[true], minlength=n_relations)
    own = (positives > 0) & (torch.bincount(r[~true], minlength=n_relations) > 0)
    together = _best_cuts(scores, true, torch.zeros_like(r), 1)[0]
    each = _best_cuts(scores, true, r, n_relations)
    return Thresholds(torch.where(own, each, together), own)


def _best_cuts(
    scores: Float[Tensor, " n"], true: Bool[Tensor, " n"], group: Int[Tensor, " n"], n_groups: int
) -> Float[Tensor, " G"]:
    """For each group the lowest of the best cuts; NaN for a group without triples."""
    order = torch.argsort(scores, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    x, y, g = scores[order].double(), true[order], group[order]
    n = len(x)
    first = torch.ones(n, dtype=torch.bool)
    first[1:] = g[1:] != g[:-1]
    # A cut is before a row: what is below is false. Another is behind the last row of a group, where all is false.
    false_below = (~y).long().cumsum(0) - (~y).long()
    true_from = y.long().flip(0).cumsum(0).flip(0)
    start = torch.nonzero(first).squeeze(1)
    place = torch.repeat_interleave(torch.arange(len(start)), torch.diff(start, append=torch.tensor([n])))
    end = torch.cat([start[1:], torch.tensor([n])])
    true_behind = torch.cat([true_from, torch.zeros(1, dtype=torch.int64)])[end]
    right = false_below - false_below[start][place] + true_from - true_behind[place]
    below = torch.where(first, x, torch.cat([x[:1], x[:-1]]))
    possible = first | (x > below)
    all_false = torch.bincount(place[~y], minlength=len(start))
    # Above the largest by as little as single precision, which scores have, can tell.
    above = torch.nextafter(x[end - 1].float(), torch.tensor(torch.inf)).double()
    cuts = torch.cat([(below + x) / 2, above])
    right = torch.cat([torch.where(possible, right, -1), all_false])
    place = torch.cat([place, torch.arange(len(start))])
    best = torch.full((len(start),), -1).scatter_reduce_(0, place, right, "amax")
    lowest = torch.full((len(start),), torch.inf, dtype=torch.float64)
    lowest.scatter_reduce_(0, place[right == best[place]], cuts[right == best[place]], "amin")
    found = torch.full((n_groups,), torch.nan, dtype=torch.float64)
    found[g[start]] = lowest
    return found


def classified(
    scores: Float[Tensor, " n"], true: Bool[Tensor, " n"], r: Int[Tensor, " n"], thresholds: Thresholds
) -> dict[str, Any]:
    """How well thresholds tell true triples from false ones.

    Returns:
        `triples` and `positives`, their numbers; `accuracy`, `precision`, `recall` and `f1` of what is taken for true
        (0 where that is nothing); `roc_auc` and `average_precision` of the scores less their relation's threshold,
        which alone are comparable between relations, None where all triples are true or all are false.
    """
    return _metrics(thresholds.margin(scores, r), true)


def by_relation(
    scores: Float[Tensor, " n"],
    true: Bool[Tensor, " n"],
    r: Int[Tensor, " n"],
    thresholds: Thresholds,
    relations: Sequence[str],
) -> list[dict[str, Any]]:
    """The same of each relation that occurs, most triples first, with its `threshold` and whether that is its `own`."""
    margin, rows = thresholds.margin(scores, r), list[dict[str, Any]]()
    for place in r.unique().tolist():
        mine = r == place
        row = {"relation": relations[place], **_metrics(margin[mine], true[mine])}
        found = float(thresholds.by_relation[place]), bool(thresholds.own[place])
        rows.append(row | {"threshold": found[0], "own": found[1]})
    return sorted(rows, key=lambda row: (-row["triples"], row["relation"]))


def _metrics(margin: Float[Tensor, " n"], true: Bool[Tensor, " n"]) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    wanted, score = true.numpy(), margin.numpy()
    taken = score >= 0
    none: Any = 0  # The stubs know of no number.
    precision, recall, f1, _ = precision_recall_fscore_support(wanted, taken, average="binary", zero_division=none)
    both = 0 < wanted.sum() < len(wanted)
    return {
        "triples": len(wanted),
        "positives": int(wanted.sum()),
        "accuracy": float((wanted == taken).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "roc_auc": float(roc_auc_score(wanted, score)) if both else None,
        "average_precision": float(average_precision_score(wanted, score)) if both else None,
    }


def corruptions(
    triples: Int[Tensor, "n 3"], graph: KnowledgeGraph, known: TripleIndex, seed: int = 0
) -> Int[Tensor, "m 3"]:
    """A false triple for each true one: its head or its tail, by a coin, replaced.

    The replacement is drawn from the domain, or range, that the relation has in train, as Socher et al. (2013) drew
    theirs, so that it is of the right kind; where each of `TRIES` draws makes a known triple, or the relation has no
    domain, it is any entity that makes none.

    Args:
        triples: true ones.
        graph: theirs.
        known: triples that are not false.
        seed: of the draws.

    Returns:
        As many triples, less those for which every entity makes a known one.
    """
    n, stream = len(triples), generator(seed, "corruptions")
    head = torch.rand(n, generator=stream) < 0.5
    h, r, t = triples.unbind(1)
    anchor = torch.where(head, t, h)
    drawn, size = graph.domain_range.draw(r, head, random_bits(n, TRIES, stream=stream, device="cpu"))
    anyone, free = known.sample_absent(anchor, r, head, random_bits(n, 1, stream=stream, device="cpu"))

    def replaced(entity: Int[Tensor, "n k"]) -> tuple[Tensor, Tensor, Tensor]:
        shape = entity.shape
        heads = torch.where(head[:, None], entity, h[:, None].expand(shape))
        tails = torch.where(head[:, None], t[:, None].expand(shape), entity)
        return heads, r[:, None].expand(shape), tails

    fits = ~known.contains(*replaced(drawn)) & (size > 0)[:, None]
    first = drawn.gather(1, fits.long().argmax(1, keepdim=True))
    entity = torch.where(fits.any(1, keepdim=True), first, anyone)
    made = torch.cat(replaced(entity), dim=1)
    return made[fits.any(1) | (free > 0)]
