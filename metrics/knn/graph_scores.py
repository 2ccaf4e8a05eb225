"""Scores of two neighbour graphs, row by row, and of thousands of rearrangements of one of them.

A graph of rearranged features is the same graph with its rows and its ids renamed, so nothing is searched again.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, update_wrapper

import numpy as np
import torch
from jaxtyping import Float

from featcache.metrics.arrays import Graph
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.knn import compiled

PerRow = Float[np.ndarray, " n"]
_ENTRIES = 1 << 21  # per-row scores that are kept at a time: 16 MB


class GraphScore:
    """A score of each row of two neighbour graphs, and its mean in many orders of the second.

    Args:
        rows: (ids [n, k], ids [n, k]) -> [n].
        own_lists: Whether the score of a row is a function of its own two lists, and 0 where these share nothing: many
            orders are then scored at once, in the few rows that share a neighbour.
        kernel: Compiled loop (a, b, orders [p, n], counts [p, n]) whose counts say the scores; None if there is none.
        of_count: (counts, k) -> scores, by the same float64 divisions as `rows`.
        counts: Whether a score is a number of neighbours, up to k, and no share of them.
    """

    def __init__(
        self,
        rows: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        own_lists: bool = False,
        kernel: Callable[..., None] | None = None,
        of_count: Callable[[np.ndarray, int], np.ndarray] = np.divide,
        counts: bool = False,
    ) -> None:
        self.rows, self.own_lists, self.kernel, self.of_count = rows, own_lists, kernel, of_count
        self.counts = counts
        update_wrapper(self, rows)

    def __call__(self, a_ids: Graph, b_ids: Graph) -> PerRow:
        """Score of each row, [n]; BadShape if the graphs are not [n, k] with the same n and k."""
        return self.rows(*graph_pair(a_ids, b_ids))

    def __reduce__(self) -> str:  # pickled and copied as the module's function that it stands for
        return self.rows.__name__

    def permuted(self, a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """Mean scores of a graph against another in other orders, bit for bit those of the renamed graphs.

        Args:
            a: Ids [n, k] of the first graph; a row whose last id is -1 runs short and is left out.
            b: Ids [n, k] of the second.
            orders: [p, n], a permutation of 0 ... n - 1 a row.

        Returns:
            [p] float64; NaN where no row has k neighbours in both.

        Example:
            >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
            >>> mutual_knn_graphs.permuted(ring, ring, np.array([[1, 2, 3, 4, 5, 0], [0, 2, 4, 1, 3, 5]])).tolist()
            [1.0, 0.16666666666666666]
        """
        kernel, k = self.kernel, a.shape[1]
        if kernel is not None:
            scores = np.append(self.of_count(np.arange(k + 1), k), np.nan)  # the last, where -1 points: a short row's
            return _in_parts(len(a), orders, lambda part: scores[_counted(kernel, a, b, part)])
        if self.own_lists:
            return _in_parts(a.size, orders, lambda part: self._where_shared(a, b, part))
        return np.array([_mean(self._renamed(a, b, order)) for order in orders])

    def _where_shared(self, a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """Score of each row in each order, [p, n], computed where a neighbour is shared."""
        shared = _counted(compiled.count_shared, a, b, orders)
        scores = np.where(shared < 0, np.nan, 0.0)
        draw, row = np.nonzero(shared > 0)
        place = np.empty(orders.shape, dtype=b.dtype)
        np.put_along_axis(place, orders, np.arange(len(a), dtype=b.dtype)[None], axis=1)
        if len(row):
            scores[draw, row] = self.rows(a[row], place[draw[:, None], b[orders[draw, row]]])
        return scores

    def _renamed(self, a: np.ndarray, b: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Score of each row in one order, [n], from the renamed graph."""
        place = np.full(len(a) + 1, -1, dtype=b.dtype)  # the last: where -1 points
        place[order] = np.arange(len(a))
        moved = place[b[order]]
        enough = (a[:, -1] >= 0) & (moved[:, -1] >= 0)
        scores = self.rows(a, moved)
        return scores if enough.all() else np.where(enough, scores, np.nan)


@partial(GraphScore, own_lists=True, kernel=compiled.count_shared, of_count=np.divide)
def mutual_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared fraction of each row's neighbours in two graphs, [n]; its mean is `mutual_knn`.

    Example:
        >>> mutual_knn_graphs(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[2, 1], [0, 3], [3, 4]]))
        array([1. , 0.5, 0. ])
    """
    return _shared(a, b) / a.shape[1]


@partial(GraphScore, own_lists=True, kernel=compiled.count_shared, of_count=lambda shared, k: shared / (2 * k - shared))
def jaccard_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared over joined neighbours of each row, [n]; its mean is `jaccard_knn`."""
    shared = _shared(a, b)
    return shared / (2 * a.shape[1] - shared)


