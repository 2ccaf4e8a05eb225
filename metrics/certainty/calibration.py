"""Calibrated scores, and the null of the best of many layer pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from featcache.metrics.arrays import Groups, X, Y
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.certainty.kernel_moments import PearsonIII, three_moments, two_moments
from featcache.metrics.certainty.moments import moments_knn
from featcache.metrics.certainty.nulls import (
    Null,
    describe_permutation,
    merge_ties,
    order_batches,
    permutation_null,
    summarise,
    unpermuted,
)
from featcache.metrics.comparison import Comparison, KnnComparison, backends
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.knn.graph_scores import mutual_knn_graphs
from featcache.metrics.scores.independence import HsicComparison
from featcache.metrics.scores.kernels import LinearCka
from featcache.metrics.table import Metric, chosen, known_chance


@dataclass(frozen=True)
class Calibrated:
    """A score with what chance would score."""

    metric: str
    observed: float
    calibrated: float  # (observed - threshold) / (best - threshold), clipped to [0, 1]
    p: float  # share of permutations at least as aligned; with permutations = 0, the tail of the closed form
    chance: float  # mean score of unrelated spaces: exact where there is a formula, else the mean of the null
    threshold: float  # what a share alpha of the null passes
    best: float  # what two equal spaces would score: the good end of the scale
    alpha: float  # level of the threshold
    null: Null  # all of the null
    backend: str  # what prepared the two spaces


@dataclass(frozen=True, eq=False)
class MaxNull:
    """The best score of many pairs of spaces, and what the best would be by chance."""

    scores: np.ndarray  # observed score of each pair, [len(x), len(y)]
    best: tuple[int, int]  # place of the best score, (i, j)
    p_values: np.ndarray  # adjusted p of each pair, [x, y]: share of permutations whose best is at least as good
    threshold: float  # what the best pair of a share alpha of the permutations passes
    null: Null  # null of the best score

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
    within: Groups | None = None,
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
        x: Features [n, dx]; or for kNN metrics a graph that is there already, at least k deep.
        y: Features [n, dy] of the same samples, or their graph.
        groups: The group of each row, or None. Neighbours of the same group are excluded where the metric has
            neighbours, and whole groups of equal size are permuted.
        within: The label of each row, or None: rows change places only within equal labels, which splits what a space
            shares with another into what the labels explain and the rest.
        permutations: How many to draw; 0 takes the closed form, where there is one: of linear CKA, RV and HSIC the
            Pearson III tail with the exact three permutation moments, of mutual_knn a normal tail with two. Such a p is
            never given as less than .001.
        seed: Of the draws.
        alpha: Share of chance scores above the threshold, at least 1 / (permutations + 1).
        options: Of the metric ("k", ...).

    Raises:
        BadChoice: If the metric or an option is unknown, alpha is out of range, permutations are 0 where there is no
            closed form, or no two groups have the same size.
        BadShape, BadDtype, NotFinite, ZeroRow, ConstantSpace, TooFewRows: As the metric.

    Example:
        >>> x, noise = np.random.default_rng(0).standard_normal((2, 60, 8))
        >>> result = calibrate("mutual_knn", x, x + noise, k=5, permutations=199)
        >>> result.p, round(result.chance, 3), result.observed > result.threshold > result.chance
        (0.005, 0.085, True)
        >>> calibrate("mutual_knn", x, noise, k=5, permutations=199).calibrated
        0.0

    Source: "Aristotelian view" (ICML 2026), calibrated-similarity at 785054b; mirrored distances, `best` and groups
    are ours.
    """
    metric, comparison = chosen(name, groups=groups, **options)
    (a, b), n = prepare_all(comparison, {"x": x, "y": y})
    draws: dict[str, Any] = {"within": within, "permutations": permutations, "seed": seed, "alpha": alpha}
    return calibrate_prepared(metric, comparison, (a, b), n=n, groups=groups, **draws)


