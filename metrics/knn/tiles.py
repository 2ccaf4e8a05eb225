"""Which rows are nearest to which, at half the work? Each tile of similarities serves its rows and its columns."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from featcache.metrics.knn import compiled
from featcache.metrics.knn.exact import Space
from featcache.metrics.knn.threads import one_blas_thread, over_rows

_MARGIN = 6  # entries beyond k and an eighth of it: near ties that are settled without searching again
_TILE = 640  # 1.6 MB of similarities: scanned while they are in the caches of the core that computed them


def nearest(
    space: Space, codes: np.ndarray, *, k: int, tile: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The k nearest of each row by symmetric tiles, on every core that torch may use.

    Each thread computes the products of one pair of row blocks, S = A B^T, and enters them into the lists of the rows
    of A and, transposed, of B: half the products of a full search, and no tile is written to memory and sorted.
    Lists hold k and some more; `featcache.metrics.knn.compiled.decide` orders them in float64 and says which are not certain.

    Memory: O(threads * tile^2 + n k).

    Args:
        space: The prepared rows.
        codes: [n] group of each row; rows of one group are not neighbours.
        k: Neighbours per row; every row has at least k candidates.
        tile: Rows of a block, or None to choose.

    Returns:
        ids [n, k], float64 values [n, k], the rows whose lists could not be certified (their ids are not set), and the
        number of pairs computed in float64.
    """
    n = len(space)
    best = np.full((n, k + k // 8 + _MARGIN), -np.inf, np.float32)
    who = np.full(best.shape, -1, np.int32 if n < 2**31 else np.int64)
    _scan_all(space, codes, best, who, min(tile or _TILE, n))
    ids, similarities, uncertain = np.empty((n, k), who.dtype), np.empty((n, k)), np.empty(n, bool)

    def decide(start: int, stop: int) -> int:
        return compiled.decide(
            space.values, space.scale, space.bound, best, who, space.distance, start, stop, ids, similarities, uncertain
        )

    computed = sum(over_rows(decide, n))
    return ids, similarities, np.flatnonzero(uncertain), computed


def _scan_all(space: Space, codes: np.ndarray, best: np.ndarray, who: np.ndarray, tile: int) -> None:
    """Fills the lists of all rows from the tiles on and above the diagonal."""
    n = len(space)
    blocks = -(-n // tile)
    floor = np.full(n, -np.inf, np.float32)
    owners = [threading.Lock() for _ in range(blocks)]
    # Along the diagonals: threads at work side by side seldom want the same rows, and every row's floor rises early.
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
                compiled.scan_tile(products, start_i, start_j, space.bias, codes, floor, best, who)

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        finally:
            failed.set()  # after an error or Ctrl-C the others stop at their next tile
