"""Candidate neighbours from faiss; the only module that imports faiss."""

from functools import partial
from typing import Any

import numpy as np
import torch

from featcache.metrics.errors import BackendMissing
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.search import tile_rows

_MARGIN = 6  # beyond k and the row's own group: how many near ties are resolved without searching again
_GROUP = 64  # larger groups are not over-fetched; their rows are searched again where needed


def proposals(
    space: SearchRows, exclusion: Exclusion, *, k: int, tile: int | None, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row number and candidate [m] of each pair of the rows that faiss can certify, and the rows to search again.

    A row is certain when faiss' last returned value is below its k-th by more than twice the error bound:
    then nothing that faiss left out can be among the k nearest. Arguments as `search.proposals`; a device "cuda"
    searches with faiss-gpu. BackendMissing if faiss is not installed.
    """
    faiss = library()
    search = faiss.knn
    if device.type == "cuda":
        if not hasattr(faiss, "StandardGpuResources"):
            raise BackendMissing('backend="faiss" on a CUDA tensor needs faiss-gpu; this faiss has no GPU support')
        search = partial(faiss.knn_gpu, faiss.StandardGpuResources(), device=device.index or 0)
    n = len(space)
    # faiss knows inner products only: the bias is one more column.
    left, right = (np.concatenate([space.centred, more[:, None]], 1) for more in (np.ones(n, np.float32), space.bias))
    fetch = min(n, k + min(int(exclusion.sizes.max()), _GROUP) + _MARGIN)
    step = max(1024, tile_rows(n, tile)) if tile is None else tile
    rows, cols, again = [], [], []
    for start in range(0, n, step):
        part = np.arange(start, min(start + step, n))
        values, ids = search(left[part], right, fetch, metric=faiss.METRIC_INNER_PRODUCT)
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


def library() -> Any:
    """The faiss module; BackendMissing if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise BackendMissing("faiss is not installed: pip install faiss-cpu, or faiss-gpu for CUDA") from error
    return faiss
