"""The largest of each row against a full sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.nn.kernels import comparisons
from mmrns.nn.kernels.selection import largest

INF = float("inf")
FORMS = pytest.mark.parametrize("form", ["numba", "torch"])


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("spread", [0.0, 1e-30, 1.0, 1e30], ids="spread {}".format)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 9))
def test_they_are_those_of_a_sort(
    form: comparisons.Form,
    dtype: torch.dtype,
    spread: float,
    n: int,
    columns: int,
    share: float,
    absent: float,
    seed: int,
) -> None:
    stream = torch.Generator().manual_seed(seed)
    values = spread * torch.randn(n, columns, generator=stream, dtype=dtype)
    # Ties, what must not be drawn, and one that outweighs everything.
    values = torch.where(torch.rand(n, columns, generator=stream) < 0.3, values.round(), values)
    values[torch.rand(n, columns, generator=stream) < absent] = -INF
    values[:, : columns // 40] = INF
    k = max(1, round(share * columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "form_on", lambda device: form)
        found, place = largest(values, k)
    assert torch.equal(found, values.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(found, values.gather(1, place))
    # No column twice.
    assert (place.sort(dim=1).values.diff(dim=1) > 0).all()


def test_what_is_no_number_is_not_large() -> None:
    values = torch.tensor([[1.0, float("nan"), 3.0, -INF, 2.0], [float("nan")] * 5])
    found, place = largest(values, 3)
    assert found[0].tolist() == [3.0, 2.0, 1.0]
    assert place[0].tolist() == [2, 4, 0]
    assert place[1].unique().numel() == 3


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_number_of_threads_changes_nothing(rows: int) -> None:
    values = torch.randn(rows, 100, generator=torch.Generator().manual_seed(rows)).round(decimals=1)
    given_threads = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(largest(values, 20)[1])
    finally:
        torch.set_num_threads(given_threads)
    assert torch.equal(*found)
