"""Measurements: named spaces of the same samples in, tidy rows of scores and contrasts out."""
