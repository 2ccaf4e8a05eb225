"""The float64 values that decide which candidates are nearest, whatever batch, tile or thread proposed them.

Float32 search (tiles, search, faiss_backend) proposes every pair that could be among the k nearest, given the error
bound of float32; a pair's value is then computed again from the features as given, in float64 and in one order that
depends on d alone (compiled), and that decides.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.errors import BadChoice, ZeroRow
from featcache.metrics.knn import compiled
from featcache.metrics.knn.threads import over_rows

Measure = Literal["cosine", "ip", "euclidean"]
MEASURES: tuple[Measure, ...] = ("cosine", "ip", "euclidean")

_HALF_ULP = 2.0**-24


@dataclass(frozen=True, eq=False)
class SearchRows:
    """Rows ready to be searched: the values that decide, and centred float32 operands that propose.

    Candidates j of a row i are ordered by u_i . u_j (u: unit rows for "cosine") or -|u_i - u_j|^2 / 2. With c = u - mu
    for any fixed mu, both are c_i . c_j + bias_j and something that depends on i alone. Centred rows are shorter, so
    float32 says more about them: features whose mean cosine is .99 would else be near ties throughout.
    """

    values: np.ndarray  # [n, d] float32 or float64: what decides
    scale: np.ndarray  # [n] float64: 1 / |row| for "cosine", else 1; a pair is worth values . values * scale * scale
    centred: np.ndarray  # [n, d] float32, c
    bias: np.ndarray  # [n] float32
    bound: np.ndarray  # [n] float32: above |float32 value - float64 value| of any pair of row i, in any order
    metric: Measure  # "cosine", "ip" or "euclidean"
    unit: float  # `values` times this are the features as given
    mean: np.ndarray  # [d] float64, mu
    lengths: np.ndarray  # [n] float64, |c|
    reach: np.ndarray  # [n] float64, |u| + |mu|

    def __len__(self) -> int:
        return len(self.values)

    @property
    def distance(self) -> bool:
        """Whether a pair's value is minus a squared distance."""
        return self.metric == "euclidean"


def prepare(values: np.ndarray, metric: Measure, *, name: str = "x", like: SearchRows | None = None) -> SearchRows:
    """Builds the float32 operands and their error bound from checked features [n, d], which are not written to.

    With `like`, rows that these will be compared with, mu and unit are theirs. ZeroRow if the metric is "cosine" and a
    row is zero; BadChoice if these rows are longer than those of `like` by more than float32 can bridge.
    """
    values, unit = _in_range(values, metric, None if like is None else like.unit)
    n, d = values.shape
    scale = _inverse_lengths(values, name) if metric == "cosine" else np.ones(n)
    if like is not None:
        mu = like.mean
    else:
        mu = sum(over_rows(lambda start, stop: compiled.row_sum(values, scale, start, stop), n), np.zeros(d)) / n
    centred, bias, lengths, reach = np.empty((n, d), np.float32), *(np.empty(n) for _ in range(3))
    distance = metric == "euclidean"
    over_rows(
        lambda start, stop: compiled.centre(values, scale, mu, distance, start, stop, centred, bias, lengths, reach), n
    )
    lengths, reach = np.sqrt(lengths), np.sqrt(reach) + np.sqrt(mu @ mu)
    space = SearchRows(values, scale, centred, bias.astype(np.float32), np.empty(0), metric, unit, mu, lengths, reach)
    return replace(space, bound=value_bound(space, space))


def relative_bound(terms: int) -> float:
    """How far a float32 product of two vectors may be from the float64 one, relative to their lengths.

    gamma_d |a||b| for d terms in any order (Higham 2002, eq. 3.5), with room for rounding the operands to float32
    (two half ulps), for adding and comparing in float32 and for products below float32's smallest normal number.
    """
    return 1.02 * (terms + 8) * _HALF_ULP


