"""Scorers, embedders, attention, losses: everything that is differentiated."""
