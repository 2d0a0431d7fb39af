"""Grouped cosines against autograd of the plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from mmrns.samplers.mmrns.grouped import Part, gated_cosine, grouped_cosine, in_parts

COUNTS = (2, 1, 4)
B, R, P, WIDTH, HIDDEN, SLOPE = sum(COUNTS), len(COUNTS), 5, 3, 6, 0.1


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]


def plain(targets: Tensor, candidates: Tensor) -> Tensor:
    """The formula, row by row."""
    rows: list[Tensor] = []
    for b, u in enumerate(u for u, count in enumerate(COUNTS) for _ in range(count)):
        norms = (targets[b].norm() * candidates[u].norm(dim=1)).detach()
        rows.append(candidates[u] @ targets[b] / (norms + 1e-10))
    return torch.stack(rows)


def gradients(value: Tensor, given: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return list(torch.autograd.grad((value * weight).sum(), given))


def assert_alike(found: Tensor, expected: Tensor, given: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.fixture(params=[1, 2, 3])
def by(request: pytest.FixtureRequest) -> tuple[Part, ...]:
    """The relations one by one as on a processor, two at a time, and all at once."""
    return in_parts(torch.arange(R).repeat_interleave(torch.tensor(COUNTS)), COUNTS, request.param)


def test_parts_hold_every_row_once(by: tuple[Part, ...]) -> None:
    rows = torch.arange(1.0, B + 1)[:, None]
    assert [part.unpadded(part.padded(rows)).tolist() for part in by] == [rows[part.rows].tolist() for part in by]
    assert sum(float(part.padded(rows).sum()) for part in by) == float(rows.sum())
    assert [u for part in by for u in range(R)[part.relations]] == list(range(R))


def test_grouped_cosine(by: tuple[Part, ...]) -> None:
    given = tensors((B, WIDTH), (R, P, WIDTH))
    assert_alike(grouped_cosine(*given, by), plain(*given), given)
    # Without the divisor's gradient a row's own direction is not left out, as it is in a true cosine.
    same = torch.cosine_similarity(given[0][0], given[1][0, 0], dim=0)
    torch.testing.assert_close(grouped_cosine(*given, by)[0, 0], same)


def test_grouped_cosine_of_a_transposed_tensor(by: tuple[Part, ...]) -> None:
    """Candidates laid out entity by entity, as the folded attention makes them."""
    targets, candidates = tensors((B, WIDTH), (P, R, WIDTH))
    given = [targets, candidates]
    turned = candidates.transpose(0, 1)
    assert_alike(grouped_cosine(targets, turned, by), plain(targets, turned), given)


def test_gated_cosine(by: tuple[Part, ...]) -> None:
    given = tensors((B, WIDTH), (P, WIDTH), (P, HIDDEN), (R, HIDDEN), (WIDTH, HIDDEN), (WIDTH,))
    targets, entities, of_entity, of_relation, weight, bias = given
    hidden = leaky_relu(of_entity + of_relation[:, None], SLOPE)
    candidates = entities * torch.sigmoid(hidden @ weight.T + bias)
    assert_alike(gated_cosine(*given, by, SLOPE), plain(targets, candidates), given)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    found = grouped_cosine(torch.zeros(1, 2), torch.zeros(1, 3, 2), in_parts(torch.zeros(1, dtype=torch.long), (1,), 1))
    assert found.tolist() == [[0.0, 0.0, 0.0]]
