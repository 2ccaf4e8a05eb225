"""How sure is a score? Chance levels, permutation nulls, intervals, differences."""
