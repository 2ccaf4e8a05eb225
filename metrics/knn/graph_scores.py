"""Scores of two neighbour graphs, row by row, and of thousands of rearrangements of one of them.

A graph of rearranged features is the same graph with its rows and its ids renamed, so nothing is searched again. Scores
that only count neighbours are counted in one compiled pass. Those that are 0 where no neighbour is shared are computed
for the few rows that share one, of many orders at once. Any other score takes the renamed graph.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from jaxtyping import Float

from featcache.metrics.arrays import Graph
from featcache.metrics.errors import BadChoice, BadShape

PerRow = Float[np.ndarray, " n"]
GraphScore = Callable[[np.ndarray, np.ndarray], np.ndarray]
_ENTRIES = 1 << 21  # per-row scores that are kept at a time: 16 MB
_SLOTS = 1 << 12  # few enough to stay in the first cache; ids that meet in one are told apart by looking


def mutual_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Shared fraction of each row's neighbours in two graphs, [n]; its mean is `mutual_knn`.

    Raises:
        BadShape: If the graphs are not [n, k] with the same n and k.

    Example:
        >>> mutual_knn_graphs(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[2, 1], [0, 3], [3, 4]]))
        array([1. , 0.5, 0. ])
    """
    a, b = graph_pair(a_ids, b_ids)
    return _shared(a, b) / a.shape[1]


def jaccard_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Shared over joined neighbours of each row, [n]; its mean is `jaccard_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    shared = _shared(a, b)
    return shared / (2 * a.shape[1] - shared)


def cycle_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """1 where row i is an a-neighbour of one of its b-neighbours, else 0, [n]; its mean is `cycle_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    own = np.arange(len(a))[:, None]
    found = np.zeros(len(a), dtype=bool)
    for column in b.T:
        found |= (a[column] == own).any(axis=1)
    return found.astype(np.float64)


def lcs_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Length of the longest common subsequence of each row's two lists, [n]; its mean is `lcs_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    n, k = a.shape
    above = np.zeros((k + 1, n))
    for i in range(k):
        row = np.zeros((k + 1, n))
        for j in range(k):
            step = above[j] + (a[:, i] == b[:, j])
            row[j + 1] = np.maximum(np.maximum(above[j + 1], row[j]), step)
        above = row
    return above[k]


