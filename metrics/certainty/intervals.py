"""Intervals of scores that name their estimand: other queries of this gallery, or new samples."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from featcache.metrics.arrays import Groups, X, Y, check_pair, group_codes
from featcache.metrics.certainty.halves import Halves, compares_neighbors
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.comparison import Comparison, KnnComparison, RowComparison
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.knn.gallery import neighbors_in
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.table import Metric, chosen, names_of


@dataclass(frozen=True)
class Interval:
    """A score and where its estimand lies."""

    value: float
    low: float
    high: float
    level: float  # share of such intervals that contain the estimand
    estimand: str  # what the interval is about, in words
    method: str  # how it was computed
    n: int  # rows (samples) or queries that it rests on
    repeats: int  # subsamples that were drawn; 0 where there is a formula
    short_rows: int  # rows, over all subsamples, whose neighbour list ran short and which were left out


def query_interval(
    name: str,
    x: X | Neighbors,
    y: Y | Neighbors,
    *,
    queries: int | np.ndarray | None = None,
    groups: Groups | None = None,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> Interval:
    """This gallery, other queries: where the mean over all n rows lies, from the scores of some of them.

    Queries are drawn from the n rows of a gallery that stays as it is; so the width is 0 when all of them are drawn.
    It says nothing of new samples: those change the gallery too, and `sample_interval` is about a third wider or more.
    kNN scores that need a query's own lists alone (all but cycle_knn) search for the queries alone.

    Args:
        name: A key of `METRICS` whose score is a mean over rows (the kNN metrics, second_order_cosine, alignment_loss).
        x: Features [n, dx], or a graph of them at least k deep.
        y: Features [n, dy] of the same samples, or their graph.
        queries: How many rows to draw (to the nearest whole group); or row numbers that were drawn at random, in whole
            groups; None for all.
        groups: The group of each row, or None; whole groups are drawn, and are the units of the standard error.
        level: Share of such intervals that contain the mean over all rows.
        seed: Of the draw.
        options: Of the metric ("k", ...).

    Raises:
        BadChoice: If the metric is no mean over rows, or queries or level are out of range.
        TooFewRows: If fewer than two groups are drawn; other errors as the metric.

    Example:
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 200, 8))
        >>> some = query_interval("mutual_knn", x, x + noise, queries=50)
        >>> every = query_interval("mutual_knn", x, x + noise)
        >>> some.low < every.value < some.high, every.high - every.low
        (True, 0.0)

    Source: Cochran 1977, Sampling Techniques, 3rd ed., sections 2.6 and 9A.
    """
    metric, comparison = chosen(name, groups=groups, **options)
    comparison = _of_rows(name, comparison)
    n = x.n if isinstance(x, Neighbors) else len(x)
    rows = _drawn(queries, groups, n, seed)
    some = len(rows) < n and not any(isinstance(space, Neighbors) for space in (x, y))
    if some and isinstance(comparison, KnnComparison) and comparison.per_row.own_lists:
        codes = group_codes(groups, n)[0]
        a, b = _searched(comparison, x, y, rows, codes)
        return scores_interval(
            comparison.rows(a, b),
            population=n,
            groups=None if groups is None else codes[rows],
            level=level,
            bounds=_bounds(metric, comparison, a, b),
        )
    prepared, _ = prepare_all(comparison, {"x": x, "y": y})
    return drawn_interval(metric, comparison, (prepared[0], prepared[1]), rows, groups=groups, n=n, level=level)


def drawn_interval(
    metric: Metric,
    comparison: Comparison[Any],
    spaces: tuple[Any, Any],
    queries: int | np.ndarray | None,
    *,
    n: int,
    groups: Groups | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of two prepared spaces of n rows; else as `query_interval`."""
    comparison = _of_rows(metric.name, comparison)
    rows = _drawn(queries, groups, n, seed)
    return scores_interval(
        comparison.rows(*spaces)[rows],
        population=n,
        groups=None if groups is None else group_codes(groups, n)[0][rows],
        level=level,
        bounds=_bounds(metric, comparison, *spaces),
    )


