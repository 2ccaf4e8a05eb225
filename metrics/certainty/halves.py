"""Random halves of the samples, and the standard errors that scores on them give."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featcache.metrics.arrays import Groups, group_codes
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.knn.subgraph import depth_for

LEAST_REPEATS = 20


@dataclass(frozen=True, eq=False)
class Halves:
    """Random halves of whole groups with their complements, the same for every score that is to be compared.

    A statistic is a sum of what single rows, pairs, triples, ... of rows contribute. Of the variance that contributions
    of order c have at size n, scores on random halves show 2^c - 1 times as much, and half the difference between a
    half and its complement 2^(c-1) times. Both are right for what is smooth in the rows (c = 1), else on the safe side.
    The second is closer where pairs of rows count, as in neighbour graphs, and is taken for these; the first holds
    better where tails are heavy, and is taken for other metrics. Graphs of halves have half as many neighbours, the
    same share of the rows: with all k, lists of a half leave clusters of about k rows that those of the whole do not.

    Args:
        n: Rows.
        groups: The group of each row, or None.
        repeats: Halves to draw, complements counted: an even number, 20 or more.
        seed: Of the draws.

    Raises:
        BadChoice: If repeats is below 20 or odd.

    Source: Shao & Wu 1989, Annals of Statistics 17 (delete-d jackknife: with d = n / 2 its factor (n - d) / d is 1).
    Efron & Stein 1981, Annals of Statistics 9 (the bias by order).
    """

    n: int
    groups: Groups | None = None
    repeats: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < LEAST_REPEATS or self.repeats % 2:
            raise BadChoice(
                f"repeats = {self.repeats}: wanted {LEAST_REPEATS} or more for a standard deviation, and an even "
                "number (halves and their complements)"
            )

    @cached_property
    def codes(self) -> np.ndarray:
        """Number of the group of each row, [n]."""
        return group_codes(self.groups, self.n)[0]

    @cached_property
    def count(self) -> int:
        """Number of groups."""
        return int(self.codes.max()) + 1

    @cached_property
    def masks(self) -> np.ndarray:
        """Rows of each half, [repeats, n] bool; every second one is the complement of the one before."""
        rng, masks = np.random.default_rng(self.seed), np.zeros((self.repeats, self.n), dtype=bool)
        for half, complement in zip(masks[::2], masks[1::2], strict=True):
            kept = np.zeros(self.count, dtype=bool)
            kept[rng.choice(self.count, self.count // 2, replace=False)] = True
            half[:], complement[:] = kept[self.codes], ~kept[self.codes]
        return masks

    @property
    def method(self) -> str:
        """How scores are spread, in words."""
        whole = "" if self.groups is None else " of whole groups"
        return f"delete-half subsampling{whole}, {self.repeats} halves"

    def scores(self, comparison: Comparison[Any], spaces: Sequence[Any], other: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scores of each space against another on the halves, as those of the whole spread; as `on_subsets`.

        Raises:
            TooFewRows: Below four groups, or if half of the rows are too few for the metric.
        """
        halved, worth = comparison.on_half()
        least = max(halved.at_least, getattr(comparison, "k", 0) + 1)  # more than all rows of a half as neighbours
        if self.count < 4 or self.n // 2 < least:
            raise TooFewRows(
                f"{self.count} groups of {self.n} rows: half of them is too few for this metric; wanted 4 groups and "
                f"{2 * least} rows"
            )
        scores, short_rows = halved.on_subsets(spaces, other, self.masks)
        return scores * worth, short_rows

    def depth(self, comparison: Comparison[Any]) -> int:
        """Neighbours to search so that a row keeps enough of them in a half, but for one case in a million."""
        k, wanted = getattr(comparison, "k", 1), getattr(comparison.on_half()[0], "k", 1)
        largest = int(np.bincount(self.codes).max())
        outside = self.n - largest  # rows that the row of the largest group may have as neighbours
        try:
            depth = min(depth_for(self.n // 2, self.n, wanted, group_size=largest), outside)
        except BadChoice:  # few groups: every candidate, and whoever runs short is counted
            depth = outside
        return max(depth, k)

    def standard_error(self, scores: np.ndarray, *, of_graphs: bool) -> float:
        """Standard deviation over new samples of a statistic of n rows.

        Args:
            scores: The statistic on each half, [repeats].
            of_graphs: Whether it is one of neighbour graphs (`compares_neighbors`).
        """
        pairs = scores.reshape(-1, 2)
        variance = float(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2)) / 4
        if not of_graphs:
            variance += float(pairs.mean(axis=1).var(ddof=1))
        return variance**0.5

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error: few groups and few halves both leave it uncertain."""
        return 1 / (1 / (self.count - 1) + 2 / self.repeats)

    def half_width(self, scores: np.ndarray, level: float, *, of_graphs: bool) -> float:
        """Half the width of an interval that covers `level`: Student's t times the standard error.

        Raises:
            BadChoice: If level is not between 0 and 1.
        """
        from scipy.special import stdtrit

        if not 0 < level < 1:
            raise BadChoice(f"level = {level}: wanted a share between 0 and 1")
        student = float(stdtrit(self.freedom, 0.5 + level / 2))
        return student * self.standard_error(scores, of_graphs=of_graphs)

    def two_sided(self, value: float, scores: np.ndarray, *, of_graphs: bool) -> float:
        """Two-sided p of a statistic that is 0 on average: at most alpha just where its interval leaves 0 out."""
        from scipy.special import stdtr

        error = self.standard_error(scores, of_graphs=of_graphs)
        return min(1.0, 2 * float(stdtr(self.freedom, -abs(value) / error))) if error else 1.0


def compares_neighbors(prepared: object) -> bool:
    """Whether a prepared space is, or holds, a neighbour graph."""
    return isinstance(getattr(prepared, "graph", prepared), Neighbors)
