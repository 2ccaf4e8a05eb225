"""What would chance score, exactly? Mean and standard deviation over all permutations, in closed form."""

from typing import NamedTuple

import numpy as np
import torch

from featcache.metrics.arrays import Graph, X, Y, check_pair, checked
from featcache.metrics.errors import ConstantSpace, TooFewRows
from featcache.metrics.knn.graph_scores import check_ids, graph_pair
from featcache.metrics.scores.gram import centred_rows, linear_side
from featcache.metrics.scores.independence import DIVISORS, Divisor


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
    sums and zero diagonals, so Mantel's moments depend on their norms alone. Every row is exchangeable: no groups, for
    whole groups that change places make a null whose variance needs all pairs of places within a group; draw it with
    `permutation_null`. The same moments are those of `rv`.

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
    if debiased:
        check_pair(x, y, at_least=4)
        return Moments(0.0, float(np.sqrt(2 / (len(x) * (len(x) - 3)))))
    mean, std, scale, _ = _hsic_moments(x, y, debiased)
    if scale == 0:
        raise ConstantSpace("a centred linear kernel is zero: all rows of x or of y look alike")
    return Moments(mean / scale, std / scale)


def moments_hsic(x: X, y: Y, *, debiased: bool = False, divisor: Divisor = "(n-1)^2") -> Moments:
    """Exact permutation mean and standard deviation of linear `hsic`; arguments as `hsic`, else as `moments_cka`.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> moments_hsic(x, y, debiased=True).mean
        0.0
    """
    mean, std, _, exponent = _hsic_moments(x, y, debiased)
    with np.errstate(over="ignore", under="ignore"):
        unit = float(np.exp2(-2.0 * exponent)) / (1.0 if debiased else DIVISORS[divisor](len(x)))
    return Moments(mean * unit, std * unit)


def _hsic_moments(x: X, y: Y, debiased: bool) -> tuple[float, float, float, int]:
    """Mean and deviation of the kernels' inner product, the product of their norms, the exponent of both spaces."""
    check_pair(x, y, at_least=4)
    n, (a, b) = len(x), (_Kernel.of(x, "x", debiased), _Kernel.of(y, "y", debiased))
    scale = float(np.sqrt(a.squared * b.squared))
    if debiased:
        return 0.0, scale * float(np.sqrt(2 / (n * (n - 3)))), scale, a.exponent + b.exponent
    (va, sa), (vb, sb) = a.contrasts(n), b.contrasts(n)
    variance = 2 * va * vb / ((n - 1) ** 2 * (n + 1) * (n - 2))
    variance += sa * sb / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return a.trace * b.trace / (n - 1), float(np.sqrt(max(variance, 0.0))), scale, a.exponent + b.exponent


class _Kernel(NamedTuple):
    """Of a centred linear kernel: trace, squares of its diagonal, product with itself; exponent as in `RowSide`."""

    trace: float
    quartic: float
    squared: float
    exponent: int

    @classmethod
    def of(cls, x: X, name: str, debiased: bool) -> "_Kernel":
        rows, diagonal, exponent = centred_rows(checked(x, name))
        own = linear_side(torch.from_numpy(rows), diagonal, debiased=debiased, name=name).own
        return cls(float(diagonal.sum()), float(diagonal @ diagonal), own, exponent)

    def contrasts(self, n: int) -> tuple[float, float]:
        """The two of Kazi-Aoual et al.'s variance."""
        return (
            (n - 1) * self.squared - self.trace**2,
            n * (n + 1) * self.quartic - (n - 1) * (self.trace**2 + 2 * self.squared),
        )


def chance_cka(x: X, y: Y, *, debiased: bool = False) -> float:
    """What linear `cka` of these two spaces is on average when their rows are unrelated; `moments_cka`'s mean.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 8))
        >>> 0.1 < chance_cka(x, y) < 0.2
        True
    """
    return moments_cka(x, y, debiased=debiased).mean
