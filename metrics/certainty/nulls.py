"""Permutation nulls: scores of one space against rearrangements of the other, whole groups moved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.metrics.arrays import Graph, Groups, X, Y, group_codes
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn.graph_scores import GraphScore, PerRow, check_ids, graph_pair, mutual_knn_graphs
from featcache.metrics.scores.kernels import KERNELS, Kernel, LinearCka, RbfCka, check_choice

LEAST_RANGE = 39
"""Permutations below which there is no central 95 % of them."""

_ROUNDING = 1e-5  # of the spread of the null
_ORDER_ENTRIES = 1 << 20  # 8 MB of row numbers handed to a comparison at a time; it divides them further as it needs


@dataclass(frozen=True)
class Null:
    """A score and what it would be if the rows of the second space were matched at random."""

    observed: float
    mean: float  # over permutations
    std: float
    low: float | None  # 2.5 % point of the null; None below 39 permutations, which do not reach so far
    high: float | None  # 97.5 % point
    # (1 + permutations at least as aligned) / (permutations + 1): one-sided, and exact, so that on unrelated spaces
    # p <= alpha in at most a share alpha of cases
    p: float
    permutations: int  # how many were drawn; 0 where mean and standard deviation are in closed form
    method: str  # what was permuted
    higher_is_better: bool = True  # which end of the null is the aligned one
    # permuted, [permutations], in the order in which they were drawn
    scores: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


# Nine parameters: two spaces, which rows move, how often, and which way is up; a class to bundle them would hide them.
def permutation_null(
    comparison: Comparison[Any],
    a: Any,
    b: Any,
    *,
    n: int,
    groups: Groups | None = None,
    within: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    higher_is_better: bool = True,
) -> Null:
    """Permutation null of any metric, on spaces that are prepared already.

    The rows of the second space are matched with the first at random. With groups, whole groups change places, among
    those of equal size, and keep their inner order: rows of one group are not exchangeable one by one.

    Args:
        comparison: The metric at its options; `METRICS[name].comparison(**options)`.
        a: The first space, as the comparison prepares it.
        b: The second.
        n: Their rows.
        groups: The group of each row, or None; the same that the comparison excludes as neighbours, if it does.
        within: The label of each row, or None: rows change places only within equal labels. What is left above such a
            null is agreement that the labels do not explain.
        permutations: How many to draw.
        seed: Of the draws.
        higher_is_better: Of the metric; False for a distance, whose p counts the scores at least as low.

    Raises:
        BadShape: If groups or labels are not n.
        BadChoice: If permutations < 1, or no two groups have the same size and labels.
        TooFewRows: If the score is undefined, because no row has k neighbours in both spaces.

    Example:
        >>> from featcache.metrics import METRICS
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> knn = METRICS["mutual_knn"].comparison(k=5)
        >>> permutation_null(knn, knn.prepare(x), knn.prepare(2 * x), n=40, permutations=99).p
        0.01

    Source: Phipson & Smyth 2010, Stat. Appl. in Genetics and Molecular Biology 9 (the one added to the count).
    """
    batches = order_batches(n, groups, within=within, permutations=permutations, seed=seed)
    scores = np.concatenate([comparison.permuted(a, b, orders) for orders in batches])
    observed, by_path = comparison.compare(a, b), unpermuted(comparison, a, b, n)
    scores = merge_ties(scores, observed, by_path)
    return summarise(observed, scores, describe_permutation(groups, n, within), higher_is_better=higher_is_better)


def permutation_null_knn(
    a_ids: Graph,
    b_ids: Graph,
    *,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    score: GraphScore | Callable[[np.ndarray, np.ndarray], PerRow] = mutual_knn_graphs,
) -> Null:
    """Permutation null of a neighbour-graph score, on graphs that are already there: O(permutations * n k).

    Row i of both graphs [n, k] is the same sample, and both were made with the same groups. The second graph is
    renamed, which is what permuting its features would give. On one core of a shared machine, k = 10, mutual_knn takes
    35,000 permutations a second at 1,024 rows, 4,500 at 8,192, 900 at 31,014; the slowest, cycle_knn, 11,000, 1,200 and
    170.

    `score` gives each row's score of two graphs: a `..._graphs` function of `featcache.metrics`, or one of your own.
    Rest as `permutation_null`; BadShape if the graphs differ in shape, BadChoice if ids are out of range.

    Example:
        >>> ring = np.array([[1, 5], [2, 0], [3, 1], [4, 2], [5, 3], [0, 4]])
        >>> null = permutation_null_knn(ring, ring, permutations=200)
        >>> null.observed, 0.3 < null.mean < 0.5
        (1.0, True)
    """
    a, b = graph_pair(a_ids, b_ids)
    check_ids(a, "a_ids")
    check_ids(b, "b_ids")
    batches = order_batches(len(a), groups, permutations=permutations, seed=seed)
    score = score if isinstance(score, GraphScore) else GraphScore(score)
    scores = np.concatenate([score.permuted(a, b, orders) for orders in batches])
    observed = float(score(a, b).mean())
    by_path = float(score.permuted(a, b, np.arange(len(a))[None])[0])
    return summarise(observed, merge_ties(scores, observed, by_path), describe_permutation(groups, len(a)))


def permutation_null_cka(
    x: X,
    y: Y,
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> Null:
    """Permutation null of `cka` (rbf: sigma = 1). Only the cross term is computed again: the norms stay.

    Each permutation takes one d x d product, or one pass over n x n where that is less; "rbf" keeps two n x n float32
    matrices. Products in float32, on the device of x; sums in float64. For mean and standard deviation alone
    `moments_cka` is exact and immediate. Arguments and errors as `cka` and `permutation_null`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((30, 4))
        >>> permutation_null_cka(x, x, permutations=99).p
        0.01
    """
    check_choice("kernel", kernel, KERNELS)
    comparison = LinearCka(debiased=debiased) if kernel == "linear" else RbfCka(debiased=debiased)
    (a, b), n = prepare_all(comparison, {"x": x, "y": y})
    return permutation_null(comparison, a, b, n=n, groups=groups, permutations=permutations, seed=seed)


def summarise(observed: float, scores: np.ndarray, method: str, *, higher_is_better: bool = True) -> Null:
    """The null from permuted scores [permutations] after `merge_ties`; TooFewRows if a score is NaN."""
    if np.isnan(observed) or np.isnan(scores).any():
        raise TooFewRows("the score is undefined: no row has k neighbours in both spaces; search deeper or lower k")
    enough = len(scores) >= LEAST_RANGE
    low, high = (float(end) for end in np.quantile(scores, [0.025, 0.975])) if enough else (None, None)
    return Null(
        observed=observed,
        mean=float(scores.mean()),
        std=float(scores.std()),
        low=low,
        high=high,
        p=(1 + int(np.sum(scores >= observed if higher_is_better else scores <= observed))) / (len(scores) + 1),
        permutations=len(scores),
        method=method,
        higher_is_better=higher_is_better,
        scores=scores,
    )


def unpermuted(comparison: Comparison[Any], a: Any, b: Any, n: int) -> float:
    """The score of the order that is there, computed as permuted scores are (perhaps in float32)."""
    return float(comparison.permuted(a, b, np.arange(n)[None])[0])


def merge_ties(scores: np.ndarray, observed: float, by_path: float) -> np.ndarray:
    """Permuted scores, of which those that rounding alone tells from the observed one are made equal to it.

    A permutation that changes nothing must count as reaching the score, in the p-value and in the threshold alike. What
    is rounding is measured where it matters: by the spread of the null, however close to each other its scores lie, and
    by what the two ways of computing the observed score differ; `by_path` is the one of the permuted scores.

    Example:
        >>> merge_ties(np.array([0.2, 0.9000001, 0.9, 1.0]), 0.90000005, 0.9).tolist()
        [0.2, 0.90000005, 0.90000005, 1.0]
    """
    slack = _ROUNDING * np.ptp(scores) + 2 * abs(observed - by_path)
    return np.where(np.abs(scores - by_path) <= slack, observed, scores)


def describe_permutation(groups: Groups | None, n: int, within: Groups | None = None) -> str:
    """What is permuted, in words; says how many rows have no partner to change places with."""
    if groups is None and within is None:
        return "rows permuted"
    what = "rows permuted" if groups is None else "groups permuted among those of equal size"
    what += "" if within is None else " within labels"
    stuck = sum(rows.size for rows in _exchangeable(groups, n, within) if len(rows) == 1)
    return f"{what}{f', {stuck} of {n} rows without a partner' if stuck else ''}"


def order_batches(
    n: int, groups: Groups | None, *, within: Groups | None = None, permutations: int, seed: int
) -> Iterator[np.ndarray]:
    """Random orders of n rows, [b, n] at a time, `permutations` in all; the same seed gives the same orders.

    BadChoice if permutations < 1, or no two groups have the same size and labels.
    """
    if permutations < 1:
        raise BadChoice(f"permutations = {permutations}: wanted 1 or more")
    draws = row_orders(groups, n, seed, within)
    step = max(1, _ORDER_ENTRIES // n)
    sizes = (min(step, permutations - start) for start in range(0, permutations, step))
    return (np.stack([next(draws) for _ in range(size)]) for size in sizes)


def row_orders(groups: Groups | None, n: int, seed: int, within: Groups | None = None) -> Iterator[np.ndarray]:
    """Random orders of n rows: each group's rows go, in their order, to a random group of the same size and labels.

    BadShape if groups or labels are not n; BadChoice if no two are alike, so that nothing can change places.
    """
    classes = _exchangeable(groups, n, within)
    if max(len(rows) for rows in classes) < 2:
        count = sum(len(rows) for rows in classes)
        alike = "the same size" if within is None else "the same size and labels"
        raise BadChoice(f"no two of the {count} groups have {alike}; whole groups cannot change places")
    rng = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        order = np.arange(n)
        for rows in classes:
            order[rows] = rows[rng.permutation(len(rows))]
        return order

    return (draw() for _ in iter(int, 1))


def _exchangeable(groups: Groups | None, n: int, within: Groups | None = None) -> list[np.ndarray]:
    """Rows of the groups of each size (and of equal labels, row by row), [groups of that kind, size]."""
    codes = group_codes(groups, n)[0]
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    classes = [by_group[starts[sizes == size, None] + np.arange(size)] for size in np.unique(sizes)]
    if within is None:
        return classes
    labels = group_codes(within, n, "within")[0]
    kinds = [np.unique(labels[rows], axis=0, return_inverse=True)[1].ravel() for rows in classes]
    return [rows[kind == one] for rows, kind in zip(classes, kinds, strict=True) for one in range(int(kind.max()) + 1)]
