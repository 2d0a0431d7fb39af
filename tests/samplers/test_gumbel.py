"""Gumbel top-K: the law of the draws and the straight-through gradient."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrns.samplers.gumbel import log_inclusion, straight_through, straight_through_top_k

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


def gradients(perturbed: Tensor, vectors: Tensor, k: int, weight: Tensor, explicit: bool) -> tuple[Tensor, Tensor]:
    """Of `sum(weight * drawn)` with respect to the perturbed logits and the vectors."""
    perturbed, vectors = perturbed.detach().requires_grad_(), vectors.detach().requires_grad_()
    positions = perturbed.detach().topk(k, dim=1).indices
    drawn = straight_through_top_k(vectors[positions], perturbed, positions, vectors)
    if explicit:
        drawn = straight_through(sequential_softmaxes(perturbed, positions), positions, vectors)
    return torch.autograd.grad((weight * drawn).sum(), (perturbed, vectors))


def test_what_was_drawn_is_handed_on_and_the_pool_has_no_gradient() -> None:
    perturbed = torch.tensor([[0.5, 3.0, -1.0, 2.0], [-INF, -2.0, 7.0, -INF]], requires_grad=True)
    vectors = torch.arange(8.0).view(4, 2).requires_grad_()
    positions = perturbed.detach().topk(2, dim=1).indices
    drawn = straight_through_top_k(vectors.detach()[positions], perturbed, positions, vectors)
    assert torch.equal(drawn, vectors[positions])
    drawn.sum().backward()
    assert vectors.grad is None
    assert perturbed.grad is not None


@pytest.mark.parametrize("n_own", [1, 3])
def test_own_candidates_count_as_the_shared_ones_do(n_own: int) -> None:
    """The last columns as candidates of each row's own, where all rows have the same ones."""
    g = torch.Generator().manual_seed(n_own)
    perturbed = torch.randn(5, 8, generator=g, dtype=torch.float64, requires_grad=True)
    vectors, weight = torch.randn(8, 3, generator=g).double(), torch.randn(5, 4, 3, generator=g).double()
    positions = perturbed.detach().topk(4, dim=1).indices
    shared, own = vectors[:-n_own], vectors[-n_own:].expand(5, n_own, 3)
    found = [straight_through_top_k(vectors[positions], perturbed, positions, *v) for v in ((vectors,), (shared, own))]
    gradient = [torch.autograd.grad((weight * f).sum(), perturbed)[0] for f in found]
    torch.testing.assert_close(gradient[1], gradient[0], rtol=1e-12, atol=1e-14)


