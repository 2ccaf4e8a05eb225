"""Curves of a kNN score over gallery sizes and k, from one deep graph of each space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from featcache.metrics.arrays import Groups, group_codes
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.knn.graph_scores import mutual_knn_graphs
from featcache.metrics.knn.subgraph import first_kept
from featcache.metrics.table import METRICS, chosen, known_chance, names_of

_ROWS = 4096  # of a deep graph that are looked at together


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve: a row of a tidy table."""

    metric: str
    size: int  # rows of the gallery; it has `queries + short_rows`, fewer where whole groups do not fill it
    k: int  # neighbours
    repeat: int  # number of the draw
    value: float  # mean score of the queries; NaN where every row ran short
    chance: float | None  # of unrelated spaces at this size and k, where there is a closed form (mutual_knn)
    short_rows: int  # rows whose list had fewer than k entries left in either graph: left out of the mean. 0: exact
    queries: int  # rows in the mean


def gallery_curve(
    graph_x: Neighbors,
    graph_y: Neighbors,
    *,
    name: str = "mutual_knn",
    k: int = 10,
    sizes: Sequence[int],
    repeats: int = 5,
    seed: int = 0,
    groups: Groups | None = None,
) -> list[CurvePoint]:
    """Score against the size of the gallery: each row's neighbours among a random part of the rows.

    Scores of neighbour graphs fall as galleries grow, so a score means little without its size. A part's graph is the
    deep graph's lists less the rows that are not in it: exactly what a new search of the part would find, as long as
    k entries are left. Rows with fewer are counted and left out; they are those in dense regions of the whole, so a
    mean without them is biased: choose the depth by `depth_for` to have none. (cycle_knn also reads its neighbours'
    lists and is exact only where no row is short.) Parts of one repeat are nested.

    Args:
        graph_x: Graph of the first space, deep.
        graph_y: Graph of the second, of the same samples.
        name: A kNN metric of `METRICS`.
        k: Neighbours per row.
        sizes: Rows of each gallery, k < size <= n. All n rows are scored once: there is one such part.
        repeats: Draws for each size.
        seed: Of the draws.
        groups: The group of each row as the graphs were searched, or None; whole groups are drawn.

    Returns:
        A tidy table, sizes rising, repeats within.

    Raises:
        BadShape: If the graphs are not of the same rows.
        BadChoice: If the metric is unknown or compares no graphs, a graph is less than k deep or holds neighbours of
            the same group, or a size or the repeats are out of range.
        TooFewRows: If a part leaves a row fewer than k rows outside its group.

    Example:
        >>> from featcache.metrics import depth_for, neighbors
        >>> x = np.random.default_rng(0).standard_normal((200, 8))
        >>> deep = neighbors(x, k=depth_for(50, 200, 5))
        >>> [(p.size, p.value, p.short_rows) for p in gallery_curve(deep, deep, k=5, sizes=[50, 200], repeats=1)]
        [(50, 1.0, 0), (200, 1.0, 0)]

    Source: "Back into Plato's Cave", arXiv:2604.18572 (the question); lists of a part by filtering: ours.
    """
    comparison, codes = _checked(graph_x, graph_y, name, k, groups)
    n = graph_x.n
    wrong = [size for size in sizes if not k < size <= n]
    if wrong or not len(sizes) or repeats < 1:
        raise BadChoice(
            f"sizes = {list(sizes)}, repeats = {repeats}: wanted one or more sizes from k + 1 = {k + 1} to n = {n}, "
            f"and 1 or more repeats"
        )
    orders = [np.random.default_rng((seed, repeat)).permutation(codes.max() + 1) for repeat in range(repeats)]
    points: list[CurvePoint] = []
    for size in sorted(set(sizes)):
        for repeat in range(repeats if size < n else 1):
            rows = _whole_groups(codes, orders[repeat], size)
            if not len(rows):
                raise TooFewRows(f"size = {size}: the first group drawn has more rows; take larger galleries")
            a, b = (first_kept(graph, rows, k) for graph in (graph_x, graph_y))
            scores = comparison.rows(a, b)
            points.append(_point(name, comparison, size, repeat, scores, codes[rows]))
    return points


def k_curve(
    graph_x: Neighbors,
    graph_y: Neighbors,
    *,
    name: str = "mutual_knn",
    ks: Sequence[int] | None = None,
    groups: Groups | None = None,
) -> list[CurvePoint]:
    """Score against k at the full gallery, from one graph each; mutual_knn for every k in one pass, O(n depth).

    `ks` are each from 1 to the depth of the shallower graph; None for all of them. Metrics other than mutual_knn are
    computed anew for each k, so name a few. A tidy table, k rising; other arguments and errors as `gallery_curve`.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> graph = Neighbors(ring, np.zeros((6, 2)), "cosine", "by hand", 0, 0)
        >>> [(p.k, p.value, round(p.chance, 6)) for p in k_curve(graph, graph)]
        [(1, 1.0, 0.2), (2, 1.0, 0.4)]
    """
    depth = min(graph_x.k, graph_y.k)
    wanted = sorted(set(range(1, depth + 1) if ks is None else ks))
    if not wanted or wanted[0] < 1:
        raise BadChoice(f"ks = {wanted}: wanted one or more, each from 1 to {depth}")
    comparison, codes = _checked(graph_x, graph_y, name, wanted[-1], groups)
    if comparison.per_row is mutual_knn_graphs:
        return _mutual_at(graph_x, graph_y, wanted, codes)
    each = [_comparison(name, k, groups, graph_x) for k in wanted]
    return [_point(name, one, graph_x.n, 0, one.rows(graph_x, graph_y), codes) for one in each]


