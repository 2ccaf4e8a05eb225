"""Which pairs could be nearest neighbours, according to faiss? The only module that imports faiss."""

import numpy as np

from metrics.errors import BackendMissing
from metrics.exact import Space
from metrics.search import Exclusion, tile_rows

_MARGIN = 6  # beyond k and the row's own group: how many near ties are settled without searching again
_GROUP = 64  # larger groups are not over-fetched; their rows are searched again where needed


def proposals(
    space: Space, exclusion: Exclusion, *, k: int, tile: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidate pairs of the rows that faiss can certify, and the rows that it cannot.

    A row is certain when faiss' last returned value is below its k-th by more than twice the error bound:
    then nothing that faiss left out can be among the k nearest.

    Args:
        space: The prepared rows.
        exclusion: Pairs that are ruled out.
        k: Neighbours per row.
        tile: Queries per call, or None to choose.

    Returns:
        Row number and candidate of each pair [m], [m], and the rows to search again.

    Raises:
        BackendMissing: If faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise BackendMissing('backend="faiss" needs faiss-cpu or faiss-gpu: pip install faiss-cpu') from error
    n = len(space)
    fetch = min(n, k + min(int(exclusion.sizes.max()), _GROUP) + _MARGIN)
    step = max(1024, tile_rows(n, tile)) if tile is None else tile
    rows, cols, again = [], [], []
    for start in range(0, n, step):
        part = np.arange(start, min(start + step, n))
        values, ids = faiss.knn(space.left[part], space.right, fetch, metric=faiss.METRIC_INNER_PRODUCT)
        last = values[:, -1].copy()
        values[(exclusion.codes[ids] == exclusion.codes[part, None]) | (ids < 0)] = -np.inf
        kth = -np.partition(-values, k - 1, axis=1)[:, k - 1]
        floor = kth - 2 * space.bound[part]
        certain = (fetch == n) | ((kth > -np.inf) & (last < floor))
        keep = certain[:, None] & (values >= floor[:, None]) & (values > -np.inf)
        position, column = np.nonzero(keep)
        rows.append(part[position])
        cols.append(ids[position, column])
        again.append(part[~certain])
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(again)