def test_draws_divided_by_their_inclusion_are_unbiased() -> None:
    """Horvitz-Thompson: the mean over many noises of sum f / P(drawn) is the sum of f over all candidates."""
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -3.0, -INF], dtype=torch.float64)
    f = torch.tensor([1.0, -2.0, 5.0, 0.5, 3.0, 1e6], dtype=torch.float64)
    n = 200_000
    u = torch.rand(n, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    perturbed = logits - torch.log(-torch.log(u))
    positions = perturbed.topk(3, dim=1).indices
    sums = (f[positions] / log_inclusion(logits.expand(n, 6), perturbed, positions).exp()).sum(1)
    error = float(sums.std()) / math.sqrt(n)
    assert abs(float(sums.mean()) - float(f[:5].sum())) < 5 * error
    assert error < 0.1


def test_inclusion_is_certain_where_nothing_is_left_out() -> None:
    logits = torch.tensor([[0.0, -50.0, -INF], [0.0, 1.0, 2.0]])
    positions = torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert (log_inclusion(logits, logits, positions) == 0).all()
    # One that is masked but had to be drawn.
    assert float(log_inclusion(logits, logits, torch.tensor([[0, 2], [2, 1]]))[0, 1]) == 0


@pytest.mark.parametrize(("p", "k"), [(1, 1), (5, 1), (7, 3), (6, 6), (40, 20)])
@pytest.mark.parametrize("absent", [0.0, 0.3], ids=["all left", "some -inf"])
def test_gradient_equals_the_explicit_one(p: int, k: int, absent: float) -> None:
    g = torch.Generator().manual_seed(p)
    perturbed = 3 * torch.randn(9, p, generator=g, dtype=torch.float64)
    perturbed[torch.rand(9, p, generator=g) < absent] = -INF
    perturbed[:, 0] = 0.0
    vectors = torch.randn(p, 4, generator=g, dtype=torch.float64)
    weight = torch.randn(9, k, 4, generator=g, dtype=torch.float64)
    found = gradients(perturbed, vectors, k, weight, explicit=False)
    expected = gradients(perturbed, vectors, k, weight, explicit=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    if p > 1:
        assert expected[0].abs().max() > 1e-3
        # Each softmax sums to one, so that a common shift of the logits changes nothing.
        assert found[0].sum(1).abs().max() < 1e-10


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31), st.floats(0, 30))
def test_gradient_equals_the_explicit_one_on_any_rows(p: int, k: int, seed: int, scale: float) -> None:
    k = min(k, p)
    g = torch.Generator().manual_seed(seed)
    perturbed = scale * torch.randn(4, p, generator=g, dtype=torch.float64)
    perturbed[torch.rand(4, p, generator=g) < 0.4] = -INF
    vectors = torch.randn(p, 2, generator=g, dtype=torch.float64)
    weight = torch.randn(4, k, 2, generator=g, dtype=torch.float64)
    found = gradients(perturbed, vectors, k, weight, explicit=False)
    expected = gradients(perturbed, vectors, k, weight, explicit=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_rows_that_run_out_have_finite_gradients() -> None:
    perturbed = torch.tensor([[1.0, -INF, 2.0, -INF], [-INF, -INF, -INF, -INF], [-INF, -INF, -INF, 5.0]])
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(3, 4, 3)
    to_logits, to_vectors = gradients(perturbed, vectors, 4, weight, explicit=False)
    assert torch.isfinite(to_logits).all()
    assert torch.isfinite(to_vectors).all()
    assert (to_logits[perturbed == -INF] == 0).all()
    assert to_logits[0, 0] != 0
    # With one candidate left there is nothing to choose.
    assert to_logits[2].abs().max() == 0
    expected, _ = gradients(perturbed, vectors, 4, weight, explicit=True)
    torch.testing.assert_close(to_logits, expected, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_vectors_is_that_of_the_draws() -> None:
    perturbed = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 9.0, 1.0, 8.0]])
    weight = torch.arange(8.0).view(2, 2, 2)
    _, to_vectors = gradients(perturbed, torch.zeros(4, 2), 2, weight, explicit=False)
    # Row 0 draws 0 then 1, row 1 draws 1 then 3.
    assert to_vectors.tolist() == [[0.0, 1.0], [2.0 + 4.0, 3.0 + 5.0], [0.0, 0.0], [6.0, 7.0]]


@pytest.mark.parametrize("spread", [10.0, 60.0, 150.0, 1000.0])
def test_wide_logits_in_float32_have_accurate_gradients(spread: float) -> None:
    # Falling logits of every scale, the pairs close together so that each draw has something to choose.
    g = torch.Generator().manual_seed(1)
    pairs = -torch.linspace(0, spread, 8, dtype=torch.float64).repeat_interleave(2)
    perturbed = pairs + 0.5 * torch.rand(6, 16, generator=g, dtype=torch.float64)
    perturbed = perturbed.to(torch.float32).to(torch.float64)
    vectors = torch.randn(16, 5, generator=g, dtype=torch.float64)
    for k in (4, 11, 16):
        weight = torch.randn(6, k, 5, generator=g, dtype=torch.float64)
        expected, _ = gradients(perturbed, vectors, k, weight, explicit=True)
        found, _ = gradients(perturbed.float(), vectors.float(), k, weight.float(), explicit=False)
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
    drawn = straight_through(torch.softmax(logits, 1)[:, None], torch.tensor([[0]]), vectors)
    assert drawn.tolist() == [[[1.0]]]
    drawn.sum().backward()
    # d(p0 + 5 p1) / dz = p_i (v_i - mean) with p = (1/4, 3/4) and mean 4.
    assert logits.grad is not None
    assert vectors.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-3 / 4, 3 / 4])
    assert vectors.grad.flatten().tolist() == [1.0, 0.0]