def _comparison(name: str, k: int, groups: Groups | None, graph: Neighbors) -> KnnComparison:
    graphs = names_of(KnnComparison)
    if name in METRICS and name not in graphs:
        raise BadChoice(f"{name} is no mean over rows of neighbour graphs; there are {', '.join(sorted(graphs))}")
    return chosen(name, k=k, groups=groups, metric=graph.metric)[1]  # pyright: ignore[reportReturnType] - just seen


def _checked(
    graph_x: Neighbors, graph_y: Neighbors, name: str, k: int, groups: Groups | None
) -> tuple[KnnComparison, np.ndarray]:
    """The metric at this k, and the number of each row's group."""
    comparison = _comparison(name, k, groups, graph_x)
    n = graph_x.n
    if graph_y.n != n:
        raise BadShape(f"graph_x has {n} rows and graph_y {graph_y.n}: row i of both must be the same sample")
    if graph_y.metric != graph_x.metric:
        raise BadChoice(f"graph_x was searched by {graph_x.metric!r} and graph_y by {graph_y.metric!r}; wanted one")
    if not 1 <= k <= min(graph_x.k, graph_y.k):
        raise BadChoice(f"k = {k}: wanted 1 to {min(graph_x.k, graph_y.k)}, the depth of the graphs; search deeper")
    codes = group_codes(groups, n)[0]
    _check_graph(graph_x.ids, codes, "graph_x")
    _check_graph(graph_y.ids, codes, "graph_y")
    return comparison, codes


def _check_graph(ids: np.ndarray, codes: np.ndarray, name: str) -> None:
    n = len(ids)
    if ids.min() < -1 or ids.max() >= n:
        raise BadChoice(f"{name}: ids run from {ids.min()} to {ids.max()}, but the graph has rows 0 to {n - 1}")
    for start in range(0, n, _ROWS):  # a deep graph's group numbers all at once would take more than the graph
        part = ids[start : start + _ROWS]
        same = ((codes[part] == codes[start : start + _ROWS, None]) & (part >= 0)).any(axis=1)
        if same.any():
            row = start + int(np.argmax(same))
            raise BadChoice(f"{name}: row {row} has a neighbour of its own group; search with the same groups")


def _whole_groups(codes: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """Rows, rising, of the first groups in `order` that together have at most `size` rows."""
    counts = np.bincount(codes)[order]
    kept = order[: int(np.searchsorted(np.cumsum(counts), size, side="right"))]
    # Rising, so that equal similarities are ordered as a search of the part would order them.
    return np.flatnonzero(np.isin(codes, kept))


def _point(
    name: str, comparison: KnnComparison, size: int, repeat: int, scores: np.ndarray, codes: np.ndarray
) -> CurvePoint:
    scored = ~np.isnan(scores)
    queries = int(scored.sum())
    value = float(scores[scored].mean()) if queries else float("nan")
    chance = known_chance(comparison, len(codes), codes)
    return CurvePoint(name, size, comparison.k, repeat, value, chance, len(scores) - queries, queries)


def _mutual_at(graph_x: Neighbors, graph_y: Neighbors, ks: Sequence[int], codes: np.ndarray) -> list[CurvePoint]:
    """Points of mutual_knn at several k."""
    n, depth = graph_x.n, ks[-1]
    shared, rows = (np.zeros(depth + 1, np.int64) for _ in range(2))
    _shared_by_depth(graph_x.ids[:, :depth], graph_y.ids[:, :depth], shared, rows)
    outside = n - np.bincount(codes)[codes]
    points: list[CurvePoint] = []
    for k in ks:
        queries = int(rows[k])
        value = float(shared[k] / (queries * k)) if queries else float("nan")
        chance = float(np.mean(k / outside))
        points.append(CurvePoint("mutual_knn", n, k, 0, value, chance, n - queries, queries))
    return points


@numba.njit(nogil=True, cache=True)
def _shared_by_depth(a: np.ndarray, b: np.ndarray, shared: np.ndarray, rows: np.ndarray) -> None:
    """Adds shared entries among the first k of each row's two lists, for every k at once: O(n depth).

    a and b are ids [n, depth], -1 behind the last of a short list; shared and rows [depth + 1] are summed into: the
    shared entries, and the rows with k entries in both.
    """
    n, depth = a.shape
    place = np.zeros(n, np.int64)  # position in a's list, from 1; 0: not in it
    first = np.zeros(depth + 1, np.int64)  # entries that are in both from this k on
    for i in range(n):
        length = 0
        while length < depth and a[i, length] >= 0 and b[i, length] >= 0:
            place[a[i, length]] = length + 1
            length += 1
        for c in range(length):
            if place[b[i, c]] > 0:
                first[max(place[b[i, c]], c + 1)] += 1
        total = 0
        for k in range(1, length + 1):
            total += first[k]
            shared[k] += total
            rows[k] += 1
            first[k] = 0
            place[a[i, k - 1]] = 0
