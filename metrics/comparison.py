"""How is one metric computed many times at small cost? In two steps: prepare each space once, then compare two.

A permutation null compares one prepared space with rearrangements of another, an interval compares parts of both,
a layer grid compares every layer of one encoder with every layer of another. None of them prepares a space twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from metrics.arrays import Groups, X, Y, check_pair
from metrics.knn.exact import Measure
from metrics.knn.graph import Neighbors, neighbors

Side = TypeVar("Side")


class Comparison(ABC, Generic[Side]):
    """A metric at fixed options, taken apart.

    For every metric of the table and all x, y: `function(x, y, **options) == comparison(**options)(x, y)`.
    """

    at_least = 2  # rows that the metric needs

    def __call__(self, x: X, y: Y) -> float:
        """The score of two spaces: checks that they pair, prepares both, compares."""
        check_pair(x, y, at_least=self.at_least)
        return self.compare(self.prepare(x, "x"), self.prepare(y, "y"))

    @abstractmethod
    def prepare(self, x: X, name: str = "x") -> Side:
        """Everything about one space that does not depend on the other.

        Args:
            x: Features [n, d].
            name: What the messages call it.
        """

    @abstractmethod
    def compare(self, a: Side, b: Side) -> float:
        """The score of two prepared spaces."""

    @abstractmethod
    def take(self, side: Side, rows: np.ndarray) -> Side:
        """The prepared space of some rows, in the order given.

        Args:
            side: A prepared space of n rows.
            rows: Distinct row numbers [m]: a rearrangement (m = n) or a part (m < n).

        Returns:
            What `prepare(x[rows])` would give, or as near to it as is known without searching again.
        """

    def permuted(self, a: Side, b: Side, orders: np.ndarray) -> np.ndarray:
        """Scores of a against b in other orders; a subclass overrides it where there is a quicker way.

        Args:
            a: A prepared space of n rows.
            b: Another.
            orders: [p, n], a permutation of 0 ... n - 1 a row.

        Returns:
            [p] float64: compare(a, take(b, order)) for each order.
        """
        return np.array([self.compare(a, self.take(b, order)) for order in orders])


GraphScore = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class KnnComparison(Comparison[Neighbors]):
    """A score of two neighbour graphs that is a mean over rows.

    A part of the rows keeps what is left of each row's list, so prepare with `depth` well above k to take parts;
    rows whose list then has fewer than k entries run short and are left out of the mean (`short`).

    Args:
        per_row: (ids [n, k], ids [n, k]) -> [n].
        k: Neighbours per row.
        groups: The group of each row, or None; rows of one group are never neighbours.
        metric: "cosine", "ip" or "euclidean".
        depth: Neighbours that are searched, k or more; None for k.
    """

    per_row: GraphScore
    k: int = 10
    groups: Groups | None = None
    metric: Measure = "cosine"
    depth: int | None = None

    def prepare(self, x: X, name: str = "x") -> Neighbors:
        """The neighbour graph of one space, `depth` deep."""
        return neighbors(x, k=self.depth or self.k, groups=self.groups, metric=self.metric, name=name)

    def rows(self, a: Neighbors, b: Neighbors) -> np.ndarray:
        """Score of each row, [n]; NaN where a list has fewer than k entries."""
        first, second = a.ids[:, : self.k], b.ids[:, : self.k]
        enough = (first[:, -1] >= 0) & (second[:, -1] >= 0)
        if enough.all():
            return self.per_row(first, second)
        scores = np.full(len(first), np.nan)
        # A row that runs short still answers to its number in others' lists, so nothing is renumbered here.
        scores[enough] = self.per_row(first, second)[enough]
        return scores

    def compare(self, a: Neighbors, b: Neighbors) -> float:
        """Mean over the rows that have k neighbours in both graphs; NaN if there is none."""
        scores = self.rows(a, b)
        enough = ~np.isnan(scores)
        return float(np.where(enough, scores, 0.0).sum() / enough.sum()) if enough.any() else float("nan")

    def take(self, side: Neighbors, rows: np.ndarray) -> Neighbors:
        """The graph among some rows, from the lists that are there."""
        return side.among(rows)

    def permuted(self, a: Neighbors, b: Neighbors, orders: np.ndarray) -> np.ndarray:
        """Scores in other orders, from renamed ids: nothing is searched again, and similarities stay where they are."""
        from metrics.certainty.permuted import knn_scores

        return knn_scores(self.per_row, a.ids[:, : self.k], b.ids[:, : self.k], orders)


def options_of(factory: Callable[..., Comparison[Any]]) -> frozenset[str]:
    """Names of the options that a comparison's factory takes."""
    from inspect import signature

    return frozenset(name for name in signature(factory).parameters if name not in ("per_row", "self"))
