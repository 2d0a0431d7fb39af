"""What the scores of a run are worth: probabilities of answers, and which triples it takes for true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.arrays import triples_frame
from mmrns.data.index import TripleIndex
from mmrns.errors import DataError, UsageError, note, unknown
from mmrns.evaluation.answers import ScoredAnswers, scored_answers
from mmrns.evaluation.calibration import METHODS, Method, cross_fitted, fit, measured, uncalibrated
from mmrns.evaluation.classification import by_relation, classified, corruptions, fit_thresholds
from mmrns.evaluation.ranking import refuse_not_finite
from mmrns.files import locked
from mmrns.runs.calibrations import Calibrated
from mmrns.runs.figures import save_figure
from mmrns.runs.labelled import Labelled, read_labelled
from mmrns.runs.names import Names
from mmrns.runs.plots import plot_reliability
from mmrns.runs.probabilities import totals
from mmrns.runs.queries import score_triples
from mmrns.runs.stored import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Split = Literal["valid", "test"]


class JudgedRun(StoredRun):
    """A finished run that tells how far its scores can be trusted; see `Run`."""

    def calibrate(
        self, method: Method = "isotonic", progress: Callable[[int], None] = lambda n: None
    ) -> dict[str, Any]:
        """Learn on validation how probable answers are; from then on `predict` and its like have a `probability`.

        The queries are those of validation triples that train lacks; the test split is not read. See `Calibration` for
        what a probability means. A run in a folder keeps it there, as `calibration.json` and `plots/reliability.png`.

        Args:
            method: `isotonic`, which follows whatever the data say; or `platt`, a logistic curve.
            progress: told of the queries done.

        Returns:
            `method`, `split`; `queries` and `true`, of how many queries and true answers it was made; `relations`, how
            many have a curve of their own; `before`, of shares at a temperature of 1, and `after`, of probabilities,
            how good they are on queries that they were not made of (halves, each by the other): see `measured`.

        Raises:
            UsageError: no such method.
            DataError: validation has no triple that train lacks; the folder cannot be written.
        """
        if method not in METHODS:
            raise unknown("method of calibration", method, METHODS)
        answers = self._answers("valid", progress)
        if not len(answers):
            where = self.dataset.files.get("valid", "valid")
            raise DataError(where, "has no triple that train lacks, to calibrate on", "split the triples anew")
        n_relations, seed = len(self.dataset.graph.relations), self.config.seed
        calibration = fit(answers, n_relations, method)
        about = {
            "method": method,
            "split": "valid",
            "queries": len(answers.query.unique()),
            "true": int(answers.true.sum()),
            "relations": len(calibration.curves) - 1,
            "before": measured(answers, uncalibrated(answers)),
            "after": measured(answers, cross_fitted(answers, n_relations, method, seed)),
        }
        # Beside the property, which looks in the folder.
        self.__dict__["calibrated"] = Calibrated(calibration, about)
        if self.folder is not None and self.world.first:
            with locked(self.folder, "plots"):
                self._write_calibration(self.folder)
        return about

    def _write_calibration(self, folder: Path) -> None:
        if self.calibrated is not None:
            self.calibrated.write(folder, self.dataset.graph.relations)
            save_figure(self.plot_reliability(), folder / "plots" / "reliability.png")

    def _write(self, path: Path, plots: bool) -> None:
        super()._write(path, plots)
        # In its own folder it was written when it was made.
        if self.folder != path:
            self._write_calibration(path)

    @cached_property
    def calibrated(self) -> Calibrated | None:
        """The calibration of the run, and what is told of it; None where there is none.

        Raises:
            DataError: `calibration.json` is malformed, or of another model.
        """
        return None if self.folder is None else Calibrated.read(self.folder, self.dataset.graph.relations)

    def calibration(self, split: Split = "test") -> dict[str, Any]:
        """How good the run's probabilities are on a split: `queries`, and the keys of `measured`.

        On the test split the triples of validation are known; on validation itself, where the calibration was made,
        it is better than it will be elsewhere, and `calibrate` tells what is to be expected.

        Raises:
            UsageError: the run has no calibration.
        """
        calibrated = self._refuse_uncalibrated()
        answers = self._answers(split)
        if not len(answers):
            where = self.dataset.files.get(split, split)
            raise DataError(where, "has no triple that was not known before", "split the triples anew")
        found = measured(answers, calibrated.calibration.of_answers(answers))
        return {"queries": len(answers.query.unique()), **found}

    def plot_reliability(self) -> Figure:
        """Probabilities against what is true, before and after calibration, as a matplotlib figure.

        Raises:
            UsageError: the run has no calibration.
        """
        return plot_reliability(self._refuse_uncalibrated().about, self._about)

    def probability(self, triples: Any, side: Literal["head", "tail"] = "tail") -> pl.DataFrame:
        """The probabilities of triples, true or not, as answers to the query for one side of them.

        Args:
            triples: names, as a frame or a list of (head, relation, tail); see `Dataset.from_triples`.
            side: what is asked for: the tail, (h, r, ?), or the head, (?, r, t). A triple is judged by what else
                answers the query, so that the two differ.

        Returns:
            Columns head, relation, tail, score, probability, in the order given.

        Raises:
            UsageError: a name that the graph lacks (close ones are offered), or the run has no calibration.
        """
        calibration = self._refuse_uncalibrated().calibration
        if side not in ("head", "tail"):
            raise UsageError(f"side={side!r}: ask for the head or the tail")
        frame = triples_frame(triples)
        ids, graph = self._ids(frame), self.dataset.graph
        memory_mb = self.config.evaluation.memory_mb
        score, total = totals(self.model, graph, ids, side == "head", calibration, self.device, memory_mb)
        found = calibration.probability(score, total, ids[:, 1])
        columns = {"score": score.double().numpy(), "probability": found.numpy()}
        return frame.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())

    def _refuse_uncalibrated(self) -> Calibrated:
        if self.calibrated is None:
            place = "RUN" if self.folder is None else str(self.folder)
            raise UsageError(f"the run has no calibration; make one by `mmrns calibrate {place}` (run.calibrate())")
        return self.calibrated

    def _answers(self, split: Split, progress: Callable[[int], None] = lambda n: None) -> ScoredAnswers:
        """Scored answers of a split, among what neither it nor an earlier split holds."""
        graph = self.dataset.graph
        # Without test triples, so that they play no part in what is learned of validation.
        if split == "valid":
            triples, known, before = graph.valid, graph.train, replace(graph, test=graph.test[:0])
        else:
            triples, known, before = graph.test, torch.cat([graph.train, graph.valid]), graph
        return scored_answers(
            self.model,
            triples,
            TripleIndex(known, len(graph.entities), len(graph.relations)),
            before.reflexive_relations,
            seed=self.config.seed,
            memory_mb=self.config.evaluation.memory_mb,
            device=self.device,
            progress=progress,
        )

    def classify(
        self,
        negatives: str | Path,
        *,
        valid_negatives: str | Path | None = None,
        split: Split = "test",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Triple classification: how well the run tells true triples from false ones.

        A triple is taken for true where its score is at least the threshold of its relation, which classifies most of
        validation rightly.

        Args:
            negatives: a file of false triples, which are held against the split's own; or of labelled ones, which stand
                for themselves: see `read_labelled`.
            valid_negatives: the same for validation. None makes a false triple of each validation triple that train
                lacks; see `corruptions`.
            split: whose triples are true.
            seed: of the false triples that are made.

        Returns:
            The keys of `classified`; `split`, None for labelled triples; `valid`, the same keys for the triples that
            the thresholds were learned of, and whether their negatives were `made`; `relations`, a list: see
            `by_relation`.

        Raises:
            DataError: a file or a split is not fit, by line.
            Diverged: a score is not finite.
        """
        graph = self.dataset.graph
        given = self._labelled(Path(negatives), split)
        learned = self._made(seed) if valid_negatives is None else self._labelled(Path(valid_negatives), "valid")
        in_train = int(graph.train_index.contains(*given.triples[given.true].T).sum())
        if in_train:
            note(f"{in_train:,} of the true triples are in train, which the model was trained on: they are easily told")
        n_relations = len(graph.relations)
        scores = [self._scores(part.triples) for part in (learned, given)]
        thresholds = fit_thresholds(scores[0], learned.true, learned.triples[:, 1], n_relations)
        found, valid = (
            classified(score, part.true, part.triples[:, 1], thresholds)
            for score, part in zip(scores[::-1], (given, learned), strict=True)
        )
        rows = by_relation(scores[1], given.true, given.triples[:, 1], thresholds, graph.relations)
        labels = self.dataset.relation_labels
        return {
            **found,
            "split": None if given.labelled else split,
            "valid": {**valid, "made": valid_negatives is None},
            "relations": [{"relation": row["relation"], "name": labels.get(row["relation"]), **row} for row in rows],
        }

    def _labelled(self, path: Path, split: Split) -> Labelled:
        """The triples of a file, with those of the split where it has false ones only."""
        graph = self.dataset.graph
        found = read_labelled(path, graph, *self.names)
        if found.labelled:
            return found
        positives: Int[Tensor, "n 3"] = self._fresh_valid() if split == "valid" else graph.test
        if not len(positives):
            where = self.dataset.files.get(split, split)
            raise DataError(
                where, "has no true triple to hold against them", f"label the triples of {path} by 1 and -1"
            )
        return Labelled.of(positives, found.triples)

    def _made(self, seed: int) -> Labelled:
        graph, positives = self.dataset.graph, self._fresh_valid()
        known = TripleIndex(torch.cat([graph.train, graph.valid]), len(graph.entities), len(graph.relations))
        made = corruptions(positives, graph, known, seed)
        if not len(made):
            where = self.dataset.files.get("valid", "valid")
            raise DataError(
                where, "has no triple to learn thresholds of", "give labelled triples: --valid-negatives FILE"
            )
        return Labelled.of(positives, made)

    def _fresh_valid(self) -> Int[Tensor, "n 3"]:
        """The validation triples that the model was not trained on."""
        graph = self.dataset.graph
        return graph.valid[~graph.train_index.contains(*graph.valid.T)]

    def _scores(self, ids: Int[Tensor, "n 3"]) -> Tensor:
        scores = score_triples(self.model, ids, self.device)
        refuse_not_finite(scores)
        return scores

    def _ids(self, frame: pl.DataFrame) -> Int[Tensor, "n 3"]:
        """Triples of names in ids.

        Raises:
            UsageError: a name that the graph lacks.
        """
        parts = (self._entities, frame["head"]), (self._relations, frame["relation"]), (self._entities, frame["tail"])
        return torch.stack([names.ids(column) for names, column in parts], dim=1)

    @cached_property
    def names(self) -> tuple[Names, Names]:
        """What entities and what relations may be called."""
        dataset, strangers = self.dataset, self._data.strangers
        graph = dataset.graph
        entities = Names("entity", graph.entities, dataset.labels, strangers.get("entities"))
        relations = Names("relation", graph.relations, dataset.relation_labels, strangers.get("relations"))
        entities.other, relations.other = relations, entities
        return entities, relations

    @property
    def _entities(self) -> Names:
        return self.names[0]

    @property
    def _relations(self) -> Names:
        return self.names[1]
