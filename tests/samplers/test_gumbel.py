"""Gumbel top-K: the law of the draws and the straight-through gradient."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.samplers.gumbel import log_inclusion, straight_through, straight_through_top_k, top_k

INF = math.inf


def sequential_softmaxes(perturbed: Tensor, positions: Tensor) -> Tensor:
    """[B K P]: softmax k is over the candidates that the draws before k left; zero where none is left."""
    left = torch.isfinite(perturbed.detach())
    soft: list[Tensor] = []
    for k in range(positions.shape[1]):
        some = left.any(1, keepdim=True)
        # Where nothing is left the softmax is a constant, so that its gradient is zero.
        logits = torch.where(left, perturbed, -INF)
        soft.append(torch.where(some, torch.softmax(torch.where(some, logits, 0.0), dim=1), 0.0))
        left = left.scatter(1, positions[:, k : k + 1], False)
    return torch.stack(soft, dim=1)


def gradient(perturbed: Tensor, scores: Tensor, k: int, weight: Tensor, explicit: bool) -> Tensor:
    """Of `sum(weight * score of each draw)` with respect to the perturbed logits."""
    perturbed = perturbed.detach().requires_grad_()
    positions = perturbed.detach().topk(k, dim=1).indices
    if explicit:
        soft = sequential_softmaxes(perturbed, positions)
        drawn = scores.gather(1, positions) + torch.einsum("bkp,bp->bk", soft - soft.detach(), scores)
    else:
        drawn = straight_through_top_k(perturbed, positions, scores)
    return torch.autograd.grad((weight * drawn).sum(), perturbed)[0]


def test_its_value_is_zero_and_the_scores_have_no_gradient() -> None:
    perturbed = torch.tensor([[0.5, 3.0, -1.0, 2.0], [-INF, -2.0, 7.0, -INF]], requires_grad=True)
    scores = torch.arange(8.0).view(2, 4).requires_grad_()
    positions = perturbed.detach().topk(2, dim=1).indices
    drawn = straight_through_top_k(perturbed, positions, scores)
    assert drawn.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    drawn.sum().backward()
    assert scores.grad is None
    assert perturbed.grad is not None


def test_draws_divided_by_their_inclusion_are_unbiased() -> None:
    """Horvitz-Thompson: the mean over many noises of sum f / P(drawn) is the sum of f over all candidates."""
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -3.0, -INF], dtype=torch.float64)
    f = torch.tensor([1.0, -2.0, 5.0, 0.5, 3.0, 1e6], dtype=torch.float64)
    n = 200_000
    u = torch.rand(n, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    perturbed = logits - torch.log(-torch.log(u))
    positions, left_out = top_k(perturbed, 3)
    sums = (f[positions] / log_inclusion(logits[positions], left_out).exp()).sum(1)
    error = float(sums.std()) / math.sqrt(n)
    assert abs(float(sums.mean()) - float(f[:5].sum())) < 5 * error
    assert error < 0.1


def test_inclusion_is_certain_where_nothing_is_left_out() -> None:
    logits = torch.tensor([[0.0, -50.0, -INF], [0.0, 1.0, 2.0]])
    positions, left_out = top_k(logits, 3)
    assert positions.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert (log_inclusion(logits.gather(1, positions), left_out) == 0).all()
    # One that is masked but had to be drawn.
    positions, left_out = torch.tensor([[0, 2], [2, 1]]), torch.tensor([[-50.0], [0.0]])
    assert float(log_inclusion(logits.gather(1, positions), left_out)[0, 1]) == 0


@pytest.mark.parametrize(("p", "k"), [(1, 1), (5, 1), (7, 3), (6, 6), (40, 20)])
@pytest.mark.parametrize("absent", [0.0, 0.3], ids=["all left", "some -inf"])
def test_gradient_equals_the_explicit_one(p: int, k: int, absent: float) -> None:
    g = torch.Generator().manual_seed(p)
    perturbed = 3 * torch.randn(9, p, generator=g, dtype=torch.float64)
    perturbed[torch.rand(9, p, generator=g) < absent] = -INF
    perturbed[:, 0] = 0.0
    scores = torch.randn(9, p, generator=g, dtype=torch.float64)
    weight = torch.randn(9, k, generator=g, dtype=torch.float64)
    found = gradient(perturbed, scores, k, weight, explicit=False)
    expected = gradient(perturbed, scores, k, weight, explicit=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    if p > 1:
        assert expected.abs().max() > 1e-3
        # Each softmax sums to one, so that a common shift of the logits changes nothing.
        assert found.sum(1).abs().max() < 1e-10


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31), st.floats(0, 30))
def test_gradient_equals_the_explicit_one_on_any_rows(p: int, k: int, seed: int, scale: float) -> None:
    k = min(k, p)
    g = torch.Generator().manual_seed(seed)
    perturbed = scale * torch.randn(4, p, generator=g, dtype=torch.float64)
    perturbed[torch.rand(4, p, generator=g) < 0.4] = -INF
    scores = torch.randn(4, p, generator=g, dtype=torch.float64)
    weight = torch.randn(4, k, generator=g, dtype=torch.float64)
    found = gradient(perturbed, scores, k, weight, explicit=False)
    expected = gradient(perturbed, scores, k, weight, explicit=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_rows_that_run_out_have_finite_gradients() -> None:
    perturbed = torch.tensor([[1.0, -INF, 2.0, -INF], [-INF, -INF, -INF, -INF], [-INF, -INF, -INF, 5.0]])
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, 4)
    to_logits = gradient(perturbed, scores, 4, weight, explicit=False)
    assert torch.isfinite(to_logits).all()
    assert (to_logits[perturbed == -INF] == 0).all()
    assert to_logits[0, 0] != 0
    # With one candidate left there is nothing to choose.
    assert to_logits[2].abs().max() == 0
    expected = gradient(perturbed, scores, 4, weight, explicit=True)
    torch.testing.assert_close(to_logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [10.0, 60.0, 150.0, 1000.0])
def test_wide_logits_in_float32_have_accurate_gradients(spread: float) -> None:
    # Falling logits of every scale, the pairs close together so that each draw has something to choose.
    g = torch.Generator().manual_seed(1)
    pairs = -torch.linspace(0, spread, 8, dtype=torch.float64).repeat_interleave(2)
    perturbed = pairs + 0.5 * torch.rand(6, 16, generator=g, dtype=torch.float64)
    perturbed = perturbed.to(torch.float32).to(torch.float64)
    scores = torch.randn(6, 16, generator=g, dtype=torch.float64)
    for k in (4, 11, 16):
        weight = torch.randn(6, k, generator=g, dtype=torch.float64)
        expected = gradient(perturbed, scores, k, weight, explicit=True)
        found = gradient(perturbed.float(), scores.float(), k, weight.float(), explicit=False)
        assert torch.isfinite(found).all()
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_ordered_draws_follow_plackett_luce() -> None:
    probability = [0.5, 0.25, 0.15, 0.1]
    n = 200_000
    g = torch.Generator().manual_seed(2)
    noise = -torch.log(-torch.log(torch.rand(n, 4, generator=g, dtype=torch.float64)))
    positions = (torch.tensor(probability, dtype=torch.float64).log() + noise).topk(2, dim=1).indices
    observed = torch.bincount(positions[:, 0] * 4 + positions[:, 1], minlength=16)
    chi_squared = 0.0
    for i, j in permutations(range(4), 2):
        expected = n * probability[i] * probability[j] / (1 - probability[i])
        chi_squared += (int(observed[i * 4 + j]) - expected) ** 2 / expected
    assert int(observed[[0, 5, 10, 15]].sum()) == 0
    # Twelve ordered pairs: 11 degrees of freedom, whose 99.99 % quantile is 37.4.
    assert chi_squared < 37.4


def test_straight_through_has_the_value_of_the_draw_and_the_gradient_of_the_expectation() -> None:
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    vectors = torch.tensor([[1.0], [5.0]], dtype=torch.float64, requires_grad=True)
    drawn = straight_through(logits, logits.detach()[None], vectors, vectors[torch.tensor([[0]])])
    assert drawn.tolist() == [[[1.0]]]
    drawn.sum().backward()
    # d(p0 + 5 p1) / dz = p_i (v_i - mean) with p = (1/4, 3/4) and mean 4.
    assert logits.grad is not None
    assert vectors.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-3 / 4, 3 / 4])
    assert vectors.grad.flatten().tolist() == [1.0, 0.0]


def test_straight_through_is_what_autograd_makes_of_its_formula() -> None:
    k, rows, n, width = 3, 2, 5, 4
    g = torch.Generator().manual_seed(0)
    logits, vectors, noise, weight = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((rows, n), (n, width), (k, rows, n), (rows, k, width))
    )
    positions = torch.randint(n, (rows, k), generator=g)
    logits.requires_grad_()
    vectors.requires_grad_()
    soft = torch.softmax(logits + noise, dim=2).transpose(0, 1)
    expected = vectors[positions] + (soft - soft.detach()) @ vectors.detach()
    found = straight_through(logits, (logits + noise).detach(), vectors, vectors[positions])
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        *(torch.autograd.grad((weight * x).sum(), [logits, vectors]) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)
