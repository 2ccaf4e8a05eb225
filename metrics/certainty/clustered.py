"""Correlations and other estimates with intervals over clusters: each cluster is left out once."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtr, stdtrit

from featcache.metrics.errors import BadChoice, BadShape, NotFinite

LEAST_CLUSTERS = 4  # below that an interval would be wider than anything it could be about
_ROUNDING = 1e-12  # a spread below that of sums in another order
_PERFECT = 1.0 - 1e-9  # a coefficient beyond it has no finite Fisher transform

Method = Literal["pearson", "spearman"]
Statistic = Callable[[Bool[np.ndarray, " n"]], float]


@dataclass(frozen=True)
class Clustered:
    """An estimate with its interval over clusters.

    Args:
        value: The estimate; None where the rows do not determine it.
        low: Lower end of the interval; None where it cannot be given.
        high: Upper end.
        p: Two-sided, of an estimate of 0; None as the interval.
        n: Rows.
        clusters: Clusters among them.
        note: Why there is no estimate or no interval, or "".
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    clusters: int
    note: str = ""


def clustered_correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    blocks: Shaped[np.ndarray, " n"] | None = None,
    method: Method = "pearson",
    level: float = 0.95,
) -> Clustered:
    """Correlation of two quantities of the same rows, with an interval over clusters of rows that are not independent.

    With blocks, each block is centred first (for Spearman ranked, ties sharing their mean rank, then centred), so that
    differences between blocks count for nothing. The interval is Fisher's z plus or minus Student's t, with one degree
    of freedom less than there are clusters, times the standard error over estimates that each leave out one cluster.

    Args:
        x: One value a row.
        y: Another.
        clusters: The cluster of each row; clusters are taken to be independent of each other.
        blocks: The block of each row; None for one.
        method: "pearson" or "spearman".
        level: Share of such intervals that contain the coefficient.

    Returns:
        The coefficient in [-1, 1]; no interval below 4 clusters, or where a coefficient is perfect.

    Raises:
        BadShape: If the arrays are not of one length.
        NotFinite: If a value is NaN or infinite.
        BadChoice: If the method or the level is unknown.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> depth = np.repeat(np.arange(10), 4)
        >>> x = rng.normal(size=10)[depth] + rng.normal(size=40)
        >>> result = clustered_correlation(x, x + rng.normal(size=40), depth)
        >>> round(result.value, 2), round(result.low, 2), round(result.high, 2), result.clusters
        (0.68, 0.37, 0.86, 10)

    Source:
        Fisher's z with the delete-one-cluster jackknife (Miller 1974, Biometrika 61); size and coverage are simulated
        in tests/test_metrics_clustered.py.
    """
    values, of = [np.asarray(each) for each in (x, y)], np.asarray(clusters)
    inside = np.zeros(len(of), int) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    _check(method, values, of, inside)

    def coefficient(kept: Bool[np.ndarray, " n"]) -> float:
        return _coefficient(values[0][kept], values[1][kept], inside[kept], method)

    whole = coefficient(np.ones(len(of), bool))
    if abs(whole) >= _PERFECT:
        return Clustered(math.copysign(1.0, whole), None, None, None, len(of), len(set(of)), "no interval: perfect")
    return _fisher(clustered_estimate(lambda kept: _z(coefficient(kept)), of, level=level))


def correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    *,
    blocks: Shaped[np.ndarray, " n"] | None = None,
    method: Method = "pearson",
) -> float:
    """Correlation of two quantities of the same rows, within blocks; NaN where one of them does not vary.

    Args:
        x: One value a row.
        y: Another.
        blocks: The block of each row, each centred (for Spearman ranked first); None for one.
        method: "pearson" or "spearman".

    Raises:
        BadShape, NotFinite, BadChoice: As `clustered_correlation`.

    Example:
        >>> block = np.array([0, 0, 0, 1, 1, 1])
        >>> x = np.array([1.0, 2, 3, 11, 12, 13])
        >>> correlation(x, -x % 10, blocks=block), round(correlation(x, x + 50 * block), 3)
        (-1.0, 0.991)
    """
    values = [np.asarray(each) for each in (x, y)]
    of = np.zeros(len(values[0]), int) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1]
    _check(method, values, of)
    return _coefficient(values[0], values[1], of, method)


def clustered_estimate(statistic: Statistic, clusters: Shaped[np.ndarray, " n"], *, level: float = 0.95) -> Clustered:
    """Any estimate of rows with an interval over clusters, by leaving out one cluster at a time.

    Args:
        statistic: Rows that are kept -> the estimate of them; NaN where they do not determine it.
        clusters: The cluster of each row.
        level: Share of such intervals that contain what is estimated.

    Returns:
        The estimate of all rows, plus or minus Student's t with clusters - 1 degrees of freedom times its standard
        error; no interval below 4 clusters, or where an estimate without one cluster is not determined.

    Raises:
        BadChoice: If the level is out of range.

    Example:
        >>> values = np.array([1.0, 2.0, 3.0, 4.0])
        >>> result = clustered_estimate(lambda kept: float(values[kept].mean()), np.arange(4))
        >>> result.value, round(result.low, 3), round(result.high, 3)
        (2.5, 0.446, 4.554)
    """
    labels, of = np.unique(np.asarray(clusters), return_inverse=True)
    value, problem = _whole(statistic, len(of), len(labels), level)
    if problem is not None:
        return problem
    variance = _variance(statistic, of)
    return _interval(value, variance, len(of), len(labels), level)


