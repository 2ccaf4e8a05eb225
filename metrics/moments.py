"""What would chance score, exactly? Mean and standard deviation over all permutations, in closed form."""

from typing import NamedTuple

import numpy as np

from metrics.arrays import Graph, X, Y, plain_pair
from metrics.errors import TooFewRows
from metrics.kernels import centred, linear_hsic
from metrics.overlap import check_ids, graph_pair


class Moments(NamedTuple):
    """Mean and standard deviation of a score when the rows of one space are permuted at random."""

    mean: float
    std: float


def moments_knn(a_ids: Graph, b_ids: Graph) -> Moments:
    """Exact permutation mean k / (n - 1) and standard deviation of `mutual_knn`, in O(nk).

    Every row is exchangeable: no groups. Tails need `permutation_null_knn`.

    Args:
        a_ids: Neighbour graph [n, k] of the first space, n >= 4.
        b_ids: Neighbour graph [n, k] of the second.

    Raises:
        BadShape: If the graphs differ in shape.
        BadChoice: If an id is no row of the graph.
        TooFewRows: If n < 4.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> moments_knn(ring, ring).mean
        0.4

    Source:
        Mantel 1967, Cancer Research 27, for graphs that need not be symmetric.
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
    """Exact permutation mean and standard deviation of linear `cka`, in O(d^2) memory.

    Debiased, the mean is 0 and the variance is 2 / (n (n - 3)) whatever the features: U-centred kernels have zero row
    sums and zero diagonals, so Mantel's moments depend on their norms alone.

    Args:
        x: Features of n samples in the first space, n >= 4.
        y: Features of the same samples in the second space.
        debiased: Moments of `cka(..., debiased=True)`.

    Raises:
        BadShape, BadDtype, NotFinite, ConstantSpace, TooFewRows: As `cka`.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> round(moments_cka(x, y, debiased=True).std, 4)
        0.0292

    Source:
        Kazi-Aoual et al. 1995, Computational Statistics & Data Analysis 20 (moments of the RV coefficient).
    """
    a, b = (centred(values) for values in plain_pair(x, y, at_least=4))
    n = len(a)
    if debiased:
        return Moments(0.0, float(np.sqrt(2 / (n * (n - 3)))))
    sums = linear_hsic(a, b, debiased=False)
    (ta, va, sa), (tb, vb, sb) = (_traces(*pair, n) for pair in ((a, sums.xx), (b, sums.yy)))
    variance = 2 * va * vb / ((n - 1) ** 2 * (n + 1) * (n - 2))
    variance += sa * sb / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    scale = float(np.sqrt(sums.xx * sums.yy))
    return Moments(ta * tb / (n - 1) / scale, float(np.sqrt(max(variance, 0.0))) / scale)


def _traces(a: np.ndarray, squared: float, n: int) -> tuple[float, float, float]:
    """Trace of the centred kernel, and the two contrasts of Kazi-Aoual et al.'s variance."""
    diagonal = np.einsum("ij,ij->i", a, a)
    trace, quartic = float(diagonal.sum()), float(diagonal @ diagonal)
    return (
        trace,
        (n - 1) * squared - trace**2,
        n * (n + 1) * quartic - (n - 1) * (trace**2 + 2 * squared),
    )


def chance_cka(x: X, y: Y, *, debiased: bool = False) -> float:
    """What linear `cka` of these two spaces is on average when their rows are unrelated; `moments_cka`'s mean.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> 0.1 < chance_cka(x, y) < 0.2
        True
    """
    return moments_cka(x, y, debiased=debiased).mean
