"""Comparisons of queries with candidates: by fused kernels where they are installed, otherwise in torch.

Those for the CPU need Numba (extra `fast`), those for CUDA devices Triton, which comes with torch's builds for them.
Torch writes the B x K x width vectors or differences to memory and reads them several times; a fused kernel keeps them
in registers, so that it moves nothing but its operands. All give the same numbers up to the order of the sums.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from mmrns.errors import note
from mmrns.nn.numerics import FullPrecision

Kind = Literal["l1", "l2", "modulus", "dot"]
"""What is summed over the coordinates of query q and candidate c.

`l1`: |q_i - c_i|; `l2`: (q_i - c_i)^2, of whose sum the root is taken; `modulus`: the first over complex numbers, of
which vectors hold all real parts, then all imaginary parts; `dot`: q_i c_i. The derivatives of |x| and |z| at 0 are
taken as 0.
"""


def compare(
    kind: Kind, query: Float[Tensor, "B width"], candidates: Float[Tensor, "B K width"] | Float[Tensor, "P width"]
) -> Float[Tensor, "B K"]:
    """Each row's query with its own candidates [B K width], or with one pool [P width] for all rows."""
    # A product with a pool is what libraries are best at.
    form = "torch" if kind == "l2" or (kind == "dot" and candidates.ndim == 2) else form_of(query, candidates)
    return _in_torch(kind, query, candidates) if form == "torch" else _fused(form, kind, query, candidates, None)


def compare_rows(
    kind: Kind, query: Float[Tensor, "B width"], table: Float[Tensor, "E width"], ids: Int[Tensor, "B K"]
) -> Float[Tensor, "B K"]:
    """Each row's query with rows of a table, which the fused kernel reads where they are."""
    form = "torch" if kind == "l2" else form_of(query, table)
    if form == "torch":
        return _in_torch(kind, query, embedding(ids, table))
    return _fused(form, kind, query, table, ids)


def counted(
    scores: Float[Tensor, "Q E"], query: Int[Tensor, " n"], true: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None:
    """How many scores of row `query` are higher than each true score, and how many are at least as high, in one pass.

    None where no fused kernel is at hand.
    """
    form = form_of(scores)
    return None if form == "torch" else import_module(_MODULES[form]).ranked(scores, query, true)


def pair_width(width: int, device: torch.device | str) -> int:
    """Reals that a comparison of vectors this wide with a pool holds for each pair, beside the result."""
    # The difference, and what is made of it on the way to the sum.
    return 2 * width if form_on(device) == "torch" else 0


LOADING = 2**28
"""So many pairs of reals torch compares in the time, most of a second, that loading the fused kernels takes."""

Form = Literal["numba", "triton", "torch"]
"""What compares: the fused kernels of one kind, or torch."""

_FORMS: dict[str, Form] = {"cpu": "numba", "cuda": "triton"}
_MODULES = {"numba": "mmrns.nn.kernels.compiled", "triton": "mmrns.nn.kernels.gpu"}
_REMEDY = {"numba": "a Numba that fits", "triton": "the Triton that this torch asks for"}
_few: ContextVar[bool] = ContextVar("few", default=False)


@contextmanager
def comparing(pairs: int) -> Generator[None]:
    """Within it so many pairs of reals are compared in all: for few of them the fused kernels are not loaded.

    Kernels that are loaded are used. Not for training, whose numbers must not depend on it.
    """
    token = _few.set(pairs < LOADING)
    try:
        yield
    finally:
        _few.reset(token)


def form_of(*operands: Tensor) -> Form:
    """What takes these operands: a fused kernel only tensors of one device and of a type that it computes in.

    Numba's compute in 32 or 64 bits, in which all come; Triton's take halves, too, and sum them in 32 bits.
    """
    first, dtypes = operands[0], {x.dtype for x in operands}
    if any(x.device != first.device for x in operands):
        return "torch"
    form = form_on(first.device)
    if form == "numba" and not (len(dtypes) == 1 and first.dtype in (torch.float32, torch.float64)):
        return "torch"
    return form


def form_on(device: torch.device | str) -> Form:
    """What compares on a device: fused kernels where they are installed, and loading them pays (`comparing`)."""
    form = _FORMS.get(torch.device(device).type, "torch")
    if form == "torch" or (_few.get() and _MODULES[form] not in sys.modules):
        return "torch"
    if form not in _loads:
        _loads[form] = _loaded(form)
    return form if _loads[form] else "torch"


_loads: dict[Form, bool] = {}
"""Of each form that was asked for, whether it loads. No `functools.cache`: torch's compiler warns of these."""


def _loaded(form: Form) -> bool:
    """Whether what the fused kernels need is installed; what does not load is as good as none, which a note says."""
    if find_spec(form) is None:
        return False
    try:
        import_module(_MODULES[form])
    except Exception as error:  # What does not fit NumPy, LLVM or the device may raise anything.
        reason = str(error).partition("\n")[0] or type(error).__name__
        message = f"{form.title()} cannot be loaded ({reason}), so that comparisons run in torch, several times slower"
        note(f"{message}; install {_REMEDY[form]}, or none")
        return False
    return True


def _in_torch(kind: Kind, query: Tensor, candidates: Tensor) -> Tensor:
    if kind == "dot":
        return query @ candidates.T if candidates.ndim == 2 else (candidates @ query[:, :, None]).squeeze(-1)
    if kind == "l1" and candidates.ndim == 2:
        return torch.cdist(query, candidates, p=1)
    if kind == "l2" and candidates.ndim == 2:
        # "donot_use_mm": the matrix-product form of the Euclidean distance loses half of the digits.
        return torch.cdist(query, candidates, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")
    difference = query[:, None] - candidates
    if kind == "l2":
        return torch.linalg.vector_norm(difference, dim=-1)
    if kind == "l1":
        # The same number as vector_norm(ord=1), in two thirds of its time.
        return difference.abs().sum(-1)
    return torch.linalg.vector_norm(difference.unflatten(-1, (2, -1)), dim=-2).sum(-1)


def _fused(form: Form, kind: Kind, query: Tensor, candidates: Tensor, ids: Tensor | None) -> Tensor:
    found = _Fused.apply(form, kind, query, candidates, ids)
    # As torch has it: the type of the operands, but full precision under autocast.
    exact = torch.is_autocast_enabled(query.device.type)
    return found if exact else found.to(torch.promote_types(query.dtype, candidates.dtype))


class _Fused(FullPrecision):
    @staticmethod
    def forward(ctx: Any, form: Form, kind: Kind, query: Tensor, candidates: Tensor, ids: Tensor | None) -> Tensor:
        query, candidates = query.contiguous(), candidates.contiguous()
        ids = None if ids is None else ids.contiguous()
        ctx.kernels, ctx.kind = import_module(_MODULES[form]), kind
        ctx.save_for_backward(query, candidates, ids)
        return ctx.kernels.forward(kind, query, candidates, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, candidates, ids = ctx.saved_tensors
        _, _, of_query, of_candidates, _ = ctx.needs_input_grad
        gradient = gradients[0].contiguous()
        found = ctx.kernels.backward(ctx.kind, query, candidates, ids, gradient, of_query, of_candidates)
        return None, None, *found, None
