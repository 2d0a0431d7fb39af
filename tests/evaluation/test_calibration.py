"""Calibration: by hand, against a search, and where the truth is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.errors import UsageError
from mmrns.evaluation import calibration as module
from mmrns.evaluation.answers import ScoredAnswers
from mmrns.evaluation.calibration import (
    METHODS,
    Calibration,
    Curve,
    Method,
    cross_fitted,
    expected_calibration_error,
    fit,
    measured,
    reliability,
    uncalibrated,
)


def drawn(queries: int, scales: list[float], answers: int = 30, seed: int = 0) -> ScoredAnswers:
    """Queries whose one true answer is drawn from a softmax of its scores times the scale of the relation."""
    stream = torch.Generator().manual_seed(seed)
    relation = torch.randint(len(scales), (queries,), generator=stream)
    scores = 3 * torch.randn(queries, answers, generator=stream) + 5 * torch.randn(queries, 1, generator=stream)
    scores = scores.sort(dim=1, descending=True).values
    chances = (scores * torch.tensor(scales)[relation][:, None]).softmax(1)
    true = torch.multinomial(chances, 1, generator=stream) == torch.arange(answers)
    rows = torch.arange(queries)[:, None].expand(scores.shape)
    rank = torch.arange(1, answers + 1).expand(scores.shape)
    return ScoredAnswers(
        rows.flatten(),
        relation[rows].flatten(),
        scores.flatten(),
        true.flatten(),
        rank.flatten(),
        torch.ones(queries * answers),
    )


@pytest.fixture(scope="module")
def answers() -> ScoredAnswers:
    return drawn(1500, [0.3, 1.0])


def test_the_temperatures_are_those_that_the_answers_were_drawn_with(answers: ScoredAnswers) -> None:
    found = fit(answers, 3)
    assert found.group.tolist() == [1, 2, 0]
    assert found.temperature[1:].tolist() == pytest.approx([1 / 0.3, 1.0], rel=0.1)
    assert 1.0 < found.temperature[0] < 1 / 0.3


def test_no_temperature_near_it_is_more_likely(answers: ScoredAnswers) -> None:
    best = 1 / fit(answers, 2).temperature[1:][answers.relation]

    def likelihood(factor: float) -> float:
        return float(module._log_shares(answers, factor * best)[answers.true].sum())

    assert likelihood(1.0) > max(likelihood(0.98), likelihood(1.02))


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_probabilities_are_as_often_true_as_they_say(answers: ScoredAnswers, method: Method) -> None:
    fresh = drawn(1500, [0.3, 1.0], seed=1)
    found = measured(fresh, fit(answers, 2, method).of_answers(fresh))
    before = measured(fresh, uncalibrated(fresh))
    assert found["ece"] < 0.01 < 2 * found["ece"] + 0.01 < before["ece"]
    assert found["brier"] < before["brier"]
    assert found["first"]["probability"] == pytest.approx(found["first"]["true"], abs=0.04)
    assert found["answers"] == 10 * 1500
    assert sum(row["count"] for row in found["bins"]) == found["answers"]


def test_a_relation_of_few_true_answers_has_the_curve_of_all(answers: ScoredAnswers) -> None:
    few = answers.where((answers.relation == 0) | (answers.query < 20))
    found = fit(few, 2)
    assert found.group.tolist() == [1, 0]
    assert len(found.curves) == len(found.temperature) == 2


def test_cross_fitting_sees_only_the_other_half(answers: ScoredAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    judged: list[set[int]] = []
    own_fit, own_judge = module.fit, Calibration.of_answers

    def noted(part: ScoredAnswers, n: int, method: Method) -> Calibration:
        seen.append(set(part.query.tolist()))
        return own_fit(part, n, method)

    def judging(self: Calibration, part: ScoredAnswers) -> torch.Tensor:
        judged.append(set(part.query.tolist()))
        return own_judge(self, part)

    monkeypatch.setattr(module, "fit", noted)
    monkeypatch.setattr(Calibration, "of_answers", judging)
    found = cross_fitted(answers, 2)
    assert [not a & b for a, b in zip(seen, judged, strict=True)] == [True, True]
    assert set.union(*judged) == set(range(1500))
    assert all(600 < len(half) < 900 for half in judged)
    assert measured(answers, found)["ece"] < 0.02


def test_weights_count_as_copies() -> None:
    few = drawn(40, [1.0], answers=5)
    # A false answer with a weight of 3 is three of them.
    heavy = torch.where((few.rank == 5) & ~few.true, 3.0, 1.0)
    copies = torch.repeat_interleave(torch.arange(len(few)), heavy.long())
    once = ScoredAnswers(few.query, few.relation, few.score, few.true, few.rank, heavy)
    each = few.where(copies)
    a, b = fit(once, 1), fit(each, 1)
    assert a.temperature.tolist() == pytest.approx(b.temperature.tolist(), rel=1e-3)
    probability = torch.linspace(-8, 0, 20).double()
    group = torch.zeros(20, dtype=torch.int64)
    assert a.of_shares(probability, group).tolist() == pytest.approx(b.of_shares(probability, group).tolist(), abs=0.02)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_higher_score_is_never_less_probable(method: Method, data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 50.0]))
    few = drawn(data.draw(st.integers(30, 60)), [scale], answers=6, seed=data.draw(st.integers(0, 99)))
    calibration = fit(few, 1, method)
    scores = torch.tensor([sorted(data.draw(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)))])
    r = torch.zeros(1, dtype=torch.int64)
    total = calibration.log_totals(scores, r)
    found = calibration.probability(scores[0], total.expand(scores.shape[1]), r.expand(scores.shape[1]))
    assert (found.diff() >= -1e-12).all()
    assert ((found > 0) & (found < 1)).all()


def test_shares_between_and_beyond_the_ends_of_a_curve() -> None:
    group, temperature = torch.tensor([0, 1]), torch.ones(2).double()
    curves = Curve((-4.0, -2.0), (0.1, 0.5)), Curve((-1.0,), (0.9,))
    found = Calibration("isotonic", group, temperature, curves)
    shares = torch.tensor([-99.0, -4.0, -3.0, -2.0, 0.0, 5.0, -99.0, 0.0])
    expected = [0.1, 0.1, 0.3, 0.5, 0.5, 0.5, 0.9, 0.9]
    assert found.of_shares(shares, torch.tensor([0] * 6 + [1] * 2)).tolist() == pytest.approx(expected)
    # Known answers are not in the total, and have a share of 1 at most.
    scores = torch.tensor([[0.0, 0.0, -torch.inf]])
    total = found.log_totals(scores, torch.tensor([0]))
    assert total.tolist() == pytest.approx([0.6931471805599453])
    r = torch.tensor([0, 0])
    assert found.probability(torch.tensor([9.0, -1.3068528]), total.expand(2), r).tolist() == pytest.approx([0.5, 0.5])


def test_the_error_by_hand() -> None:
    p = torch.tensor([0.05, 0.15, 0.15, 1.0, 0.95]).double()
    bins = reliability(p, torch.tensor([False, True, False, True, True]))
    assert [row["count"] for row in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins[1] == {"from": 0.1, "to": 0.2, "count": 2, "probability": pytest.approx(0.15), "true": 0.5}
    assert bins[2]["probability"] is None
    # (1 * 0.05 + 2 * 0.35 + 2 * 0.025) / 5
    assert expected_calibration_error(bins) == pytest.approx(0.16)
    assert expected_calibration_error([]) == 0.0


def test_what_cannot_be_calibrated(answers: ScoredAnswers) -> None:
    with pytest.raises(UsageError, match="no answer is true"):
        fit(answers.where(~answers.true), 2)


@pytest.mark.parametrize("method", METHODS)
def test_one_answer_that_is_always_the_first(method: Method) -> None:
    sure = drawn(30, [1000.0], answers=4)
    found = measured(sure, fit(sure, 1, method).of_answers(sure))
    assert found["first"]["true"] == 1
    assert 0.9 < found["first"]["probability"] < 1
