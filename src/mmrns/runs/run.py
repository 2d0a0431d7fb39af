"""A finished run in use: scores, ranks, predictions, embeddings, inspection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mmrns.data.arrays import triples_frame
from mmrns.data.datasets import Dataset
from mmrns.data.tables import read_columns
from mmrns.errors import DataError, UsageError, nearest, unknown
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import Ranks, ScoresAll, rank
from mmrns.evaluation.report import breakdown, report
from mmrns.files import read_json, read_json_lines, read_tensors, write_json, write_tensors, write_text
from mmrns.inspection import draws
from mmrns.nn.model import Model
from mmrns.runs.build import (
    build_batches,
    build_dataset,
    build_device,
    build_model,
    build_sampler,
)
from mmrns.runs.config import Config, dump_config, flatten, make_config
from mmrns.runs.figures import save_figure
from mmrns.runs.record import listing, plot_curves, plot_hardness
from mmrns.runs.values import read_config
from mmrns.samplers.base import Sampler
from mmrns.types import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["relation", "category", "side"]
Known = Literal["flag", "drop", "keep"]
Split = Literal["valid", "test"]
_Module = TypeVar("_Module", bound=nn.Module)
PREDICTION_SCHEMA = {
    "head": pl.String,
    "relation": pl.String,
    "tail": pl.String,
    "score": pl.Float64,
    "rank": pl.Int64,
    "known": pl.Boolean,
}


class Run:
    """A finished run: its configuration, results and model, ready to score, rank and predict.

    `mmrns.train` and `mmrns.load_run` make one.

    Attributes:
        config: the configuration.
        results: the metrics, as `results.json` holds them.
        record: where the run came from, as `record.json` holds it.
        folder: where it is kept; None for a run that is in memory only.
    """

    def __init__(
        self,
        config: Config,
        results: dict[str, Any],
        record: dict[str, Any],
        *,
        rows: Sequence[Mapping[str, Any]] = (),
        folder: Path | None = None,
        dataset: Dataset | None = None,
        model: Model | None = None,
        sampler: Sampler | None = None,
        device: str | None = None,
    ):
        self.config, self.results, self.record, self.folder = config, results, record, folder
        self._rows = [*rows]
        self._dataset, self._model, self._sampler, self._device = dataset, model, sampler, device

    @classmethod
    def load(cls, folder: str | Path, *, dataset: Dataset | None = None, device: str | None = None) -> Run:
        """Open a finished run folder.

        Args:
            folder: the run folder.
            dataset: the dataset, where the run cannot find it by its name.
            device: where to put the model, instead of where it was trained.

        Raises:
            DataError: the folder holds no finished run.
        """
        path = Path(folder)
        if not (path / "results.json").exists():
            remedy = "continue it with `mmrns train --resume`" if (path / "config.yaml").exists() else "train one"
            raise DataError(path, "holds no finished run", remedy)
        config = make_config(read_config(path / "config.yaml"))
        results, record = read_json(path / "results.json"), read_json(path / "record.json")
        rows = read_json_lines(path / "metrics.jsonl")
        if dataset is not None:
            dataset = build_dataset(config, dataset)
        return cls(config, results, record, rows=rows, folder=path, dataset=dataset, device=device)

    def save(self, folder: str | Path) -> None:
        """Write the run to a folder that `load_run` opens.

        Raises:
            DataError: the folder holds another run.
        """
        path = Path(folder)
        if self.folder != path and (path / "config.yaml").exists():
            raise DataError(path, "holds a run already", "choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        graph = self.dataset.graph
        write_text(path / "config.yaml", dump_config(self.config))
        for name, part in (("model", self.model), ("sampler", self.sampler)):
            write_tensors(path / f"{name}.safetensors", part.state_dict())
        write_text(path / "entities.txt", listing(graph.entities.names))
        write_text(path / "relations.txt", listing(graph.relations.names))
        if self.folder != path:
            write_text(path / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in self._rows))
        save_figure(self.plot(), path / "plots" / "curves.png")
        if any("hardness" in row for row in self._rows):
            save_figure(plot_hardness(self._rows, self.title), path / "plots" / "hardness.png")
        write_json(path / "record.json", self.record)
        write_json(path / "results.json", self.results)

    def __repr__(self) -> str:
        metrics = {
            split: self.results[split]["both"]["realistic"]["mrr"]
            for split in ("valid", "test")
            if self.results.get(split, {}).get("both")
        }
        scores = ", ".join(f"{split} MRR {mrr:.4f}" for split, mrr in metrics.items())
        return f"Run({self.title}, seed {self.config.seed}: {scores})"

    @property
    def title(self) -> str:
        """Scorer, method and dataset, in a few words."""
        name = self.record["dataset"]["name"]
        return f"{self.config.model.scorer}, {self.config.method}, {name}"

    @property
    def history(self) -> pl.DataFrame:
        """What was recorded during the training: `step`, `seconds`, `loss`, `valid_mrr`, and `hardness.` columns.

        A row holds what was recorded at its step, null what was not.
        """
        rows = [flatten(row) for row in self._rows]
        keys = dict.fromkeys(key for row in rows for key in row)
        return pl.DataFrame([{key: row.get(key) for key in keys} for row in rows], infer_schema_length=None)

    def plot(self) -> Figure:
        """The training loss and the validation MRR against the steps, as a matplotlib figure."""
        return plot_curves(self._rows, self.title, self.results["selected_step"])

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset of the run.

        Raises:
            DataError: its names are no longer those that the model was trained with.
        """
        dataset = self._dataset or build_dataset(self.config)
        if self.folder is not None and (self.folder / "entities.txt").exists():
            for kind, names in (("entities", dataset.graph.entities), ("relations", dataset.graph.relations)):
                path = self.folder / f"{kind}.txt"
                if path.read_text(encoding="utf-8") != listing(names.names):
                    where = dataset.folder or dataset.name
                    raise DataError(path, f"is not the {kind} of {where}", "restore the dataset or train again")
        return dataset

    @cached_property
    def model(self) -> Model:
        """The selected model."""
        return self._model or self._loaded(build_model(self.config, self.dataset), "model.safetensors")

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler of the selected step."""
        return self._sampler or self._loaded(
            build_sampler(self.config, self.dataset, self.model), "sampler.safetensors"
        )

    def _loaded(self, module: _Module, file: str) -> _Module:
        if module.state_dict():
            assert self.folder is not None
            path = self.folder / file
            tensors, _ = read_tensors(path)
            try:
                module.load_state_dict(tensors)
            except RuntimeError as error:
                raise DataError(path, "does not fit the run's configuration", "train again") from error
        return module.to(self.device).eval()

    @cached_property
    def device(self) -> torch.device:
        """Where the model is put."""
        return build_device(self._device or self.config.device)

    @torch.no_grad()
    def score(self, triples: Any) -> pl.DataFrame:
        """The model's scores of triples, true or not; larger is more plausible, and comparable within the run only.

        Args:
            triples: names, as a frame or a list of (head, relation, tail); see `Dataset.from_triples`.

        Returns:
            Columns head, relation, tail, score, in the order given.

        Raises:
            UsageError: a name that the graph lacks (close ones are offered).
        """
        frame = triples_frame(triples)
        found_ids = self._ids(frame["head"]), self._ids(frame["relation"], relations=True), self._ids(frame["tail"])
        ids = torch.stack(found_ids, dim=1)
        found: list[Tensor] = []
        for part in ids.split(4096):
            batch = Batch.of(part, torch.zeros(len(part), dtype=torch.bool)).to(self.device)
            found.append(self.model.score(self.model.lookup(batch)).cpu())
        scores = torch.cat(found).double().tolist() if found else []
        return frame.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    @torch.no_grad()
    def embeddings(self, of: Literal["entities", "relations"] = "entities") -> pl.DataFrame:
        """The model's vectors with their names.

        Returns:
            Of entities a column `entity`, a column `name` with the readable name where there is one, and one column of
            arrays for each view of the model (`structure`, and the modalities that it scores by), null where an entity
            lacks the view. Of relations `relation`, `name` and `vector`; with reciprocal relations also `inverse`.
        """
        graph, model = self.dataset.graph, self.model
        if of == "relations":
            vectors = model.relations(torch.arange(len(model.relation.weight), device=self.device)).cpu()
            columns = dict(zip(("vector", "inverse"), vectors.split(len(graph.relations)), strict=False))
            names, labels = graph.relations.names, self.dataset.relation_labels
            arrays = {name: _arrays(name, part, None) for name, part in columns.items()}
            kind = "relation"
        elif of == "entities":
            views = model.entity.all()
            vectors, present = views.vectors.cpu(), views.present.cpu()
            arrays = {name: _arrays(name, vectors[:, v], present[:, v]) for v, name in enumerate(model.views)}
            names, labels, kind = graph.entities.names, self.dataset.labels, "entity"
        else:
            raise UsageError(f"embeddings of={of!r}: ask for entities or relations")
        named = pl.Series("name", [labels.get(name) for name in names], dtype=pl.String)
        return pl.DataFrame([names.alias(kind), named, *arrays.values()])

    def ranks(
        self,
        split: Split = "test",
        progress: Callable[[int], None] | None = None,
        *,
        candidates: Path | str | None = None,
    ) -> Ranks:
        """Filtered ranks of both sides of a split; `candidates` as of `evaluate`."""
        among = self._candidates(candidates)
        return rank_split(self.model, self.dataset, split, self.config, self.device, progress, among)

    @overload
    def evaluate(
        self, split: Split = "test", *, by: None = None, candidates: Path | str | None = None, bootstrap: int = 0
    ) -> dict[str, Any]: ...
    @overload
    def evaluate(
        self, split: Split = "test", *, by: By, candidates: Path | str | None = None, bootstrap: int = 0
    ) -> pl.DataFrame: ...
    def evaluate(
        self, split: Split = "test", *, by: By | None = None, candidates: Path | str | None = None, bootstrap: int = 0
    ) -> dict[str, Any] | pl.DataFrame:
        """The metrics of a split, computed anew: the object that `results.json` holds, or a frame of its parts.

        Args:
            split: what to rank.
            by: break the realistic metrics down by `relation`, by `category` (1-1, 1-n, n-1, n-n) or by `side`: a frame
                with one row each, most queries first.
            candidates: rank only among the relation's domain or range in train (`"train"`), or among the entities that
                a file lists for it, in rows relation TAB side (head or tail) TAB entity. None ranks among every entity.
                A side without candidates is unrestricted. A true answer that is not among them takes part all the same,
                and is counted under `outside`.
            bootstrap: samples for the confidence intervals under `interval`, beside the realistic metrics; 0 = none.
        """
        ranks, graph = self.ranks(split, candidates=candidates), self.dataset.graph
        if by is None:
            return report(ranks, graph, bootstrap)
        return pl.DataFrame([flatten(row) for row in breakdown(ranks, graph, by, bootstrap)], infer_schema_length=None)

    def _candidates(self, source: Path | str | None) -> Candidates | None:
        graph = self.dataset.graph
        if source is None:
            return None
        return Candidates.of_train(graph) if source == "train" else Candidates.read(Path(source), graph)

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        *,
        queries: Path | str | None = None,
        top: int = 10,
        known: Known = "flag",
        candidates: Path | str | None = None,
    ) -> pl.DataFrame:
        """The best entities for the missing side of one query or of a file of queries.

        The given entity is no answer to its own query, unless the dataset holds a triple of that relation between an
        entity and itself.

        Args:
            head, relation, tail: names; exactly one of head and tail is left out. An entity may be given by its id
                or, where that is unique, by its name in `entities.tsv`.
            queries: instead, a file of rows head TAB relation TAB tail with `?` for what is asked.
            top: answers per query.
            known: `flag` marks triples of the dataset in the column `known`; `drop` leaves them out; `keep` lists them
                unmarked.
            candidates: list no other entities; see `evaluate`.

        Returns:
            Columns head, relation, tail, score, rank (among the entities that may be listed), known; best first.

        Raises:
            UsageError: unknown names (close ones are offered), or not exactly one side asked.
        """
        if queries is not None:
            rows = read_columns(Path(queries), ["head", "relation", "tail"]).rows()
            asked = [tuple(None if name == "?" else name for name in row) for row in rows]
        else:
            asked = [(head, relation, tail)]
        among = self._candidates(candidates)
        frames = [self._predict(*query, top=top, known=known, among=among) for query in asked]
        return pl.concat(frames) if frames else pl.DataFrame(schema=PREDICTION_SCHEMA)

    def _predict(
        self,
        head: str | None,
        relation: str | None,
        tail: str | None,
        top: int,
        known: Known,
        among: Candidates | None,
    ) -> pl.DataFrame:
        if relation is None or (head is None) == (tail is None):
            raise UsageError("a query names a relation and one of head and tail")
        graph = self.dataset.graph
        anchor = self.entity_id(head if head is not None else tail or "")
        r = torch.tensor([self._relation_id(relation)])
        asks_head = head is None
        ids = torch.tensor([anchor])
        batch = Batch.of(torch.stack([ids, r, ids], dim=1), torch.tensor([asks_head]))
        with torch.no_grad():
            scores = self.model.score_all(batch.to(self.device))[0].cpu()
        true = torch.zeros(len(scores), dtype=torch.bool)
        true[graph.known_index.targets(ids, r, asks_head)[1]] = True
        if not self._reflexive[r]:
            scores[anchor] = -torch.inf
        if known == "drop":
            scores = scores.masked_fill(true, -torch.inf)
        if among is not None:
            scores = scores.masked_fill(~among.mask(r, asks_head)[0], -torch.inf)
        count = min(top, int(torch.isfinite(scores).sum()))
        best = torch.argsort(scores, descending=True, stable=True)[:count]
        entity = [graph.entities[i] for i in best.tolist()]
        fixed = [graph.entities[anchor]] * count
        return pl.DataFrame(
            {
                "head": entity if asks_head else fixed,
                "relation": [relation] * count,
                "tail": fixed if asks_head else entity,
                "score": scores[best].tolist(),
                "rank": list(range(1, count + 1)),
                "known": [None] * count if known == "keep" else true[best].tolist(),
            },
            schema=PREDICTION_SCHEMA,
        )

    def inspect(
        self,
        head: str,
        relation: str,
        tail: str,
        *,
        against: Sequence[str] = (),
        side: draws.Side | None = None,
        samplers: Sequence[str] = (),
        steps: int = 50,
        top: int = 10,
        progress: Callable[[int], None] = lambda n: None,
    ) -> draws.Inspection:
        """The negatives that samplers draw for a triple with this model, and why.

        The triple joins the batches of some steps after the selected one, and the sampler draws as it would have drawn
        in training; nothing is trained.

        Args:
            head, relation, tail: the triple, true or not; entities as in `predict`.
            against: further relations, each for a second triple: the one of that relation that has the same head, or
                else the same tail.
            side: replace this side only; by default both.
            samplers: further methods, whose samplers are built for this model but not trained.
            steps: how often to draw, for each side.
            top: negatives to list, the most probable first.
            progress: told of each draw made.

        Returns:
            Plain values, as `mmrns inspect --json` prints them; the pages of the classes say what the keys are.

        Raises:
            UsageError: unknown names (close ones are offered), or `against` finds no triple.
        """
        graph = self.dataset.graph
        triple = self.entity_id(head), self._relation_id(relation), self.entity_id(tail)
        others = [draws.against(self.dataset, triple, self._relation_id(other)) for other in against]
        own = draws.Drawing(
            self.config.method,
            self.sampler,
            build_batches(self.config, self.dataset),
            _trained(self.sampler, True),
        )
        drawings = [own, *(self._untrained(name) for name in dict.fromkeys(samplers) if name != own.method)]
        # Even, so that the batches of the tail side come first.
        first_step = -(-self.results["selected_step"] // 2) * 2
        queries = draws.inspect(
            self.model,
            self.dataset,
            drawings,
            torch.tensor(list(dict.fromkeys([triple, *others]))),
            ("tail", "head") if side is None else (side,),
            first_step=first_step,
            steps=steps,
            top=top,
            device=self.device,
            progress=progress,
        )
        return {
            "dataset": self.dataset.name,
            "scorer": self.config.model.scorer,
            "method": own.method,
            "seed": self.config.seed,
            "selected_step": self.results["selected_step"],
            "entities": len(graph.entities),
            "first_step": first_step,
            "steps": steps,
            "queries": queries,
            **draws.about(self.dataset, queries),
        }

    def _untrained(self, method: str) -> draws.Drawing:
        config = self.config.with_method(method)
        sampler = build_sampler(config, self.dataset, self.model).to(self.device).eval()
        return draws.Drawing(method, sampler, build_batches(config, self.dataset), _trained(sampler, False))

    @cached_property
    def _reflexive(self) -> Bool[Tensor, " R"]:
        """True for relations that some triple of the dataset has between an entity and itself."""
        graph = self.dataset.graph
        h, r, t = torch.cat([graph.train, graph.valid, graph.test]).unbind(1)
        reflexive = torch.zeros(len(graph.relations), dtype=torch.bool)
        reflexive[r[h == t]] = True
        return reflexive

    def _ids(self, names: pl.Series, relations: bool = False) -> Int[Tensor, " n"]:
        """The ids of many entities or relations; what is no id is looked up one distinct name at a time."""
        graph = self.dataset.graph
        ids = (graph.relations if relations else graph.entities).find(names)
        one = self._relation_id if relations else self.entity_id
        strange = ids < 0
        if strange.any():
            others = names.filter(pl.Series(strange.numpy()))
            by_name = {name: one(name) for name in others.unique(maintain_order=True)}
            ids[strange] = torch.tensor([by_name[name] for name in others])
        return ids

    @cached_property
    def _labelled(self) -> dict[str, list[str]]:
        """The ids of the entities that have a readable name."""
        found: dict[str, list[str]] = {}
        for entity, label in self.dataset.labels.items():
            found.setdefault(label, []).append(entity)
        return found

    def _relation_id(self, name: str) -> int:
        relations = self.dataset.graph.relations
        if name not in relations:
            raise unknown("relation", name, relations)
        return relations.id(name)

    def entity_id(self, name: str) -> int:
        """The id of an entity given by its id or by a name in `entities.tsv` that only one entity has.

        Raises:
            UsageError: not known, or several entities have the name.
        """
        entities = self.dataset.graph.entities
        if name in entities:
            return entities.id(name)
        named = self._labelled.get(name, [])
        if len(named) == 1:
            return entities.id(named[0])
        if named:
            raise UsageError(f"{name!r} names {len(named)} entities: {', '.join(named[:5])}; give the id")
        raise UsageError(f"unknown entity {name!r}{nearest(name, [*entities, *self.dataset.labels.values()], limit=3)}")


def _trained(sampler: Sampler, yes: bool) -> bool | None:
    """Whether it is trained; None where there is nothing to train."""
    return yes if sampler.state_dict() else None


def load_run(folder: str | Path, *, dataset: Dataset | None = None, device: str | None = None) -> Run:
    """Open a finished run folder; see `Run.load`."""
    return Run.load(folder, dataset=dataset, device=device)


def _arrays(name: str, vectors: Tensor, present: Tensor | None) -> pl.Series:
    """A column of arrays, null where they are not present."""
    found = pl.Series(name, vectors.numpy())
    if present is None or present.all():
        return found
    there = pl.Series("present", present.numpy())
    return pl.select(pl.when(there).then(found).alias(name))[name]


def rank_split(
    model: ScoresAll,
    dataset: Dataset,
    split: Split,
    config: Config,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
    candidates: Candidates | None = None,
) -> Ranks:
    """Filtered ranks of a split as the configuration has them; see `rank`."""
    graph = dataset.graph
    triples: Int[Tensor, "n 3"] = graph.test if split == "test" else graph.valid
    return rank(
        model,
        triples,
        graph.known_index,
        candidates=candidates,
        memory_mb=config.evaluation.memory_mb,
        device=device,
        progress=progress,
    )
