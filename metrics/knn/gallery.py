"""Exact neighbours of some queries in a large gallery, one block of the gallery in memory at a time."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int

from featcache.metrics.arrays import Groups, X, checked, group_codes
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.knn import exact, search
from featcache.metrics.knn.blocks import Queries
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.graph import Neighbors, check_choices
from featcache.metrics.knn.precision import full_precision


def neighbors_in(
    queries: X,
    gallery: X | Iterable[X] | Iterable[tuple[int, X]],
    *,
    k: int,
    exclude: Int[np.ndarray, " q"] | None = None,
    groups: tuple[Groups, Groups] | None = None,
    metric: exact.Measure = "cosine",
) -> Neighbors:
    """The k nearest gallery rows of each query, the same ids and similarities that a search of all rows would give.

    The gallery may be any iterable of blocks of rows, such as a cached array read chunk by chunk: then a query sample
    against 100 million rows needs the memory of one block. Each block is certified by itself: float32 proposes what the
    error bound cannot rule out, float64 decides, and the best k so far set the floor for the next block.
    Memory: O(q d + q k + block d), and a tile of similarities a thread (64 MB on a GPU).

    Args:
        queries: Features of q queries.
        gallery: Features [n, d]; or blocks of them in order; or (number of the first row, block) in any order, each row
            once, as the `blocks` of a cached array's reader gives them.
        k: Neighbours per query.
        exclude: Gallery row of each query that is the query itself; -1 for none.
        groups: (group of each query, group of each gallery row); rows of a query's group are no neighbours of it.
        metric: "cosine", "ip" or "euclidean".

    Returns:
        Graph of q rows whose ids are gallery rows, nearest first, ties by the lower id.

    Raises:
        BadShape: If widths differ, or groups or `exclude` do not fit.
        BadDtype, NotFinite, ZeroRow: As `neighbors`.
        BadChoice: If k < 1, or features of queries and gallery differ in size beyond float32.
        TooFewRows: If a query has fewer than k candidates; names the query.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> neighbors_in(x[:1], (x[:2], x[2:]), k=2, exclude=np.array([0])).ids
        array([[1, 3]], dtype=int32)
    """
    check_choices(k, metric, "torch", None)
    values = checked(queries, "queries")
    q = len(values)
    own = np.full(q, -1) if exclude is None else np.asarray(exclude)
    if own.shape != (q,) or not np.issubdtype(own.dtype, np.integer):
        raise BadShape(f"exclude: wanted one gallery row a query, [{q}] whole numbers, got {own.dtype} {own.shape}")
    query_codes, codes = _codes(groups, q)
    space = exact.prepare(values, metric, name="queries")
    device = queries.device if isinstance(queries, torch.Tensor) else torch.device("cpu")
    best, ids, seen, end, computed = np.full((q, k), -np.inf), np.full((q, k), -1), 0, 0, 0
    searched = Queries(space, k)
    for block in [gallery] if isinstance(gallery, np.ndarray | torch.Tensor) else gallery:
        start, block = block if isinstance(block, tuple) else (seen, block)
        name = f"gallery from row {start}"
        rows = checked(block, name)
        if rows.shape[1] != values.shape[1]:
            raise BadShape(f"queries are {values.shape[1]} wide, the gallery {rows.shape[1]}")
        part = exact.prepare(rows, metric, name=name, like=space)
        end = max(end, start + len(rows))
        if codes is not None and len(codes) < end:
            raise BadShape(f"groups: {len(codes)} entries for a gallery of at least {end} rows")
        block_codes = None if codes is None else codes[start : start + len(rows)]
        merge = _merge_tiles if device.type == "cpu" else _merge
        every = np.arange(q)
        computed += merge(searched, part, best, ids, every, start, own, (query_codes, block_codes), device)
        seen += len(rows)
    if seen != end:
        raise BadShape(f"gallery: {seen} rows came, numbered up to {end - 1}; wanted every row once")
    if codes is not None and len(codes) != seen:
        raise BadShape(f"groups: {len(codes)} entries for a gallery of {seen} rows")
    if own.max(initial=-1) >= seen or own.min(initial=0) < -1:
        raise BadChoice(f"exclude: wanted gallery rows 0 to {seen - 1}, or -1, got {own.min()} to {own.max()}")
    short = np.flatnonzero(ids[:, -1] < 0)
    if len(short):
        raise TooFewRows(f"k = {k}: query {short[0]} has fewer candidates among {seen} gallery rows; lower k")
    ids = ids.astype(np.int32 if seen < 2**31 else np.int64)
    ran = f"{searched.ran if device.type == 'cpu' else f'torch ({device})'}, blocks"
    return Neighbors(ids, exact.reported(space, best), metric, ran, computed, 0)


def _codes(groups: tuple[Groups, Groups] | None, q: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if groups is None:
        return None, None
    both = [list(own.tolist() if isinstance(own, np.ndarray) else own) for own in groups]
    if len(both[0]) != q:
        raise BadShape(f"groups: {len(both[0])} entries for {q} queries")
    codes = group_codes(both[0] + both[1], q + len(both[1]))[0]
    return codes[:q], codes[q:]


def _merge_tiles(
    queries: Queries,
    block: exact.SearchRows,
    best: np.ndarray,
    ids: np.ndarray,
    every: np.ndarray,
    start: int,
    own: np.ndarray,
    codes: tuple[np.ndarray | None, np.ndarray | None],
    device: torch.device,
) -> int:
    """As `_merge`, by tiles on the CPU; queries whose lists were too short are searched again as there."""
    excluded = _excluded(every, own, start, len(block), codes)
    rows, cols, again = queries.candidates(block, _known(queries.space, best, every), excluded)
    values = exact.values_between(queries.space, block, rows, cols)
    _keep_best(best, ids, rows, values, cols + start)
    if not len(again):
        return len(rows)
    return len(rows) + _merge(queries, block, best, ids, again, start, own, codes, device)


def _merge(
    queries: Queries,
    block: exact.SearchRows,
    best: np.ndarray,
    ids: np.ndarray,
    every: np.ndarray,
    start: int,
    own: np.ndarray,
    codes: tuple[np.ndarray | None, np.ndarray | None],
    device: torch.device,
) -> int:
    """Enters a block of the gallery, which starts at row `start`, into the best k of the queries `every`."""
    space, k, n = queries.space, best.shape[1], len(block)
    bound = exact.value_bound(space, block)
    right = torch.from_numpy(block.centred).to(device).T
    bias = torch.from_numpy(block.bias).to(device)
    step = search.tile_rows(n, None)
    computed = 0
    for first in range(0, len(every), step):
        part = every[first : first + step]
        with full_precision():
            scores = torch.addmm(bias, torch.from_numpy(space.centred[part]).to(device), right)
        for position, column in _excluded(part, own, start, n, codes):
            scores[torch.from_numpy(position).to(device), torch.from_numpy(column).to(device)] = -torch.inf
        floor = _known(space, best, part) - 2.0 * bound[part]
        floor = np.nextafter(floor.astype(np.float32), np.float32(-np.inf))
        limits = (torch.from_numpy(values).to(device) for values in (bound[part], floor))
        row, col = search.reaching(scores[:, None, :], min(k, n), *limits)
        rows, cols = part[row.cpu().numpy()], col.cpu().numpy()
        values = exact.values_between(space, block, rows, cols)
        _keep_best(best, ids, rows, values, cols + start)
        computed += len(rows)
    return computed


def _known(space: exact.SearchRows, best: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The k-th best value so far of some queries, [t] float64, in the order of c_i . c_j + bias_j.

    That is the value less what depends on the query alone: mu . u, or half of |c|^2.
    """
    if space.distance:
        return best[part, -1] / 2 + space.lengths[part] ** 2 / 2
    return best[part, -1] - np.einsum("ij,j->i", space.values[part], space.mean) * space.scale[part]


