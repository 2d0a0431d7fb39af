"""The loss against values and gradients worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmrns.nn.losses import (
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    KvsAllLoss,
    Loss,
    MarginLoss,
    SelfAdversarialLoss,
    SoftplusLoss,
    adversarial_weights,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_value_and_gradient_worked_out_by_hand() -> None:
    # log sigma(log 3) = log 3/4, log sigma(-log 3) = log 1/4; with alpha = 1 and s = (log 3, 0), p = (3/4, 1/4).
    log3 = math.log(3)
    s_pos = f64(log3, 0.0).requires_grad_()
    s_neg = torch.stack([f64(log3, 0.0), f64(0.0, 0.0)]).requires_grad_()
    loss = SelfAdversarialLoss(gamma=0.0, alpha=1.0)(s_pos, s_neg, None, f64(1.0, 3.0), None)
    first = math.log(4 / 3) + 3 / 4 * math.log(4) + 1 / 4 * math.log(2)
    second = math.log(2) + math.log(2)
    assert loss.item() == pytest.approx((1 * first + 3 * second) / (2 * 4), rel=1e-12)
    loss.backward()
    assert s_pos.grad is not None
    assert s_neg.grad is not None
    # d/ds -log sigma(s) = -sigma(-s): 1/4 and 1/2, times w / (2 sum w).
    assert s_pos.grad.tolist() == pytest.approx([-1 / 4 / 8, -1 / 2 * 3 / 8], rel=1e-12)
    # d/ds -log sigma(-s) = sigma(s): 3/4 and 1/2, times p w / (2 sum w); p itself is not differentiated.
    expected = [3 / 4 * 3 / 4 / 8, 1 / 4 * 1 / 2 / 8, 1 / 2 * 1 / 2 * 3 / 8, 1 / 2 * 1 / 2 * 3 / 8]
    assert s_neg.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_gamma_is_added_to_every_score() -> None:
    s_pos, s_neg, weight = f64(-5.0), f64(-7.0, -4.0)[None], f64(2.0)
    loss = SelfAdversarialLoss(gamma=6.0, alpha=0.0)(s_pos, s_neg, None, weight, None)
    terms = [math.log(sigmoid(6 - 5)), math.log(sigmoid(-6 + 7)) / 2 + math.log(sigmoid(-6 + 4)) / 2]
    assert loss.item() == pytest.approx(-sum(terms) / 2, rel=1e-12)
    shifted = SelfAdversarialLoss(gamma=0.0, alpha=0.0)(s_pos + 6, s_neg + 6, None, weight, None)
    assert loss.item() == pytest.approx(shifted.item(), rel=1e-12)


def test_masked_negatives_do_not_count() -> None:
    s_pos = f64(0.0, 1.0, -1.0).requires_grad_()
    s_neg = torch.stack([f64(1.0, 50.0, 0.0), f64(3.0, 2.0, 1.0), f64(9.0, 9.0, 9.0)]).requires_grad_()
    mask = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    weight = f64(1.0, 2.0, 5.0)
    loss = SelfAdversarialLoss(gamma=0.0, alpha=0.5)(s_pos, s_neg, mask, weight, None)
    total = 0.0
    rows = [(0.0, [1.0, 0.0], 1.0), (1.0, [3.0, 2.0, 1.0], 2.0), (-1.0, [], 5.0)]
    for positive, negatives, w in rows:
        z = sum(math.exp(0.5 * s) for s in negatives)
        total -= w * math.log(sigmoid(positive))
        total -= w * sum(math.exp(0.5 * s) / z * math.log(sigmoid(-s)) for s in negatives)
    assert loss.item() == pytest.approx(total / 16, rel=1e-12)
    loss.backward()
    assert s_pos.grad is not None
    assert s_neg.grad is not None
    assert (s_neg.grad[~mask] == 0).all()
    assert (s_neg.grad[mask] > 0).all()
    # The row without negatives keeps its positive term: -sigma(1) * 5 / 16.
    assert s_pos.grad[2].item() == pytest.approx(-sigmoid(1.0) * 5 / 16, rel=1e-12)


def test_alpha_zero_is_the_plain_mean() -> None:
    s_pos, s_neg = torch.randn(4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    loss = SelfAdversarialLoss(gamma=1.0, alpha=0.0)(s_pos, s_neg, None, torch.ones(4), None)
    plain = torch.nn.functional.softplus(-1 - s_pos).mean() + torch.nn.functional.softplus(1 + s_neg).mean()
    torch.testing.assert_close(loss, plain / 2)
    assert adversarial_weights(s_neg, 0.0).flatten().tolist() == pytest.approx([1 / 6] * 24)


def test_only_the_ratio_of_weights_matters() -> None:
    s_pos, s_neg = torch.randn(4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    objective = SelfAdversarialLoss(gamma=2.0, alpha=1.0)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(
        objective(s_pos, s_neg, None, weight, None), objective(s_pos, s_neg, None, 0.01 * weight, None)
    )
    alone = objective(s_pos, s_neg, None, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), None)
    torch.testing.assert_close(objective(s_pos[1:2], s_neg[1:2], None, torch.ones(1), None), alone)


def test_weights_are_softmax_and_detached() -> None:
    s_neg = f64(1.0, 2.0, 3.0)[None].requires_grad_()
    weights = adversarial_weights(s_neg, 2.0)
    z = sum(math.exp(2 * s) for s in (1, 2, 3))
    assert weights.flatten().tolist() == pytest.approx([math.exp(2 * s) / z for s in (1, 2, 3)], rel=1e-12)
    assert not weights.requires_grad


@given(st.lists(st.tuples(st.floats(-60, 60), st.booleans()), min_size=6, max_size=6), st.floats(0, 2), st.booleans())
def test_weights_are_a_distribution_over_what_counts(
    cells: list[tuple[float, bool]], alpha: float, in_float32: bool
) -> None:
    dtype = torch.float32 if in_float32 else torch.float64
    s_neg = torch.tensor([c[0] for c in cells], dtype=dtype).view(2, 3)
    mask = torch.tensor([c[1] for c in cells]).view(2, 3)
    weights = adversarial_weights(s_neg, alpha, mask)
    assert (weights[~mask] == 0).all()
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights.sum(1), mask.any(1).to(dtype))
    for row in range(2):
        torch.testing.assert_close(
            weights[row][mask[row]], torch.softmax(alpha * s_neg[row][mask[row]], 0), rtol=1e-4, atol=1e-6
        )


def test_gradient_is_that_of_finite_differences() -> None:
    objective = SelfAdversarialLoss(gamma=1.5, alpha=0.0)
    weight = torch.rand(3, dtype=torch.float64) + 0.5
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    s_pos = torch.randn(3, dtype=torch.float64, requires_grad=True)
    s_neg = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, n: objective(p, n, mask, weight, None), (s_pos, s_neg))


def test_extreme_scores_give_a_finite_loss() -> None:
    s_pos = torch.tensor([-1e4, 1e4], requires_grad=True)
    s_neg = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = SelfAdversarialLoss(gamma=12.0, alpha=1.0)(s_pos, s_neg, None, torch.ones(2), None)
    loss.backward()
    assert torch.isfinite(loss)
    for scores in (s_pos, s_neg):
        assert scores.grad is not None
        assert torch.isfinite(scores.grad).all()


def test_softplus_by_hand() -> None:
    s_pos, s_neg = f64(math.log(3), 0.0), torch.stack([f64(0.0, math.log(3)), f64(7.0, 0.0)])
    mask = torch.tensor([[True, True], [False, True]])
    loss = SoftplusLoss(gamma=0.0, alpha=1.0)(s_pos, s_neg, mask, f64(1.0, 1.0), None)
    first = (math.log(4 / 3) + math.log(2) + math.log(4)) / 3
    assert loss.item() == pytest.approx((first + math.log(2)) / 2, rel=1e-12)


def test_margin_by_hand() -> None:
    s_pos, s_neg = f64(-2.0), f64(-1.0, -3.5, -9.0)[None]
    # Hinges 1 + 2 - 1, 1 + 2 - 3.5 and less: 2, 0, 0.
    assert MarginLoss(gamma=1.0, alpha=0.0)(s_pos, s_neg, None, f64(5.0), None).item() == pytest.approx(2 / 3)
    p = 1 / (1 + math.exp(-2.5) + math.exp(-8))
    assert MarginLoss(gamma=1.0, alpha=1.0)(s_pos, s_neg, None, f64(5.0), None).item() == pytest.approx(2 * p)


def test_cross_entropy_is_that_of_torch_and_corrects_for_the_draw() -> None:
    s = torch.randn(4, 6, dtype=torch.float64)
    objective, weight = CrossEntropyLoss(gamma=0.0, alpha=0.0), torch.ones(4, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(s, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(objective(s[:, 0], s[:, 1:], None, weight, None), expected)
    # What is drawn twice as often and listed twice weighs as much as what is listed once; a row's constant is nothing.
    doubled = torch.cat([s[:, 1:], s[:, 1:2]], dim=1)
    log_weight = torch.zeros(4, 6, dtype=torch.float64) + torch.tensor(
        [[0.1], [5.0], [-3.0], [0.0]], dtype=torch.float64
    )
    log_weight[:, [0, 5]] -= math.log(2)
    found = (
        objective(s[:, 0], doubled, None, weight, log_weight) - torch.logaddexp(s[:, 0], (s[:, 1:]).logsumexp(1)).mean()
    )
    # Six draws whose mean weight is one stand for 6/5 times the five.
    shift = torch.logaddexp(s[:, 0], s[:, 1:].logsumexp(1) + math.log(6 / 5)) - torch.logaddexp(
        s[:, 0], s[:, 1:].logsumexp(1)
    )
    torch.testing.assert_close(found, shift.mean() - s[:, 0].mean())


def test_k_vs_all_by_hand() -> None:
    s = f64(1.0, 2.0, 3.0)[None]
    z = math.log(sum(math.exp(x) for x in (1, 2, 3)))
    mask = torch.tensor([[False, True, False]])
    assert KvsAllLoss(gamma=0.0, alpha=0.0)(f64(9.0), s, mask, f64(1.0), None).item() == pytest.approx(z - 2)


def test_k_vs_all_smoothed_is_the_cross_entropy_of_torch() -> None:
    s = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 3] = False
    weight, true = torch.rand(5, dtype=torch.float64), (~mask).double()
    found = KvsAllLoss(gamma=0.0, alpha=0.0, smoothing=0.2)(s[:, 0], s, mask, weight, None)
    labels = true / true.sum(1, keepdim=True)
    rows = torch.nn.functional.cross_entropy(s, labels, label_smoothing=0.2, reduction="none")
    expected = (weight * rows).sum() / weight.sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, s), torch.autograd.grad(expected, s))


def test_bce_by_hand() -> None:
    s = f64(0.0, math.log(3))[None]
    mask = torch.tensor([[False, True]])
    # -ln sigma(0) and -ln(1 - sigma(ln 3)); smoothed by a half, labels are 3/4 and 1/4.
    sharp = BinaryCrossEntropyLoss(gamma=0.0, alpha=0.0)(f64(9.0), s, mask, f64(1.0), None)
    assert sharp.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    smooth = BinaryCrossEntropyLoss(gamma=0.0, alpha=0.0, smoothing=0.5)(f64(9.0), s, mask, f64(1.0), None)
    assert smooth.item() == pytest.approx((math.log(2) + math.log(4) - math.log(3) / 4) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_that_of_torch(smoothing: float) -> None:
    s = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    weight = torch.rand(5, dtype=torch.float64)
    found = BinaryCrossEntropyLoss(gamma=1.5, alpha=0.0, smoothing=smoothing)(s[:, 0], s, mask, weight, None)
    labels = (1 - smoothing) * (~mask).double() + smoothing / 7
    rows = torch.nn.functional.binary_cross_entropy_with_logits(1.5 + s, labels, reduction="none").mean(1)
    expected = (weight * rows).sum() / weight.sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, s), torch.autograd.grad(expected, s))


@pytest.mark.parametrize("name", Loss.registry.names())
def test_every_loss_is_lowered_by_better_scores_and_stays_finite(name: str) -> None:
    objective = Loss.registry.get(name)(gamma=2.0, alpha=0.5)
    mask = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    s_pos = torch.randn(3, dtype=torch.float64, requires_grad=True)
    s_neg = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    weight = f64(1.0, 2.0, 0.5)
    if objective.needs_all:
        # The positives are among the scores of all entities.
        (gradient,) = torch.autograd.grad(objective(s_pos, s_neg, mask, weight, None), s_neg)
        assert (gradient[mask] > 0).all()
        assert (gradient[~mask] < 0).any()
    else:
        gradients = torch.autograd.grad(objective(s_pos, s_neg, mask, weight, torch.zeros(3, 3)), (s_pos, s_neg))
        assert (gradients[0] <= 0).all()
        assert (gradients[1][mask] >= 0).all()
        assert (gradients[1][mask] > 0).any()
        assert (gradients[1][~mask] == 0).all()
    for scale in (1e4, -1e4):
        far = [(scale * s.detach().float()).requires_grad_() for s in (s_pos, s_neg)]
        loss = objective(far[0], far[1], mask, weight.float(), None)
        assert torch.isfinite(loss)
        found = torch.autograd.grad(loss, far, allow_unused=True)
        assert all(torch.isfinite(g).all() for g in found if g is not None)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["k-vs-all", "bce"])
def test_what_has_no_weight_is_no_candidate(name: str, smoothing: float) -> None:
    """The loss over all entities with some of weight 0 is the loss over the others."""
    g = torch.Generator().manual_seed(3)
    scores, false = torch.randn(4, 9, generator=g), torch.rand(4, 9, generator=g) < 0.6
    there = torch.tensor([True] * 5 + [False] * 3 + [True])
    loss = Loss.registry.get(name)(gamma=2.0, alpha=0.0, smoothing=smoothing)
    scores.requires_grad_()
    weight = torch.zeros(4, 9).masked_fill(~there, -torch.inf)
    found = loss.rows(scores[:, 0], scores, false, weight)
    torch.testing.assert_close(found, loss.rows(scores[:, 0], scores[:, there], false[:, there], None))
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, ~there] == 0).all()
    # A row without any candidate has a finite loss and no gradient.
    none = loss.rows(scores[:, 0], scores, false, torch.full((4, 9), -torch.inf))
    assert torch.isfinite(none).all()
    assert (torch.autograd.grad(none.sum(), scores)[0] == 0).all()
