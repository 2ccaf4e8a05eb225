"""Candidates of some queries in one block of a gallery, by tiles that are scanned as they are computed."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from featcache.metrics.knn import bfloat16, compiled, exact
from featcache.metrics.knn.bfloat16 import Operands
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.products import Products, run_on_threads

_TILE = 640
_WORK = 1 << 30  # multiplications up to which nothing is measured: float32
_OPEN = 0.1  # share of queries that stay open in a block, from which on bfloat16 is left


@dataclass(eq=False)
class Queries:
    """Queries of a gallery that comes block by block.

    Args:
        space: The queries.
        k: Neighbours.
        half: Whether bfloat16 proposes; None: where it is quicker, until it leaves too many queries open.
        own: Their rows in bfloat16, once they were needed.
        ran: What searched, in words.
    """

    space: SearchRows
    k: int
    half: bool | None = None
    own: bfloat16.Rounded | None = None
    ran: str = ""

    def candidates(
        self, block: SearchRows, known: np.ndarray, excluded: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every pair that may be among the k nearest, from lists that hold the best of each query.

        Args:
            block: Rows of the gallery, prepared `like` the queries.
            known: [q] float64 what a pair must reach in the order of c_i . c_j + bias_j; -inf for none.
            excluded: (query, row of the block) of pairs that are no neighbours.

        Returns:
            (query [m], row of the block [m], queries that are still open: the lists were too short for them).
        """
        half = self._is_half(block)
        if half or not self.ran:
            self.ran = f"tiles{', bfloat16' if half else ''} ({torch.get_num_threads()} threads)"
        mine, theirs = self._operands(block, half=half)
        bound = mine.bound.astype(np.float64)
        least = known - 2.0 * bound
        # below it no product plus bias can stand for what is known
        floor = least - mine.rounding * mine.bias_reach
        floor -= 1.02 * mine.rounding * np.where(np.isfinite(floor), np.abs(floor), 0.0)
        floor = np.nextafter(floor.astype(np.float32), np.float32(-np.inf))
        best, ids = self._scanned(block, floor, mine, theirs)
        full = (ids >= 0).all(axis=1) & (ids.shape[1] < len(block))  # else there is nothing that did not get in
        last = best.min(axis=1).astype(np.float64)
        best[ids < 0] = -np.inf
        _leave_out(best, ids, excluded)
        low = least
        if self.k <= best.shape[1]:
            kth = -np.partition(-best, self.k - 1, axis=1)[:, self.k - 1].astype(np.float64)
            low = np.maximum(low, kth - mine.slack(kth) - 2.0 * bound)
        open_ = full & (last + mine.slack(last) >= low)
        entries = best.astype(np.float64)
        keep = (entries + mine.slack(entries) >= low[:, None]) & (best > -np.inf) & ~open_[:, None]
        if half and self.half is None and open_.mean() > _OPEN:
            self.half = False
        query, at = np.nonzero(keep)
        return query, ids[query, at].astype(np.int64), np.flatnonzero(open_)

    def _is_half(self, block: SearchRows) -> bool:
        if self.half is not None:
            return self.half
        work = len(self.space) * len(block) * block.centred.shape[1]
        return work > _WORK and bfloat16.speed().ratio > 1

    def _operands(self, block: SearchRows, *, half: bool) -> tuple[Operands, np.ndarray | torch.Tensor]:
        """The queries as what proposes pairs with this block, and the block's rows."""
        if not half:
            bound = exact.value_bound(self.space, block)
            return Operands(self.space.centred, bound, 0.0, 0.0), block.centred
        own = self.own = self.own or bfloat16.rounded(self.space)
        theirs = bfloat16.rounded(block)
        bound = bfloat16.value_bound(self.space, own, block, theirs)
        reach = float(np.abs(block.bias).max())
        return Operands(own.rows, bound, bfloat16.ROUNDING, reach), theirs.rows

    def _scanned(
        self, block: SearchRows, floor: np.ndarray, mine: Operands, theirs: np.ndarray | torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best of each query that pass its floor, [q, m] float32, and their rows of the block, -1 for none."""
        q, n = len(self.space), len(block)
        threads = torch.get_num_threads()
        rows = min(_TILE, -(-q // threads))
        best = np.repeat(floor[:, None], min(2 * self.k + 16, n), axis=1)
        ids = np.full(best.shape, -1, np.int32)
        starts, take, failed = iter(range(0, q, rows)), threading.Lock(), threading.Event()

        def work() -> None:
            made = Products(mine.rows, theirs, (rows, min(_TILE, n)))
            while not failed.is_set():
                with take:
                    start = next(starts, None)
                if start is None:
                    return
                for column in range(0, n, _TILE):
                    compiled.scan_rows(made.of(start, column), start, column, block.bias, best, ids)

        run_on_threads(work, min(threads, -(-q // rows)), failed, half=mine.is_half)
        return best, ids


def _leave_out(best: np.ndarray, ids: np.ndarray, excluded: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Sets the entries of excluded pairs to -inf."""
    for query, row in excluded:
        if not len(query):
            continue
        key = np.int64(ids.max()) + 1 if ids.size else np.int64(1)
        key = max(int(key), int(row.max()) + 1)
        pairs = np.arange(len(ids), dtype=np.int64)[:, None] * key + ids
        hit = np.isin(pairs, query.astype(np.int64) * key + row) & (ids >= 0)
        best[hit] = -np.inf
