"""A user may supply negatives in a table, which is read and checked here."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_columns
from mmrns.errors import DataError, nearest

COLUMNS = ["head", "relation", "tail", "negative head", "negative relation", "negative tail"]


def read_negatives(path: Path, graph: KnowledgeGraph) -> tuple[Int[Tensor, "n 3"], Int[Tensor, "n 3"]]:
    """Read a table of negatives: a triple of train, then the same triple with its head or its tail replaced.

    Six columns, separated by tabs, without a header: head, relation, tail, and the same of the negative. Repeated rows
    count once.

    Returns:
        The positives and the negatives, in ids.

    Raises:
        DataError: unreadable; or the first row that is not fit, by line: an unknown name, a positive that is not in
            train, a negative that is or that differs from its positive in another place than the head or the tail.
    """
    frame = read_columns(path, COLUMNS)
    if frame.is_empty():
        raise DataError(path, "holds no negative", f"write {' TAB '.join(COLUMNS)}, one negative a line")
    vocabularies = 2 * (graph.entities, graph.relations, graph.entities)
    ids = torch.stack([known.find(frame[c]) for c, known in zip(COLUMNS, vocabularies, strict=True)])
    positive, negative = ids[:3].T, ids[3:].T
    known = (ids >= 0).all(0)
    differs = positive != negative
    apart = differs[:, 1] | (differs[:, 0] == differs[:, 2])
    # Unknown names are -1, which no index holds.
    missing = ~graph.train_index.contains(*positive.unbind(1))
    true = graph.train_index.contains(*negative.unbind(1))
    bad = (~known | apart | missing | true).nonzero()
    if len(bad):
        row = int(bad[0])
        line, names = row + 1, frame.row(row)
        if not known[row]:
            i = int((ids[:, row] < 0).nonzero()[0])
            kind, hint = "relation" if i % 3 == 1 else "entity", nearest(names[i], vocabularies[i])
            raise DataError(path, f"unknown {kind} {names[i]!r}{hint}", "mend or delete the row", line)
        if apart[row]:
            what = "is its positive" if not differs[row].any() else "differs from its positive in more than one place"
            if differs[row].tolist() == [False, True, False]:
                what = "has another relation than its positive"
            raise DataError(path, f"the negative {what}", "replace either the head or the tail", line)
        if missing[row]:
            raise DataError(path, "the positive is no triple of train", "mend or delete the row", line)
        raise DataError(path, "the negative is a triple of train", "delete the row", line)
    return positive, negative
