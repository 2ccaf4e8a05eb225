"""The least p that the tail of a closed form is read as."""

LEAST_P = 1e-3
"""Tails of a closed form are not known to be exact below this: p is never given as less."""