def _excluded(
    part: np.ndarray,
    own: np.ndarray,
    start: int,
    n: int,
    codes: tuple[np.ndarray | None, np.ndarray | None],
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """(place in the part, column of the block) of the pairs that are ruled out."""
    column = own[part] - start
    here = np.flatnonzero((column >= 0) & (column < n))
    yield here, column[here]
    if codes[0] is not None and codes[1] is not None:
        count = int(max(codes[0].max(), codes[1].max())) + 1
        yield Exclusion(codes[1], count).members(codes[0][part])


def _keep_best(best: np.ndarray, ids: np.ndarray, rows: np.ndarray, values: np.ndarray, cols: np.ndarray) -> None:
    """Merges pairs into the best k of their rows: by falling value, then rising id; writes into best and ids."""
    changed = np.unique(rows)
    k = best.shape[1]
    all_rows = np.concatenate([np.repeat(changed, k), rows])
    all_values = np.concatenate([best[changed].ravel(), values])
    all_ids = np.concatenate([ids[changed].ravel(), cols])
    order = np.lexsort((all_ids, -all_values, all_rows))
    starts = np.searchsorted(all_rows[order], changed)
    kept = order[starts[:, None] + np.arange(k)]
    best[changed], ids[changed] = all_values[kept], all_ids[kept]
