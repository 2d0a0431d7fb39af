"""Comparisons of methods on one footing: what is trained, which settings are chosen, what it came to."""
