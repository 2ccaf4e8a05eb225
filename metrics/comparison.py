"""How is one metric computed many times at small cost? In two steps: prepare each space once, then compare two.

A permutation null compares one prepared space with rearrangements of another, an interval compares parts of both,
a layer grid compares every layer of one encoder with every layer of another. None of them prepares a space twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from featcache.metrics.arrays import Groups, X, Y, check_pair, is_number, is_whole
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.exact import Measure
from featcache.metrics.knn.graph import Neighbors, check_choices, neighbors
from featcache.metrics.knn.graph_scores import GraphScore, knn_scores

Prepared = TypeVar("Prepared")


class Comparison(ABC, Generic[Prepared]):
    """A metric at fixed options, taken apart.

    For every metric of the table and all x, y: `function(x, y, **options) == comparison(**options)(x, y)`.
    """

    at_least = 2  # rows that the metric needs

    def __call__(self, x: X, y: Y) -> float:
        """The score of two spaces: checks that they pair, prepares both, compares."""
        check_pair(x, y, at_least=self.at_least)
        return self.compare(self.prepare(x, "x"), self.prepare(y, "y"))

    @abstractmethod
    def prepare(self, x: X, name: str = "x") -> Prepared:
        """Everything about one space that does not depend on the other.

        Args:
            x: Features [n, d].
            name: What the messages call it.
        """

    @abstractmethod
    def compare(self, a: Prepared, b: Prepared) -> float:
        """The score of two prepared spaces."""

    @abstractmethod
    def take(self, side: Prepared, rows: np.ndarray) -> Prepared:
        """The prepared space of some rows, in the order given.

        Args:
            side: A prepared space of n rows.
            rows: Distinct row numbers [m]: a rearrangement (m = n) or a part (m < n).

        Returns:
            What `prepare(x[rows])` would give, or as near to it as is known without searching again.
        """

    def permuted(self, a: Prepared, b: Prepared, orders: np.ndarray) -> np.ndarray:
        """Scores of a against b in other orders; a subclass overrides it where there is a quicker way.

        Args:
            a: A prepared space of n rows.
            b: Another.
            orders: [p, n], a permutation of 0 ... n - 1 a row.

        Returns:
            [p] float64: compare(a, take(b, order)) for each order.
        """
        return np.array([self.compare(a, self.take(b, order)) for order in orders])

    def backend(self, side: Prepared) -> str:
        """What prepared a space: what searched its graph, or which library its numbers are kept in, on which device."""
        graph = getattr(side, "graph", side)
        if isinstance(graph, Neighbors):
            return graph.backend
        held = getattr(side, "__dict__", {}).values()
        devices = [str(value.device) for value in held if isinstance(value, torch.Tensor)]
        return f"torch ({devices[0]})" if devices else "numpy"


class RowComparison(Comparison[Prepared]):
    """A metric whose score is a mean over rows, each a query of the same gallery."""

    @abstractmethod
    def rows(self, a: Prepared, b: Prepared) -> np.ndarray:
        """Score of each row, [n]; NaN where a neighbour list has fewer than k entries."""

    def compare(self, a: Prepared, b: Prepared) -> float:
        """Mean over the rows that have a score; NaN if there is none."""
        scores = self.rows(a, b)
        enough = ~np.isnan(scores)
        return float(np.where(enough, scores, 0.0).sum() / enough.sum()) if enough.any() else float("nan")


@dataclass(frozen=True)
class KnnComparison(RowComparison[Neighbors]):
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

    def __post_init__(self) -> None:
        check_search(self.k, self.metric, self.depth)

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

    def take(self, side: Neighbors, rows: np.ndarray) -> Neighbors:
        """The graph among some rows, from the lists that are there."""
        return side.among(rows)

    def permuted(self, a: Neighbors, b: Neighbors, orders: np.ndarray) -> np.ndarray:
        """Scores in other orders, from renamed ids: nothing is searched again, and similarities stay where they are."""
        return knn_scores(self.per_row, a.ids[:, : self.k], b.ids[:, : self.k], orders)


def backends(comparison: Comparison[Any], *sides: Any) -> str:
    """What prepared some spaces, each named once."""
    return ", ".join(dict.fromkeys(comparison.backend(side) for side in sides))


def check_search(k: int, metric: str, depth: int | None) -> None:
    """Refuses neighbours that cannot be searched for, and a search that ends before the k-th of them.

    Raises:
        BadChoice: If k, metric or depth is not possible.
    """
    check_choices(k, metric, "auto", None)
    if depth is None:
        return
    if not is_whole(depth) or depth < k:
        raise BadChoice(f"depth = {depth!r}: wanted k = {k} or more neighbours, or None for k")


def check_flag(option: str, value: object) -> None:
    """Refuses what is neither True nor False: any text would count as true.

    Raises:
        BadChoice: Names the option.
    """
    if not isinstance(value, bool | np.bool_):
        raise BadChoice(f"{option} = {value!r}: wanted True or False")


def check_amount(option: str, value: Any, *, positive: bool = False) -> None:
    """Refuses what is no finite number of 0 or more (or above 0).

    Raises:
        BadChoice: Names the option.
    """
    if not is_number(value) or not 0 <= value < np.inf or (positive and value == 0):
        raise BadChoice(f"{option} = {value!r}: wanted {'a positive number' if positive else '0 or a positive number'}")


def options_of(factory: Callable[..., Comparison[Any]]) -> frozenset[str]:
    """Names of the options that a comparison's factory takes."""
    from inspect import signature

    return frozenset(name for name in signature(factory).parameters if name not in ("per_row", "self"))
