"""Exact mean and standard deviation of scores over all permutations, in closed form."""

from typing import Any

import numpy as np

from featcache.metrics.arrays import Graph, X, Y, check_pair
from featcache.metrics.certainty.kernel_moments import Moments, two_moments
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import ConstantSpace, TooFewRows
from featcache.metrics.knn.graph_scores import check_ids, graph_pair
from featcache.metrics.scores.independence import Divisor, HsicComparison
from featcache.metrics.scores.kernels import LinearCka


def moments_knn(a_ids: Graph, b_ids: Graph) -> Moments:
    """Exact permutation mean k / (n - 1) and standard deviation of `mutual_knn` of two graphs [n, k], in O(nk).

    Every row is exchangeable: no groups. Tails need `permutation_null_knn`. Errors as there; TooFewRows if n < 4.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> moments_knn(ring, ring).mean
        0.4

    Source: Mantel 1967, Cancer Research 27, for graphs that need not be symmetric.
    """
    a, b = graph_pair(a_ids, b_ids)
    n, k = a.shape
    if n < 4:
        raise TooFewRows(f"wanted at least 4 rows for the variance, got {n}")
    check_ids(a, "a_ids")
    check_ids(b, "b_ids")
    mean = n * k * n * k / (n * (n - 1))
    # E[T^2] sorts pairs of edges by how they meet: same, reversed, sharing a start, an end, or head to tail (two
    # ways), or not at all; 2, 3 or 4 rows are then mapped at random.
    mapped = np.array([n * (n - 1), n * (n - 1)] + [n * (n - 1) * (n - 2)] * 4 + [n * (n - 1) * (n - 2) * (n - 3)])
    second = float(np.sum(_meetings(a) * _meetings(b) / mapped))
    return Moments(k / (n - 1), float(np.sqrt(max(second - mean**2, 0.0))) / (n * k))


def _meetings(ids: np.ndarray) -> np.ndarray:
    """Ordered pairs of edges of a graph: same, reversed, same start, same end, head to tail (twice), apart."""
    n, k = ids.shape
    row, col = np.repeat(np.arange(n), k), ids.ravel().astype(np.int64)
    edges = n * k
    reverse = int(np.isin(row * n + col, col * n + row).sum())
    into = np.bincount(col, minlength=n).astype(np.float64)
    start = edges * (k - 1)
    end = float(into @ into) - edges
    through = k * edges - reverse
    known = [edges, reverse, start, end, through, through]
    return np.array([*known, float(edges) ** 2 - sum(known)])


def moments_cka(x: X, y: Y, *, debiased: bool = False) -> Moments:
    """Exact permutation mean and standard deviation of linear `cka` and `rv`, in O(d^2) memory.

    Every row is exchangeable: no groups, for whole groups that change places make a null whose variance needs all pairs
    of places within a group; draw it with `permutation_null`. `calibrate` with permutations = 0 adds the third moment.
    Arguments and errors as `cka`; n >= 4.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> round(moments_cka(x, y, debiased=True).std, 4)
        0.0292

    Source: `featcache.metrics.certainty.kernel_moments.two_moments`.
    """
    a, b = _prepared(LinearCka(debiased=debiased), x, y)
    if min(a.own, b.own) <= 0:
        raise ConstantSpace("a centred linear kernel is zero: all rows of x or of y look alike")
    return two_moments(a, b, debiased=debiased)


def moments_hsic(x: X, y: Y, *, debiased: bool = False, divisor: Divisor = "(n-1)^2") -> Moments:
    """Exact permutation mean and standard deviation of linear `hsic`; arguments as `hsic`, else as `moments_cka`.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> moments_hsic(x, y, debiased=True).mean
        0.0
    """
    comparison = HsicComparison(debiased=debiased, divisor=divisor)
    a, b = _prepared(comparison, x, y)
    if min(a.own, b.own) <= 0:
        return Moments(0.0, 0.0)
    mean, std = two_moments(a, b, debiased=debiased)
    return Moments(mean * comparison.of_cosine(a, b), std * comparison.of_cosine(a, b))


def _prepared(comparison: Comparison[Any], x: X, y: Y) -> tuple[Any, Any]:
    check_pair(x, y, at_least=4)
    return comparison.prepare(x, "x"), comparison.prepare(y, "y")


def chance_cka(x: X, y: Y, *, debiased: bool = False) -> float:
    """What linear `cka` of these two spaces is on average when their rows are unrelated; `moments_cka`'s mean.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> 0.1 < chance_cka(x, y) < 0.2
        True
    """
    return moments_cka(x, y, debiased=debiased).mean
