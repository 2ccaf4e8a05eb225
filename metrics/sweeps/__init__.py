"""Sweeps of a score over layers, gallery sizes, k and mixtures, and ridge ceilings."""
