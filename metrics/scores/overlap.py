"""Scores of shared nearest neighbours."""

import numpy as np

from featcache.metrics.arrays import Groups, X, Y, group_codes
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.errors import TooFewRows
from featcache.metrics.knn.exact import Measure
from featcache.metrics.knn.graph_scores import (
    cycle_knn_graphs,
    edit_distance_knn_graphs,
    jaccard_knn_graphs,
    lcs_knn_graphs,
    mutual_knn_graphs,
)


def mutual_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean overlap of the k-nearest-neighbour sets of two spaces.

    In [0, 1]; higher is more aligned. Symmetric; chance level k / (n - 1), or `chance_mutual_knn` with groups. Self and
    rows of the same group are excluded by id, ties broken by index. Without groups, duplicated rows (five captions a
    photo) find each other in both spaces: independent spaces then score far above chance.

    Args:
        x: Features [n, dx], numpy or torch, float16, float32 or float64.
        y: Features [n, dy]: row i of x and y is the same sample.
        k: Neighbours per sample, 1 <= k < n.
        groups: The group of each row, or None.
        metric: "cosine", "ip" (platonic-rep's on rows that are not normalised) or "euclidean".

    Raises:
        BadShape: If x and y are not [n, dx] and [n, dy].
        BadDtype: If one is bfloat16 or not floating point.
        NotFinite: If a row holds NaN or infinity.
        ZeroRow: If the metric is "cosine" and a row is zero.
        ConstantSpace: If every row of a space is the same.
        TooFewRows: If a row has fewer than k candidates.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1., 0.], [.9, .1], [0., 1.], [.1, .9]])
        >>> mutual_knn(x, x.flip(1), k=1)
        1.0

    Source: Huh et al. 2024, arXiv:2405.07987, section 2; groups are ours.
    """
    return KnnComparison(mutual_knn_graphs, k, groups, metric)(x, y)


def jaccard_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean Jaccard index (shared over joined) of the k-nearest-neighbour sets.

    Symmetric, in [0, 1]; higher is more aligned. Arguments and errors as `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> jaccard_knn(x, -2 * x, k=5)
        1.0

    Source: ReSi (Klabunde et al. 2024, arXiv:2408.00531), "Jaccard similarity".
    """
    return KnnComparison(jaccard_knn_graphs, k, groups, metric)(x, y)


def cycle_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Share of samples that are an x-neighbour of one of their y-neighbours.

    Not symmetric; in [0, 1], higher is more aligned. A space need not score 1 against itself. Arguments and errors
    as `mutual_knn`.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> cycle_knn(x, x, k=1)
        1.0

    Source: platonic-rep, commit dcd76ba, `cycle_knn`.
    """
    return KnnComparison(cycle_knn_graphs, k, groups, metric)(x, y)


def lcs_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean length of the longest common subsequence of the two neighbour lists, nearest first.

    Symmetric, in [0, k] (not divided by k, as published); higher is more aligned. Arguments and errors as `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> lcs_knn(x, 2 * x, k=5)
        5.0

    Source: platonic-rep, commit dcd76ba, `lcs_knn`.
    """
    return KnnComparison(lcs_knn_graphs, k, groups, metric)(x, y)


def edit_distance_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """One minus the mean edit distance of the two neighbour lists, divided by k.

    A similarity despite its published name: symmetric, in [0, 1], higher is more aligned. Arguments and errors as
    `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> edit_distance_knn(x, 2 * x, k=5)
        1.0

    Source: platonic-rep, commit dcd76ba, `edit_distance_knn`.
    """
    return KnnComparison(edit_distance_knn_graphs, k, groups, metric)(x, y)


def chance_mutual_knn(n: int, k: int, groups: Groups | None = None) -> float:
    """What `mutual_knn` of two unrelated spaces is on average: k / (n - 1), or the mean of k / (n - own group's size).

    TooFewRows if a row has fewer than k rows outside its group.

    Example:
        >>> round(chance_mutual_knn(1024, 10), 4)
        0.0098
    """
    codes = group_codes(groups, n)[0]
    outside = n - np.bincount(codes)[codes]
    if k < 1 or outside.min() < k:
        raise TooFewRows(f"k = {k}: wanted 1 <= k <= {outside.min()}, the fewest rows outside a row's group (n = {n})")
    return float(np.mean(k / outside))
