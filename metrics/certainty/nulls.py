"""Could a score be chance? The scores of one space against rearrangements of the other, whole groups moved."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.metrics.arrays import Graph, Groups, X, Y, group_codes
from featcache.metrics.certainty.sides import sides_of
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn.graph_scores import GraphScore, check_ids, graph_pair, knn_scores, mutual_knn_graphs
from featcache.metrics.scores.kernels import KERNELS, Kernel, LinearCka, RbfCka, check_choice

_ROUNDING = 1e-5  # of the spread of the null
_ORDER_ENTRIES = 1 << 20  # 8 MB of row numbers handed to a comparison at a time; it divides them further as it needs


@dataclass(frozen=True)
class Null:
    """A score and what it would be if the rows of the second space were matched at random.

    Args:
        observed: The score itself.
        mean: Mean over permutations.
        std: Standard deviation over permutations.
        low: 2.5 % point of the permuted scores.
        high: 97.5 % point.
        p: (1 + permutations that score at least as aligned) / (permutations + 1): one-sided, at least as high a score,
            or for a distance at least as low. Exact: on unrelated spaces p <= alpha in at most a share alpha of cases.
        permutations: How many were drawn; 0 where mean and standard deviation are in closed form.
        method: What was permuted.
        higher_is_better: Which side of the null is the aligned one.
        scores: The permuted scores, [permutations], in the order in which they were drawn.
    """

    observed: float
    mean: float
    std: float
    low: float
    high: float
    p: float
    permutations: int
    method: str
    higher_is_better: bool = True
    scores: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


# Eight parameters: two sides, which rows move, how often, and which way is up; a class to bundle them would hide them.
def permutation_null(
    comparison: Comparison[Any],
    a: Any,
    b: Any,
    *,
    n: int,
    groups: Groups | None = None,
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
        permutations: How many to draw.
        seed: Seed of the draws.
        higher_is_better: Of the metric; False for a distance, whose p counts the scores at least as low.

    Returns:
        The observed score and its null.

    Raises:
        BadShape: If groups are not n.
        BadChoice: If permutations < 1, or no two groups have the same size.
        TooFewRows: If the score is undefined, because no row has k neighbours in both spaces.

    Example:
        >>> from featcache.metrics import METRICS
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> knn = METRICS["mutual_knn"].comparison(k=5)
        >>> permutation_null(knn, knn.prepare(x), knn.prepare(2 * x), n=40, permutations=99).p
        0.01

    Source:
        Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9 (the one added to the count).
    """
    batches = order_batches(n, groups, permutations=permutations, seed=seed)
    scores = np.concatenate([comparison.permuted(a, b, orders) for orders in batches])
    observed, by_path = comparison.compare(a, b), unmoved(comparison, a, b, n)
    scores = settled(scores, observed, by_path)
    return summarised(observed, scores, described(groups, n), higher_is_better=higher_is_better)


def permutation_null_knn(
    a_ids: Graph,
    b_ids: Graph,
    *,
    groups: Groups | None = None,
    permutations: int = 1000,
    seed: int = 0,
    score: GraphScore = mutual_knn_graphs,
) -> Null:
    """Permutation null of a neighbour-graph score, on graphs that are already there: O(permutations * n k).

    Row i of both graphs is the same sample. The second graph is renamed, which is what permuting its features would
    give. On one core of a shared machine, k = 10, mutual_knn takes 35,000 permutations a second at 1,024 rows, 4,500 at
    8,192 and 900 at 31,014; the slowest, cycle_knn, 11,000, 1,200 and 170.

    Args:
        a_ids: Neighbour graph [n, k] of the first space.
        b_ids: Neighbour graph [n, k] of the second, made with the same groups.
        groups: The group of each row, or None; whole groups of equal size change places.
        permutations: How many to draw.
        seed: Seed of the draws.
        score: Per-row score of two graphs; any `..._graphs` function of `featcache.metrics.knn.graph_scores`.

    Returns:
        The observed score and its null.

    Raises:
        BadShape: If the graphs differ in shape or groups are not n.
        BadChoice: If ids are out of range, permutations < 1, or no two groups have the same size.

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
    scores = np.concatenate([knn_scores(score, a, b, orders) for orders in batches])
    observed = float(score(a, b).mean())
    by_path = float(knn_scores(score, a, b, np.arange(len(a))[None])[0])
    return summarised(observed, settled(scores, observed, by_path), described(groups, len(a)))


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

    Each permutation takes one d x d product, or one pass over n x n where that is less. Products in float32, on the
    device of x; sums in float64. For mean and standard deviation alone `moments_cka` is exact and immediate.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples in the second space.
        kernel: "linear" or "rbf"; "rbf" keeps two n x n float32 matrices.
        debiased: As in `cka`.
        groups: The group of each row, or None; whole groups of equal size change places.
        permutations: How many to draw.
        seed: Seed of the draws.

    Returns:
        The observed score and its null.

    Raises:
        As `cka`; BadChoice also if permutations < 1 or no two groups have the same size.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((30, 4))
        >>> permutation_null_cka(x, x, permutations=99).p
        0.01
    """
    check_choice("kernel", kernel, KERNELS)
    comparison = LinearCka(debiased=debiased) if kernel == "linear" else RbfCka(debiased=debiased)
    (a, b), n = sides_of(comparison, {"x": x, "y": y})
    return permutation_null(comparison, a, b, n=n, groups=groups, permutations=permutations, seed=seed)