def calibrate_prepared(
    metric: Metric,
    comparison: Comparison[Any],
    spaces: tuple[Any, Any],
    *,
    n: int,
    groups: Groups | None = None,
    within: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
) -> Calibrated:
    """As `calibrate`, of two prepared spaces of n rows."""
    _check_alpha(alpha, permutations)
    a, b = spaces
    if permutations:
        draws: dict[str, Any] = {"groups": groups, "within": within, "permutations": permutations, "seed": seed}
        null = permutation_null(comparison, a, b, n=n, higher_is_better=metric.higher_is_better, **draws)
        threshold = _threshold(null.scores, null.observed, alpha, metric.higher_is_better)
    else:
        closed = None if within is not None else closed_form(comparison, a, b, groups=groups)
        if closed is None:
            restricted = [word for word, given in (("groups", groups), ("within", within)) if given is not None]
            raise BadChoice(
                f"{metric.name} has no closed form{' with ' + ' and '.join(restricted) if restricted else ''} at these "
                f"options: wanted permutations >= 1; without groups there is one for {', '.join(_CLOSED)}"
            )
        null = _closed_null(comparison.compare(a, b), closed, isinstance(comparison, KnnComparison))
        threshold = closed.quantile(1 - alpha)
    exact = None if within is not None else exact_chance(comparison, a, b, n=n, groups=groups)
    best = _best(metric, comparison, a, b)
    return Calibrated(
        metric=metric.name,
        observed=null.observed,
        calibrated=_calibrated(null.observed, threshold, best),
        p=null.p,
        chance=null.mean if exact is None else exact,
        threshold=threshold,
        best=best,
        alpha=alpha,
        null=null,
        backend=backends(comparison, a, b),
    )


