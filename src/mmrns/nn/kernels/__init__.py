"""Comparisons of queries with candidates: kernels of Numba and of Triton, and the torch form that is their oracle."""
