from __future__ import annotations

import math

import pytest
import torch

from mmrns.samplers.mmrns.contrastive import contrastive, density_ratio, info_nce


def test_info_nce_by_hand() -> None:
    likeness, fellow = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]]), torch.tensor([1.5, 3.0])
    excluded = torch.tensor([[False, False, True], [False, False, False]])
    density = torch.tensor([[0.5, 0.25, 1.0], [1.0, 1.0, 1.0]])
    given = likeness, density.log(), excluded, fellow
    others = math.exp(0.5) / 0.5 + math.exp(-1.0) / 0.25
    expected = -math.log(math.exp(1.5) / (math.exp(1.5) + others))
    assert float(info_nce(*given, torch.tensor([True, False]))) == pytest.approx(expected)
    assert float(info_nce(*given, torch.tensor([False, False]))) == 0


def test_density_ratio_by_hand() -> None:
    """e^pmi over its mean over all entities, which what is not left out stands for; finite whatever is learned."""
    pmi = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]])
    density = torch.tensor([[0.5, 0.25, 1.0], [0.5, 0.5, 0.5]])
    excluded = torch.tensor([[False, False, True], [False, False, False]])
    mean = (math.exp(0.5) / 0.5 + math.exp(-1.0) / 0.25) / 6
    found = density_ratio(pmi, ~excluded / density, 6)
    torch.testing.assert_close(found[0], (pmi[0].exp() / mean))
    torch.testing.assert_close(found[1], torch.ones(3))
    none = torch.tensor([[False, False, True], [True, True, True]])
    extreme = density_ratio(1e4 * pmi, ~none / density, 6)
    assert extreme.log1p().isfinite().all()


def test_contrastive_by_hand() -> None:
    similarity, weight = torch.tensor([[0.5, 0.1, -0.2]]), torch.tensor([[1.0, 2.0, 0.0]])
    true = torch.tensor([[True, False, False]])
    expected = -math.log(math.exp(0.5) / (2 * math.exp(0.1)))
    assert float(contrastive(similarity, true, weight)) == pytest.approx(expected)
    # Without a positive pair there is nothing to contrast.
    assert float(contrastive(similarity, torch.zeros_like(true), weight)) == 0.0


def test_contrastive_without_positives_has_no_gradient() -> None:
    values = torch.zeros(2, 3, requires_grad=True)
    contrastive(values, torch.zeros(2, 3).bool(), torch.ones(2, 3)).backward()
    assert values.grad is not None
    assert (values.grad == 0).all()
