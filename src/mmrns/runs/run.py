"""A finished run in use: scores, ranks, predictions, embeddings, inspection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.arrays import triples_frame
from mmrns.data.datasets import Dataset
from mmrns.data.features import Alteration, Modality
from mmrns.errors import DataError, UsageError, note
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import Ranks, ScoresAll, rank
from mmrns.evaluation.report import By, breakdown, report
from mmrns.evaluation.sight import ALTERATIONS, Altered, alterations, sight, sight_by_relation
from mmrns.files import write_text
from mmrns.inspection import draws, evidence
from mmrns.inspection.rules import Rules
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.kernels.comparisons import comparing
from mmrns.runs.build import build_batches, build_objective, build_sampler
from mmrns.runs.card import model_card
from mmrns.runs.config import Config, flatten
from mmrns.runs.display import ROWS as ROWS_SHOWN
from mmrns.runs.display import Predictions
from mmrns.runs.exports import ROWS, copy_licences, features_read, write_bundle, write_predictions, write_vectors
from mmrns.runs.hub import check_login, check_name, located, upload
from mmrns.runs.judged import JudgedRun, Split
from mmrns.runs.kept import modalities_read, with_entities
from mmrns.runs.queries import Known, Queries, answers, every_query, queries_of, read_queries, schema
from mmrns.runs.vectors import neighbours, vectors_frame
from mmrns.samplers.base import Sampler
from mmrns.training.world import ALONE, World


class Run(JudgedRun):
    """A finished run: its configuration, results and model, ready to score, rank and predict.

    `mmrns.train` and `mmrns.load_run` make one.

    Attributes:
        config: the configuration.
        results: the metrics, as `results.json` holds them.
        record: where the run came from, as `record.json` holds it.
        folder: where it is kept; None for a run that is in memory only.
    """

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
        scores = self._scores(self._ids(frame))
        return frame.with_columns(pl.Series("score", scores.double().numpy(), dtype=pl.Float64))

    @torch.no_grad()
    def embeddings(self, of: Literal["entities", "relations"] = "entities") -> pl.DataFrame:
        """The model's vectors with their names.

        Returns:
            Of entities a column `entity`, a column `name` with the readable name where there is one, and one column of
            arrays for each view of the model (`structure`, and the modalities that it scores by), null where an entity
            lacks the view. Of relations `relation`, `name` and `vector`; with reciprocal relations also `inverse`.
        """
        if of not in ("entities", "relations"):
            raise UsageError(f"embeddings of={of!r}: ask for entities or relations")
        self._refuse_parted("a table of vectors")
        names = self._entities if of == "entities" else self._relations
        return vectors_frame(self.model, names, self.device)

    @torch.no_grad()
    def neighbours(self, entity: str, *, by: str = STRUCTURE, top: int = 10) -> pl.DataFrame:
        """The entities that are most similar to one, by what the model has learned or by a modality.

        Similarity is the cosine of two vectors: by `structure` of the model's own (of phases, as pRotatE has them, of
        the points on the circle), by a modality of the means of the entities' tokens, as the dataset has them, which
        need not be one that the model reads.

        Args:
            entity: its id, or its name.
            by: `structure`, or the name of a modality.
            top: entities to list.

        Returns:
            Columns `rank`, `entity`, `name` (null where there is none), `similarity` (from -1 to 1); and `structure`
            and each modality, the similarity by that, null where one of the two has none. The most similar first.

        Raises:
            UsageError: an unknown entity or modality, or the entity has none of it.
        """
        self._refuse_parted("to compare an entity with all")
        return neighbours(self.model, self.dataset, self._entities, self._entities.id(entity), by, top, self.device)

    def ranks(
        self,
        split: Split = "test",
        progress: Callable[[int], None] | None = None,
        *,
        candidates: Path | str | None = None,
    ) -> Ranks:
        """Filtered ranks of both sides of a split; `candidates` as of `evaluate`."""
        among = self._candidates(candidates)
        if left_out := self._data.left_out.get(split):
            where = self.dataset.files.get(split, split)
            what = "1 triple names" if left_out == 1 else f"{left_out:,} triples name"
            what += " what the model has no vector for"
            raise DataError(where, what, "train again to evaluate on such, or take them out")
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
                Relations have their readable `name` beside them.
            candidates: rank only among the relation's domain or range in train (`"train"`), or among the entities that
                a file lists for it, in rows relation TAB side (head or tail) TAB entity. None ranks among every entity.
                A side without candidates is unrestricted. A true answer that is not among them takes part all the same,
                and is counted under `outside`.
            bootstrap: samples for the confidence intervals under `interval`, beside the realistic metrics; 0 = none.
        """
        found = self.report(self.ranks(split, candidates=candidates), by=by, candidates=candidates, bootstrap=bootstrap)
        if isinstance(found, dict):
            return found
        schema = {"name": pl.String} if by == "relation" else None
        rows = [flatten(row) for row in found]
        return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)

    def report(
        self, ranks: Ranks, *, by: By | None = None, candidates: Path | str | None = None, bootstrap: int = 0
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """What `evaluate` returns, of ranks that are at hand; broken down as a list of rows."""
        graph, among = self.dataset.graph, self._candidates(candidates)
        if by is None:
            return report(ranks, graph, bootstrap, among)
        rows = breakdown(ranks, graph, by, bootstrap, among)
        if by != "relation":
            return rows
        labels = self.dataset.relation_labels
        return [{by: row[by], "name": labels.get(row[by])} | row for row in rows]

    def sees(
        self,
        split: Split = "test",
        *,
        by: Literal["relation"] | None = None,
        seeds: int = 3,
        bootstrap: int = 1000,
        progress: Callable[[int], None] | None = None,
    ) -> pl.DataFrame:
        """Does the model see? What its MRR loses where the features that it reads are not the true ones.

        Each modality by itself is shuffled among the entities that have it, lost by 10, 30 and 50 % of these, replaced
        by noise, and left out (`Modality.altered`); all of them at once are shuffled and left out. The model stays as
        it is. One that does as well with the pictures of others does not see them.

        Args:
            split: what to rank.
            by: by `relation` what shuffling takes from each instead, the most first.
            seeds: how often to draw what is shuffled, dropped or noise; the mean counts.
            bootstrap: samples for the 95 % interval of each difference, paired by query; 0 = none.
            progress: told of the queries ranked, those of each alteration and seed and of the true features.

        Returns:
            The rows of `sight`, or of `sight_by_relation` with the readable `name` of each.

        Raises:
            UsageError: the model reads no features.
            Diverged: a score is not finite.
        """
        plan = self.alterations(seeds, by)
        true = self.ranks(split, progress)
        tried = [(one, [self._altered(one.how, seed).ranks(split, progress) for seed in one.seeds]) for one in plan]
        if by is None:
            rows = sight(true, tried, self._data.trained, bootstrap)
        else:
            labels = self.dataset.relation_labels
            found = sight_by_relation(true, tried, self._data.trained)
            rows = [{"relation": row["relation"], "name": labels.get(row["relation"])} | row for row in found]
        strings = dict.fromkeys(("modality", "name"), pl.String) | dict.fromkeys(("low", "high"), pl.Float64)
        schema = {key: kind for key, kind in strings.items() if rows and key in rows[0]}
        return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)

    def alterations(self, seeds: int = 3, by: Literal["relation"] | None = None) -> list[Altered]:
        """What `sees` tries: with the true features so many rankings and one more.

        Raises:
            UsageError: the model reads no features.
        """
        read = modalities_read(self.config, self.dataset)
        if not read:
            raise UsageError("the model reads no features, so that there is nothing to see; give model.modalities")
        return alterations(read, seeds, ALTERATIONS if by is None else ["shuffled"])

    def _altered(self, how: Mapping[str, Alteration], seed: int) -> Run:
        """The same run with other features than the true ones."""
        features = self.dataset.features.altered(how, seed)
        return self._with_data(replace(self._data, dataset=replace(self.dataset, features=features)))

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
                by its id or, where that is unique, by its name in `entities.tsv` or `relations.tsv`; also in another
                case, where no other is called so.
            queries: instead, a file of rows head TAB relation TAB tail, `?` or nothing for what is asked for (`-`: the
                standard input); or such triples as a list, an array or a frame.
            top: answers per query.
            known: `flag` marks triples of the dataset in the column `known`; `drop` leaves them out; `keep` lists them
                unmarked.
            candidates: list no other entities; see `evaluate`. Of relations those for which both entities are listed.

        Returns:
            Columns head, relation, tail, score; `probability`, where the run has a calibration (`calibrate`); rank
            (among what may be listed), known; `seen`, whether head, relation
            and tail all occur in the training's triples; `asked`, the part that was asked for; `query`, whose answer it
            is, counted from 1; `head_name`, `relation_name`, `tail_name`, null where there is no readable name. Query
            by query, the best first.

        Raises:
            UsageError: unknown names (close ones are offered), or not exactly one part asked for; of a file a DataError
                that tells the lines.
            Diverged: a score is not finite.
        """
        if queries is not None and not (head is None and relation is None and tail is None):
            raise UsageError("give either queries or head, relation and tail")
        asked = self.queries([(head, relation, tail)] if queries is None else queries)
        return self.answers(asked, top=top, known=known, candidates=candidates)

    @property
    def modalities(self) -> dict[str, Modality]:
        """The features by which the model knows entities, whether or not it was trained with them; maybe none."""
        return {name: self.dataset.features[name] for name in modalities_read(self.config, self.dataset)}

    def with_entities(self, features: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None) -> Run:
        """The same run with entities that it was not trained with, known by their features alone.

        They are asked about, ranked and listed as entities are that were added to the dataset: as answers too, unless
        `candidates` leaves them out. The run itself, its folder and its dataset stay as they are.
        `mmrns.prepare.encoders.encode_entities` makes such features of texts, pictures and numbers.

        Args:
            features: for each modality by name the tokens [L, D], or a single one [D], of each entity that has it.
            names: readable names of the entities that have one; blank = none.

        Raises:
            UsageError: the model reads no features; an entity has none of those that it reads, or is in the dataset
                already; tokens of another shape.
        """
        data = with_entities(self.config, self._data, features, names or {})
        run = self._with_data(data)
        run.__dict__["_as_trained"] = self._as_trained if self._data.added else self
        return run

    def show(self, predictions: pl.DataFrame, *, rows: int = ROWS_SHOWN) -> Predictions:
        """Predictions as a notebook shows them: query by query, by name, with thumbnails of the entities' pictures.

        Args:
            predictions: what `predict` gave.
            rows: answers that are shown at most.
        """
        lacking = [name for name in schema(calibrated=False) if name not in predictions.columns]
        if lacking:
            raise UsageError(f"show takes what predict gave; the frame has no column {lacking[0]!r}")
        return Predictions(predictions, self.dataset, rows)

    def entity(self, name: str) -> tuple[str, str | None]:
        """The id of an entity that is asked about by any of its names, and its readable name where there is one."""
        place = self._entities.id(name)
        return self._entities.known[place], self._entities.labels[place]

    def queries(self, given: Any) -> Queries:
        """Queries as `predict` takes them, in ids."""
        if isinstance(given, str | Path):
            return read_queries(Path(given), self._entities, self._relations)
        return queries_of(given, self._entities, self._relations)

    def every_query(self, side: draws.Side = "tail") -> Queries:
        """For every entity and relation that some triple has together, what else belongs there, on one side."""
        return every_query(self.dataset.graph, side == "head")

    def named(self, queries: Queries) -> pl.DataFrame:
        """Queries in names: head, relation, tail, head_name, relation_name, tail_name; null for what is asked for."""
        return queries.frame(*self.names)

    @torch.no_grad()
    def answers(
        self, queries: Queries, *, top: int = 10, known: Known = "flag", candidates: Path | str | None = None
    ) -> pl.DataFrame:
        """What `predict` returns, for queries in ids. A `Note` tells what the training knew nothing of."""
        with comparing(len(queries) * len(self.dataset.graph.entities) * self.model.spec.entity_width):
            self._say_unseen(queries)
            return answers(
                self.model,
                self.dataset.graph,
                queries,
                *self.names,
                trained=self._data.trained,
                top=top,
                known=known,
                among=self._candidates(candidates),
                calibration=None if self.calibrated is None else self.calibrated.calibration,
                device=self.device,
                memory_mb=self.config.evaluation.memory_mb,
            )

    def _say_unseen(self, queries: Queries) -> None:
        """Say which names of queries train lacks, unless the model knows the entity by a modality."""
        graph, triples = self._data.trained, queries.triples
        entities = triples[:, [0, 2]].flatten().unique()
        entities = entities[(entities >= 0) & ~graph.seen_entities[entities]]
        known = self.model.by_features(entities.to(self.device)).cpu()
        relations = triples[:, 1].unique()
        relations = relations[(relations >= 0) & ~graph.seen_relations[relations]]
        for kind, names, unseen in (
            ("entity", graph.entities, entities[~known]),
            ("relation", graph.relations, relations),
        ):
            if len(unseen):
                first = f"{kind} {names[int(unseen[0])]!r}" + (
                    f" and {len(unseen) - 1:,} more" if len(unseen) > 1 else ""
                )
                note(f"train lacks the {first}: such vectors were never trained, and their answers mean little")

    def export_embeddings(
        self,
        path: str | Path,
        of: Literal["entities", "relations"] = "entities",
        *,
        view: str | None = None,
    ) -> list[Path]:
        """Write the model's vectors with their names, in the format that the file's ending says.

        - `.parquet`: the frame of `embeddings`.
        - `.tsv`: a vector a line, tabs between the numbers, and `NAME_metadata.tsv` with a header line and the id and
          the name of each: what TensorBoard's projector loads. What lacks the view is left out.
        - `.safetensors`: the layout of a dataset's features, so that a model can read them: `values` float32
          [n V width], the views in the order of the metadata's `views`, and `mask` bool [n V], whether the entity has
          the view; beside it `NAME.entities`, an id a line. Of relations the views are `vector` and, where there are
          reciprocal ones, `inverse`, and the list is `NAME.relations`.

        A scorer's own page says what a vector's numbers are; of complex ones the d real parts come first.

        Args:
            path: where; files that are there are replaced.
            of: whose vectors.
            view: write this view only.

        Returns:
            The files that were written.

        Raises:
            UsageError: another ending, no such view, or several views for a `.tsv`.
        """
        about = {"encoder": self.title, "seed": str(self.config.seed), "step": str(self.results["selected_step"])}
        return write_vectors(self.embeddings(of), Path(path), view, about)

    def export_predictions(
        self,
        path: str | Path,
        queries: Any,
        *,
        top: int = 10,
        known: Known = "drop",
        candidates: Path | str | None = None,
        progress: Callable[[int], None] = lambda n: None,
    ) -> int:
        """Write the answers of many queries as they come: the memory that it takes does not depend on their number.

        Args:
            path: `.parquet`, the frame of `predict`; or `.nt`, N-Triples, a statement for each answer. Names that are
                IRIs or blank nodes are written as such, others percent-encoded after `urn:mmrns:`.
            queries: see `predict`, or what `every_query` or `queries` gave.
            top, known, candidates: see `predict`.
            progress: told of the queries done.

        Returns:
            How many predictions were written.
        """
        asked = queries if isinstance(queries, Queries) else self.queries(queries)

        def parts() -> Iterator[pl.DataFrame]:
            size = max(1, ROWS // top)
            for first in range(0, len(asked), size):
                part = Queries(asked.triples[first : first + size])
                frame = self.answers(part, top=top, known=known, candidates=candidates)
                yield frame.with_columns(pl.col("query") + first)
                progress(len(part))

        return write_predictions(parts(), Path(path), self.dataset.graph, self.calibrated is not None)

    def export_bundle(self, folder: str | Path, *, features: bool = True) -> None:
        """Write the run with all that its use takes to a new folder, which `load_run` opens on any machine.

        It is a run folder without checkpoints whose `dataset/` holds, beside the triples and names that every run
        folder has there, the descriptions and those features that the model or its sampler reads. Pictures stay behind.

        Args:
            folder: the new folder.
            features: whether these features go along.

        Raises:
            UsageError: the run is in memory only.
            DataError: the folder holds something already or cannot be written; features that are needed are not found.
        """
        if self.folder is None:
            raise UsageError("the run is in memory only; save it first: run.save(folder)")
        dataset = self._trained_on
        names = features_read(self.config, dataset) if features else []
        write_bundle(self.folder, Path(folder), self.config, self.record, dataset, names)

    def export_repository(self, folder: str | Path, name: str, *, features: bool = False) -> None:
        """Write what `push` sends to a new folder: a bundle, a model card (`README.md`), and the licences of the data.

        Args:
            folder: the new folder.
            name: of the repository, `owner/name`, which the card tells.
            features: whether the features go along that the model or its sampler reads. Without them the run is used
                beside its dataset, as far as it reads them.

        Raises:
            UsageError: no name of a repository, or the run is in memory only.
            DataError: the folder holds something already or cannot be written.
        """
        check_name(name)
        self.export_bundle(folder, features=features)
        dataset, target = self._trained_on, Path(folder)
        reads = features_read(self.config, dataset)
        about = self.config, self.results, self.record, dataset
        card = model_card(name, *about, reads=reads, scored=self.model.entity.reads, features=features)
        write_text(target / "README.md", card)
        copy_licences(dataset, target)

    def push(
        self, name: str, *, private: bool = False, features: bool = False, message: str = "Upload a run of mmrns"
    ) -> str:
        """Send the run to the Hugging Face Hub, or to what `HF_ENDPOINT` says, where `load_run("hf://NAME")` finds it.

        Checkpoints and pictures stay behind. What the repository held before is replaced, in one commit.

        Args:
            name: of the repository, `owner/name`; it is made where there is none.
            private: whether one that is made is seen by its owner only.
            features: see `export_repository`.
            message: of the commit.

        Returns:
            The address of the repository.

        Raises:
            UsageError: nobody is logged in, or the extra `hub` is not installed; see `export_repository`.
            DataError: the Hub refuses, or cannot be reached.
        """
        check_name(name)
        check_login()
        with TemporaryDirectory(prefix="mmrns-") as temporary:
            folder = Path(temporary) / "run"
            self.export_repository(folder, name, features=features)
            return upload(folder, name, private=private, message=message)

    @property
    def _trained_on(self) -> Dataset:
        return replace(self.dataset, graph=self._data.trained)

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
        self._refuse_parted("an inspection")
        if self._data.added:
            # The sampler knows the entities of its training only.
            return self._as_trained.inspect(
                head,
                relation,
                tail,
                against=against,
                side=side,
                samplers=samplers,
                steps=steps,
                top=top,
                progress=progress,
            )
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

    def explain(
        self,
        head: str | None,
        relation: str,
        tail: str | None,
        *,
        side: draws.Side | None = None,
        top: int = 10,
    ) -> evidence.Explanation:
        """What speaks for a triple: the train triples that it may rest on, and what each view adds to its score.

        Args:
            head, relation, tail: the triple, true or not, named as in `predict`. Where the head or the tail is None the
                best answer that the dataset does not hold yet is explained, the first of `predict(known="drop")`.
            side: the end that is asked for: it decides what the triple is ranked against. By default the one that is
                None, else the tail.
            top: so many of each list; of `similar`, by each measure.

        Returns:
            Plain values, as `mmrns explain --json` prints them; the page of the class says what the keys are.

        Raises:
            UsageError: unknown names (close ones are offered), both ends are None, the side is not the one that is
                None, or nothing is left to answer.
            Diverged: a score is not finite.
        """
        self._refuse_parted("an explanation")
        asked: draws.Side | None = "head" if head is None else "tail" if tail is None else None
        if side not in (None, "head", "tail"):
            raise UsageError(f"side={side!r}: the end that is asked for is head or tail")
        if asked is not None and side not in (None, asked):
            raise UsageError(
                f"the {asked} is left out, so that it is asked for; leave side={side} out, or give the {asked}"
            )
        if head is None or tail is None:
            best = self.predict(head, relation, tail, top=1, known="drop")
            if not len(best):
                raise UsageError("every answer is in the dataset already; name the one to explain")
            ends: tuple[str, str] = (best["head"][0], best["tail"][0])
        else:
            ends = head, tail
        triple = self._entities.id(ends[0]), self._relations.id(relation), self._entities.id(ends[1])
        return evidence.explain(
            self.model,
            self.dataset,
            self._data.trained,
            self._rules,
            build_objective(self.config, self.model),
            triple,
            side or asked or "tail",
            top=top,
            device=self.device,
        )

    @cached_property
    def _rules(self) -> Rules:
        return Rules(self._data.trained)

    @cached_property
    def _as_trained(self) -> Run:
        """The same run with the entities of its training only."""
        return Run(
            self.config,
            self.results,
            self.record,
            folder=self.folder,
            dataset=self._dataset,
            device=str(self.device),
            found=self._found,
            grows=False,
        )

    def _untrained(self, method: str) -> draws.Drawing:
        config = self.config.with_method(method)
        Sampler.registry.get(config.recipe.sampler).refuse_unfit(self.model)
        sampler = build_sampler(config, self.dataset, self.model).to(self.device).eval()
        return draws.Drawing(method, sampler, build_batches(config, self.dataset), _trained(sampler, False))


def _trained(sampler: Sampler, yes: bool) -> bool | None:
    """Whether it is trained; None where there is nothing to train."""
    return yes if sampler.state_dict() else None


def load_run(
    folder: str | Path,
    *,
    dataset: Dataset | str | Path | None = None,
    device: str | None = None,
    world: World = ALONE,
) -> Run:
    """Open a finished run, in its folder, or of the Hugging Face Hub by `hf://owner/name[@revision]`; see `Run.load`.

    Raises:
        UsageError, DataError: see `Run.load`; also there is no such repository or revision, the Hub cannot be reached
            and the cache has no copy, or the extra `hub` is not installed.
    """
    return Run.load(located(folder), dataset=dataset, device=device, world=world)


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
