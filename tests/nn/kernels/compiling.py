"""Compiles the kernels of `mmrns.nn.kernels.gpu` for a GPU that need not be there, and prints which; see the tests.

What the module would start is compiled instead, with the types, constants and alignments that Triton takes from what a
kernel is given.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64", torch.int32: "*i32"}


def compiled(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
    """In place of `JITFunction.run`."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    given = inspect.signature(kernel.fn).bind(*args, **named).arguments
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        elif parameter.is_constexpr or value == 1:
            signature[parameter.name], constants[(i,)] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
        if isinstance(value, torch.Tensor) or (signature[parameter.name] == "i32" and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    compile(ASTSource(kernel, signature, constants, attributes), target=GPUTarget("cuda", 80, 32))
    print(kernel.fn.__name__, signature, constants)


# In two types; where numbers that are 1 become constants; with blocks as they are in a training.
SETTINGS = [
    ("modulus", 3, 5, 14, torch.float64),
    ("dot", 3, 5, 14, torch.float64),
    ("l1", 1, 1, 2, torch.float32),
    ("l1", 40, 70, 200, torch.float32),
]


def main() -> None:
    from triton.runtime.jit import JITFunction

    JITFunction.run = compiled
    from mmrns.nn.kernels import gpu

    for kind, n_queries, n_candidates, width, dtype in SETTINGS:
        query, table = torch.zeros(n_queries, width, dtype=dtype), torch.zeros(n_candidates, width, dtype=dtype)
        ids, weight = torch.zeros(n_queries, n_candidates, dtype=torch.int64), query.new_zeros(n_queries, n_candidates)
        own = table.expand(n_queries, n_candidates, width).contiguous()
        forms = [(table, ids), (own, None), (table, None)]
        # A product with a pool is torch's.
        for candidates, rows in forms[: 2 if kind == "dot" else 3]:
            gpu.forward(kind, query, candidates, rows)
            gpu.backward(kind, query, candidates, rows, weight, True, True)
        gpu.ranked(weight, ids[:, 0], weight[:, 0])


if __name__ == "__main__":
    main()
