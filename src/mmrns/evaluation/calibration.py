"""Probabilities of answers: the share that an answer has of all, and how often answers of such a share are true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.errors import UsageError
from mmrns.evaluation.answers import ScoredAnswers
from mmrns.rng import generator

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = ("isotonic", "platt")
ENOUGH = 25
"""True answers that a relation needs for a calibration of its own: on countries and DB15K 10 and 25 gave the best Brier
scores, 50 and more worse ones."""
LISTED = 10
"""The first answers of a query, of which calibration is measured: so many are what a prediction lists by default."""
BINS = 10
"""Of equal width, in which a mean probability is held against the share that is true."""
FLOOR = -30.0
"""Logarithms of shares are no lower: exp(-30) of any number of answers is nothing."""
_SHARPEST = 100.0
"""A scale of scores is at most so many times the inverse of their standard deviation: where the true answer is always
the first, a larger one would always be better."""

CERTAIN = 25.0
"""Largest logit: nothing is certain, and a probability of 0 or 1 would say so."""


@dataclass(frozen=True)
class Curve:
    """From the logarithm of a share to a probability, never falling.

    Attributes:
        x: ascending logarithms of shares, and y: the probabilities there; between two it is linear, beyond the ends
            constant. Of the method `platt` x is the slope alone and y the intercept: 1 / (1 + exp(-x share - y)).
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """Scores of answers become probabilities.

    The probability of an answer e to a query (h, r, ?), or (?, r, t), is how often an answer that has such a share of
    its query is true, among validation queries: those have a true answer that is not known. The share is a softmax over
    all entities that make no known triple, with a temperature T of the relation,

        share(e) = exp(f(e) / T_r) / sum_e' exp(f(e') / T_r),      p(e) = c_r(log share(e))

    and c_r is a curve that never falls, so that within a query a higher score is never less probable. T_r maximises the
    likelihood of the true answers (temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", 2017;
    softmax over entities: Safavi et al., "Evaluating the Calibration of Knowledge Graph Embeddings for Trustworthy Link
    Prediction", 2020), c_r is an isotonic regression or Platt's logistic one. A relation with fewer than `ENOUGH` true
    answers in validation has the temperature and the curve of all relations together.

    Tabacof and Costabello ("Probability Calibration for Knowledge Graph Embedding Models", 2020) calibrate the score of
    a triple alone, against random corruptions and to a base rate that the user states. But what a prediction lists is
    no random corruption, and how high a true answer scores differs from query to query.

    Attributes:
        method: of the curves.
        group: Int[R], the place of each relation's temperature and curve; 0 is that of all relations together.
        temperature: Float[G].
        curves: G of them.
    """

    method: Method
    group: Int[Tensor, " R"]
    temperature: Float[Tensor, " G"]
    curves: tuple[Curve, ...]

    def log_totals(self, scores: Float[Tensor, "B E"], r: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The logarithm of the sum in a query's share.

        Args:
            scores: of every entity, -inf where it is no answer.
            r: the relation of each row.
        """
        temperature = self.temperature[self.group[r]].to(scores)
        return (scores / temperature[:, None]).logsumexp(1).cpu().double()

    def probability(
        self, score: Float[Tensor, " n"], log_total: Float[Tensor, " n"], r: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """The probabilities of answers.

        One that makes a known triple, which is not in the sum, is judged as if it were not known, and has a share of 1
        at most.

        Args:
            score: theirs.
            log_total: of their queries; see `log_totals`.
            r: their relations.
        """
        group = self.group[r]
        return self.of_shares(score.double() / self.temperature[group] - log_total, group)

    def of_shares(self, log_share: Float[Tensor, " n"], group: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What the curve of each group makes of the logarithm of a share."""
        x = log_share.double().clamp(FLOOR, 0.0)
        if self.method == "platt":
            slope = torch.tensor([curve.x[0] for curve in self.curves], dtype=torch.float64)
            intercept = torch.tensor([curve.y[0] for curve in self.curves], dtype=torch.float64)
            return torch.sigmoid((slope[group] * x + intercept[group]).clamp(-CERTAIN, CERTAIN))
        # All curves one behind the other, so that one interpolation answers for all of them.
        width = 1 - FLOOR
        ends = [g * width + np.array([FLOOR, *curve.x, 0.0]) for g, curve in enumerate(self.curves)]
        values = [np.array([curve.y[0], *curve.y, curve.y[-1]]) for curve in self.curves]
        return torch.from_numpy(np.interp((x + group * width).numpy(), np.concatenate(ends), np.concatenate(values)))

    def of_answers(self, answers: ScoredAnswers) -> Float[Tensor, " n"]:
        """The probabilities of answers that are at hand with those that they compete with."""
        group = self.group[answers.relation]
        return self.of_shares(_log_shares(answers, 1 / self.temperature[group]), group)


def uncalibrated(answers: ScoredAnswers) -> Float[Tensor, " n"]:
    """The shares themselves at a temperature of 1: what stands for a probability where nothing was calibrated."""
    return _log_shares(answers, torch.ones(len(answers), dtype=torch.float64)).exp()


def fit(answers: ScoredAnswers, n_relations: int, method: Method = "isotonic") -> Calibration:
    """Calibrate on answers of validation queries.

    Args:
        answers: of which at least one is true.
        n_relations: R.
        method: `isotonic` or `platt`.

    Raises:
        UsageError: no answer is true.
    """
    if not answers.true.any():
        raise UsageError("no answer is true, of which a probability could be learned; calibrate on other triples")
    true = torch.bincount(answers.relation[answers.true], minlength=n_relations)
    own = true >= ENOUGH
    group = torch.where(own, own.cumsum(0), 0)
    parts = [torch.zeros_like(answers.relation), group[answers.relation]]
    n_groups = int(own.sum()) + 1
    scale = _scales(answers, parts[1], n_groups)
    # That of all relations together is found as if there were no relations.
    scale[0] = _scales(answers, parts[0], 1)[0]
    together = _log_shares(answers, scale[parts[0]])
    each = _log_shares(answers, scale[parts[1]])
    curves = [_curve(together, answers, method)]
    order = torch.argsort(parts[1], stable=True)
    sizes = torch.bincount(parts[1], minlength=n_groups).tolist()
    for rows in order.split(sizes)[1:]:
        curves.append(_curve(each[rows], answers.where(rows), method))
    return Calibration(method, group, 1 / scale, tuple(curves))


def cross_fitted(
    answers: ScoredAnswers, n_relations: int, method: Method = "isotonic", seed: int = 0
) -> Float[Tensor, " n"]:
    """Probabilities of answers by calibrations that did not see their queries: each half's by the other half.

    Where a half has no true answer, there is nothing to learn from, and all of it counts.
    """
    halves = torch.rand(int(answers.query.max()) + 1, generator=generator(seed, "halves"))[answers.query] < 0.5
    found = torch.zeros(len(answers), dtype=torch.float64)
    for half in (halves, ~halves):
        other = answers.where(~half)
        learned = fit(other if other.true.any() else answers, n_relations, method)
        found[half] = learned.of_answers(answers.where(half))
    return found


def _curve(log_share: Float[Tensor, " n"], answers: ScoredAnswers, method: Method) -> Curve:
    """The curve of some answers.

    Probabilities stay as far from 0 and 1 as one more answer of either kind would have put them.
    """
    x, true, weight = log_share.numpy(), answers.true.numpy(), answers.weight.double().numpy()
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        n_true = int(true.sum())
        low, high = 1 / (float(weight.sum()) + 2), (n_true + 1) / (n_true + 2)
        found = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(x, true, sample_weight=weight)
        return Curve(tuple(found.X_thresholds_.tolist()), tuple(found.y_thresholds_.tolist()))
    if true.all() or not true.any():
        n_true = float(true.sum())
        odds = (n_true + 1) / (float(weight.sum()) - n_true + 1)
        return Curve((0.0,), (float(np.log(odds)),))
    from sklearn.linear_model import LogisticRegression

    # The penalty is of no size; it keeps the slope finite where shares tell what is true without exception.
    found = LogisticRegression(C=1e4).fit(x[:, None], true, sample_weight=weight)
    return Curve((max(float(found.coef_[0, 0]), 0.0),), (float(found.intercept_[0]),))


def _log_shares(answers: ScoredAnswers, scale: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The logarithm of the share that each answer has of its query, at scales 1 / T; no lower than `FLOOR`."""
    z = answers.score.double() * scale
    return (z - _log_sums(z, answers)).clamp(min=FLOOR)


def _log_sums(z: Float[Tensor, " n"], answers: ScoredAnswers) -> Float[Tensor, " n"]:
    """The logarithm of the sum of exp(z) over the query of each answer."""
    query = answers.query
    n = int(query.max()) + 1
    largest = torch.full((n,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, query, z, "amax")
    total = _sums(query, answers.weight * (z - largest[query]).exp(), n)
    return (total.log() + largest)[query]


def _sums(place: Int[Tensor, " n"], values: Float[Tensor, " n"], n: int) -> Float[Tensor, " m"]:
    return torch.zeros(n, dtype=torch.float64).index_add_(0, place, values.double())


def _scales(answers: ScoredAnswers, group: Int[Tensor, " n"], n_groups: int) -> Float[Tensor, " G"]:
    """The scale 1 / T of each group under which its true answers are most likely.

    The logarithm of the likelihood is concave in the scale, and Newton's method finds its maximum: with the sum over
    true answers of score - E[score] for a gradient and of Var[score] for a curvature, both under the shares.
    """
    query, weight = answers.query, answers.weight.double()
    n = int(query.max()) + 1
    group_of = torch.zeros(n, dtype=torch.int64).index_copy_(0, query, group)
    mean = _sums(query, weight * answers.score, n) / _sums(query, weight, n)
    # The shares of a query do not change where all its scores do.
    x = answers.score.double() - mean[query]
    variance = _sums(group, weight * x * x, n_groups) / _sums(group, weight, n_groups).clamp(min=1)
    least = 1 / variance.clamp(min=1e-12).sqrt()
    scale = least.clone()
    n_true = _sums(query, answers.true.double(), n)
    wanted = _sums(group, answers.true * x, n_groups)
    for _ in range(50):
        z = scale[group] * x
        share = weight * (z - _log_sums(z, answers)).exp()
        expected = _sums(query, share * x, n)
        spread = _sums(query, share * x * x, n) - expected**2
        gradient = wanted - _sums(group_of, n_true * expected, n_groups)
        curvature = _sums(group_of, n_true * spread, n_groups).clamp(min=1e-12)
        # No more than half of it or twice it at a time; positive, so that a higher score is a larger share.
        step = torch.minimum(torch.maximum(gradient / curvature, -0.5 * scale), scale)
        new = torch.minimum(torch.maximum(scale + step, 1e-3 * least), _SHARPEST * least)
        done = ((new - scale).abs() <= 1e-4 * scale).all()
        scale = new
        if done:
            break
    return scale


def reliability(probability: Float[Tensor, " n"], true: Bool[Tensor, " n"]) -> list[dict[str, Any]]:
    """Answers in `BINS` bins of equal width by their probability.

    Returns:
        Of each bin `from` and `to`; `count`, its answers; and their mean `probability` and the share that is `true`,
        None where it is empty.
    """
    place = (probability * BINS).long().clamp(0, BINS - 1)
    count = torch.bincount(place, minlength=BINS)
    means = [_sums(place, values, BINS) / count for values in (probability, true.double())]
    rows = zip(count.tolist(), *(column.tolist() for column in means), strict=True)
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "count": n,
            "probability": mean if n else None,
            "true": share if n else None,
        }
        for i, (n, mean, share) in enumerate(rows)
    ]


def expected_calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """`sum_b n_b / n |mean probability of b - share of b that is true|` (Naeini et al., 2015), of `reliability`.

    >>> bins = reliability(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([False, True, False]))
    >>> round(expected_calibration_error(bins), 3)
    0.3
    """
    filled = [row for row in bins if row["count"]]
    total = sum(row["count"] for row in filled)
    return sum(row["count"] * abs(row["probability"] - row["true"]) for row in filled) / total if total else 0.0


def measured(answers: ScoredAnswers, probability: Float[Tensor, " n"]) -> dict[str, Any]:
    """How good the probabilities of the first `LISTED` answers of each query are.

    Returns:
        `ece`, the expected calibration error, and `brier`, the mean squared difference from what is true (1 or 0), both
        smaller = better; `answers`, their number; `first`, of the very first answers alone the mean `probability` and
        the share that is `true`; `bins`, see `reliability`.
    """
    listed = (answers.rank > 0) & (answers.rank <= LISTED)
    p, true = probability[listed], answers.true[listed]
    first = answers.rank[listed] == 1
    bins = reliability(p, true)
    return {
        "ece": expected_calibration_error(bins),
        "brier": float(((p - true.double()) ** 2).mean()),
        "answers": len(p),
        "first": {"probability": float(p[first].mean()), "true": float(true[first].double().mean())},
        "bins": bins,
    }
