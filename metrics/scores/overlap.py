"""How many nearest neighbours do two spaces share? Scores of neighbour graphs, and of the spaces they come from."""

import numpy as np
from jaxtyping import Float

from metrics.arrays import Graph, Groups, X, Y, group_codes
from metrics.comparison import KnnComparison
from metrics.errors import BadChoice, BadShape, TooFewRows
from metrics.knn.exact import Measure

PerRow = Float[np.ndarray, " n"]


def mutual_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean overlap of the k-nearest-neighbour sets of two spaces.

    Row i of x and y is the same sample. Self and rows of the same group are excluded by id, ties broken by index.
    Symmetric; chance level k / (n - 1), or `chance_mutual_knn` with groups. Without groups, duplicated rows (five
    captions a photo) find each other in both spaces: independent spaces then score far above chance.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        k: Neighbours per sample, 1 <= k < n.
        groups: The group of each row, or None.
        metric: "cosine", "ip" (platonic-rep's on rows that are not normalised) or "euclidean".

    Returns:
        Shared fraction of neighbours, in [0, 1]; higher is more aligned.

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

    Source:
        Huh et al. 2024, arXiv:2405.07987, section 2; groups are ours.
    """
    return KnnComparison(mutual_knn_graphs, k, groups, metric)(x, y)


def jaccard_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean Jaccard index (shared over joined) of the k-nearest-neighbour sets.

    Symmetric, in [0, 1]; higher is more aligned. Arguments and errors as `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> jaccard_knn(x, -2 * x, k=5)
        1.0

    Source:
        ReSi (Klabunde et al. 2024, arXiv:2408.00531), "Jaccard similarity".
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

    Source:
        platonic-rep, commit dcd76ba, `cycle_knn`.
    """
    return KnnComparison(cycle_knn_graphs, k, groups, metric)(x, y)


def lcs_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean length of the longest common subsequence of the two neighbour lists, nearest first.

    Symmetric, in [0, k] (not divided by k, as published); higher is more aligned. Arguments and errors as `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> lcs_knn(x, 2 * x, k=5)
        5.0

    Source:
        platonic-rep, commit dcd76ba, `lcs_knn`.
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

    Source:
        platonic-rep, commit dcd76ba, `edit_distance_knn`.
    """
    return KnnComparison(edit_distance_knn_graphs, k, groups, metric)(x, y)


def mutual_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Shared fraction of each row's neighbours in two graphs, [n]; its mean is `mutual_knn`.

    Raises:
        BadShape: If the graphs are not [n, k] with the same n and k.

    Example:
        >>> mutual_knn_graphs(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[2, 1], [0, 3], [3, 4]]))
        array([1. , 0.5, 0. ])
    """
    a, b = graph_pair(a_ids, b_ids)
    return _shared(a, b) / a.shape[1]


def jaccard_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Shared over joined neighbours of each row, [n]; its mean is `jaccard_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    shared = _shared(a, b)
    return shared / (2 * a.shape[1] - shared)


def cycle_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """1 where row i is an a-neighbour of one of its b-neighbours, else 0, [n]; its mean is `cycle_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    own = np.arange(len(a))[:, None]
    found = np.zeros(len(a), dtype=bool)
    for column in b.T:
        found |= (a[column] == own).any(axis=1)
    return found.astype(np.float64)


def lcs_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """Length of the longest common subsequence of each row's two lists, [n]; its mean is `lcs_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    n, k = a.shape
    above = np.zeros((k + 1, n))
    for i in range(k):
        row = np.zeros((k + 1, n))
        for j in range(k):
            step = above[j] + (a[:, i] == b[:, j])
            row[j + 1] = np.maximum(np.maximum(above[j + 1], row[j]), step)
        above = row
    return above[k]


def edit_distance_knn_graphs(a_ids: Graph, b_ids: Graph) -> PerRow:
    """1 - Levenshtein distance / k of each row's two lists, [n]; its mean is `edit_distance_knn`."""
    a, b = graph_pair(a_ids, b_ids)
    n, k = a.shape
    above = np.repeat(np.arange(k + 1.0)[:, None], n, axis=1)
    for i in range(k):
        row = np.full((k + 1, n), i + 1.0)
        for j in range(k):
            swap = above[j] + (a[:, i] != b[:, j])
            row[j + 1] = np.minimum(np.minimum(above[j + 1], row[j]) + 1, swap)
        above = row
    return 1 - above[k] / k


def chance_mutual_knn(n: int, k: int, groups: Groups | None = None) -> float:
    """What `mutual_knn` of two unrelated spaces is on average: k / (n - 1), or the mean of k / (n - own group's size).

    Args:
        n: Number of samples.
        k: Neighbours per sample.
        groups: The group of each row, or None.

    Raises:
        TooFewRows: If a row has fewer than k rows outside its group.

    Example:
        >>> round(chance_mutual_knn(1024, 10), 4)
        0.0098
    """
    codes = group_codes(groups, n)[0]
    outside = n - np.bincount(codes)[codes]
    if k < 1 or outside.min() < k:
        raise TooFewRows(f"k = {k}: wanted 1 <= k <= {outside.min()}, the fewest rows outside a row's group (n = {n})")
    return float(np.mean(k / outside))


def graph_pair(a_ids: Graph, b_ids: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Two graphs as numpy arrays of one shape [n, k].

    Raises:
        BadShape: If they are not integers [n, k] with the same n and k.
    """
    a, b = np.asarray(a_ids), np.asarray(b_ids)
    if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
        raise BadShape(f"wanted two neighbour graphs [n, k] of the same n and k, got shapes {a.shape} and {b.shape}")
    if not (np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise BadShape(f"wanted neighbour ids, whole numbers, got {a.dtype} and {b.dtype}")
    return a, b


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shared = np.zeros(a.shape, dtype=bool)  # ids within a row differ, so each of a's is found at most once
    for column in b.T:
        shared |= a == column[:, None]
    return shared.sum(axis=1)


def check_ids(a: np.ndarray, name: str) -> None:
    """Refuses ids that are not rows of the graph.

    Raises:
        BadChoice: If an id is below 0 or not below n.
    """
    if a.min() < 0 or a.max() >= len(a):
        raise BadChoice(f"{name}: ids run from {a.min()} to {a.max()}, but the graph has rows 0 to {len(a) - 1}")