def summarised(observed: float, scores: np.ndarray, method: str, *, higher_is_better: bool = True) -> Null:
    """The null behind permuted scores.

    Args:
        observed: The score.
        scores: Permuted scores [permutations], one or more, `settled`.
        method: What was permuted.
        higher_is_better: Of the metric.

    Raises:
        TooFewRows: If the score or a permuted one is NaN.
    """
    if np.isnan(observed) or np.isnan(scores).any():
        raise TooFewRows("the score is undefined: no row has k neighbours in both spaces; search deeper or lower k")
    low, high = np.quantile(scores, [0.025, 0.975])
    return Null(
        observed=observed,
        mean=float(scores.mean()),
        std=float(scores.std()),
        low=float(low),
        high=float(high),
        p=(1 + int(np.sum(scores >= observed if higher_is_better else scores <= observed))) / (len(scores) + 1),
        permutations=len(scores),
        method=method,
        higher_is_better=higher_is_better,
        scores=scores,
    )


def unmoved(comparison: Comparison[Any], a: Any, b: Any, n: int) -> float:
    """The score of the order that is there, computed as permuted scores are (perhaps in float32)."""
    return float(comparison.permuted(a, b, np.arange(n)[None])[0])


def settled(scores: np.ndarray, observed: float, by_path: float) -> np.ndarray:
    """Permuted scores, of which those that rounding alone tells from the observed one are made equal to it.

    A permutation that changes nothing must count as reaching the score, in the p-value and in the threshold alike. What
    is rounding is measured where it matters: by the spread of the null, however close to each other its scores lie, and
    by what the two ways of computing the observed score differ.

    Args:
        scores: Permuted scores, [permutations].
        observed: The score.
        by_path: The same score computed as the permuted ones are (`unmoved`).

    Example:
        >>> settled(np.array([0.2, 0.9000001, 0.9, 1.0]), 0.90000005, 0.9).tolist()
        [0.2, 0.90000005, 0.90000005, 1.0]
    """
    slack = _ROUNDING * np.ptp(scores) + 2 * abs(observed - by_path)
    return np.where(np.abs(scores - by_path) <= slack, observed, scores)


def described(groups: Groups | None, n: int) -> str:
    """What is permuted, in words; says how many rows have no partner to change places with."""
    if groups is None:
        return "rows permuted"
    stuck = sum(rows.size for rows in _exchangeable(groups, n) if len(rows) == 1)
    return f"groups permuted among those of equal size{f', {stuck} of {n} rows without a partner' if stuck else ''}"


def order_batches(n: int, groups: Groups | None, *, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Random orders of n rows, [b, n] at a time, `permutations` in all; the same seed gives the same orders.

    Raises:
        BadChoice: If permutations < 1, or no two groups have the same size.
    """
    if permutations < 1:
        raise BadChoice(f"permutations = {permutations}: wanted 1 or more")
    draws = row_orders(groups, n, seed)
    step = max(1, _ORDER_ENTRIES // n)
    sizes = (min(step, permutations - start) for start in range(0, permutations, step))
    return (np.stack([next(draws) for _ in range(size)]) for size in sizes)


def row_orders(groups: Groups | None, n: int, seed: int) -> Iterator[np.ndarray]:
    """Random orders of n rows: each group's rows go, in their order, to a random group of the same size.

    Raises:
        BadShape: If groups are not n.
        BadChoice: If no two groups have the same size, so that nothing can change places.
    """
    classes = _exchangeable(groups, n)
    if max(len(rows) for rows in classes) < 2:
        count = sum(len(rows) for rows in classes)
        raise BadChoice(f"no two of the {count} groups have the same size; whole groups cannot change places")
    rng = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        order = np.arange(n)
        for rows in classes:
            order[rows] = rows[rng.permutation(len(rows))]
        return order

    return (draw() for _ in iter(int, 1))


def _exchangeable(groups: Groups | None, n: int) -> list[np.ndarray]:
    """Rows of the groups of each size, [groups of that size, size]."""
    codes = group_codes(groups, n)[0]
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    return [by_group[starts[sizes == size, None] + np.arange(size)] for size in np.unique(sizes)]
