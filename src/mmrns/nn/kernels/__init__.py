"""Comparisons of queries with candidates: Numba's kernels, and the torch form that is their oracle."""