@partial(GraphScore, kernel=compiled.count_cycles, of_count=lambda closed, k: closed * 1.0)
def cycle_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where row i is an a-neighbour of one of its b-neighbours, else 0, [n]; its mean is `cycle_knn`."""
    own = np.arange(len(a))[:, None]
    closed = np.zeros(len(a), dtype=bool)
    for column in b.T:
        closed |= (a[column] == own).any(axis=1)
    return closed.astype(np.float64)


@partial(GraphScore, own_lists=True, counts=True)
def lcs_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Length of the longest common subsequence of each row's two lists, [n]; its mean is `lcs_knn`."""
    n, k = a.shape
    above = np.zeros((k + 1, n))
    for i in range(k):
        row = np.zeros((k + 1, n))
        for j in range(k):
            step = above[j] + (a[:, i] == b[:, j])
            row[j + 1] = np.maximum(np.maximum(above[j + 1], row[j]), step)
        above = row
    return above[k]


@partial(GraphScore, own_lists=True)
def edit_distance_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - Levenshtein distance / k of each row's two lists, [n]; its mean is `edit_distance_knn`."""
    n, k = a.shape
    above = np.repeat(np.arange(k + 1.0)[:, None], n, axis=1)
    for i in range(k):
        row = np.full((k + 1, n), i + 1.0)
        for j in range(k):
            swap = above[j] + (a[:, i] != b[:, j])
            row[j + 1] = np.minimum(np.minimum(above[j + 1], row[j]) + 1, swap)
        above = row
    return 1 - above[k] / k


@partial(GraphScore, own_lists=True)
def rank_knn_graphs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank similarity of each row's two lists, [n]; its mean is `rank_knn`.

    Example:
        >>> rank_knn_graphs(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[1, 2], [2, 0], [3, 4]])).round(3)
        array([1.   , 0.444, 0.   ])
    """
    ranks = np.arange(1.0, a.shape[1] + 1)
    weights = 2 / ((1 + np.abs(ranks[:, None] - ranks)) * (ranks[:, None] + ranks))
    total, shared = np.zeros(len(a)), np.zeros(len(a), dtype=np.int64)
    for column, weight in zip(b.T, weights, strict=True):
        same = (a == column[:, None]) & (a >= 0)  # -1 ends a short list and is no neighbour
        total += same @ weight
        shared += same.sum(axis=1)
    best = np.concatenate([[1.0], np.cumsum(1 / ranks)])[shared]
    return np.minimum(total / best, 1.0)


def graph_pair(a_ids: Graph, b_ids: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Two graphs as numpy arrays of one shape [n, k]; BadShape if they are not integers of one shape."""
    a, b = np.asarray(a_ids), np.asarray(b_ids)
    if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
        raise BadShape(f"wanted two neighbour graphs [n, k] of the same n and k, got shapes {a.shape} and {b.shape}")
    if not (np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise BadShape(f"wanted neighbour ids, whole numbers, got {a.dtype} and {b.dtype}")
    return a, b


def check_ids(a: np.ndarray, name: str) -> None:
    """Raises BadChoice if an id is not a row of the graph."""
    if a.min() < 0 or a.max() >= len(a):
        raise BadChoice(f"{name}: ids run from {a.min()} to {a.max()}, but the graph has rows 0 to {len(a) - 1}")


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = np.zeros(a.shape, dtype=bool)  # ids within a row differ, so each of a's is met at most once
    for column in b.T:
        shared |= a == column[:, None]
    return shared.sum(axis=1)


def _in_parts(entries: int, orders: np.ndarray, rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Means of the row scores [p, n] of as many orders at a time as memory allows."""
    step = max(1, _ENTRIES // entries)
    return np.concatenate([_mean(rows(orders[start : start + step])) for start in range(0, len(orders), step)])


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is no NaN, in the order in which numpy's `nanmean` adds."""
    short = np.isnan(rows)
    counts = rows.shape[-1] - np.count_nonzero(short, axis=-1)
    if np.any(short):
        rows = np.where(short, 0.0, rows)
    return np.divide(rows.sum(axis=-1), counts, out=np.full(rows.shape[:-1], np.nan), where=counts > 0)


def _counted(kernel: Callable[..., None], a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """What a compiled loop counts for each row in each order, [p, n]; torch's number of threads share the orders."""
    first, second = (np.ascontiguousarray(ids, dtype=np.int32) for ids in (a, b))
    moves = np.ascontiguousarray(orders, dtype=np.int32)
    counts = np.empty(moves.shape, dtype=np.int32)
    workers = max(1, min(torch.get_num_threads(), len(moves)))
    if workers == 1:
        kernel(first, second, moves, counts)
        return counts
    # Threads of our own: numba's parallel loops must not be entered from two threads at once.
    with ThreadPoolExecutor(workers) as pool:
        shares = zip(np.array_split(moves, workers), np.array_split(counts, workers), strict=True)
        for done in [pool.submit(kernel, first, second, *share) for share in shares]:
            done.result()
    return counts
