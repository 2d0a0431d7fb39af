"""Compile the kernels for processors once, before several workers of the tests would compile them each."""

from __future__ import annotations

import torch

from mmrns.nn.kernels import compiled


def main() -> None:
    g = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        # From 32 rows on a pool is turned.
        few, many, table = (torch.randn(n, 4, generator=g, dtype=dtype) for n in (2, 32, 6))
        ids = torch.randint(6, (2, 3), generator=g)
        for kind in ("l1", "modulus", "dot"):
            # A product with a pool is torch's.
            for query, of in ((few, ids),) if kind == "dot" else ((few, None), (many, None), (few, ids)):
                found = compiled.forward(kind, query, table, of)
                compiled.backward(kind, query, table, of, found, True, True)
        compiled.ranked(table, ids[0], table[0, :3].contiguous())
        compiled.largest(table, 2)
        for kept in (2, 1):
            moments = [torch.zeros_like(table) for _ in range(kept)]
            compiled.update_rows(table, moments, ids[0], few.repeat(2, 1)[:3], (0.1,) * 2 * kept)


if __name__ == "__main__":
    main()
