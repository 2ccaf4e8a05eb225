"""Exact neighbours at half the work: each tile of similarities serves its rows and its columns."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from featcache.metrics.knn import compiled
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.threads import one_blas_thread, over_rows

_MARGIN = 6  # entries beyond k and an eighth of it: near ties that are resolved without searching again
_TILE = 640  # 1.6 MB of similarities: scanned while they are in the caches of the core that computed them


def nearest(
    space: SearchRows, codes: np.ndarray, *, k: int, tile: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The k nearest of each row by symmetric tiles, on every core that torch may use; memory O(threads * tile^2 + n k).

    Each thread computes the products of one pair of row blocks, S = A B^T, and enters them into the lists of the rows
    of A and, transposed, of B: half the products of a full search, and no tile is written to memory and sorted.
    Lists hold k and some more; `compiled.decide` orders them in float64 and says which are not certain.
    Rows of one group (`codes`) are not neighbours; every row has at least k candidates.

    Returns:
        ids [n, k], float64 values [n, k], the rows whose lists could not be certified (their ids are not set), and the
        number of pairs computed in float64.
    """
    n = len(space)
    best = np.full((n, k + k // 8 + _MARGIN), -np.inf, np.float32)
    best_ids = np.full(best.shape, -1, np.int32 if n < 2**31 else np.int64)
    _scan_all(space, codes, best, best_ids, min(tile or _TILE, n))
    ids, similarities, uncertain = np.empty((n, k), best_ids.dtype), np.empty((n, k)), np.empty(n, bool)

    def decide(start: int, stop: int) -> int:
        return compiled.decide(
            *(space.values, space.scale, space.bound, best, best_ids, space.distance, start, stop),
            *(ids, similarities, uncertain),
        )

    computed = sum(over_rows(decide, n))
    return ids, similarities, np.flatnonzero(uncertain), computed


def _scan_all(space: SearchRows, codes: np.ndarray, best: np.ndarray, best_ids: np.ndarray, tile: int) -> None:
    """Fills the lists of all rows from the tiles on and above the diagonal."""
    n = len(space)
    blocks = -(-n // tile)
    floor = np.full(n, -np.inf, np.float32)
    owners = [threading.Lock() for _ in range(blocks)]
    # Along the diagonals: threads at work at one time seldom want the same rows, and every row's floor rises early.
    pairs = ((i, i + shift) for shift in range(blocks) for i in range(blocks - shift))
    take, threads = threading.Lock(), min(torch.get_num_threads(), blocks)
    failed = threading.Event()

    def work() -> None:
        memory = np.empty(tile * tile, np.float32)
        while not failed.is_set():
            with take:
                pair = next(pairs, None)
            if pair is None:
                return
            start_i, start_j = pair[0] * tile, pair[1] * tile
            rows, cols = space.centred[start_i : start_i + tile], space.centred[start_j : start_j + tile]
            products = memory[: len(rows) * len(cols)].reshape(len(rows), len(cols))
            np.matmul(rows, cols.T, out=products)
            # In rising order, so that no two threads wait for each other.
            with owners[pair[0]], owners[pair[1]] if pair[1] != pair[0] else nullcontext():
                compiled.scan_tile(products, start_i, start_j, space.bias, codes, floor, best, best_ids)

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        finally:
            failed.set()  # after an error or Ctrl-C the others stop at their next tile
