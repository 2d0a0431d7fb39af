"""Ranks and what is read off them."""
