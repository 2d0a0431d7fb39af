from __future__ import annotations

import torch

from mmrns.samplers.reinforce import Reinforce


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    # With all outcomes in their proportion the estimate is exact, whatever the baseline.
    reward = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    counts = [5, 3, 2]
    draws = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])[None]
    for earlier in (0.0, 7.0):
        logits = torch.tensor([[n / 10 for n in counts]], dtype=torch.float64).log().requires_grad_()
        module = Reinforce().double()
        module.baseline.fill_(earlier)
        module(torch.log_softmax(logits, 1).gather(1, draws), reward[draws], None).backward()
        q = torch.softmax(logits.detach(), 1)
        expected = -q * (reward - (q * reward).sum())
        torch.testing.assert_close(logits.grad, expected)


def test_baseline_is_the_moving_average_of_what_counts() -> None:
    module = Reinforce(decay=0.5)
    mask = torch.tensor([[True, True, False]])
    logq = torch.zeros(1, 3)
    # The first batch is its own baseline.
    assert float(module(logq - 1, torch.tensor([[2.0, 4.0, 100.0]]), mask)) == 0
    assert float(module.baseline) == 3
    assert float(module(logq - 1, torch.tensor([[5.0, 7.0, 100.0]]), mask)) == 3
    assert float(module.baseline) == 4.5


def test_nothing_that_counts_is_no_loss() -> None:
    module = Reinforce()
    loss = module(torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    assert float(loss) == 0
