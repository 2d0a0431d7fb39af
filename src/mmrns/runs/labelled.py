"""Triples that a user says are true or false, as files have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmrns.data.folders import COLUMNS
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_lines
from mmrns.errors import DataError
from mmrns.runs.names import Names

LABELS = {"1": True, "-1": False, "0": False}
"""What the fourth column may say."""


@dataclass(frozen=True)
class Labelled:
    """Triples in ids, and which of them are true.

    Attributes:
        triples: Int[n 3] (h, r, t).
        true: Bool[n].
        labelled: whether the file said so itself; otherwise all of them are false.
    """

    triples: Int[Tensor, "n 3"]
    true: Bool[Tensor, " n"]
    labelled: bool

    @classmethod
    def of(cls, positives: Int[Tensor, "p 3"], negatives: Int[Tensor, "q 3"]) -> Labelled:
        """True triples, then false ones."""
        true = torch.arange(len(positives) + len(negatives)) < len(positives)
        return cls(torch.cat([positives, negatives]), true, False)


def read_labelled(path: Path, graph: KnowledgeGraph, entities: Names, relations: Names) -> Labelled:
    """Read a file of false triples, or of true and false ones.

    Rows are head TAB relation TAB tail, all of them false; or, as the test files of WN11 and FB13 have it, with a
    fourth column that says 1 for true and -1 or 0 for false. Names are ids or readable names, as in queries. Blank
    lines count for nothing.

    Args:
        path: the file.
        graph: whose triples are known to be true.
        entities, relations: what they may be called.

    Raises:
        DataError: unreadable or empty, or the first row that is not fit, by line: another number of columns than the
            first, an unknown name, a label that is none, a false triple that the dataset holds; or a file with labels
            that has none that are true, or none that are false.
    """
    lines = read_lines(path)
    numbers = (lines.str.strip_chars() != "").arg_true()
    lines = lines.gather(numbers)
    if not len(lines):
        raise DataError(path, "holds no triple", "write head TAB relation TAB tail, one false triple a line")
    tabs = lines.str.count_matches("\t", literal=True)
    width = 4 if tabs[0] == 3 else 3
    columns = [*COLUMNS, "label"][:width]
    fields = lines.str.split_exact("\t", width - 1).struct.rename_fields(columns).struct.unnest()
    kinds = dict(zip(COLUMNS, (entities, relations, entities), strict=True))
    ids = torch.stack([kind.find(fields[part]) for part, kind in kinds.items()], dim=1)
    labels = fields["label"].str.strip_chars() if width == 4 else pl.Series([""]).new_from_index(0, len(lines))
    true = torch.from_numpy((labels == "1").fill_null(False).to_numpy())
    torn = torch.from_numpy((tabs != width - 1).to_numpy())
    unknown = (ids < 0).any(1)
    unlabelled = torch.from_numpy((~labels.is_in(list(LABELS))).fill_null(True).to_numpy()) & (width == 4)
    # Unknown names are -1, which no index holds.
    held = graph.known_index.contains(*ids.T) & ~true
    bad = (torn | unknown | unlabelled | held).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        message, remedy = _mistake(row, columns, fields, int(tabs[row]) + 1, kinds, ids, graph, bool(unlabelled[row]))
        raise DataError(path, message, remedy, numbers[row] + 1)
    if width == 4 and (bool(true.all()) or not bool(true.any())):
        lacking = "false" if true.all() else "true"
        raise DataError(path, f"none of its triples is {lacking}", "label some so, or leave the fourth column out")
    return Labelled(ids, true, width == 4)


def _mistake(
    row: int,
    columns: list[str],
    fields: pl.DataFrame,
    found: int,
    kinds: dict[str, Names],
    ids: Int[Tensor, "n 3"],
    graph: KnowledgeGraph,
    unlabelled: bool,
) -> tuple[str, str]:
    """What is wrong with a row, and what to do about it."""
    if found != len(columns):
        return f"{found} column{'s' * (found != 1)} where {' TAB '.join(columns)} is expected", "mend the row"
    for part, i in zip(COLUMNS, ids[row].tolist(), strict=True):
        if i < 0:
            return kinds[part].mistake(fields[part][row]), "mend or delete the row"
    if unlabelled:
        return f"the label {fields['label'][row]!r} is none", "write 1 for true, and -1 or 0 for false"
    splits = [name for name in ("train", "valid", "test") if (getattr(graph, name) == ids[row]).all(1).any()]
    return f"the triple is said to be false, but {' and '.join(splits)} holds it", "mend or delete the row"
