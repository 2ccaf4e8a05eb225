"""Exact neighbours of some queries in a large gallery, one block of the gallery in memory at a time."""

from collections.abc import Iterable
from dataclasses import dataclass

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
    best, seen, end = _Best(Queries(space, k), own, query_codes, device), 0, 0
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
        best.enter(_Block(part, start, None if codes is None else codes[start : start + len(rows)]))
        seen += len(rows)
    if seen != end:
        raise BadShape(f"gallery: {seen} rows came, numbered up to {end - 1}; wanted every row once")
    if codes is not None and len(codes) != seen:
        raise BadShape(f"groups: {len(codes)} entries for a gallery of {seen} rows")
    if own.max(initial=-1) >= seen or own.min(initial=0) < -1:
        raise BadChoice(f"exclude: wanted gallery rows 0 to {seen - 1}, or -1, got {own.min()} to {own.max()}")
    short = np.flatnonzero(best.ids[:, -1] < 0)
    if len(short):
        raise TooFewRows(f"k = {k}: query {short[0]} has fewer candidates among {seen} gallery rows; lower k")
    ids = best.ids.astype(np.int32 if seen < 2**31 else np.int64)
    return Neighbors(ids, exact.reported(space, best.values), metric, f"{best.ran}, blocks", best.computed, best.again)


def _codes(groups: tuple[Groups, Groups] | None, q: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    if groups is None:
        return None, None
    both = [list(own.tolist() if isinstance(own, np.ndarray) else own) for own in groups]
    if len(both[0]) != q:
        raise BadShape(f"groups: {len(both[0])} entries for {q} queries")
    codes = group_codes(both[0] + both[1], q + len(both[1]))[0]
    return codes[:q], codes[q:]


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of the gallery, prepared like the queries; the number of the first; their group numbers, or None."""

    rows: exact.SearchRows
    start: int
    codes: np.ndarray | None


class _Best:
    """The best k of every query so far.

    Args:
        queries: The queries.
        own: [q] gallery row of each that is the query itself; -1 for none.
        codes: [q] group numbers, or None.
        device: Where products are computed.
    """

    def __init__(self, queries: Queries, own: np.ndarray, codes: np.ndarray | None, device: torch.device) -> None:
        self.queries, self.own, self.codes, self.device = queries, own, codes, device
        self.values = np.full((len(queries.space), queries.k), -np.inf)
        self.ids = np.full(self.values.shape, -1)
        self.computed = self.again = 0

    @property
    def ran(self) -> str:
        """What searched, in words."""
        return self.queries.ran if self.device.type == "cpu" else f"torch ({self.device})"

    def enter(self, block: _Block) -> None:
        """Enters what a block has; on the CPU by tiles, and queries whose lists were too short as elsewhere."""
        every = np.arange(len(self.values))
        if self.device.type == "cpu":
            known, excluded = self._known(every), self._excluded(every, block)
            rows, cols, every = self.queries.candidates(block.rows, known, excluded)
            self._keep(rows, cols, block)
            self.again += len(every)
        self._enter_by_torch(every, block)

    def _enter_by_torch(self, queries: np.ndarray, block: _Block) -> None:
        if not len(queries):
            return
        space, n, device = self.queries.space, len(block.rows), self.device
        bound = exact.value_bound(space, block.rows)
        right = torch.from_numpy(block.rows.centred).to(device).T
        bias = torch.from_numpy(block.rows.bias).to(device)
        step = search.tile_rows(n, None)
        for first in range(0, len(queries), step):
            part = queries[first : first + step]
            with full_precision():
                scores = torch.addmm(bias, torch.from_numpy(space.centred[part]).to(device), right)
            for position, column in self._excluded(part, block):
                scores[torch.from_numpy(position).to(device), torch.from_numpy(column).to(device)] = -torch.inf
            floor = np.nextafter((self._known(part) - bound[part]).astype(np.float32), np.float32(-np.inf))
            limits, least = (torch.from_numpy(values).to(device) for values in (bound[part], floor))
            row, col = search.reaching(scores[:, None, :], min(self.queries.k, n), limits, floor=least)
            self._keep(part[row.cpu().numpy()], col.cpu().numpy(), block)

    def _keep(self, rows: np.ndarray, cols: np.ndarray, block: _Block) -> None:
        """Decides pairs of a query and a row of the block in float64."""
        values = exact.values_between(self.queries.space, block.rows, rows, cols)
        _keep_best(self.values, self.ids, rows, values, cols + block.start)
        self.computed += len(rows)

    def _known(self, part: np.ndarray) -> np.ndarray:
        """The k-th best value so far of some queries, [t] float64, in the order of c_i . c_j + bias_j.

        That is the value less what depends on the query alone: mu . u, or half of |c|^2.
        """
        space, kth = self.queries.space, self.values[part, -1]
        if space.distance:
            return kth / 2 + space.lengths[part] ** 2 / 2
        return kth - np.einsum("ij,j->i", space.values[part], space.mean) * space.scale[part]

    def _excluded(self, part: np.ndarray, block: _Block) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """(place in the part, column of the block) of the pairs that are ruled out."""
        column = self.own[part] - block.start
        here = np.flatnonzero((column >= 0) & (column < len(block.rows)))
        yield here, column[here]
        if self.codes is not None and block.codes is not None:
            count = int(max(self.codes.max(), block.codes.max())) + 1
            yield Exclusion(block.codes, count).members(self.codes[part])


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
