"""Neighbours from approximate faiss indexes, with their measured recall."""

from typing import Any, Literal

import numpy as np

from featcache.metrics.arrays import Groups, X, checked, group_codes
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn import exact, faiss_backend
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.gallery import neighbors_in
from featcache.metrics.knn.graph import Neighbors, check_choices, check_enough

Index = Literal["ivf", "hnsw"]
_MARGIN = 16  # fetched beyond k and the own group: ties that faiss orders otherwise
INDEXES: tuple[str, ...] = ("ivf", "hnsw")


def approximate_neighbors(
    x: X,
    *,
    k: int,
    index: Index = "hnsw",
    effort: int = 64,
    groups: Groups | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> Neighbors:
    """Neighbours by cosine from a faiss index, with the share of true ones measured on a sample of rows.

    For galleries beyond exact search only: a score of such graphs is a lower bound blurred by what the index missed, so
    its recall goes with it. The index's candidates are ordered in float64, ties by index, self and group excluded by
    id; rows for which it returned fewer than k end with -1. faiss builds an HNSW graph with several threads in no fixed
    order: the same seed gives the same sample, not always the same ids.

    Args:
        x: Features of n samples.
        k: Neighbours per row, 1 <= k < n.
        index: "hnsw" (32 links a row) or "ivf" (4 sqrt(n) cells, k-means from the seed).
        effort: Candidates kept while searching (hnsw: efSearch) or cells visited (ivf: nprobe).
        groups: The group of each row, or None.
        sample: Rows whose true neighbours are searched, to measure recall.
        seed: Of the sample and of k-means.

    Raises:
        As `neighbors`; BadChoice also for an unknown index, or if effort or sample is below 1.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
        >>> approximate_neighbors(x, k=5).recall > 0.9
        True

    Source: Malkov & Yashunin 2016, arXiv:1603.09320 (HNSW); Douze et al. 2024, arXiv:2401.08281 (faiss).
    """
    check_choices(k, "cosine", "faiss", None)
    if index not in INDEXES or effort < 1 or sample < 1:
        raise BadChoice(f"index {index!r}, effort {effort}, sample {sample}: wanted ivf or hnsw, 1 or more, 1 or more")
    values = checked(x)
    n = len(values)
    exclusion = Exclusion(group_codes(groups, n)[0])
    check_enough(exclusion, k)
    space = exact.prepare(values, "cosine")
    unit = (space.values * space.scale[:, None]).astype(np.float32)
    candidates = _search(unit, min(n, k + int(exclusion.sizes.max()) + _MARGIN), index, effort, seed)
    ids, similarities = _nearest(space, candidates, exclusion.codes, k)
    rows = np.sort(np.random.default_rng(seed).choice(n, min(sample, n), replace=False))
    codes = exclusion.codes
    true = neighbors_in(values[rows], values, k=k, groups=(codes[rows], codes))
    hit = (ids[rows, :, None] == true.ids[:, None, :]).any(axis=2)
    name = f"faiss {index}, effort {effort}, recall {hit.mean():.4f} on {len(rows)} rows"
    return Neighbors(ids, similarities, "cosine", name, int((ids >= 0).sum()), 0, recall=float(hit.mean()))


def _search(unit: np.ndarray, fetch: int, index: str, effort: int, seed: int) -> np.ndarray:
    faiss: Any = faiss_backend.library()
    n, d = unit.shape
    if index == "hnsw":
        built = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efSearch = max(effort, fetch)
    else:
        cells = max(1, min(int(4 * np.sqrt(n)), n // 39))  # faiss wants 39 rows a cell to place it well
        built = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
        built.cp.seed = seed
        built.nprobe = min(effort, cells)
        built.train(unit)
    built.add(unit)
    return built.search(unit, fetch)[1]


def _nearest(
    space: exact.SearchRows, candidates: np.ndarray, codes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each row, by float64 value, ties by id; -1 and NaN where there are fewer."""
    n, width = candidates.shape
    row = np.repeat(np.arange(n), width)
    col = candidates.ravel()
    values = np.full(n * width, -np.inf)
    valid = np.flatnonzero((col >= 0) & (codes[col] != codes[row]))
    values[valid] = exact.pair_values(space, row[valid], col[valid])
    best = np.lexsort((col, -values, row)).reshape(n, width)[:, :k]
    ids, similarities = col[best].astype(np.int32 if n < 2**31 else np.int64), values[best]
    ids[similarities == -np.inf] = -1
    similarities[similarities == -np.inf] = np.nan
    return ids, similarities
