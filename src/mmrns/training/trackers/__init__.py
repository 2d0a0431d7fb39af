"""Trackers: what keeps the course of trainings for other programs to show, each known by name."""
