"""What a probability is best made of: the test split of a run judges ways to calibrate on its validation split.

    python experiments/calibration.py RUN [--json]

For the first ten answers of each test query: the expected calibration error and the Brier score; and of the very first
answers the mean probability and the share that is true. All in percent but the Brier score.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

import mmrns
from mmrns.data.index import TripleIndex
from mmrns.evaluation.answers import ScoredAnswers, scored_answers
from mmrns.evaluation.calibration import ENOUGH, fit, measured, uncalibrated


def by_score(learned: ScoredAnswers, judged: ScoredAnswers, n_relations: int, weight: Tensor) -> Tensor:
    """Isotonic regression on the score of a triple alone, by relation where there is enough to learn of."""
    found = torch.zeros(len(judged), dtype=torch.float64)
    for relation in range(n_relations):
        rows, own = judged.relation == relation, learned.relation == relation
        if not rows.any():
            continue
        if int(learned.true[own].sum()) < ENOUGH:
            own = torch.ones_like(own)
        own &= weight > 0
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        curve.fit(learned.score[own].numpy(), learned.true[own].numpy(), sample_weight=weight[own].numpy())
        found[rows] = torch.from_numpy(curve.predict(judged.score[rows].numpy())).double()
    return found


def compared(run: mmrns.Run) -> dict[str, dict[str, Any]]:
    """How good each way is on the test split; see `measured`."""
    graph = run.dataset.graph
    n_relations = len(graph.relations)

    def answers(triples: Tensor, known: Tensor) -> ScoredAnswers:
        index = TripleIndex(known, len(graph.entities), n_relations)
        return scored_answers(run.model, triples, index, graph.reflexive_relations, seed=run.config.seed)

    valid = answers(graph.valid, graph.train)
    test = answers(graph.test, torch.cat([graph.train, graph.valid]))
    # As many random false triples as true ones, by weight: a base rate of one half.
    random = torch.where(valid.rank == 0, valid.weight, 0).double()
    random[valid.true] = 0
    random *= valid.true.sum() / random.sum()
    ways = {
        "share, temperature 1": uncalibrated(test),
        "share, isotonic": fit(valid, n_relations, "isotonic").of_answers(test),
        "share, platt": fit(valid, n_relations, "platt").of_answers(test),
        "score, isotonic": by_score(valid, test, n_relations, valid.weight.double()),
        "score, against corruptions": by_score(valid, test, n_relations, random + valid.true),
    }
    return {name: measured(test, probability) for name, probability in ways.items()}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    found = compared(mmrns.load_run(given.run))
    if given.json:
        print(json.dumps(found))
        return
    print("| probability of | ECE | Brier | first: probability | first: true |\n|---|---|---|---|---|")
    for name, row in found.items():
        first = (100 * row["first"][key] for key in ("probability", "true"))
        cells = [f"{100 * row['ece']:.1f}", f"{row['brier']:.4f}", *(f"{value:.1f}" for value in first)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
