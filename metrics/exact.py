"""Which candidates are the nearest, decided by one float64 routine that no batch, tile or thread can change?

Float32 search (metrics.search, metrics.faiss_backend) proposes every pair that could be among the k nearest, given
the error bound of float32; this module computes those pairs again and decides. A pair's value is
`np.add.reduce` over one contiguous row of d float64 products: the order of that sum depends on d alone.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from metrics.arrays import unit_rows

Measure = Literal["cosine", "ip", "euclidean"]
MEASURES: tuple[Measure, ...] = ("cosine", "ip", "euclidean")

_HALF_ULP = 2.0**-24
_BLOCK_BYTES = 1 << 19  # gathered rows stay in the L2 cache


@dataclass(frozen=True, eq=False)
class Space:
    """Rows ready to be searched: float64 values that decide, float32 operands that propose.

    Args:
        values: [n, d] float64: what decides. Unit rows for "cosine", else rows scaled by a power of two.
        left: [n, d'] float32; left[i] @ right[j] orders the candidates j of row i.
        right: [n, d'] float32.
        bound: [n] float32: |float32 product - float64 value| of any pair of row i is below it, in any summation order.
        metric: "cosine", "ip" or "euclidean".
        scale: `values` times this are the features as given (1 for "cosine").
    """

    values: np.ndarray
    left: np.ndarray
    right: np.ndarray
    bound: np.ndarray
    metric: Measure
    scale: float

    def __len__(self) -> int:
        return len(self.values)


def prepare(values: np.ndarray, metric: Measure) -> Space:
    """Builds the float32 operands and their error bound; overwrites `values`.

    Raises:
        ZeroRow: If the metric is "cosine" and a row is zero.
    """
    scale = 1.0
    if metric == "cosine":
        values = unit_rows(values)
    else:
        scale = float(np.ldexp(1.0, int(np.frexp(np.abs(values).max())[1])))
        values *= 1.0 / scale if scale else 1.0
    left = right = values.astype(np.float32)
    norms = np.sqrt(np.add.reduce(values * values, axis=1))
    reach = norms * norms.max()
    if metric == "euclidean":
        # -|a - b|^2 orders b as a.b - |b|^2 / 2 does: one more column makes it an inner product.
        half = norms**2 / 2
        left = np.concatenate([left, np.ones((len(left), 1), np.float32)], axis=1)
        right = np.concatenate([right, -half[:, None].astype(np.float32)], axis=1)
        reach = reach + half.max()
    bound = product_bound(left.shape[1]) * (reach + 2.0**-96)  # the last: what underflow may lose
    return Space(values, left, right, bound.astype(np.float32), metric, scale)


def product_bound(terms: int) -> float:
    """How far a float32 product of two vectors may be from the float64 one, relative to their lengths.

    gamma_d |a||b| for d terms in any order (Higham 2002, eq. 3.5), with room for rounding the operands to float32
    (two half ulps), for comparing in float32 and for products below float32's smallest normal number.
    """
    return 1.02 * (terms + 8) * _HALF_ULP


def pair_values(space: Space, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The float64 value of each pair, larger is nearer: cosine, inner product, or minus the squared distance.

    Args:
        space: The prepared rows.
        rows: [m] row numbers.
        cols: [m] row numbers.

    Returns:
        [m] float64, in units of `space.values`.
    """
    return paired_values(space.values, space.values, rows, cols, distance=space.metric == "euclidean")


def paired_values(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray, *, distance: bool = False
) -> np.ndarray:
    """a[rows] . b[cols], pair by pair in a fixed order; minus the squared distance if `distance`."""
    values = np.empty(len(rows))
    step = max(1, _BLOCK_BYTES // (8 * a.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = a[rows[part]]
        if distance:
            block -= b[cols[part]]
            block *= block
        else:
            block *= b[cols[part]]
        np.add.reduce(block, axis=1, out=values[part])
    return np.negative(values, out=values) if distance else values


def nearest(space: Space, rows: np.ndarray, cols: np.ndarray, count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each row, best first, ties by the lower id.

    Args:
        space: The prepared rows.
        rows: [m] row number of each candidate pair; `count` different ones, at least k pairs each.
        cols: [m] candidate of each pair.
        count: Number of different rows.
        k: Neighbours per row.

    Returns:
        ids [count, k] and values [count, k] (float64, as `pair_values`), rows in rising order.
    """
    values = pair_values(space, rows, cols)
    order = np.lexsort((cols, -values, rows))
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    best = order[starts[:count, None] + np.arange(k)]
    return cols[best], values[best]


def reported(space: Space, values: np.ndarray) -> np.ndarray:
    """Values of `pair_values` in the units of the features as given: minus the distance for "euclidean"."""
    if space.metric == "euclidean":
        return -np.sqrt(-values) * space.scale
    with np.errstate(over="ignore"):  # an inner product beyond float64 is reported as infinite; its order is known
        return values * space.scale * space.scale
