"""How alike are two kernels among shared nearest neighbours? CKNNA, from neighbour graphs instead of n x n masks."""

import numpy as np

from metrics.arrays import Groups, X, Y, plain_pair
from metrics.errors import BadChoice, ConstantSpace
from metrics.exact import Measure
from metrics.graph import Neighbors, neighbors


def cknna(
    x: X,
    y: Y,
    *,
    k: int = 10,
    groups: Groups | None = None,
    metric: Measure = "cosine",
    epsilon: float = 0.0,
) -> float:
    """Centred kernel nearest-neighbour alignment: debiased CKA on the pairs that both spaces call neighbours.

    Row i of x and y is the same sample. The numerator keeps a pair where both graphs have it, each denominator where
    its own graph has it. Neighbour masks are not symmetric, and the published code is followed in what that means: the
    first of Song et al.'s three terms multiplies K_ij by L_ji, so that only reciprocal pairs count there, and the third
    meets K's columns with L's rows, so that swapping the spaces changes the score a little (.461 and .463 on one pair
    of 60 rows). 1 for a space with itself; not bounded by Cauchy-Schwarz.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        k: Neighbours per sample, 2 <= k < n.
        groups: The group of each row, or None.
        metric: "cosine", or "ip" for inner products of rows as they are.
        epsilon: Added to the denominator; platonic-rep adds 1e-6.

    Returns:
        The alignment; higher is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, ZeroRow, ConstantSpace, TooFewRows: As `mutual_knn`.
        BadChoice: If k < 2 or the metric is a distance.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cknna(x, 3 * x), 6)
        1.0

    Source:
        Huh et al. 2024, arXiv:2405.07987, appendix A; platonic-rep, commit dcd76ba, `cknna`.
    """
    if k < 2:
        raise BadChoice(f"k = {k}: CKNNA needs 2 or more neighbours")
    if metric == "euclidean":
        raise BadChoice('metric "euclidean" is a distance, not a kernel; there are cosine, ip')
    plain_pair(x, y, at_least=4)
    a = neighbors(x, k=k, groups=groups, metric=metric)
    b = neighbors(y, k=k, groups=groups, metric=metric)
    xy, xx, yy = _masked_hsic(a, b), _masked_hsic(a, a), _masked_hsic(b, b)
    if epsilon == 0 and xx * yy <= 0:
        raise ConstantSpace(f"the denominator is not positive (x: {xx:.3g}, y: {yy:.3g}); CKNNA is undefined here")
    return float(xy / (np.sqrt(max(xx * yy, 0.0)) + epsilon))


def _masked_hsic(a: Neighbors, b: Neighbors) -> float:
    """Song et al.'s eq. 5 on the kernels masked to the edges that both graphs have, from those edges alone."""
    n = a.n
    row = np.repeat(np.arange(n), a.k)
    edge_a, edge_b = row * n + a.ids.ravel().astype(np.int64), row * n + b.ids.ravel().astype(np.int64)
    edges, in_a, in_b = np.intersect1d(edge_a, edge_b, assume_unique=True, return_indices=True)
    ka, kb = a.similarities.ravel()[in_a], b.similarities.ravel()[in_b]
    row, col = np.divmod(edges, n)
    # K_ij L_ji: the reverse of each edge, where it is an edge too.
    back = np.minimum(np.searchsorted(edges, col * n + row), max(len(edges) - 1, 0))
    mutual = edges[back] == col * n + row if len(edges) else np.zeros(0, dtype=bool)
    reciprocal = float(np.sum(ka[mutual] * kb[back[mutual]]))
    into = np.bincount(col, weights=ka, minlength=n)
    out = np.bincount(row, weights=kb, minlength=n)
    total = reciprocal + ka.sum() * kb.sum() / ((n - 1) * (n - 2)) - 2 * float(into @ out) / (n - 2)
    return float(total / (n * (n - 3)))
