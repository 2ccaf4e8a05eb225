"""How much of a score is chance? Calibrated scores, and the null of the best of many layer pairs."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from featcache.metrics.arrays import Groups, X, Y
from featcache.metrics.certainty.moments import Moments, moments_cka, moments_hsic, moments_knn
from featcache.metrics.certainty.nulls import (
    Null,
    described,
    order_batches,
    permutation_null,
    settled,
    summarised,
    unmoved,
)
from featcache.metrics.certainty.sides import sides_of
from featcache.metrics.comparison import Comparison, backends
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.table import Metric, chosen


@dataclass(frozen=True)
class Calibrated:
    """A score beside what chance would score.

    Args:
        metric: A name of `METRICS`.
        observed: The score.
        calibrated: (observed - threshold) / (best - threshold), clipped to [0, 1]: 0 up to the threshold, 1 at best.
        p: Share of permutations, the observed order among them, at least as aligned as observed; with
            permutations = 0, the normal tail.
        chance: Mean of the null; in closed form where there is one.
        threshold: What a share alpha of the null passes.
        best: What two equal spaces would score: the good end of the scale.
        alpha: Level of the threshold.
        null: All of the null.
        moments: Exact permutation mean and standard deviation, where there is a closed form.
        normal_p: Tail of the normal with these moments.
        backend: What prepared the two spaces.
    """

    metric: str
    observed: float
    calibrated: float
    p: float
    chance: float
    threshold: float
    best: float
    alpha: float
    null: Null
    moments: Moments | None
    normal_p: float | None
    backend: str


@dataclass(frozen=True, eq=False)
class MaxNull:
    """The best score of many pairs of spaces, and what the best would be by chance.

    Args:
        scores: Observed score of each pair, [len(x), len(y)].
        best: Place of the best score, (i, j).
        p_values: Adjusted p of each pair: the share of permutations whose best pair is at least as good, [x, y].
        threshold: What the best pair of a share alpha of the permutations passes.
        null: Null of the best score.
    """

    scores: np.ndarray
    best: tuple[int, int]
    p_values: np.ndarray
    threshold: float
    null: Null

    @property
    def p(self) -> float:
        """Adjusted p of the best pair."""
        return self.null.p


def calibrate(
    name: str,
    x: X | Neighbors,
    y: Y | Neighbors,
    *,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
    **options: Any,
) -> Calibrated:
    """A metric's score, what chance would score, and how far the score is from there to the best there is.

    The threshold is the (floor(alpha (K + 1)) + 1)-th most aligned of the K permuted scores and the observed one, for
    a similarity their ceil((1 - alpha) (K + 1))-th order statistic. calibrated = (s - threshold) / (best - threshold),
    clipped to [0, 1]: above 0 just where p <= alpha. A distance is mirrored: (threshold - s) / (threshold - best) is
    the same ratio. `best` is what a space scores against itself at these options, for the two spaces' different
    self-scores of an unbounded similarity (HSIC) their geometric mean, which is the bound of Cauchy and Schwarz; where
    the self-score depends on the space but the range does not (cycle_knn), the good end of the range. A score that does
    not depend on which row is paired with which (modality_gap) has p = 1: no permutation changes it.

    Args:
        name: A key of `METRICS`.
        x: Features of n samples in the first space; or for kNN metrics a graph that is there already, at least k deep.
        y: Features of the same samples, in the same order, in the second space; or their graph.
        groups: The group of each row, or None. Neighbours of the same group are excluded where the metric has
            neighbours, and whole groups of equal size are permuted.
        permutations: How many to draw; 0 takes the closed form and its normal tail, where there is one.
        seed: Seed of the draws.
        alpha: Share of chance scores above the threshold, at least 1 / (permutations + 1).
        options: Of the metric ("k", ...).

    Returns:
        Score, calibrated score, p, chance and the whole null.

    Raises:
        BadChoice: If the metric or an option is unknown, alpha is out of range, there is no closed form where one is
            asked for, or no two groups have the same size.
        BadShape, BadDtype, NotFinite, ZeroRow, ConstantSpace, TooFewRows: As the metric.

    Example:
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 60, 8))
        >>> found = calibrate("mutual_knn", x, x + noise, k=5, permutations=199)
        >>> found.p, round(found.chance, 3), found.observed > found.threshold > found.chance
        (0.005, 0.085, True)
        >>> calibrate("mutual_knn", x, noise, k=5, permutations=199).calibrated
        0.0

    Source:
        "Aristotelian view" (ICML 2026), calibrated-similarity at 785054b; mirrored distances, `best` and groups are
        ours.
    """
    metric, comparison = chosen(name, groups=groups, **options)
    _check_alpha(alpha, permutations)
    (a, b), n = sides_of(comparison, {"x": x, "y": y})
    moments = closed_form(name, x, y, a, b, groups=groups, options=options)
    if permutations:
        draws: dict[str, Any] = {"groups": groups, "permutations": permutations, "seed": seed}
        null = permutation_null(comparison, a, b, n=n, higher_is_better=metric.higher_is_better, **draws)
        threshold = _threshold(null.scores, null.observed, alpha, metric.higher_is_better)
    elif moments:
        null = _normal_null(comparison.compare(a, b), moments)
        threshold = moments.mean + NormalDist().inv_cdf(1 - alpha) * moments.std
    else:
        with_groups = " with groups" if groups is not None else ""
        raise BadChoice(
            f"{name} has no closed form{with_groups} at these options: wanted permutations >= 1; without groups there "
            f"is one for {', '.join(_CLOSED)}"
        )
    best = _best(metric, comparison, a, b)
    return Calibrated(
        metric=name,
        observed=null.observed,
        calibrated=_calibrated(null.observed, threshold, best),
        p=null.p,
        chance=moments.mean if moments else null.mean,
        threshold=threshold,
        best=best,
        alpha=alpha,
        null=null,
        moments=moments,
        normal_p=_normal_null(null.observed, moments).p if moments else None,
        backend=backends(comparison, a, b),
    )


# Nine parameters: what `permutation_null` takes, for many sides, and the level of the threshold.
def max_null(
    comparison: Comparison[Any],
    sides_x: Sequence[Any],
    sides_y: Sequence[Any],
    *,
    n: int,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
    higher_is_better: bool = True,
) -> MaxNull:
    """The best score of all pairs of spaces and its null: every permutation moves all second spaces alike.

    Taking the best of many layer pairs finds a good one by chance; the best of the permuted pairs does so as well.
    Comparing with it corrects every p for the search, however alike the layers are to each other.

    Args:
        comparison: The metric at its options.
        sides_x: Prepared spaces (layers) of the first encoder, one or more.
        sides_y: Prepared spaces of the second.
        n: Rows of each.
        groups: The group of each row, or None; whole groups of equal size are permuted.
        permutations: How many to draw.
        seed: Seed of the draws.
        alpha: Share of chance maxima above the threshold.
        higher_is_better: Of the metric; False takes the minimum of a distance.

    Returns:
        All scores, the best pair, and adjusted p-values.

    Raises:
        BadChoice: If there is no space, alpha is out of range, or no two groups have the same size.
        TooFewRows: If a score is undefined.

    Example:
        >>> from featcache.metrics import METRICS
        >>> layers = np.random.default_rng(0).standard_normal((3, 40, 8))
        >>> knn = METRICS["mutual_knn"].comparison(k=5)
        >>> graphs = [knn.prepare(layer) for layer in layers]
        >>> found = max_null(knn, graphs, graphs[1:2], n=40, permutations=99)
        >>> found.best, found.p
        ((1, 0), 0.01)

    Source:
        Westfall & Young 1993, Resampling-Based Multiple Testing, section 2.3 (single-step maxT).
    """
    _check_alpha(alpha, permutations)
    if not (len(sides_x) and len(sides_y)):
        raise BadChoice(f"wanted one space or more on each side, got {len(sides_x)} and {len(sides_y)}")
    scores = np.array([[comparison.compare(a, b) for b in sides_y] for a in sides_x])
    place = scores.argmax() if higher_is_better else scores.argmin()
    i, j = (int(at) for at in np.unravel_index(place, scores.shape))
    better = np.maximum if higher_is_better else np.minimum
    found: list[np.ndarray] = []
    for orders in order_batches(n, groups, permutations=permutations, seed=seed):
        found.append(better.reduce([comparison.permuted(a, b, orders) for a in sides_x for b in sides_y]))
    method = f"best of {len(sides_x)} x {len(sides_y)} pairs, {described(groups, n)} in all of them alike"
    drawn = np.concatenate(found)

    def against(i: int, j: int) -> Null:
        observed = float(scores[i, j])
        moved = settled(drawn, observed, unmoved(comparison, sides_x[i], sides_y[j], n))
        return summarised(observed, moved, method, higher_is_better=higher_is_better)

    null, p_values = against(i, j), np.empty(scores.shape)
    for at in np.ndindex(*scores.shape):
        p_values[at] = against(*at).p
    threshold = _threshold(null.scores, null.observed, alpha, higher_is_better)
    return MaxNull(scores, (i, j), p_values, threshold, null)


_CLOSED = ("mutual_knn", "cka_linear", "cka_debiased", "rv", "hsic")


def closed_form(
    name: str, x: Any, y: Any, a: Any, b: Any, *, groups: Groups | None, options: Mapping[str, Any]
) -> Moments | None:
    """Exact permutation mean and standard deviation of mutual_knn, linear CKA, RV or HSIC; None where none is known.

    Args:
        name: A key of `METRICS`.
        x: Features or graph of the first space.
        y: Features or graph of the second.
        a: The first space, prepared.
        b: The second.
        groups: The group of each row; with groups only permutations will do.
        options: Of the metric.
    """
    if groups is not None:
        return None
    if name == "mutual_knn":
        k = options.get("k", 10)
        return moments_knn(a.ids[:, :k], b.ids[:, :k]) if a.n >= 4 else None
    if name not in _CLOSED or len(x) < 4 or options.get("kernel", "linear") != "linear" or options.get("epsilon"):
        return None
    if name == "hsic":
        return moments_hsic(x, y, **{key: options[key] for key in ("debiased", "divisor") if key in options})
    return moments_cka(x, y, debiased=options.get("debiased", name == "cka_debiased"))


def _normal_null(observed: float, moments: Moments) -> Null:
    """The null of a similarity as a normal with exact permutation moments."""
    mean, std = moments
    half = NormalDist().inv_cdf(0.975) * std
    # Never 0: what float64 cannot tell from it is still a tail.
    p = max(0.5 * math.erfc((observed - mean) / (std * math.sqrt(2))), sys.float_info.min) if std > 0 else 1.0
    return Null(observed, mean, std, mean - half, mean + half, p, 0, "closed form, normal tail")


def _check_alpha(alpha: float, permutations: int) -> None:
    if permutations < 0:
        raise BadChoice(f"permutations = {permutations}: wanted 1 or more, or 0 for the closed form")
    if not 0 < alpha < 1:
        raise BadChoice(f"alpha = {alpha}: wanted a share between 0 and 1")
    if permutations and _passing(alpha, permutations) < 1:
        raise BadChoice(
            f"alpha = {alpha} with {permutations} permutations: no score could pass; wanted at least "
            f"{math.ceil(1 / alpha - 1e-9) - 1} permutations"
        )


def _passing(alpha: float, permutations: int) -> int:
    """How many of the permuted scores and the observed one lie above the threshold: floor(alpha (K + 1))."""
    return math.floor(alpha * (permutations + 1) + 1e-9)  # .05 * 20 may come out below 1


def _threshold(scores: np.ndarray, observed: float, alpha: float, higher_is_better: bool) -> float:
    pooled = np.sort(np.append(scores, observed))
    passing = _passing(alpha, len(scores))
    return float(pooled[-1 - passing] if higher_is_better else pooled[passing])


def _best(metric: Metric, comparison: Comparison[Any], a: Any, b: Any) -> float:
    """The good end of the scale at these options: self-scores, or the range where they depend on the space."""
    end = metric.range[1 if metric.higher_is_better else 0]
    if metric.self_score is None and math.isfinite(end):
        return end
    own = comparison.compare(a, a), comparison.compare(b, b)
    if not metric.higher_is_better:
        return min(own)
    return math.sqrt(own[0] * own[1]) if min(own) > 0 else max(own)


def _calibrated(observed: float, threshold: float, best: float) -> float:
    if best == threshold:  # chance reaches the best there is: nothing can stand out
        return 0.0
    return min(max(0.0, (observed - threshold) / (best - threshold)), 1.0)
