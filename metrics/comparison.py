"""Metrics in two steps: each space is prepared once, then any two of them are compared.

A permutation null compares one prepared space with rearrangements of another, an interval compares parts of both, a
layer grid compares every layer of one encoder with every layer of another; none of them prepares a space twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from featcache.metrics.arrays import Groups, X, Y, check_pair, is_number, is_whole
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn.exact import Measure
from featcache.metrics.knn.graph import Neighbors, check_choices, neighbors
from featcache.metrics.knn.graph_scores import GraphScore
from featcache.metrics.knn.subgraph import first_kept

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
        """Everything about one space [n, d] that does not depend on the other; `name` is what messages call it."""

    @abstractmethod
    def compare(self, a: Prepared, b: Prepared) -> float:
        """The score of two prepared spaces."""

    @abstractmethod
    def take(self, space: Prepared, rows: np.ndarray) -> Prepared:
        """The prepared space of some rows: `prepare(x[rows])`, or as near as is known without a new search.

        The rows are distinct numbers [m] in any order: a rearrangement (m = n) or a part (m < n).
        """

    def compare_all(self, xs: Sequence[Prepared], ys: Sequence[Prepared]) -> np.ndarray:
        """Scores of every pair of prepared spaces, [x, y] float64; a subclass overrides it where they share work."""
        return np.array([[self.compare(a, b) for b in ys] for a in xs])

    def permuted(self, a: Prepared, b: Prepared, orders: np.ndarray) -> np.ndarray:
        """Scores of a against b in other orders: [p] float64, compare(a, take(b, order)) for each of the orders [p, n].

        A subclass overrides it where there is a quicker way.
        """
        return np.array([self.compare(a, self.take(b, order)) for order in orders])

    def self_score(self, space: Prepared) -> float:
        """The score of a prepared space against itself; a subclass may know it already."""
        return self.compare(space, space)

    def permutation_cost(self, a: Prepared, b: Prepared) -> float | None:
        """What one permuted score costs, in multiply-adds of a matrix product; None where it is not known."""
        return None

    def part(self, space: Prepared, rows: np.ndarray) -> Prepared:
        """As `take`, of rising rows, with no more than `compare` looks at."""
        return self.take(space, rows)

    def on_subsets(
        self, spaces: Sequence[Prepared], other: Prepared, masks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of each space against another on many subsets of the rows; a subclass may have a quicker way.

        Args:
            spaces: Prepared spaces of n rows.
            other: The space that each is compared with.
            masks: [r, n] bool, True for the rows of a subset.

        Returns:
            Scores [spaces, r] float64: compare(take(space, rows), take(other, rows)); and how many rows, over all
            subsets, were left out because their neighbour lists ran short, [spaces].

        Raises:
            TooFewRows: If on a subset no row has k neighbours in both.
        """
        scores, short = np.empty((len(spaces), len(masks))), np.zeros(len(spaces), dtype=np.int64)
        for place, mask in enumerate(masks):
            rows = np.flatnonzero(mask)
            at = self.part(other, rows)
            for number, space in enumerate(spaces):
                part = self.part(space, rows)
                short[number] += _short_rows(self, part, at)
                scores[number, place] = self.compare(part, at)
        return scores, short

    def on_half(self) -> "tuple[Comparison[Prepared], float]":
        """The metric that halves of the rows are measured by in its place, and what its scores are multiplied by.

        A metric of neighbour graphs looks at half as many neighbours there: at the same share of the rows, so that the
        lists of a half reach as far into the space as those of the whole.
        """
        return self, 1.0

    def backend(self, space: Prepared) -> str:
        """What prepared a space: what searched its graph, or which library its numbers are kept in, on which device."""
        graph = getattr(space, "graph", space)
        if isinstance(graph, Neighbors):
            return graph.backend
        held = getattr(space, "__dict__", {}).values()
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
    rows whose list then has fewer than k entries run short and are left out of the mean.
    """

    per_row: GraphScore  # score of each row of two graphs
    k: int = 10  # neighbours per row
    groups: Groups | None = None  # the group of each row, or None; rows of one group are never neighbours
    metric: Measure = "cosine"  # "cosine", "ip" or "euclidean"
    depth: int | None = None  # neighbours that are searched, k or more; None for k

    def __post_init__(self) -> None:
        check_search(self.k, self.metric, self.depth)

    def prepare(self, x: X, name: str = "x") -> Neighbors:
        """The neighbour graph of one space, `depth` deep."""
        return neighbors(x, k=self.depth or self.k, groups=self.groups, metric=self.metric, name=name)

    def rows(self, a: Neighbors, b: Neighbors) -> np.ndarray:
        """The scores of the first k neighbours."""
        first, second = a.ids[:, : self.k], b.ids[:, : self.k]
        enough = (first[:, -1] >= 0) & (second[:, -1] >= 0)
        if enough.all():
            return self.per_row(first, second)
        scores = np.full(len(first), np.nan)
        # A row that runs short still answers to its number in others' lists, so nothing is renumbered here.
        scores[enough] = self.per_row(first, second)[enough]
        return scores

    def take(self, space: Neighbors, rows: np.ndarray) -> Neighbors:
        """The graph among some rows, from the lists that are there."""
        return space.among(rows)

    def part(self, space: Neighbors, rows: np.ndarray) -> Neighbors:
        """The first k of what is left of each list."""
        return first_kept(space, rows, self.k)

    def on_half(self) -> "tuple[KnnComparison, float]":
        """Half as many neighbours."""
        half = replace(self, k=(self.k + 1) // 2)
        return half, self.k / half.k if self.per_row.counts else 1.0

    def permutation_cost(self, a: Neighbors, b: Neighbors) -> float:
        """Nothing, next to a search."""
        return 0.0

    def permuted(self, a: Neighbors, b: Neighbors, orders: np.ndarray) -> np.ndarray:
        """Scores from renamed ids: nothing is searched again."""
        return self.per_row.permuted(a.ids[:, : self.k], b.ids[:, : self.k], orders)


def _short_rows(comparison: Comparison[Any], *spaces: Any) -> int:
    """Rows of some prepared spaces with fewer than k neighbours in one of them; TooFewRows if these are all."""
    k = getattr(comparison, "k", 0)
    graphs = [getattr(space, "graph", space) for space in spaces]
    lists = [graph.ids[:, k - 1] < 0 for graph in graphs if isinstance(graph, Neighbors)]
    missing = np.logical_or.reduce(lists) if lists else np.zeros(1, dtype=bool)
    if missing.all():
        raise TooFewRows(f"no row of a half kept k = {k} neighbours in both graphs; give deeper graphs, or features")
    return int(missing.sum())


def backends(comparison: Comparison[Any], *spaces: Any) -> str:
    """What prepared some spaces, each named once."""
    return ", ".join(dict.fromkeys(comparison.backend(space) for space in spaces))


def check_search(k: int, metric: str, depth: int | None) -> None:
    """Raises BadChoice for neighbours that cannot be searched for, or a depth below k."""
    check_choices(k, metric, "auto", None)
    if depth is None:
        return
    if not is_whole(depth) or depth < k:
        raise BadChoice(f"depth = {depth!r}: wanted k = {k} or more neighbours, or None for k")


def check_flag(option: str, value: object) -> None:
    """Raises BadChoice for what is neither True nor False: any text would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise BadChoice(f"{option} = {value!r}: wanted True or False")


def check_amount(option: str, value: Any, *, positive: bool = False) -> None:
    """Raises BadChoice for what is no finite number of 0 or more (or above 0)."""
    if not is_number(value) or not 0 <= value < np.inf or (positive and value == 0):
        raise BadChoice(f"{option} = {value!r}: wanted {'a positive number' if positive else '0 or a positive number'}")


def options_of(factory: Callable[..., Comparison[Any]]) -> frozenset[str]:
    """Names of the options that a comparison's factory takes."""
    from inspect import signature

    return frozenset(name for name in signature(factory).parameters if name not in ("per_row", "self"))
