"""Experiments as data: read, expanded into trainings, run over processes, and gathered into tidy tables."""
