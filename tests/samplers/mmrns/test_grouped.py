"""Grouped cosines against autograd of the plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from mmrns.samplers.mmrns.grouped import Gated, Part, grouped_cosines, in_parts

ROWS = torch.tensor([1, 2, 0, 2, 0, 2, 2])
"""The relation of each row."""
COUNTS = (2, 1, 4)
B, R, P, WIDTH, HIDDEN, SLOPE = len(ROWS), len(COUNTS), 5, 3, 6, 0.1


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]


def plain(targets: Tensor, candidates: Tensor) -> Tensor:
    """The formula, row by row."""
    rows: list[Tensor] = []
    for b, u in enumerate(ROWS):
        norms = (targets[b].norm() * candidates[u].norm(dim=1)).detach()
        rows.append(candidates[u] @ targets[b] / (norms + 1e-10))
    return torch.stack(rows)


def gated_tensors() -> list[Tensor]:
    return tensors((B, WIDTH), (B, HIDDEN), (P, WIDTH), (P, HIDDEN), (R, HIDDEN), (WIDTH, HIDDEN), (WIDTH,))


def gradients(value: Tensor, given: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return list(torch.autograd.grad((value * weight).sum(), given))


@pytest.fixture(params=[1, 2, 3])
def by(request: pytest.FixtureRequest) -> tuple[Part, ...]:
    """The relations one by one as on a processor, two at a time, and all at once."""
    return in_parts(ROWS, COUNTS, request.param)


def test_parts_hold_every_row_once(by: tuple[Part, ...]) -> None:
    rows = torch.arange(1.0, B + 1)[:, None]
    found = torch.zeros_like(rows)
    for part in by:
        padded = part.padded(rows)
        assert padded.shape == (len(range(R)[part.relations]), max(COUNTS[part.relations]), 1)
        part.put(found, padded)
    assert torch.equal(found, rows)
    assert sum(float(part.padded(rows).sum()) for part in by) == float(rows.sum())
    assert [u for part in by for u in range(R)[part.relations]] == list(range(R))


def test_grouped_cosines(by: tuple[Part, ...]) -> None:
    """Of two terms, whose candidates come in one layout or in the other, and of one that is gated."""
    first, second, turned = tensors((B, WIDTH), (B, WIDTH + 1), (P, R, WIDTH + 1))
    (candidates,), given = tensors((R, P, WIDTH)), gated_tensors()
    own, of_own, entities, of_entity, of_relation, weight, bias = given

    def gate(x: Tensor, z: Tensor) -> Tensor:
        return torch.sigmoid(leaky_relu(x + z, SLOPE) @ weight.T + bias)

    found = grouped_cosines([first, second], [candidates, turned.transpose(0, 1)], Gated(*given, slope=SLOPE), by)
    expected = torch.stack(
        [
            plain(first, candidates),
            plain(second, turned.transpose(0, 1)),
            plain(own * gate(of_own, of_relation[ROWS]), entities * gate(of_entity, of_relation[:, None])),
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    given = [first, second, candidates, turned, *given]
    for a, b in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_gated_vectors_alone(by: tuple[Part, ...]) -> None:
    given = gated_tensors()
    found = grouped_cosines([], [], Gated(*given, slope=SLOPE), by)
    assert found.shape == (1, B, P)
    # Without the divisor's gradient a row's own direction is not left out, as it is in a true cosine.
    own, of_own, entities, of_entity, of_relation, weight, bias = given
    gates = (torch.sigmoid(leaky_relu(x[0] + of_relation[1], SLOPE) @ weight.T + bias) for x in (of_own, of_entity))
    vectors = (e[0] * gate for e, gate in zip((own, entities), gates, strict=True))
    torch.testing.assert_close(found[0, 0, 0], torch.cosine_similarity(*vectors, dim=0))


def test_a_zero_vector_is_similar_to_nothing() -> None:
    given = [torch.zeros_like(x) for x in gated_tensors()]
    found = grouped_cosines([], [], Gated(*given, slope=SLOPE), in_parts(ROWS, COUNTS, 1))
    assert torch.equal(found, torch.zeros_like(found))
