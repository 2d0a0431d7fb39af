"""A finished run in use: scores, ranks, predictions, embeddings, inspection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmrns.data.arrays import triples_frame
from mmrns.data.datasets import Dataset, changes
from mmrns.data.features import Features
from mmrns.data.folders import dataset_folders, find_dataset
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.tables import read_bytes, split_lines
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError, note
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import Ranks, ScoresAll, rank, refuse_not_finite
from mmrns.evaluation.report import By, breakdown, report
from mmrns.files import (
    json_text,
    locked,
    read_json,
    read_json_lines,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from mmrns.inspection import draws
from mmrns.nn.embedders import STRUCTURE, Embedder, TableEmbedder
from mmrns.nn.model import Model
from mmrns.runs.build import (
    build_batches,
    build_dataset,
    build_device,
    build_model,
    build_sampler,
    usable_device,
)
from mmrns.runs.config import Config, dump_config, flatten, make_config, with_paths
from mmrns.runs.digests import REMEDY, SUMS, verify, write_sums
from mmrns.runs.figures import save_figure
from mmrns.runs.names import Names
from mmrns.runs.places import dataset_of_run
from mmrns.runs.plots import About, plot_curves, plot_hardness
from mmrns.runs.queries import Known, Queries, answers, queries_of, read_queries, score_triples
from mmrns.runs.record import Record, Results, Row, listing
from mmrns.runs.values import read_config, told_of
from mmrns.samplers.base import Sampler
from mmrns.training.checkpoint import weights_misfit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Split = Literal["valid", "test"]
_Module = TypeVar("_Module", bound=nn.Module)


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
        lost: bool = False,
    ):
        self.config, self.results, self.record, self.folder = config, results, record, folder
        self._rows = [*rows]
        self._dataset, self._model, self._sampler, self._device = dataset, model, sampler, device
        # Whether the dataset was looked for and is nowhere.
        self._lost = lost

    @classmethod
    def load(cls, folder: str | Path, *, dataset: Dataset | str | Path | None = None, device: str | None = None) -> Run:
        """Open a finished run folder.

        A `Note` says what is not as it was in the training: the device where that is not available, the place of the
        dataset, and every file of it that has changed.

        Args:
            folder: the run folder.
            dataset: the dataset, its name or its folder. By default it is looked for where it was, then by its name
                among the datasets that a name finds, in the working directory and in the folders above the run. Without
                it a run whose model reads no features still predicts and scores.
            device: where to put the model, instead of where it was trained.

        Raises:
            DataError: the folder holds no finished run.
            UsageError: there is no such dataset or device.
        """
        path = Path(folder)
        if not (path / "results.json").exists():
            remedy = "continue it with `mmrns train --resume`" if (path / "config.yaml").exists() else "train one"
            raise DataError(path, "holds no finished run", remedy)
        values = read_config(path / "config.yaml")
        with told_of(path / "config.yaml", values):
            config = make_config(values)
        results = read_json(path / "results.json", Results, REMEDY)
        record = read_json(path / "record.json", Record, REMEDY)
        rows = read_json_lines(path / "metrics.jsonl", Row)
        if not (path / SUMS).exists():
            note(f"{path} has no {SUMS}: whether its files are what the run wrote is not known")
        verify(path, "config.yaml", "record.json", "results.json", "metrics.jsonl")
        device = usable_device(config.device) if device is None else str(build_device(device))
        now: Dataset | Path | None = None
        if isinstance(dataset, Dataset):
            now = dataset = build_dataset(config, dataset, build_device(device))
        elif dataset is not None:
            now = find_dataset(dataset)
        elif config.data.dataset is not None:
            now = dataset_of_run(config.data.dataset, record["dataset"]["name"], path)
        if isinstance(now, Path):
            # A name stays a name.
            named = config.data.dataset if dataset is None else str(dataset)
            place = named if named in dataset_folders() else str(now.resolve())
            config = with_paths(config, lambda key, value: place if key == "data.dataset" else value)
        changed = [] if now is None else changes(record["dataset"], now)
        if changed:
            where = now.folder or now.name if isinstance(now, Dataset) else now
            note(f"{where} is not as it was when {path} was trained: {', '.join(changed)}")
        found = dataset if isinstance(dataset, Dataset) else None
        return cls(config, results, record, rows=rows, folder=path, dataset=found, device=device, lost=now is None)

    def save(self, folder: str | Path) -> None:
        """Write the run to a folder that `load_run` opens.

        Raises:
            DataError: the folder holds another run, another process writes to it, or it cannot be written.
        """
        path = Path(folder)
        with locked(path, "plots"):
            if self.folder != path and (path / "config.yaml").exists():
                raise DataError(path, "holds a run already", "choose another folder")
            self._write(path)

    def _write(self, path: Path) -> None:
        graph = self.dataset.graph
        write_text(path / "config.yaml", dump_config(self.config, path))
        for name, part in (("model", self.model), ("sampler", self.sampler)):
            write_tensors(path / f"{name}.safetensors", part.state_dict())
        write_text(path / "entities.txt", listing(graph.entities.names))
        write_text(path / "relations.txt", listing(graph.relations.names))
        if self.folder != path:
            write_text(path / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in self._rows))
        save_figure(self.plot(), path / "plots" / "curves.png")
        if any("hardness" in row for row in self._rows):
            save_figure(plot_hardness(self._rows, self._about), path / "plots" / "hardness.png")
        write_json(path / "record.json", self.record)
        results = json_text(self.results)
        write_sums(path, hashlib.sha256(results.encode()).hexdigest())
        write_text(path / "results.json", results)

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
        """What was recorded during the training: `step`, `seconds`, `loss`, `model_loss`, `sampler_loss`, `valid_mrr`,
        and `hardness.` columns.

        A row holds what was recorded at its step, null what was not.
        """
        rows = [flatten(row) for row in self._rows]
        keys = dict.fromkeys(key for row in rows for key in row)
        return pl.DataFrame(
            [{key: row.get(key) for key in keys} for row in rows], infer_schema_length=None, strict=False
        )

    def plot(self) -> Figure:
        """The validation MRR and the training loss against the steps, as a matplotlib figure."""
        return plot_curves(self._rows, self._about, self.results["selected_step"])

    @property
    def _about(self) -> About:
        name = self.record["dataset"]["name"]
        return About(name, self.config.model.scorer, self.config.method, self.config.seed)

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset of the run.

        Raises:
            DataError: it is nowhere, or its names are no longer those that the model was trained with.
            UsageError: it was made in Python.
        """
        if self._lost and self.config.data.dataset is not None:
            what = f"its dataset {self.record['dataset']['name']!r} is not found"
            remedy = "say where it is by --dataset NAME or FOLDER (in Python dataset=), or put it under $MMRNS_DATA"
            raise DataError(self.folder or "", what, remedy)
        dataset = self._dataset or build_dataset(self.config, device=self.device)
        for kind, names in self._trained_names.items():
            now = getattr(dataset.graph, kind).names
            if not now.equals(names):
                assert self.folder is not None
                where = dataset.folder or dataset.name
                message = f"is not the {kind} of {where} ({_difference(names, now)})"
                raise DataError(self.folder / f"{kind}.txt", message, "restore the dataset or train again")
        return dataset

    @cached_property
    def _trained_names(self) -> dict[str, pl.Series]:
        """The entities and the relations that the model was trained with, in id order, where it is from a folder."""
        if self.folder is None or self._model is not None:
            return {}
        paths = {kind: self.folder / f"{kind}.txt" for kind in ("entities", "relations")}
        # As `listing` wrote them: split at line feeds, and at nothing else that names may hold.
        found = {kind: split_lines(_text(path)) for kind, path in paths.items() if path.exists()}
        verify(self.folder, *(path.name for path in paths.values()))
        return found

    @cached_property
    def _names(self) -> Dataset:
        """The dataset; where it is not found what the run's own folder knows of it: the names, and no triple.

        Raises:
            DataError, UsageError: it is not found, and the model needs more than the names.
        """
        table = Embedder.registry.get(self.config.model.embedder or "table") is TableEmbedder
        if not (self._lost and table and len(self._trained_names) == 2):
            return self.dataset
        none = torch.empty(0, 3, dtype=torch.int64)
        vocabularies = {kind: Vocabulary(names) for kind, names in self._trained_names.items()}
        graph = KnowledgeGraph(**vocabularies, train=none, valid=none, test=none)
        return Dataset(self.record["dataset"]["name"], None, graph, Features())

    @cached_property
    def model(self) -> Model:
        """The selected model."""
        return self._model or self._loaded(build_model(self.config, self._names), "model.safetensors")

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler of the selected step."""
        return self._sampler or self._loaded(
            build_sampler(self.config, self.dataset, self.model), "sampler.safetensors"
        )

    def _loaded(self, module: _Module, file: str) -> _Module:
        assert self.folder is not None
        path = self.folder / file
        verify(self.folder, file)
        if module.state_dict():
            tensors, _ = read_tensors(path)
            if reason := weights_misfit(module, tensors):
                message = f"does not fit the run's configuration, or the features of its dataset ({reason})"
                raise DataError(path, message, "restore them, or train again")
            module.load_state_dict(tensors)
            for name, values in module.state_dict().items():
                if not torch.isfinite(values).all():
                    raise DataError(path, f"holds what is not finite in {name!r}", "restore the file, or train again")
        return module.to(self.device).eval()

    @cached_property
    def device(self) -> torch.device:
        """Where the model is put."""
        return build_device(self._device or usable_device(self.config.device))

    def score(self, triples: Any) -> pl.DataFrame:
        """The model's scores of triples, true or not; larger is more plausible, and comparable within the run only.

        Args:
            triples: names, as a frame or a list of (head, relation, tail); see `Dataset.from_triples`.

        Returns:
            Columns head, relation, tail, score, in the order given.

        Raises:
            UsageError: a name that the graph lacks (close ones are offered).
            Diverged: a score is not finite.
        """
        frame = triples_frame(triples)
        parts = (self._entities, frame["head"]), (self._relations, frame["relation"]), (self._entities, frame["tail"])
        ids = torch.stack([names.ids(column) for names, column in parts], dim=1)
        scores = score_triples(self.model, ids, self.device)
        refuse_not_finite(scores)
        return frame.with_columns(pl.Series("score", scores.double().numpy(), dtype=pl.Float64))

    @torch.no_grad()
    def embeddings(self, of: Literal["entities", "relations"] = "entities") -> pl.DataFrame:
        """The model's vectors with their names.

        Returns:
            Of entities a column `entity`, a column `name` with the readable name where there is one, and one column of
            arrays for each view of the model (`structure`, and the modalities that it scores by), null where an entity
            lacks the view. Of relations `relation`, `name` and `vector`; with reciprocal relations also `inverse`.
        """
        graph, model = self._names.graph, self.model
        if of == "relations":
            vectors = model.relations(torch.arange(len(model.relation.weight), device=self.device)).cpu()
            columns = dict(zip(("vector", "inverse"), vectors.split(len(graph.relations)), strict=False))
            names, labels = graph.relations.names, self._names.relation_labels
            arrays = {name: _arrays(name, part, None) for name, part in columns.items()}
            kind = "relation"
        elif of == "entities":
            views = model.entity.all()
            vectors, present = views.vectors.cpu(), views.present.cpu()
            arrays = {name: _arrays(name, vectors[:, v], present[:, v]) for v, name in enumerate(model.views)}
            names, labels, kind = graph.entities.names, self._names.labels, "entity"
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
            by: break the realistic metrics down by `relation`, by `category` (1-1, 1-n, n-1, n-n), by `side`, or by
                what of a query is `unseen` in train: a frame with one row each, most queries first; see `breakdown`.
            candidates: rank only among the relation's domain or range in train (`"train"`), or among the entities that
                a file lists for it, in rows relation TAB side (head or tail) TAB entity. None ranks among every entity.
                A side without candidates is unrestricted. A true answer that is not among them takes part all the same,
                and is counted under `outside`.
            bootstrap: samples for the confidence intervals under `interval`, beside the realistic metrics; 0 = none.
        """
        found = self.report(self.ranks(split, candidates=candidates), by=by, candidates=candidates, bootstrap=bootstrap)
        if isinstance(found, dict):
            return found
        return pl.DataFrame([flatten(row) for row in found], infer_schema_length=None)

    def report(
        self, ranks: Ranks, *, by: By | None = None, candidates: Path | str | None = None, bootstrap: int = 0
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """What `evaluate` returns, of ranks that are at hand; broken down as a list of rows."""
        graph, among = self.dataset.graph, self._candidates(candidates)
        return report(ranks, graph, bootstrap, among) if by is None else breakdown(ranks, graph, by, bootstrap, among)

    def _candidates(self, source: Path | str | None) -> Candidates | None:
        if source is None:
            return None
        graph = self.dataset.graph
        return Candidates.of_train(graph) if source == "train" else Candidates.read(Path(source), graph)

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        *,
        queries: Any = None,
        top: int = 10,
        known: Known = "flag",
        candidates: Path | str | None = None,
    ) -> pl.DataFrame:
        """The best answers for the missing part of one query or of many: head, relation or tail.

        The given entity is no answer to its own query, unless the dataset holds a triple of that relation between an
        entity and itself.

        Args:
            head, relation, tail: names; exactly one is left out, and is asked for. An entity or a relation may be given
                by its id or, where that is unique, by its name in `entities.tsv` or `relations.tsv`.
            queries: instead, a file of rows head TAB relation TAB tail, `?` or nothing for what is asked for (`-`: the
                standard input); or such triples as a list, an array or a frame.
            top: answers per query.
            known: `flag` marks triples of the dataset in the column `known`; `drop` leaves them out; `keep` lists them
                unmarked.
            candidates: list no other entities; see `evaluate`. Of relations those for which both entities are listed.

        Returns:
            Columns head, relation, tail, score, rank (among what may be listed), known; `seen`, whether head, relation
            and tail all occur in train; `asked`, the part that was asked for; `query`, whose answer it is, counted from
            1. Query by query, the best first.

        Raises:
            UsageError: unknown names (close ones are offered), or not exactly one part asked for; of a file a DataError
                that tells the lines.
            Diverged: a score is not finite.
        """
        if queries is not None and not (head is None and relation is None and tail is None):
            raise UsageError("give either queries or head, relation and tail")
        asked = self.queries([(head, relation, tail)] if queries is None else queries)
        return self.answers(asked, top=top, known=known, candidates=candidates)

    def queries(self, given: Any) -> Queries:
        """Queries as `predict` takes them, in ids."""
        if isinstance(given, str | Path):
            return read_queries(Path(given), self._entities, self._relations)
        return queries_of(given, self._entities, self._relations)

    def named(self, queries: Queries) -> pl.DataFrame:
        """Queries in names: head, relation and tail, null for what is asked for."""
        return queries.frame(self._names.graph)

    @torch.no_grad()
    def answers(
        self, queries: Queries, *, top: int = 10, known: Known = "flag", candidates: Path | str | None = None
    ) -> pl.DataFrame:
        """What `predict` returns, for queries in ids. A `Note` tells what the training knew nothing of."""
        if self._lost and (known == "drop" or candidates is not None):
            self.dataset  # noqa: B018 - it says what is missing.
        graph = self._names.graph
        if self._lost and known == "flag":
            note(f"{self.folder}: without its dataset known answers are not marked; --dataset says where it is")
        if not self._lost:
            self._say_unseen(queries)
        return answers(
            self.model,
            graph,
            queries,
            top=top,
            known=known,
            among=self._candidates(candidates),
            device=self.device,
            memory_mb=self.config.evaluation.memory_mb,
            triples_known=not self._lost,
        )

    def _say_unseen(self, queries: Queries) -> None:
        """Say which names of queries train lacks, unless the model knows the entity by a modality."""
        graph, triples = self._names.graph, queries.triples
        entities = triples[:, [0, 2]].flatten().unique()
        entities = entities[(entities >= 0) & ~graph.seen_entities[entities]]
        by_features = [view != STRUCTURE for view in self.model.views]
        present = self.model.entities(entities.to(self.device)).present.cpu()
        relations = triples[:, 1].unique()
        relations = relations[(relations >= 0) & ~graph.seen_relations[relations]]
        for kind, names, unseen in (
            ("entity", graph.entities, entities[~present[:, torch.tensor(by_features)].any(1)]),
            ("relation", graph.relations, relations),
        ):
            if len(unseen):
                first = f"{kind} {names[int(unseen[0])]!r}" + (
                    f" and {len(unseen) - 1:,} more" if len(unseen) > 1 else ""
                )
                note(f"train lacks the {first}: such vectors were never trained, and their answers mean little")

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
        triple = self._entities.id(head), self._relations.id(relation), self._entities.id(tail)
        others = [draws.against(self.dataset, triple, self._relations.id(other)) for other in against]
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
    def _entities(self) -> Names:
        """What entities may be called."""
        return Names("entity", self._names.graph.entities, self._names.labels)

    @cached_property
    def _relations(self) -> Names:
        """What relations may be called."""
        return Names("relation", self._names.graph.relations, self._names.relation_labels)


def _trained(sampler: Sampler, yes: bool) -> bool | None:
    """Whether it is trained; None where there is nothing to train."""
    return yes if sampler.state_dict() else None


def load_run(folder: str | Path, *, dataset: Dataset | str | Path | None = None, device: str | None = None) -> Run:
    """Open a finished run folder; see `Run.load`."""
    return Run.load(folder, dataset=dataset, device=device)


def _difference(trained: pl.Series, now: pl.Series) -> str:
    """The first name that is only in one of two lists; each is in the order of code points."""
    gone, new = trained.filter(~trained.is_in(now.implode())), now.filter(~now.is_in(trained.implode()))
    words = [f"{len(part):,} {what}, first {part[0]!r}" for part, what in ((gone, "gone"), (new, "new")) if len(part)]
    return "; ".join(words) or "in another order"


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(path, "is not valid UTF-8", "restore it, or train again") from error


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
