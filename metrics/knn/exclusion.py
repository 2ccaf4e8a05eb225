"""Pairs that are never neighbours: a row itself and the rows of its group."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Exclusion:
    """Pairs that are never neighbours: the rows of one's own group, oneself among them."""

    codes: np.ndarray  # [n] group number of each row
    count: int = 0  # number of groups, if some of them may have no row

    @cached_property
    def order(self) -> np.ndarray:
        """Rows sorted by group, [n]."""
        return np.argsort(self.codes, kind="stable")

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows in each group, [groups]."""
        return np.bincount(self.codes, minlength=self.count)

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `rows`, row number) of every excluded pair."""
        return self.members(self.codes[rows])

    def members(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `groups`, row number) of every row of each group, positions in rising order."""
        sizes = self.sizes[groups]
        starts = (np.cumsum(self.sizes) - self.sizes)[groups]
        position = np.repeat(np.arange(len(groups)), sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return position, self.order[starts[position] + within]
