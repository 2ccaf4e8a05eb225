"""Spaces made of two spaces or of the rows of a group: kernel mixtures, sums and group means."""

from collections.abc import Hashable, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float
from torch import Tensor

from featcache.metrics.arrays import Groups, X, as_float64, float32_like, group_codes, unit_rows
from featcache.metrics.errors import BadChoice, BadShape

Mixed = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]
Means = Float[Tensor, "g dx"] | Float[np.ndarray, "g dx"]


def mixed(spaces: Sequence[X], weights: Sequence[float]) -> Mixed:
    """Features whose cosine kernel is the weighted sum of the spaces' cosine kernels: unit rows, weighted, joined.

    The baseline of every joint space: it needs no training.

    Args:
        spaces: Features [n, d] of the same n samples, in the same order; any widths.
        weights: Weight of each space's kernel, 0 or more, together 1.

    Returns:
        [n, sum of widths] float32 unit rows, of the first space's kind and on its device.

    Raises:
        BadShape, BadDtype, NotFinite, ZeroRow: As `mutual_knn`.
        BadChoice: If there are not as many weights as spaces, or they do not lie on the simplex.

    Example:
        >>> mixed([np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]])], [0.25, 0.75]).round(3)
        array([[0.5  , 0.   , 0.   , 0.866]], dtype=float32)
    """
    _check_weights(weights, len(spaces))
    units = _unit_spaces(spaces)
    parts = [np.sqrt(weight) * unit for weight, unit in zip(weights, units, strict=True)]
    return float32_like(np.concatenate(parts, axis=1), spaces[0])


def joint(spaces: Sequence[X], weights: Sequence[float] | None = None) -> Mixed:
    """Unit rows in the direction of the sum of the spaces' unit rows, perhaps weighted: where adapters meet.

    Arguments, result [n, d] and errors as `mixed`, but of one width and with equal weights where none are given;
    ZeroRow also where rows cancel.

    Example:
        >>> joint([np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]])]).round(3)
        array([[0.707, 0.707]], dtype=float32)
    """
    units = _unit_spaces(spaces)
    widths = [unit.shape[1] for unit in units]
    if len(set(widths)) > 1:
        raise BadShape(f"spaces are {' and '.join(map(str, widths))} wide: a sum needs one width; `mixed` takes any")
    if weights is not None:
        _check_weights(weights, len(units))
        units = [weight * unit for weight, unit in zip(weights, units, strict=True)]
    return float32_like(unit_rows(reduce(np.add, units), "the sum of the spaces"), spaces[0])


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


def _check_weights(weights: Sequence[float], count: int) -> None:
    on_simplex = all(weight >= 0 for weight in weights) and abs(sum(weights) - 1) < 1e-6
    if len(weights) != count or not on_simplex:
        raise BadChoice(f"weights = {[*weights]}: wanted {count} of 0 or more that sum to 1")


def _unit_spaces(spaces: Sequence[X]) -> list[np.ndarray]:
    if not len(spaces):
        raise BadChoice("spaces: wanted one or more")
    values = [as_float64(space, f"space {number}") for number, space in enumerate(spaces)]
    for number, other in enumerate(values):
        if len(other) != len(values[0]):
            raise BadShape(f"space 0 has {len(values[0])} rows and space {number} {len(other)}; row i is one sample")
    return [unit_rows(rows, f"space {number}") for number, rows in enumerate(values)]
