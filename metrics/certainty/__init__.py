"""Chance levels, permutation nulls, intervals and paired differences of scores."""
