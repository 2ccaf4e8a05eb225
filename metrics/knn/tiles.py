"""Exact neighbours at half the work: each tile of similarities serves its rows and its columns."""

import threading
from contextlib import nullcontext

import numpy as np
import torch

from featcache.metrics.knn import compiled
from featcache.metrics.knn.bfloat16 import Operands
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.plan import plan
from featcache.metrics.knn.products import Products, run_on_threads
from featcache.metrics.knn.threads import over_rows

_TILE = 640  # 1.6 MB of similarities: scanned while they are in the caches of the core that computed them


def nearest(
    space: SearchRows, codes: np.ndarray, *, k: int, tile: int | None, half: bool | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, str]:
    """The k nearest of each row by symmetric tiles, on every core that torch may use; memory O(threads * tile^2 + n k).

    Each thread computes the products of one pair of row blocks, S = A B^T, and enters them into the lists of the rows
    of A and, transposed, of B: half the products of a full search, and no tile is written to memory and sorted.
    Lists hold k and some more; `compiled.decide` orders them in float64 and says which are not certain.
    Rows of one group (`codes`) are not neighbours; every row has at least k candidates. Products are float32 or
    bfloat16 (`half`; None: what is quicker here).

    Returns:
        ids [n, k], float64 values [n, k], the rows whose lists could not be certified (their ids are not set), the
        number of pairs computed in float64, and what ran, in words.
    """
    n = len(space)
    chosen = plan(space, codes, k, half=half)
    operands = chosen.operands
    best = np.full((n, chosen.length), -np.inf, np.float32)
    best_ids = np.full(best.shape, -1, np.int32 if n < 2**31 else np.int64)
    _scan_all(space, operands, codes, best, best_ids, min(tile or _TILE, n))
    ids, similarities, uncertain = np.empty((n, k), best_ids.dtype), np.empty((n, k)), np.empty(n, bool)

    def decide(start: int, stop: int) -> int:
        return compiled.decide(
            *(space.values, space.scale, operands.bound, operands.rounding, operands.bias_reach),
            *(best, best_ids, space.distance, start, stop, ids, similarities, uncertain),
        )

    computed = sum(over_rows(decide, n))
    ran = f"tiles{', bfloat16' if operands.is_half else ''} ({torch.get_num_threads()} threads)"
    return ids, similarities, np.flatnonzero(uncertain), computed, ran


def _scan_all(
    space: SearchRows, operands: Operands, codes: np.ndarray, best: np.ndarray, best_ids: np.ndarray, tile: int
) -> None:
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
        products = Products(operands.rows, operands.rows, (tile, tile))
        while not failed.is_set():
            with take:
                pair = next(pairs, None)
            if pair is None:
                return
            start_i, start_j = pair[0] * tile, pair[1] * tile
            made = products.of(start_i, start_j)
            # In rising order, so that no two threads wait for each other.
            with owners[pair[0]], owners[pair[1]] if pair[1] != pair[0] else nullcontext():
                compiled.scan_tile(made, start_i, start_j, space.bias, codes, floor, best, best_ids)

    run_on_threads(work, threads, failed, half=operands.is_half)