# Nine parameters: what `permutation_null` takes, for many spaces, and the level of the threshold.
def max_null(
    comparison: Comparison[Any],
    spaces_x: Sequence[Any],
    spaces_y: Sequence[Any],
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
    Comparing with it corrects every p for the search, however alike the layers are to each other. `spaces_x` and
    `spaces_y` are prepared spaces (layers) of two encoders, one or more each; other arguments and errors as
    `permutation_null`, alpha as `calibrate`. Of a distance the best is the minimum.

    Example:
        >>> from featcache.metrics import METRICS
        >>> layers = np.random.default_rng(0).standard_normal((3, 40, 8))
        >>> knn = METRICS["mutual_knn"].comparison(k=5)
        >>> graphs = [knn.prepare(layer) for layer in layers]
        >>> result = max_null(knn, graphs, graphs[1:2], n=40, permutations=99)
        >>> result.best, result.p
        ((1, 0), 0.01)

    Source: Westfall & Young 1993, Resampling-Based Multiple Testing, section 2.3 (single-step maxT).
    """
    _check_alpha(alpha, permutations)
    if not (len(spaces_x) and len(spaces_y)):
        raise BadChoice(f"wanted one space or more on each side, got {len(spaces_x)} and {len(spaces_y)}")
    scores = comparison.compare_all(spaces_x, spaces_y)
    place = scores.argmax() if higher_is_better else scores.argmin()
    i, j = (int(at) for at in np.unravel_index(place, scores.shape))
    better = np.maximum if higher_is_better else np.minimum
    drawn: list[np.ndarray] = []
    for orders in order_batches(n, groups, permutations=permutations, seed=seed):
        drawn.append(better.reduce([comparison.permuted(a, b, orders) for a in spaces_x for b in spaces_y]))
    method = f"best of {len(spaces_x)} x {len(spaces_y)} pairs, {describe_permutation(groups, n)} in all of them alike"
    permuted = np.concatenate(drawn)

    def against(i: int, j: int) -> Null:
        observed = float(scores[i, j])
        moved = merge_ties(permuted, observed, unpermuted(comparison, spaces_x[i], spaces_y[j], n))
        return summarise(observed, moved, method, higher_is_better=higher_is_better)

    null, p_values = against(i, j), np.empty(scores.shape)
    for at in np.ndindex(*scores.shape):
        p_values[at] = against(*at).p
    threshold = _threshold(null.scores, null.observed, alpha, higher_is_better)
    return MaxNull(scores, (i, j), p_values, threshold, null)


def calibrated_best(metric: Metric, comparison: Comparison[Any], found: MaxNull, a: Any, b: Any) -> float:
    """How far the best pair of many is from what the best of permuted ones passes to the best there is, as `calibrate`.

    Args:
        metric: Of METRICS.
        comparison: That metric at its options.
        found: The best pair and its null.
        a: The first space of the best pair, prepared.
        b: The second one.

    Returns:
        In [0, 1]; above 0 just where the best pair's p is at most the level.
    """
    return _calibrated(found.null.observed, found.threshold, _best(metric, comparison, a, b))


_CLOSED = ("mutual_knn", "cka_linear", "cka_debiased", "rv", "hsic")


def has_closed_form(comparison: Comparison[Any], a: Any, b: Any, *, groups: Groups | None = None) -> bool:
    """Whether `closed_form` of two prepared spaces is known: of mutual_knn, linear CKA, RV and HSIC without groups."""
    if groups is not None:
        return False
    if isinstance(comparison, KnnComparison):
        return comparison.per_row is mutual_knn_graphs and a.n >= 4
    return _linear(comparison) and len(a) >= 4 and min(a.own, b.own) > 0


def closed_form(comparison: Comparison[Any], a: Any, b: Any, *, groups: Groups | None = None) -> PearsonIII | None:
    """The null of two prepared spaces from exact permutation moments; None where none is known.

    The skewness of mutual_knn, a count of many rows, is taken for 0.
    """
    if not has_closed_form(comparison, a, b, groups=groups):
        return None
    if isinstance(comparison, KnnComparison):
        return PearsonIII(*moments_knn(a.ids[:, : comparison.k], b.ids[:, : comparison.k]), 0.0)
    assert _linear(comparison)
    mean, std, skewness = three_moments(a, b, debiased=comparison.debiased)
    unit = comparison.of_cosine(a, b) if isinstance(comparison, HsicComparison) else 1.0
    return PearsonIII(mean * unit, std * unit, skewness)


def exact_chance(comparison: Comparison[Any], a: Any, b: Any, *, n: int, groups: Groups | None = None) -> float | None:
    """What unrelated spaces like these score on average, where a formula says so; it costs next to nothing.

    Of mutual_knn with or without groups; of linear CKA, RV and HSIC without.
    """
    if isinstance(comparison, KnnComparison):
        return known_chance(comparison, n, groups)
    if groups is not None or n < 4 or not _linear(comparison) or min(a.own, b.own) <= 0:
        return None
    unit = comparison.of_cosine(a, b) if isinstance(comparison, HsicComparison) else 1.0
    return two_moments(a, b, debiased=comparison.debiased).mean * unit


def _linear(comparison: Comparison[Any]) -> TypeGuard[LinearCka | HsicComparison]:
    """Whether a score is an inner product of linear kernels over what no permutation changes."""
    if isinstance(comparison, HsicComparison):
        return comparison.kernel == "linear"
    return isinstance(comparison, LinearCka) and comparison.epsilon == 0


def _closed_null(observed: float, moments: PearsonIII, normal: bool) -> Null:
    low, high = moments.quantile(0.025), moments.quantile(0.975)
    method = "normal, exact two moments" if normal else "Pearson III, exact three moments"
    return Null(observed, moments.mean, moments.std, low, high, moments.tail(observed), 0, method)


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
    """Number of the permuted scores and the observed one above the threshold: floor(alpha (K + 1))."""
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
    own = comparison.self_score(a), comparison.self_score(b)
    if not metric.higher_is_better:
        return min(own)
    return math.sqrt(own[0] * own[1]) if min(own) > 0 else max(own)


def _calibrated(observed: float, threshold: float, best: float) -> float:
    if best == threshold:  # chance reaches the best there is: nothing can stand out
        return 0.0
    return min(max(0.0, (observed - threshold) / (best - threshold)), 1.0)
