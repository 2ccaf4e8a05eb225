"""Spaces made of two spaces or of the rows of a group: kernel mixtures, sums and group means."""

from collections.abc import Hashable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from featcache.metrics.arrays import Groups, X, Y, as_float64, float32_like, group_codes, unit_rows
from featcache.metrics.errors import BadChoice, BadShape

Mixed = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]
Means = Float[Tensor, "g dx"] | Float[np.ndarray, "g dx"]


def mixed(x: X, y: Y, w: float) -> Mixed:
    """Features whose cosine kernel is w K_x + (1 - w) K_y: unit rows of both, weighted and concatenated.

    The baseline of every joint space: it needs no training. x [n, dx] and y [n, dy] are features of the same samples, w
    is in [0, 1]; returns [n, dx + dy] float32 unit rows, of x's kind and on its device. Errors as `mutual_knn`.

    Example:
        >>> mixed(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]]), 0.25).round(3)
        array([[0.5  , 0.   , 0.   , 0.866]], dtype=float32)
    """
    if not 0 <= w <= 1:
        raise BadChoice(f"w = {w}: wanted a weight in [0, 1]")
    a, b = _unit_pair(x, y)
    return float32_like(np.concatenate([np.sqrt(w) * a, np.sqrt(1 - w) * b], axis=1), x)


def joint(x: X, y: Y) -> Mixed:
    """Unit rows in the direction of the sum of two spaces' unit rows: where two adapters meet.

    Arguments, result [n, d] and errors as `mixed`, but of one width; ZeroRow also where two rows cancel.

    Example:
        >>> joint(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]])).round(3)
        array([[0.707, 0.707]], dtype=float32)
    """
    a, b = _unit_pair(x, y)
    if a.shape[1] != b.shape[1]:
        raise BadShape(f"x is {a.shape[1]} wide and y {b.shape[1]}: a sum needs one width; `mixed` takes any")
    return float32_like(unit_rows(a + b, "x + y"), x)


def group_mean(x: X, groups: Groups) -> tuple[Means, list[Hashable]]:
    """Mean of each group's rows (five captions of a photo), and the groups in order of first occurrence.

    Means [g, d] are float32 (summed in float64), of x's kind and on its device. Errors as `mutual_knn`.

    Example:
        >>> means, order = group_mean(np.array([[1.0], [5.0], [3.0]]), ["b", "a", "b"])
        >>> means.ravel().tolist(), order
        ([2.0, 5.0], ['b', 'a'])
    """
    values = as_float64(x)
    codes, order = group_codes(groups, len(values))
    sizes = np.bincount(codes)
    by_group = values[np.argsort(codes, kind="stable")]
    means = np.add.reduceat(by_group, np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]
    return float32_like(means, x), order


def _unit_pair(x: X, y: Y) -> tuple[np.ndarray, np.ndarray]:
    a, b = unit_rows(as_float64(x, "x"), "x"), unit_rows(as_float64(y, "y"), "y")
    if len(a) != len(b):
        raise BadShape(
            f"x has {len(a)} rows and y has {len(b)}: row i of both must be the same sample; pair them by id"
        )
    return a, b
