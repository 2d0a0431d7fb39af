"""PyKEEN: its datasets by name, and ours as its triples factories. Needs the extra `pykeen`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from mmrns.errors import DataError, UsageError, unknown
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import TRIPLE, Contents, fit_names, write_lines

if TYPE_CHECKING:
    from mmrns.data.graph import KnowledgeGraph


class PyKeen(Layout, name="pykeen"):
    """The datasets of PyKEEN by name, and files that it reads."""

    title = "a dataset that PyKEEN knows by name; written: train.txt ... for its TriplesFactory.from_path"
    takes = "name"

    def read(self, source: Path) -> Contents:
        """A dataset that PyKEEN knows by name, such as `nations`; PyKEEN downloads those it does not carry.

        The order of ids is PyKEEN's.

        Raises:
            UsageError: PyKEEN is not installed or knows no such dataset.
            DataError: it cannot be downloaded or read.
        """
        name = str(source)
        _triples_factory()
        from pykeen.datasets import dataset_resolver, get_dataset

        key = dataset_resolver.normalize(name)
        if key not in dataset_resolver.lookup_dict:
            raise unknown("PyKEEN dataset", name, sorted(dataset_resolver.lookup_dict))
        try:
            found: Any = get_dataset(dataset=key)
            factories: dict[str, Any] = {"train": found.training, "valid": found.validation, "test": found.testing}
        except Exception as error:  # PyKEEN passes on whatever its download and its parsers raise.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                name, f"PyKEEN cannot load it ({reason})", "check the connection, or use local files"
            ) from error
        entities, relations = (
            pl.Series([ids[i] for i in range(len(ids))], dtype=pl.String)
            for ids in ({i: n for n, i in named.items()} for named in (found.entity_to_id, found.relation_to_id))
        )
        contents = Contents(source, {}, order=entities)
        for split, factory in factories.items():
            if factory is not None:
                h, r, t = (pl.Series(column.numpy()) for column in factory.mapped_triples.T.contiguous())
                columns = (entities.gather(h), relations.gather(r), entities.gather(t))
                frame = pl.DataFrame(dict(zip(TRIPLE, columns, strict=True)))
                contents.splits[split] = fit_names(frame, source, 1, contents.notes)
        return contents

    def write(self, contents: Contents, folder: Path) -> None:
        """`train.txt`, `valid.txt`, `test.txt`: tab-separated, as `TriplesFactory.from_path` reads them."""
        for split, frame in contents.splits.items():
            write_lines(frame.select(TRIPLE), folder / f"{split}.txt", header=False)


def to_pykeen(graph: KnowledgeGraph) -> dict[str, Any]:
    """The splits of a graph as PyKEEN triples factories: `training`, `validation`, `testing`, as `pipeline` takes them.

    Ids are the graph's, so that feature rows in the order of `graph.entities` fit.

    Raises:
        UsageError: PyKEEN is not installed.
    """
    factory = _triples_factory()
    ids = {
        "entity_to_id": {name: i for i, name in enumerate(graph.entities)},
        "relation_to_id": {name: i for i, name in enumerate(graph.relations)},
    }
    splits = {"training": graph.train, "validation": graph.valid, "testing": graph.test}
    return {name: factory(mapped_triples=triples.to(torch.int64), **ids) for name, triples in splits.items()}


def _triples_factory() -> Any:
    try:
        from pykeen.triples import TriplesFactory
    except ImportError as error:
        raise UsageError("this needs PyKEEN: pip install 'mmrns[pykeen]'") from error
    return TriplesFactory
