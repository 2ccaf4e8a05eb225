"""Near-duplicates: rows that are much nearer to one gallery row than to the gallery's others."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from featcache.metrics.arrays import X
from featcache.metrics.knn.gallery import neighbors_in

DEPTH = 10
SHARE = 0.5


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """The nearest gallery row of each query, and whether the query is a near-duplicate of it."""

    nearest: Int[np.ndarray, " q"]  # gallery row
    similarity: Float[np.ndarray, " q"]  # cosine
    ratio: Float[np.ndarray, " q"]  # distance to it / distance to the tenth nearest; 1 where that is 0
    near: Bool[np.ndarray, " q"]  # ratio < SHARE


def near_duplicates(
    queries: X, gallery: X | Iterable[X], *, size: int, exclude: Int[np.ndarray, " q"] | None = None
) -> NearDuplicates:
    """Finds queries whose nearest gallery row is less than half as far away as their tenth nearest.

    Distances are those of unit rows. A fixed cosine would mean another thing for each encoder and data set; the
    distance to the tenth nearest is a scale of the query's own, and stays one where most queries have a copy. Copies of
    a picture pass the rule (recompressed, resized to half, cut by 5 %), different pictures of one kind do not;
    docs/runs.md has the rates. A query with ten look-alikes in the gallery is not found.

    Args:
        queries: Features [q, d].
        gallery: Features [n, d], or blocks of them in order.
        size: n, 3 or more. Below a hundred rows a tenth of them takes the ten's place, at least two: in a small gallery
            the tenth nearest is far.
        exclude: Gallery row of each query that is the query itself; None where none is.

    Raises:
        BadShape, BadDtype, NotFinite, ZeroRow, TooFewRows: As `neighbors_in`.

    Example:
        >>> gallery = np.eye(12)
        >>> result = near_duplicates(np.array([gallery[3] + 0.1, gallery[3] + gallery[4]]), gallery, size=12)
        >>> int(result.nearest[0]), result.near.tolist()
        (3, [True, False])

    Source: Lowe 2004, IJCV 60, section 7.1 (ratio of the nearest distance to that of another object).
    """
    graph = neighbors_in(queries, gallery, k=min(DEPTH, max(2, size // 10)), exclude=exclude)
    squared = np.maximum(2 - 2 * graph.similarities[:, [0, -1]], 0.0)
    squared[squared < 1e-12] = 0.0  # rounding of equal rows
    first, last = np.sqrt(squared).T
    ratio = np.divide(first, last, out=np.ones_like(first), where=last > 0)
    return NearDuplicates(graph.ids[:, 0], graph.similarities[:, 0], ratio, ratio < SHARE)
