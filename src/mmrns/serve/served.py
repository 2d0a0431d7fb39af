"""A run as the service shows it: its facts without the places of this machine, and what is known of its entities."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.datasets import Dataset, describe
from mmrns.data.folders import SPLITS
from mmrns.data.tables import read_columns
from mmrns.errors import MmrnsError, UsageError, notes_heard
from mmrns.inspection.page import token_maps
from mmrns.inspection.pictures import Copy, pictures_of, read_picture
from mmrns.inspection.similarity import Similarities
from mmrns.nn.kernels.comparisons import form_on
from mmrns.runs.config import with_paths
from mmrns.runs.names import Names
from mmrns.runs.palette import style_of
from mmrns.runs.run import Run
from mmrns.serve.limits import Refusal
from mmrns.serve.search import EntitySearch

FACTS = 50
"""Facts of one relation and side of an entity that are listed at once."""
PICTURES = 1_024
"""Reduced pictures that are kept, of some 20 kB each."""
COUNTS = 2**16
"""Entities whose number of pictures is remembered."""
SIZES = {"small": 192, "large": 512}
"""Longest sides of reduced pictures, in pixels."""


class ServedRun:
    """A run that is asked by many.

    Args:
        name: by which it is asked for.
        run: the run.

    Attributes:
        alone: held by what must not happen twice at a time with this run.
    """

    def __init__(self, name: str, run: Run):
        self.name, self.run = name, run
        self.alone = asyncio.Lock()
        self.picture = lru_cache(PICTURES)(self._picture)
        self.count_pictures = lru_cache(COUNTS)(self._count_pictures)

    @property
    def dataset(self) -> Dataset:
        """That of the run."""
        return self.run.dataset

    def warm(self, others: Sequence[ServedRun] = ()) -> None:
        """Make beforehand what the first questions would wait for.

        Args:
            others: runs that are warm; the search of one with the same entities is taken.
        """
        for other in others:
            if other.dataset.graph.entities.names.equals(self.dataset.graph.entities.names):
                self.search = other.search
        graph = self.dataset.graph
        first = graph.relations[int(graph.train[0, 1])]
        # For the few queries of one call the fused kernels are not loaded; here many calls will come.
        form_on(self.run.device)
        with notes_heard():
            self.run.predict(graph.entities[int(graph.train[0, 0])], first, top=1)
        # Mapped files and weights are read now, so that what is wrong with them is said before anybody asks.
        _ = self.run.sampler, self.facts, self.relations, self._facts_of, self._numbers
        self.search.warm()

    # Names.

    @property
    def _entities(self) -> Names:
        return self.run.names[0]

    @property
    def _relations(self) -> Names:
        return self.run.names[1]

    def entity(self, name: str, field: str, notes: list[str] | None = None) -> int:
        """The id of an entity that is asked about by any of its names; see `Names.id`.

        Raises:
            Refusal: there is none (404), and which ones look alike.
        """
        found = self._find(self._entities, name, notes)
        if found >= 0:
            return found
        if self._entities.owners(name):
            raise Refusal(404, self._entities.mistake(name), field)
        # `Names.mistake` compares with every name, which takes a second of a large graph.
        alike = [self._named(i) for i in self.search.alike(name)]
        hint = f"; did you mean {' or '.join(repr(one['name'] or one['entity']) for one in alike)}?" if alike else ""
        raise Refusal(404, f"unknown entity {name!r}{hint}", field, did_you_mean=alike)

    def relation(self, name: str, field: str, notes: list[str] | None = None) -> int:
        """The same of a relation."""
        found = self._find(self._relations, name, notes)
        if found >= 0:
            return found
        raise Refusal(404, self._relations.mistake(name), field)

    @staticmethod
    def _find(names: Names, name: str, notes: list[str] | None) -> int:
        with notes_heard() as heard:
            found = int(names.find(pl.Series([name], dtype=pl.String))[0])
        if notes is not None:
            notes += heard
        return found

    def _named(self, entity: int) -> dict[str, Any]:
        return {"entity": self._entities.known[entity], "name": self._entities.labels[entity]}

    # Facts of the run.

    @cached_property
    def head(self) -> dict[str, Any]:
        """What lists of runs say of it."""
        run = self.run
        both: Mapping[str, Any] = run.results.get("test", {}).get("both") or run.results["valid"]["both"]
        return {
            "run": self.name,
            "title": run.title,
            "scorer": run.config.model.scorer,
            "method": run.config.method,
            "dataset": run.record["dataset"]["name"],
            "seed": run.config.seed,
            "colour": style_of(run.config.method).colour,
            "metrics": both.get("realistic", {}),
            "modalities": list(self.dataset.features.at_hand),
            "views": list(run.model.views),
        }

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that the run's folder says, and what its dataset is; paths are cut to their last parts."""
        run = self.run
        config = with_paths(run.config, lambda key, value: Path(value).name).model_dump(mode="json")
        about = describe(self.dataset)
        about.pop("folder")
        described = {
            **self.head,
            "config": config,
            "record": run.record,
            "results": run.results,
            "history": run.history.to_dicts(),
            "about": about,
        }
        return self.without_places(described)

    @cached_property
    def relations(self) -> list[dict[str, Any]]:
        """The relations, each with how many triples of train, valid and test it has, the most frequent first."""
        graph = self.dataset.graph
        rows = [getattr(graph, split)[:, 1] for split in SPLITS]
        counts = torch.stack([torch.bincount(one, minlength=len(graph.relations)) for one in rows], dim=1)
        order = torch.argsort(counts.sum(1), descending=True, stable=True).tolist()
        return [
            {
                "relation": graph.relations[i],
                "name": self._relations.labels[i],
                "triples": dict(zip(SPLITS, counts[i].tolist(), strict=True)),
            }
            for i in order
        ]

    @cached_property
    def _places(self) -> list[tuple[str, str]]:
        """Folders of this machine that may stand in a message, and what stands there instead."""
        folders = [self.run.folder, self.dataset.folder, Path.cwd(), Path(__file__).parents[1], Path.home()]
        near = [place for folder in folders if folder for place in (folder.absolute(), folder.resolve())]
        # What lies within them and around them; but `/m` is more likely the beginning of an id than a folder.
        around = [parent for place in near for parent in place.parents if len(parent.parts) > 2]
        found = {str(place): place.name for place in (*near, *around) if place.name}
        return sorted(found.items(), key=lambda pair: -len(pair[0]))

    def without_places(self, value: Any) -> Any:
        """A value whose texts name no folder of this machine: of each the last part is left."""
        if isinstance(value, str):
            for place, name in self._places:
                value = value.replace(place, name)
            return value
        if isinstance(value, Mapping):
            return {key: self.without_places(one) for key, one in value.items()}
        return [self.without_places(one) for one in value] if isinstance(value, list) else value

    def refusal(self, error: MmrnsError) -> Refusal:
        """An error of the package as an answer: what was asked is at fault (422), or the run (500)."""
        status = 422 if isinstance(error, UsageError) else 500
        return Refusal(status, self.without_places(str(error)))

    # Entities.

    @cached_property
    def search(self) -> EntitySearch:
        """Search by names and descriptions."""
        return EntitySearch(self._entities, self.dataset.descriptions, self._degrees)

    @cached_property
    def _degrees(self) -> Int[Tensor, " E"]:
        ends = self.dataset.graph.train[:, [0, 2]].flatten()
        return torch.bincount(ends, minlength=len(self.dataset.graph.entities))

    def found(self, text: str, limit: int) -> list[dict[str, Any]]:
        """What `search` finds, with names and the beginnings of descriptions."""
        return [{**self.summary(hit.entity), "match": hit.way} for hit in self.search.find(text, limit)]

    def summary(self, entity: int) -> dict[str, Any]:
        """An entity in a line."""
        name = self._entities.known[entity]
        description = self.dataset.descriptions.get(name)
        if description is not None and len(description) > 160:
            description = f"{description[:159].rstrip()}…"
        pictures = self.count_pictures(name)
        triples = int(self._degrees[entity])
        return {**self._named(entity), "description": description, "pictures": pictures, "triples": triples}

    def page(self, entity: int) -> dict[str, Any]:
        """All that the dataset knows of an entity."""
        name = self._entities.known[entity]
        features = self.dataset.features
        modalities = {key: bool(one.present[entity]) for key, one in features.at_hand.items()}
        texts = {
            key: words
            for key, one in features.at_hand.items()
            if (words := [origin for origin in one.made_of(entity) if isinstance(origin, str)])
        }
        facts, total = self._facts(entity)
        return {
            **self.summary(entity),
            "description": self.dataset.descriptions.get(name),
            "seen": bool(self.dataset.graph.seen_entities[entity]),
            "modalities": modalities,
            "texts": texts,
            "numbers": self._numbers.get(name, []),
            "facts": facts,
            "total": total,
        }

    @cached_property
    def _numbers(self) -> dict[str, list[dict[str, Any]]]:
        """The numbers of each entity that `numbers.tsv` has some of."""
        path = None if self.dataset.folder is None else self.dataset.folder / "numbers.tsv"
        if path is None or not path.exists():
            return {}
        table = read_columns(path, ["entity", "attribute", "value"])
        table = table.filter(pl.col("entity").is_in(self._entities.known.names.implode()))
        table = table.with_columns(pl.col("value").cast(pl.Float64, strict=False)).drop_nulls()
        rows = table.group_by("entity", maintain_order=True).agg(pl.struct("attribute", "value").alias("numbers"))
        return dict(rows.iter_rows())

    @cached_property
    def _facts_of(self) -> tuple[Int[Tensor, "n 5"], Int[Tensor, " starts"]]:
        """Every triple from both of its ends, (entity, relation, side, split, other entity), sorted; and where the rows
        of each entity begin.
        """
        graph = self.dataset.graph
        parts: list[Tensor] = []
        for split, rows in enumerate((graph.train, graph.valid, graph.test)):
            h, r, t = rows.unbind(1)
            number = torch.full_like(r, split)
            parts += [
                torch.stack([h, r, torch.zeros_like(r), number, t], dim=1),
                torch.stack([t, r, torch.ones_like(r), number, h], dim=1),
            ]
        every = torch.unique(torch.cat(parts), dim=0)
        return every, torch.searchsorted(every[:, 0].contiguous(), torch.arange(len(graph.entities) + 1))

    def _facts(self, entity: int) -> tuple[list[dict[str, Any]], int]:
        """The facts of an entity by relation and side, the first `FACTS` of each; and how many there are."""
        every, starts = self._facts_of
        own = every[int(starts[entity]) : int(starts[entity + 1])]
        keys, sizes = torch.unique_consecutive(own[:, 1:3], dim=0, return_counts=True)
        found: list[dict[str, Any]] = []
        first = 0
        for (relation, side), size in zip(keys.tolist(), sizes.tolist(), strict=True):
            rows = own[first : first + min(size, FACTS)].tolist()
            first += size
            found.append(
                {
                    "relation": self._relations.known[relation],
                    "name": self._relations.labels[relation],
                    "side": "head" if side else "tail",
                    "total": size,
                    "entities": [{**self._named(other), "split": SPLITS[split]} for *_, split, other in rows],
                }
            )
        return sorted(found, key=lambda one: one["side"] == "head"), len(own)

    # Pictures.

    def pictures(self, entity: str) -> list[str]:
        """The paths of an entity's pictures within the dataset folder; see `pictures_of`."""
        return [] if self.dataset.folder is None else pictures_of(self.dataset, entity)

    def _count_pictures(self, entity: str) -> int:
        return len(self.pictures(entity))

    def with_pictures(self, rows: list[dict[str, Any]], key: str = "entity") -> list[dict[str, Any]]:
        """Rows with how many pictures the entity under a key has."""
        return [{**row, "pictures": self.count_pictures(row[key])} for row in rows]

    def _picture(self, entity: int, number: int, size: str) -> Copy | None:
        """A reduced picture of an entity; None where there is none, or it cannot be read."""
        folder, paths = self.dataset.folder, self.pictures(self._entities.known[entity])
        if folder is None or not 0 <= number < len(paths):
            return None
        return read_picture(folder, paths[number], SIZES[size])

    # What a run says of a triple.

    def inspected(self, triple: tuple[int, int, int], against: Sequence[int], options: Mapping[str, Any]) -> Any:
        """What `Run.inspect` finds, with the heat maps of its page; pictures are told by entity and number."""
        graph = self.dataset.graph
        h, r, t = triple
        names = graph.entities[h], graph.relations[r], graph.entities[t]
        found = self.run.inspect(*names, against=[graph.relations[i] for i in against], **options)
        shown: dict[str, dict[str, Any]] = {}
        for query in found["queries"]:
            for entity in (query["head"], query["tail"]):
                shown |= {path: {"entity": entity, "number": i} for i, path in enumerate(self.pictures(entity))}
        maps = token_maps(found, shown)
        answer: dict[str, Any] = {**found, "images": sorted(found["images"])}
        answer["queries"] = [
            {**query, "samplers": [self._drawn(drawn, query, maps, shown) for drawn in query["samplers"]]}
            for query in found["queries"]
        ]
        return answer

    @staticmethod
    def _drawn(drawn: Any, query: Any, maps: Mapping[Any, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
        key = query["head"], query["relation"], query["tail"], query["side"], drawn["method"]
        found: list[dict[str, Any]] = []
        for one in maps.get(key, ()):
            if one.absent:
                # Its tables have no numbers.
                found.append({"reads": one.reads, "guide": one.guide, "absent": one.absent})
                continue
            lights = [{**vars(light), "picture": shown[light.picture]} for light in one.spotlights]
            tables = {"guided": _table(one.guided), "others": [_table(table) for table in one.others]}
            found.append({**vars(one), "spotlights": lights, **tables})
        return {**{name: value for name, value in drawn.items() if name != "attention"}, "maps": found}

    def measures(self) -> list[str]:
        """By what entities can be similar: what the model has learned, and each modality."""
        return Similarities(self.run.model, self.dataset, self.run.device).measures


def _table(table: Any) -> dict[str, Any]:
    rows = [
        {"label": label, "values": [c.value for c in cells], "shades": [c.shade for c in cells]}
        for label, cells in table.rows
    ]
    return {**vars(table), "rows": rows}
