"""Own files become a dataset folder: read from other layouts, checked, split, and encoded into features."""