def value_bound(rows: SearchRows, candidates: SearchRows) -> np.ndarray:
    """How far a float32 value c_i . c_j + bias_j may be from the pair's float64 value, [n] float32, for each row i.

    The candidates are prepared `like` the rows, or are the same. The bias is one more term of the product. Last comes
    what float64 itself may lose in centring and in the deciding sum: it matters only where rows agree to ten digits.
    """
    d = len(rows.mean)
    single = rows.lengths * candidates.lengths.max() + float(np.abs(candidates.bias).max()) + 2.0**-96
    double = (4 * d + 36) * 2.0**-53 * rows.reach * candidates.reach.max()
    return (relative_bound(d + 1) * single + double).astype(np.float32)


def pair_values(space: SearchRows, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The float64 value of each pair of row numbers [m], in units of `space.values`; larger is nearer.

    Cosine, inner product, or minus the squared distance.
    """
    return values_between(space, space, rows, cols)


def values_between(a: SearchRows, b: SearchRows, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The float64 value of pairs of a row of `a` and a row of `b`, as `pair_values`."""
    out = np.empty(len(rows))
    compiled.pair_values(a.values, b.values, a.scale, b.scale, rows, cols, a.distance, out)
    return out


def paired_values(a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """a[rows] . b[cols], pair by pair in a fixed order, [m] float64."""
    out = np.empty(len(rows))
    compiled.pair_values(a, b, np.ones(len(a)), np.ones(len(b)), rows, cols, False, out)
    return out


def select_nearest(
    space: SearchRows, rows: np.ndarray, cols: np.ndarray, count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each row, best first, ties by the lower id.

    The pairs rows [m], cols [m] hold `count` different rows with at least k candidates each. Returns ids [count, k] and
    their values as `pair_values`, rows in rising order.
    """
    values = pair_values(space, rows, cols)
    order = np.lexsort((cols, -values, rows))
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    best = order[starts[:count, None] + np.arange(k)]
    return cols[best], values[best]


def reported(space: SearchRows, values: np.ndarray) -> np.ndarray:
    """Values of `pair_values` in the units of the features as given: minus the distance for "euclidean"."""
    if space.metric == "cosine":
        return values
    if space.metric == "euclidean":
        return -np.sqrt(-values) * space.unit
    with np.errstate(over="ignore"):  # an inner product beyond float64 is reported as infinite; its order is known
        return values * space.unit * space.unit


def _in_range(values: np.ndarray, metric: Measure, unit: float | None) -> tuple[np.ndarray, float]:
    """Values in a dtype that decides, whose squares and float32 copies stay in range, and their unit.

    float16 becomes float32, which is exact. Features of unusual size are scaled by a power of two, which changes no
    digit: row by row for "cosine", all alike otherwise.
    """
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if metric == "cosine":
        if values.dtype == np.float32:
            return values, 1.0
        peak = np.maximum(values.max(axis=1), -values.min(axis=1))
        if peak.max() <= 1e100 and peak[peak > 0].min(initial=1.0) >= 1e-100:
            return values, 1.0
        return np.ldexp(values, -np.frexp(np.where(peak > 0, peak, 1.0))[1][:, None]), 1.0
    peak = float(max(values.max(), -values.min()))
    if unit is None:
        unit = 1.0 if peak == 0 or 2.0**-20 < peak < 2.0**20 else float(np.ldexp(1.0, int(np.frexp(peak)[1])))
    elif peak / unit > 2.0**50:
        raise BadChoice(f"features reach {peak:.3g}, those they are compared with about {unit:.3g}: scale both alike")
    return (values, unit) if unit == 1 else (values.astype(np.float64) / unit, unit)


def _inverse_lengths(values: np.ndarray, name: str) -> np.ndarray:
    lengths = np.empty(len(values))
    over_rows(lambda start, stop: compiled.squared_lengths(values[start:stop], lengths[start:stop]), len(values))
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise ZeroRow(f"{name}: {len(zero)} of {len(values)} rows are zero, the first is row {zero[0]}; no cosine")
    return 1 / np.sqrt(lengths)