def crossed_estimate(
    statistic: Statistic, first: Shaped[np.ndarray, " n"], second: Shaped[np.ndarray, " n"], *, level: float = 0.95
) -> Clustered:
    """Any estimate of rows with an interval over two kinds of clusters that cross, such as depths and data sets.

    The variances over both kinds are added, and that over their intersections taken away, which both contain; it is at
    least the larger of the two. Student's t has one degree of freedom less than the kind with fewer clusters.

    Args:
        statistic: As of `clustered_estimate`.
        first: The cluster of each row, of one kind.
        second: Of the other.
        level: Share of such intervals that contain what is estimated.

    Returns:
        The estimate; `clusters` are those of the kind with fewer.

    Raises:
        BadChoice: If the level is out of range.

    Example:
        >>> rows, columns = (each.ravel() for each in np.meshgrid(np.arange(5), np.arange(5)))
        >>> values = np.array([0.0, 1, 0, 1, 1])[rows] + np.array([1.0, 0, 1, 1, 0])[columns]
        >>> result = crossed_estimate(lambda kept: float(values[kept].mean()), rows, columns)
        >>> round(result.value, 3), round(result.high, 3), round(clustered_estimate(
        ...     lambda kept: float(values[kept].mean()), rows).high, 3)
        (1.2, 2.078, 1.88)

    Source:
        Cameron, Gelbach and Miller 2011, Journal of Business & Economic Statistics 29, with jackknife variances.
    """
    sides = [np.unique(np.asarray(each), return_inverse=True)[1] for each in (first, second)]
    counts = [len(np.unique(each)) for each in sides]
    value, problem = _whole(statistic, len(sides[0]), min(counts), level)
    if problem is not None:
        return problem
    cells = np.unique(sides[0] * counts[1] + sides[1], return_inverse=True)[1]
    own = [_variance(statistic, each) for each in sides]
    both = sum(own) - _variance(statistic, cells)
    variance = both if math.isnan(both) else max(both, *own)
    return _interval(value, variance, len(cells), min(counts), level)


def _whole(statistic: Statistic, n: int, clusters: int, level: float) -> tuple[float, Clustered | None]:
    """The estimate of all rows; and what to answer instead, where there is none or no interval."""
    if not 0 < level < 1:
        raise BadChoice(f"level = {level}: wanted a share between 0 and 1")
    value = statistic(np.ones(n, bool)) if n else math.nan
    if not math.isfinite(value):
        return value, Clustered(None, None, None, None, n, clusters, "one of both does not vary")
    if clusters < LEAST_CLUSTERS:
        return value, Clustered(value, None, None, None, n, clusters, f"no interval of {clusters} clusters")
    return value, None


def _variance(statistic: Statistic, of: np.ndarray) -> float:
    """Delete-one-cluster jackknife; NaN where an estimate without a cluster is not determined."""
    count = int(of.max()) + 1
    without = np.array([statistic(of != place) for place in range(count)])
    if not np.isfinite(without).all():
        return math.nan
    return (count - 1) / count * float(((without - without.mean()) ** 2).sum())


def _interval(value: float, variance: float, n: int, clusters: int, level: float) -> Clustered:
    if math.isnan(variance):
        note = "no interval: perfect or not determined without a cluster"
        return Clustered(value, None, None, None, n, clusters, note)
    error = math.sqrt(variance)
    if error <= _ROUNDING:
        return Clustered(value, None, None, None, n, clusters, "no interval: the clusters do not differ at all")
    half = float(stdtrit(clusters - 1, 0.5 + level / 2)) * error
    p = 2 * float(stdtr(clusters - 1, -abs(value) / error))
    return Clustered(value, value - half, value + half, p, n, clusters)


def _check(method: str, values: list[np.ndarray], *labels: np.ndarray) -> None:
    if method not in ("pearson", "spearman"):
        raise BadChoice(f"method {method!r}: wanted pearson or spearman")
    shapes = [each.shape for each in (*values, *labels)]
    if any(shape != shapes[0][:1] for shape in shapes):
        raise BadShape(f"wanted arrays of one length, got shapes {', '.join(map(str, shapes))}")
    if not all(np.isfinite(each).all() for each in values):
        raise NotFinite("x or y holds NaN or infinity: leave such rows out first")


def _fisher(result: Clustered) -> Clustered:
    """The estimate on the scale of a coefficient, of one on Fisher's scale; a perfect one stays without an interval."""
    value, low, high = (None if end is None else math.tanh(end) for end in (result.value, result.low, result.high))
    return replace(result, value=value, low=low, high=high)


def _coefficient(x: np.ndarray, y: np.ndarray, blocks: np.ndarray, method: Method) -> float:
    a, b = (_centred(each.astype(float), blocks, method) for each in (x, y))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > _ROUNDING * len(a) else math.nan


def _z(coefficient: float) -> float:
    return math.atanh(coefficient) if abs(coefficient) < _PERFECT else math.nan


def _centred(values: Float[np.ndarray, " n"], blocks: np.ndarray, method: Method) -> Float[np.ndarray, " n"]:
    """Values, or their ranks, minus the mean of their block."""
    if method == "spearman":
        values = _ranks(values, blocks)
    counts = np.maximum(np.bincount(blocks), 1)
    return values - (np.bincount(blocks, weights=values) / counts)[blocks]


def _ranks(values: Float[np.ndarray, " n"], blocks: np.ndarray) -> Float[np.ndarray, " n"]:
    """Ranks within each block, ties at their mean, but for a constant of each block."""
    order = np.lexsort((values, blocks))
    opens = np.ones(len(order), bool)  # whether a place opens a run of ties
    opens[1:] = (np.diff(values[order]) != 0) | (np.diff(blocks[order]) != 0)
    runs = np.cumsum(opens) - 1
    means = np.bincount(runs, weights=np.arange(len(order))) / np.bincount(runs)
    ranks = np.empty(len(order))
    ranks[order] = means[runs]
    return ranks
