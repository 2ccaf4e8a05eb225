"""Which space do two spaces, or the rows of a group, make together? Kernel mixtures, sums and group means."""

from collections.abc import Hashable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from featcache.metrics.arrays import Groups, X, Y, group_codes, like, plain, unit_rows
from featcache.metrics.errors import BadChoice, BadShape

Mixed = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]
Means = Float[Tensor, "g dx"] | Float[np.ndarray, "g dx"]


def mixed(x: X, y: Y, w: float) -> Mixed:
    """Features whose cosine kernel is w K_x + (1 - w) K_y: unit rows of both, weighted and laid side by side.

    The baseline of every joint space: it needs no training.

    Args:
        x: Features of n samples.
        y: Features of the same samples, in the same order; any width.
        w: Weight of x's kernel, in [0, 1].

    Returns:
        [n, dx + dy] float32 unit rows, of x's kind and on its device.

    Raises:
        BadShape: If the numbers of rows differ.
        BadDtype, NotFinite, ZeroRow: As `mutual_knn`.
        BadChoice: If w is not in [0, 1].

    Example:
        >>> mixed(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]]), 0.25).round(3)
        array([[0.5  , 0.   , 0.   , 0.866]], dtype=float32)
    """
    if not 0 <= w <= 1:
        raise BadChoice(f"w = {w}: wanted a weight in [0, 1]")
    a, b = _unit_pair(x, y)
    return like(np.concatenate([np.sqrt(w) * a, np.sqrt(1 - w) * b], axis=1), x)


def joint(x: X, y: Y) -> Mixed:
    """Unit rows in the direction of the sum of two sides' unit rows: where two adapters meet.

    Args:
        x: Features of n samples.
        y: Features of the same samples, in the same order and of the same width.

    Returns:
        [n, d] float32 unit rows, of x's kind and on its device.

    Raises:
        BadShape: If shapes differ.
        BadDtype, NotFinite: As `mutual_knn`.
        ZeroRow: If a row of a side is zero, or two sides cancel.

    Example:
        >>> joint(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]])).round(3)
        array([[0.707, 0.707]], dtype=float32)
    """
    a, b = _unit_pair(x, y)
    if a.shape[1] != b.shape[1]:
        raise BadShape(f"x is {a.shape[1]} wide and y {b.shape[1]}: a sum needs one width; `mixed` takes any")
    return like(unit_rows(a + b, "x + y"), x)


def group_mean(x: X, groups: Groups) -> tuple[Means, list[Hashable]]:
    """Mean of each group's rows (five captions of a photo), and the groups in order of first occurrence.

    Args:
        x: Features [n, d].
        groups: The group of each row.

    Returns:
        Means [g, d] float32 (summed in float64), of x's kind and on its device, and the g groups.

    Raises:
        BadShape, BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> means, order = group_mean(np.array([[1.0], [5.0], [3.0]]), ["b", "a", "b"])
        >>> means.ravel().tolist(), order
        ([2.0, 5.0], ['b', 'a'])
    """
    values = plain(x)
    codes, order = group_codes(groups, len(values))
    sizes = np.bincount(codes)
    by_group = values[np.argsort(codes, kind="stable")]
    means = np.add.reduceat(by_group, np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]
    return like(means, x), order


def _unit_pair(x: X, y: Y) -> tuple[np.ndarray, np.ndarray]:
    a, b = unit_rows(plain(x, "x"), "x"), unit_rows(plain(y, "y"), "y")
    if len(a) != len(b):
        raise BadShape(
            f"x has {len(a)} rows and y has {len(b)}: row i of both must be the same sample; pair them by id"
        )
    return a, b
