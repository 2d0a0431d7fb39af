"""What notebooks show of a run and of its predictions."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.datasets import Dataset
from mmrns.data.names import COLUMNS
from mmrns.inspection.pictures import embedded
from mmrns.notebook import Image, Table, html

ROWS, QUERIES = 50, 10
"""Answers, and queries, that are shown at most."""
PIXELS = 48
"""Longest side of a thumbnail."""
_METRICS = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10", "mr": "mean rank"}
_COUNTED = ("rank", "score", "known", "seen", "asked", "query", *COLUMNS, *(f"{part}_name" for part in COLUMNS))


def run_html(title: str, results: Mapping[str, Any], picture: Path | None) -> str:
    """A run: its metrics beside those of relation frequency, and its course where there is a picture of it."""
    named = {"test": "test", "valid": "validation"}
    parts = {named[split]: results[split]["both"] for split in named if results.get(split, {}).get("both")}
    if results.get("baseline"):
        parts["test, relation frequency"] = results["baseline"]
    rows = [
        {"ranking": what} | {name: policies["realistic"].get(key) for key, name in _METRICS.items()}
        for what, policies in parts.items()
    ]
    told = f"selected at step {results['selected_step']:,}; trained in {results['seconds'].get('train', 0):,.0f} s"
    course = [] if picture is None or not picture.exists() else [Image(_uri(picture), "course of the training", 480)]
    about = "filtered, both sides, ties at their mean rank"
    return html(title, told, [Table(about, rows), *course])


def _uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@dataclass(frozen=True, repr=False)
class Predictions:
    """Predictions as a notebook shows them: query by query, with the entities' names and thumbnails.

    Attributes:
        frame: the predictions, as `Run.predict` gives them.
        dataset: where the pictures are.
        rows: answers that are shown at most.
    """

    frame: pl.DataFrame
    dataset: Dataset
    rows: int = ROWS

    def __repr__(self) -> str:
        return repr(self.frame)

    def _repr_html_(self) -> str:
        shown, queries = self.frame.head(self.rows), self.frame["query"].n_unique()
        parts = shown.partition_by("query", maintain_order=True)[:QUERIES]
        wanted = [name for part in parts for name in _answers(part)]
        images = self.dataset.images
        pictures, _ = embedded((images[name] for name in wanted if name in images), self.dataset.folder, PIXELS)
        thumbnails = {
            name: Image(found.uri, name, found.width)
            for name in wanted
            if (found := pictures.get(images.get(name, ""))) is not None
        }
        left = len(self.frame) - sum(map(len, parts))
        lines = [f"and {left:,} more rows of the frame"] if left else []
        title = f"{len(self.frame):,} prediction{'s' * (len(self.frame) != 1)}"
        of = f"of {queries:,} quer{'y' if queries == 1 else 'ies'}"
        return html(title, of, [*(_table(part, thumbnails) for part in parts), *lines])


def _answers(part: pl.DataFrame) -> list[str]:
    """What was asked for of one query."""
    return part[part["asked"][0]].to_list()


def _table(part: pl.DataFrame, thumbnails: Mapping[str, Image]) -> Table:
    asked = part["asked"][0]
    first = part.row(0, named=True)
    named = {name: "?" if name == asked else first[f"{name}_name"] or first[name] for name in COLUMNS}
    return Table(" · ".join(named.values()), [*_rows(part, asked, thumbnails)])


def _rows(part: pl.DataFrame, asked: str, thumbnails: Mapping[str, Image]) -> Iterator[dict[str, Any]]:
    """A row of the table for each answer: without columns that say the same of all, or nothing."""
    ids, names = part[asked], part[f"{asked}_name"]
    readable = not (names.is_null() | (names == ids)).all()
    pictures = any(name in thumbnails for name in ids)
    extra = [name for name in part.columns if name not in _COUNTED]
    for row in part.iter_rows(named=True):
        yield {
            "rank": row["rank"],
            **({"": thumbnails.get(row[asked])} if pictures else {}),
            "answer": row[f"{asked}_name"] or row[asked],
            **({"id": row[asked]} if readable else {}),
            "score": row["score"],
            **{name: row[name] for name in extra},
            **({"known": "yes" if row["known"] else ""} if part["known"].any() else {}),
            **({} if part["seen"].all() else {"seen": "yes" if row["seen"] else "no"}),
        }
