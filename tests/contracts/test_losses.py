"""What every registered loss must do; a new one is picked up by its name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmrns.nn.losses import Loss

EVERY = pytest.mark.parametrize("name", Loss.registry.names())


def loss_of(name: str) -> Loss:
    return Loss.registry.get(name)(gamma=1.5, alpha=0.7)


def given(rows: int = 6, k: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    s_pos, s_neg = torch.randn(rows, generator=g).double(), torch.randn(rows, k, generator=g).double()
    mask = torch.rand(rows, k, generator=g) < 0.7
    return s_pos, s_neg, mask, torch.rand(rows, generator=g).double() + 0.1


@EVERY
def test_it_is_a_finite_scalar_with_gradients_where_they_count(name: str) -> None:
    s_pos, s_neg, mask, weight = given()
    mask[0] = False
    s_pos.requires_grad_()
    s_neg.requires_grad_()
    found = loss_of(name)(s_pos, s_neg, mask, weight, None)
    assert found.shape == ()
    assert torch.isfinite(found)
    found.backward()
    assert s_neg.grad is not None
    assert torch.isfinite(s_neg.grad).all()
    if not loss_of(name).needs_all:
        assert not s_neg.grad[~mask].any(), "a negative that does not count has a gradient"


@EVERY
def test_better_scores_cost_less(name: str) -> None:
    s_pos, s_neg, mask, weight = given()
    loss = loss_of(name)
    if loss.needs_all:
        # The positives are among the scores, where the mask is False.
        better = torch.where(mask, s_neg - 1, s_neg + 1)
        assert loss(s_pos, better, mask, weight, None) < loss(s_pos, s_neg, mask, weight, None)
        return
    assert loss(s_pos + 1, s_neg, mask, weight, None) < loss(s_pos, s_neg, mask, weight, None)
    assert loss(s_pos, s_neg - 1, mask, weight, None) < loss(s_pos, s_neg, mask, weight, None)


@EVERY
def test_it_does_not_depend_on_how_a_batch_is_cut(name: str) -> None:
    s_pos, s_neg, mask, weight = given()
    loss = loss_of(name)
    whole = loss(s_pos, s_neg, mask, weight, None) * weight.sum()
    parts = [
        loss(s_pos[rows], s_neg[rows], mask[rows], weight[rows], None) * weight[rows].sum()
        for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(whole, sum(parts, torch.zeros(())).double())
    # Rows in another order, and their negatives in another order, are the same.
    turned = torch.arange(6).flip(0), torch.tensor([3, 0, 4, 1, 2])
    again = loss(
        s_pos[turned[0]], s_neg[turned[0]][:, turned[1]], mask[turned[0]][:, turned[1]], weight[turned[0]], None
    )
    torch.testing.assert_close(again * weight.sum(), whole)


@EVERY
def test_a_constant_of_the_row_in_the_importance_weights_is_nothing(name: str) -> None:
    s_pos, s_neg, mask, weight = given()
    loss = loss_of(name)
    log_weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()
    shifted = log_weight + torch.arange(6).double()[:, None]
    torch.testing.assert_close(loss(s_pos, s_neg, mask, weight, log_weight), loss(s_pos, s_neg, mask, weight, shifted))


@EVERY
def test_importance_weights_are_used_or_refused(name: str) -> None:
    s_pos, s_neg, mask, weight = given()
    loss = loss_of(name)
    log_weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()
    same = torch.equal(loss(s_pos, s_neg, mask, weight, log_weight), loss(s_pos, s_neg, mask, weight, None))
    assert same != loss.takes_weights, "say `takes_weights = False` where `log_weight` changes nothing"