def edit_distance_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """1 - Levenshtein distance / k of each row's two lists, [n]; its mean is `edit_distance_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    n, k = a.shape
    above = np.repeat(np.arange(k + 1.0)[:, None], n, axis=1)
    for i in range(k):
        row = np.full((k + 1, n), i + 1.0)
        for j in range(k):
            swap = above[j] + (a[:, i] != b[:, j])
            row[j + 1] = np.minimum(np.minimum(above[j + 1], row[j]) + 1, swap)
        above = row
    return 1 - above[k] / k


def rank_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Rank similarity of each row's two lists, [n]; its mean is `rank_knn`.

    Raises:
        BadShape: If the graphs are not [n, k] with the same n and k.

    Example:
        >>> rank_knn_graphs(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[1, 2], [2, 0], [3, 4]])).round(3)
        array([1.   , 0.444, 0.   ])
    """
    a, b = graph_pair(a_ids, b_ids)
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
    """Two graphs as numpy arrays of one shape [n, k].

    Raises:
        BadShape: If they are not integers [n, k] with the same n and k.
    """
    a, b = np.asarray(a_ids), np.asarray(b_ids)
    if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
        raise BadShape(f"wanted two neighbour graphs [n, k] of the same n and k, got shapes {a.shape} and {b.shape}")
    if not (np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise BadShape(f"wanted neighbour ids, whole numbers, got {a.dtype} and {b.dtype}")
    return a, b


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = np.zeros(a.shape, dtype=bool)  # ids within a row differ, so each of a's is found at most once
    for column in b.T:
        shared |= a == column[:, None]
    return shared.sum(axis=1)


def check_ids(a: np.ndarray, name: str) -> None:
    """Refuses ids that are not rows of the graph.

    Raises:
        BadChoice: If an id is below 0 or not below n.
    """
    if a.min() < 0 or a.max() >= len(a):
        raise BadChoice(f"{name}: ids run from {a.min()} to {a.max()}, but the graph has rows 0 to {len(a) - 1}")


def knn_scores(per_row: GraphScore, a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Scores of a graph against another in other orders: bit for bit what renaming and scoring each would give.

    Args:
        per_row: (ids [n, k], ids [n, k]) -> [n]; those of this module take a
            compiled pass.
        a: Ids [n, k] of the first graph; a row whose last id is -1 runs short and is left out.
        b: Ids [n, k] of the second.
        orders: [p, n], a permutation of 0 ... n - 1 a row.

    Returns:
        [p] float64: mean over the rows that have k neighbours in both; NaN where there are none.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> knn_scores(mutual_knn_graphs, ring, ring, np.array([[1, 2, 3, 4, 5, 0], [0, 2, 4, 1, 3, 5]])).tolist()
        [1.0, 0.16666666666666666]
    """
    if per_row in _COMPILED:
        kernel, values = _COMPILED[per_row]
        return _in_parts(len(a), orders, lambda part: values(a.shape[1])[_counted(kernel, a, b, part)])
    if per_row in OWN_LISTS:
        return _in_parts(a.size, orders, lambda part: _where_shared(per_row, a, b, part))
    return np.array([_mean(_renamed_rows(per_row, a, b, order)) for order in orders])


def _in_parts(entries: int, orders: np.ndarray, rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Means of the row scores [p, n] of as many orders at a time as memory allows."""
    step = max(1, _ENTRIES // entries)
    return np.concatenate([_mean(rows(orders[start : start + step])) for start in range(0, len(orders), step)])


def _where_shared(per_row: GraphScore, a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Score of each row in each order, [p, n], computed where a neighbour is shared."""
    shared = _counted(_share, a, b, orders)
    scores = np.where(shared < 0, np.nan, 0.0)
    draw, row = np.nonzero(shared > 0)
    place = np.empty(orders.shape, dtype=b.dtype)
    np.put_along_axis(place, orders, np.arange(len(a), dtype=b.dtype)[None], axis=1)
    if len(row):
        scores[draw, row] = per_row(a[row], place[draw[:, None], b[orders[draw, row]]])
    return scores


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is no NaN, in the order in which numpy's `nanmean` adds."""
    short = np.isnan(rows)
    counts = rows.shape[-1] - np.count_nonzero(short, axis=-1)
    if np.any(short):
        rows = np.where(short, 0.0, rows)
    return np.divide(rows.sum(axis=-1), counts, out=np.full(rows.shape[:-1], np.nan), where=counts > 0)


def _renamed_rows(per_row: GraphScore, a: np.ndarray, b: np.ndarray, order: np.ndarray) -> np.ndarray:
    place = np.full(len(a) + 1, -1, dtype=b.dtype)  # the last: where -1 points
    place[order] = np.arange(len(a))
    moved = place[b[order]]
    enough = (a[:, -1] >= 0) & (moved[:, -1] >= 0)
    scores = per_row(a, moved)
    return scores if enough.all() else np.where(enough, scores, np.nan)


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


@numba.njit(nogil=True, cache=True)
def _share(a, b, orders, counts):  # noqa: ANN001, ANN202 - typed by numba
    """counts[p, i]: neighbours of row i in a that are neighbours in b taken in orders[p]; -1 where a list is short."""
    draws, n = orders.shape
    k = a.shape[1]
    mark = np.empty(_SLOTS, dtype=np.int32)
    for p in range(draws):
        order = orders[p]
        mark[:] = -1
        for i in range(n):
            row = order[i]  # the row of b that stands at i; it names j by order[j]
            if a[i, k - 1] < 0 or b[row, k - 1] < 0:
                counts[p, i] = -1
                continue
            for c in range(k):
                mark[b[row, c] & (_SLOTS - 1)] = i
            count = 0
            for c in range(k):
                wanted = order[a[i, c]]
                if mark[wanted & (_SLOTS - 1)] != i:
                    continue
                if _holds(b[row], wanted):
                    count += 1
            counts[p, i] = count


@numba.njit(nogil=True, cache=True)
def _cycle(a, b, orders, counts):  # noqa: ANN001, ANN202
    """counts[p, i]: 1 where row i is in a's list of one of its neighbours in b taken in orders[p]; -1 where short."""
    draws, n = orders.shape
    k = a.shape[1]
    place = np.empty(n, dtype=np.int32)
    for p in range(draws):
        order = orders[p]
        for i in range(n):
            place[order[i]] = i
        for i in range(n):
            counts[p, i] = -1 if a[i, k - 1] < 0 or b[order[i], k - 1] < 0 else 0
            if counts[p, i] < 0:
                continue
            for neighbour in b[order[i]]:
                if _holds(a[place[neighbour]], i):
                    counts[p, i] = 1
                    break


@numba.njit(inline="always")
def _holds(ids, wanted):  # noqa: ANN001, ANN202
    """Whether an id is in a list."""
    for other in ids:
        if other == wanted:
            return True
    return False


def _by_count(score: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[int], np.ndarray]:
    """Score of each count from 0 to k; the last, where -1 points, is that of a short row."""
    return lambda k: np.append(score(np.arange(k + 1), k), np.nan)


# The same float64 divisions as in the row scores above, k + 1 of them instead of n.
_COMPILED: dict[GraphScore, tuple[Callable[..., None], Callable[[int], np.ndarray]]] = {
    mutual_knn_graphs: (_share, _by_count(lambda shared, k: shared / k)),
    jaccard_knn_graphs: (_share, _by_count(lambda shared, k: shared / (2 * k - shared))),
    cycle_knn_graphs: (_cycle, _by_count(lambda found, k: found * 1.0)),
}
# Scores of a row that need its own two lists alone, and are 0 where these share nothing.
OWN_LISTS: tuple[GraphScore, ...] = (
    *(mutual_knn_graphs, jaccard_knn_graphs, lcs_knn_graphs, edit_distance_knn_graphs),
    rank_knn_graphs,
)
