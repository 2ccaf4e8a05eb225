"""The neighbour graph of a part of the rows, cut from the graph of all, and the depth that this takes."""

from dataclasses import replace

import numba
import numpy as np

from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.graph import Neighbors


def first_kept(graph: Neighbors, rows: np.ndarray, k: int) -> Neighbors:
    """The graph of some rows among themselves, k deep: the ids of `graph.among(rows)`, without sorting what is deeper.

    Ids are [m, k] int32, -1 where fewer are left; similarities are not known (NaN).

    Example:
        >>> graph = Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.zeros((3, 2)), "cosine", "by hand", 0, 0)
        >>> first_kept(graph, np.array([0, 2]), 1).ids.tolist()
        [[1], [0]]
    """
    place = np.full(graph.n + 1, -1, dtype=np.int32)  # the last: where -1 points
    place[rows] = np.arange(len(rows), dtype=np.int32)
    kept = np.full((len(rows), k), -1, dtype=np.int32)
    _keep(graph.ids, rows, place, kept)
    return replace(graph, ids=kept, similarities=np.broadcast_to(np.nan, kept.shape))


def depth_for(size: int, n: int, k: int, *, probability: float = 1e-6, group_size: int = 1) -> int:
    """How deep a graph of n rows must be so that lists do not run short in a random part of them; at most n - 1.

    Of a row's list, a part of `size` rows keeps a hypergeometric number of entries; fewer than k of them remain with
    a probability that falls with the depth.

    Args:
        size: Rows of the part, k < size <= n.
        n: Rows of the whole.
        k: Neighbours that must remain.
        probability: That one given row runs short, in (0, 1); times 2 * size bounds the expected number of short rows
            of two graphs.
        group_size: Rows that are drawn together (five captions a photo). In the worst case they also stand together in
            every list; the depth is then enough for that.

    Raises:
        BadChoice: If an argument is out of range.

    Example:
        >>> depth_for(1000, 31014, 10)
        992
        >>> depth_for(500, 500, 10)
        10
    """
    fits = 1 <= group_size and 1 <= k < size <= n
    if not fits or not 0 < probability < 1:
        raise BadChoice(
            f"size = {size}, n = {n}, k = {k}, probability = {probability}, group_size = {group_size}: wanted "
            f"1 <= k < size <= n, a probability in (0, 1) and group_size >= 1"
        )
    if size == n:
        return k
    from scipy.stats import hypergeom

    others, drawn, needed = -(-n // group_size) - 1, size // group_size - 1, -(-k // group_size)
    if drawn < needed:
        raise BadChoice(
            f"size = {size}: {drawn} groups of {group_size} beside a row's own hold fewer than k = {k} rows"
        )
    low, high = needed, others  # a list of all others is short only if the part itself is too small
    while low < high:
        middle = (low + high) // 2
        if hypergeom.cdf(needed - 1, others, middle, drawn) < probability:
            high = middle
        else:
            low = middle + 1
    return min(low * group_size, n - 1)


@numba.njit(nogil=True, cache=True)
def _keep(ids, rows, place, kept):  # noqa: ANN001, ANN202
    """kept[i]: the first places of row rows[i]'s neighbours that have one."""
    k = kept.shape[1]
    for i in range(len(rows)):
        count = 0
        for neighbour in ids[rows[i]]:
            at = place[neighbour]
            if at >= 0:
                kept[i, count] = at
                count += 1
                if count == k:
                    break
