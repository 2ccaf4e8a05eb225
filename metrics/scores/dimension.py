"""Intrinsic dimension of a space, from the distances to the two nearest rows of each row."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from featcache.metrics.arrays import X, as_float64
from featcache.metrics.errors import BadChoice, ConstantSpace, TooFewRows
from featcache.metrics.knn.graph import neighbors

SAME = 1e-6  # distance over length below which float32 features are the same row


@dataclass(frozen=True)
class IntrinsicDimension:
    """An estimate of the dimension that the rows of a space fill."""

    value: float  # above 0
    n: int  # rows that differ, from which it was estimated
    repeated: int  # rows left out because an earlier one is the same


def intrinsic_dimension(
    x: X, *, discarded: float = 0.1, nearest: Int[np.ndarray, "n k"] | None = None
) -> IntrinsicDimension:
    """TwoNN: dimension from the ratio of each row's Euclidean distances to its second and first nearest row.

    Where density is constant as far as the second neighbour, ratios mu have the distribution 1 - mu^-d: the estimate is
    the slope through the origin of -log(1 - F(mu)) over log mu, F the empirical distribution, without the largest
    ratios. Biased downwards from about 10 dimensions on, the more the fewer rows. Rows equal to an earlier one have no
    ratio: they are left out (one of each stays) and counted. Invariant to rotation, translation and scale.

    Args:
        x: Features [n, d].
        discarded: Share of the ratios, the largest, that the line is not fitted to, above 0 and below 1.
        nearest: Two or more nearest rows of each, nearest first, if they are known; of unit rows those by cosine.

    Returns:
        The estimate, and from how many rows.

    Raises:
        BadShape, BadDtype, NotFinite: As `mutual_knn`.
        TooFewRows: If fewer than three rows differ, or too few are left to fit.
        ConstantSpace: If no row is nearer to its first than to its second nearest.
        BadChoice: If discarded is out of range.

    Example:
        >>> square = np.random.default_rng(0).uniform(size=(2000, 2)) @ np.eye(2, 7)
        >>> round(intrinsic_dimension(square).value, 1)
        2.0

    Source: Facco et al. 2017, Scientific Reports 7:12140, doi:10.1038/s41598-017-11873-y.
    """
    if not 0 < discarded < 1:
        raise BadChoice(f"discarded = {discarded}: wanted a share above 0 and below 1")
    values = as_float64(x)
    kept = np.arange(len(values))
    while True:
        own = values[kept]
        if len(own) < 3:
            raise TooFewRows(f"wanted at least 3 rows that differ, got {len(own)}")
        ids = neighbors(own, k=2, metric="euclidean").ids if nearest is None else nearest[:, :2]
        distances = np.linalg.norm(own[:, None] - own[ids], axis=2)
        same = distances <= SAME * np.linalg.norm(own, axis=1)[:, None]
        repeated = (same & (ids < np.arange(len(own))[:, None])).any(axis=1)
        if not repeated.any():
            break
        kept, nearest = kept[~repeated], None
    distances.sort(axis=1)
    return IntrinsicDimension(_slope(distances[:, 1] / distances[:, 0], discarded), len(kept), len(values) - len(kept))


def _slope(ratios: np.ndarray, discarded: float) -> float:
    """Least squares through the origin of -log(1 - F) over log mu."""
    fitted = int((1 - discarded) * len(ratios))
    if not fitted:
        raise TooFewRows(f"wanted a ratio that is not discarded, of {len(ratios)}")
    logs = np.log(np.sort(ratios)[:fitted])
    square = float(logs @ logs)
    if not square:
        raise ConstantSpace("every row is as far from its first as from its second nearest row")
    return float(logs @ -np.log1p(-np.arange(1, fitted + 1) / len(ratios))) / square