def _of_rows(name: str, comparison: Comparison[Any]) -> RowComparison[Any]:
    if isinstance(comparison, RowComparison):
        return comparison
    raise BadChoice(
        f"{name} is no mean over rows, so it has no other queries; there are {', '.join(names_of(RowComparison))}. "
        f"For {name} use sample_interval"
    )


def _searched(
    comparison: KnnComparison, x: Any, y: Any, rows: np.ndarray, codes: np.ndarray
) -> tuple[Neighbors, Neighbors]:
    check_pair(x, y, at_least=comparison.at_least)
    at = torch.from_numpy(rows)
    draws: dict[str, Any] = {"k": comparison.k, "metric": comparison.metric, "exclude": rows}
    first, second = (
        neighbors_in(
            space[at.to(space.device) if isinstance(space, torch.Tensor) else rows],
            space,
            **draws,
            groups=(codes[rows], codes),
        )
        for space in (x, y)
    )
    return first, second


def scores_interval(
    scores: np.ndarray,
    *,
    population: int,
    groups: Groups | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """This gallery, other queries, from the scores of the queries: what `query_interval` rests on.

    The mean score, and Student's t times its standard error sqrt(1 - q / N) s above and below. `scores` [q] are NaN
    where a neighbour list ran short: left out and counted. The queries were drawn from `population` N >= q rows, in
    whole groups; `bounds` are the lowest and highest score of the metric.

    Raises:
        BadShape: If scores are not [q], or groups are not q.
        BadChoice: If population < q, or level is out of range.
        TooFewRows: If fewer than two groups have a score, and queries are missing.

    Example:
        >>> interval = scores_interval(np.array([0.1, 0.3, 0.2, 0.2]), population=8)
        >>> round(interval.low, 3), round(interval.value, 3), round(interval.high, 3)
        (0.108, 0.2, 0.292)
    """
    scores = np.asarray(scores, dtype=np.float64)
    _check_level(level)
    if scores.ndim != 1 or not len(scores):
        raise BadShape(f"wanted scores [q] of one query or more, got shape {scores.shape}")
    if population < len(scores):
        raise BadChoice(f"population = {population}: wanted at least the {len(scores)} queries")
    codes = group_codes(groups, len(scores))[0]
    there = ~np.isnan(scores)
    left, codes = scores[there], np.unique(codes[there], return_inverse=True)[1]
    units = int(codes.max()) + 1 if len(codes) else 0
    everyone = len(scores) == population
    if units < (1 if everyone else 2):
        raise TooFewRows(f"{units} groups of queries have a score; wanted 2 or more for a standard error")
    mean, half = float(left.mean()), 0.0
    if not everyone:
        # Ratio of totals over groups; a group's residual is what its rows differ from the mean, together.
        residuals = np.bincount(codes, weights=left - mean)
        variance = units / (units - 1) * float(residuals @ residuals) / len(left) ** 2
        half = _student(level, units - 1) * math.sqrt((1 - len(scores) / population) * variance)
    unit = "queries" if groups is None else "groups of queries"
    return Interval(
        mean,
        *_clipped(mean, half, bounds),
        level,
        estimand=f"mean over all {population} rows as queries of this gallery",
        method=f"{units} {unit}, standard error with finite-population correction",
        n=len(left),
        repeats=0,
        short_rows=int(np.sum(~there)),
    )


def sample_interval(
    name: str,
    x: X | Neighbors,
    y: Y | Neighbors,
    *,
    groups: Groups | None = None,
    repeats: int = 200,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> Interval:
    """New samples at gallery size n: where the expected score of n fresh samples lies, by delete-half subsampling.

    Scores of random halves (of whole groups) give the standard deviation of scores of fresh samples of size n
    (`Halves`); Student's t times it is put above and below the observed score, cut to the metric's range. Unlike a
    bootstrap of rows no sample occurs twice, so that none becomes its own neighbour.

    Simulated at level .95: coverage .97 to 1 for mutual_knn, .97 for cka_debiased, .95 for cka_linear and svcca, .94
    for procrustes (150 and 230 rows of normal features). Where a few rows are far out the standard deviation itself is
    unsure and scores are skewed: .91 to .96 for CKA, SVCCA and Procrustes on t3-distributed features of 60 to 500 rows,
    whose spread it underestimates by up to a third. Rows of length 1 have no such tails.

    kNN metrics search once, so deep that a row keeps its neighbours in a half but for one case in a million, and take
    the halves from that graph; of a graph that is given and less deep, rows that run short are left out and counted.

    `repeats` halves are drawn, an even number of 20 or more, and `level` of such intervals contain the expected score;
    other arguments and errors as `calibrate`, TooFewRows also if half of the rows are too few for the metric.

    Example:
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 200, 8))
        >>> interval = sample_interval("cka_debiased", x, x + noise)
        >>> interval.low < interval.value < interval.high, interval.estimand
        (True, 'expected cka_debiased of new samples at gallery size 200')

    Source: Politis, Romano & Wolf 1999, Subsampling, chapter 2; `featcache.metrics.certainty.halves`.
    """
    metric, comparison = chosen(name, groups=groups, **options)
    n = x.n if isinstance(x, Neighbors) else len(x)
    halves = Halves(n, groups, repeats, seed)
    searched = not (isinstance(x, Neighbors) and isinstance(y, Neighbors))
    if "depth" in metric.options() and "depth" not in options and searched:
        comparison = chosen(name, groups=groups, **options, depth=halves.depth(comparison))[1]
    (a, b), _ = prepare_all(comparison, {"x": x, "y": y})
    (scores,), (short_rows,) = halves.scores(comparison, [a], b)
    return samples_interval(metric, comparison, (a, b), halves, scores, level=level, short_rows=int(short_rows))


def samples_interval(
    metric: Metric,
    comparison: Comparison[Any],
    spaces: tuple[Any, Any],
    halves: Halves,
    scores: np.ndarray,
    *,
    level: float,
    short_rows: int,
) -> Interval:
    """The interval of two prepared spaces from their scores on halves: what `sample_interval` rests on."""
    observed = comparison.compare(*spaces)
    half = halves.half_width(scores, level, of_graphs=compares_neighbors(spaces[0]))
    return Interval(
        observed,
        *_clipped(observed, half, _bounds(metric, comparison, *spaces)),
        level,
        estimand=f"expected {metric.name} of new samples at gallery size {halves.n}",
        method=halves.method,
        n=halves.n,
        repeats=halves.repeats,
        short_rows=short_rows,
    )


def _drawn(queries: int | np.ndarray | None, groups: Groups | None, n: int, seed: int) -> np.ndarray:
    if queries is None:
        return np.arange(n)
    if isinstance(queries, int | np.integer):
        if not 2 <= queries <= n:
            raise BadChoice(f"queries = {queries}: wanted 2 to {n}")
        codes = group_codes(groups, n)[0]
        count = int(codes.max()) + 1
        kept = np.random.default_rng(seed).permutation(count) < max(2, round(int(queries) * count / n))
        return np.flatnonzero(kept[codes])
    rows = np.asarray(queries)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or not rows.size or len(np.unique(rows)) < len(rows):
        raise BadChoice(f"queries: wanted a number, or distinct row numbers [q], got {rows.dtype} of {rows.shape}")
    if rows.min() < 0 or rows.max() >= n:
        raise BadChoice(f"queries: wanted row numbers from 0 to {n - 1}")
    return rows


def _bounds(metric: Metric, comparison: Comparison[Any], a: Any, b: Any) -> tuple[float, float]:
    """The metric's range. Options move its ends: a self-score (lcs_knn counts up to k), the far end of a distance."""
    low, high = metric.range
    if getattr(comparison, "debiased", False):  # an option of metrics that are not negative without it
        low = min(low, -high)
    good = high if metric.higher_is_better else low
    if not math.isfinite(good) or metric.self_score != good:
        return low, high
    own = comparison.self_score(a), comparison.self_score(b)
    return (low, max(own)) if metric.higher_is_better else (min(own), math.inf)


def _clipped(value: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    return max(value - half, min(bounds[0], value)), min(value + half, max(bounds[1], value))


def _student(level: float, freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, freedom))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BadChoice(f"level = {level}: wanted a share between 0 and 1")
