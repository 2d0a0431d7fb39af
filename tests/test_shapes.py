"""The checks that run beside all other tests refuse what they should."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import AbstractArray, Bool, Complex, Float, Int, Shaped, TypeCheckError
from jaxtyping._storage import get_shape_memo
from torch import Tensor

from mmrns.nn.scorers import TransE
from mmrns.types import OwnNegatives, Views
from shapes import checked, has_arrays, same_axes

check = checked(typechecker=beartype)


@check
def rows(values: Float[Tensor, "B K"], weight: Float[Tensor, " B"] | None = None, *, of: int = 1) -> Float[Tensor, "B"]:
    return values.sum(1) if of else values.sum(0)


@check
def widened(values: Float[Tensor, "B K"], n: int) -> Float[Tensor, "B K+1"]:
    return torch.cat([values, rows(torch.zeros(n, 2))[: len(values), None]], 1)[:, : n - 1]


@check
def sizes(ids: Mapping[str, Int[Tensor, " B"]]) -> list[int]:
    return [len(x) for x in ids.values()]


@check
def each(values: Float[Tensor, "B K"], weight: Float[Tensor, " B"]) -> Iterator[Tensor]:
    yield from values * weight[:, None]


@check
def named(name: str, later: Later | None = None) -> int:
    return len(name)


class Later:
    pass


@check
@dataclasses.dataclass(frozen=True)
class Pair:
    values: Float[Tensor, "B K"]
    weight: Float[Tensor, " B"]

    @check
    def first(self, n: int) -> Float[Tensor, "n K"]:
        return self.values[:n]

    @classmethod
    @check
    def of(cls, n: int) -> Pair:
        return cls(torch.zeros(n, 2), torch.zeros(n))

    @check
    @staticmethod
    def twice(n: int) -> int:
        return 2 * n


def test_what_fits_passes() -> None:
    assert rows(torch.ones(2, 3), torch.ones(2)).tolist() == [3, 3]
    assert rows(torch.ones(2, 3)).tolist() == [3, 3]
    # A call inside has axes of its own, and those outside are as before when it returns.
    assert widened(torch.zeros(2, 3), 5).shape == (2, 4)
    assert sizes({"a": torch.zeros(2, dtype=torch.int64)}) == [2]
    assert len([*each(torch.zeros(3, 2), torch.zeros(3))]) == 3
    assert named("abc", later=3) == 3  # A class that comes later in the file is not known yet.
    pair = Pair(torch.zeros(3, 2), torch.zeros(3))
    assert len(pair.first(2)) == len(Pair.of(2).values) == Pair.twice(1) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: rows(torch.zeros(2)),
        lambda: rows(torch.zeros(2, 3, dtype=torch.int64)),
        lambda: rows(torch.zeros(2, 3), torch.zeros(3)),
        lambda: rows(torch.zeros(2, 3), of="one"),
        lambda: rows(torch.zeros(2, 3), of=0),
        lambda: sizes({"a": torch.zeros(2)}),
        lambda: sizes({"a": torch.zeros(2, 1, dtype=torch.int64)}),
        lambda: widened(torch.zeros(2, 3), 4),
        lambda: each(torch.zeros(3, 2), torch.zeros(2)),
        lambda: named(3),
        lambda: Pair(torch.zeros(3, 2), torch.zeros(2)),
        lambda: Pair(torch.zeros(3, 2), torch.zeros(3)).first("2"),
        lambda: Pair(torch.zeros(3), torch.zeros(3)),
        lambda: Pair.of("2"),
        lambda: Pair.twice("2"),
        # The package itself.
        lambda: Views(torch.zeros(3, 2, 4), torch.zeros(2, 2, dtype=torch.bool)),
        lambda: OwnNegatives(torch.zeros(2, 3)),
        lambda: TransE(dim=4, init_range=0.1).query(torch.zeros(2, 4), torch.zeros(3, 4), False),
        lambda: TransE(dim="4", init_range=0.1),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
        call()


def test_tensors_fit_as_jaxtyping_says() -> None:
    said = type(AbstractArray).__instancecheck__.replaced
    dtypes = torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.complex64
    tensors = [torch.zeros(shape, dtype=dtype) for shape in ((), (2,), (2, 2), (2, 3), (1, 2, 3)) for dtype in dtypes]
    tensors.append(torch.nn.Parameter(torch.zeros(2, 3)))
    for kind in (Float, Int, Bool, Complex, Shaped):
        for axes in ("", "n", "3", "_ 3", "n n", "n m", "#n m", "*n m", "... m", "n n+1", "1 n m"):
            annotation = kind[Tensor, axes]
            assert [isinstance(x, annotation) for x in tensors] == [said(annotation, x) for x in tensors]


def test_axes_agree_as_jaxtyping_says() -> None:
    """Two arguments of a call, one after the other: what is refused, and which axes are known then."""
    quick = type(AbstractArray).__instancecheck__
    shapes = (2,), (3,), (2, 3), (3, 3), (1, 3), (2, 2, 3), (2, 3, 3)
    annotations = [Float[Tensor, axes] for axes in ("n", "*n", "*n m", "n *n", "n ... m", "*#n m", "#n m", "*n 3 m")]
    for first, second in product(product(annotations, shapes), repeat=2):
        found: list[Any] = []
        for fits in (quick, quick.replaced):
            with same_axes:
                told = [fits(annotation, torch.empty(shape)) for annotation, shape in (first, second)]
                found.append((told, get_shape_memo()[0].copy(), get_shape_memo()[1].copy()))
        assert found[0] == found[1], (first, second)


def test_functions_look_as_they_are_written() -> None:
    assert isinstance(inspect.signature(rows).return_annotation, str)
    assert rows.__annotations__["of"] == "int"
    assert (rows.__name__, rows.__module__) == ("rows", __name__)


def test_arrays_are_found_wherever_they_are() -> None:
    assert has_arrays(Sequence[tuple[str, Float[Tensor, " B"] | None]])
    assert has_arrays(Callable[[Float[Tensor, " B"]], int])
    assert not has_arrays(Mapping[str, Tensor])
