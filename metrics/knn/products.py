"""Products of blocks of rows, one thread a product, in memory that is used again."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from featcache.metrics.knn.threads import one_blas_thread, one_openmp_thread


class Products:
    """Products of pairs of blocks of rows, one pair at a time: float32 rows in NumPy, bfloat16 rows in torch.

    Args:
        left: [n, d].
        right: [m, d], of the same kind.
        tile: Rows of a block of each, at most.
    """

    def __init__(
        self, left: np.ndarray | torch.Tensor, right: np.ndarray | torch.Tensor, tile: tuple[int, int]
    ) -> None:
        self.left, self.right, self.tile = left, right, tile
        self.memory = np.empty(tile[0] * tile[1], np.float32 if isinstance(left, np.ndarray) else np.uint16)

    def of(self, start_i: int, start_j: int) -> np.ndarray:
        """[r, c] products of the blocks that start there, float32 or the bits of bfloat16; overwritten by the next."""
        a, b = self.left[start_i : start_i + self.tile[0]], self.right[start_j : start_j + self.tile[1]]
        out = self.memory[: len(a) * len(b)].reshape(len(a), len(b))
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            torch.mm(a, b.T, out=torch.from_numpy(out.view(np.int16)).view(torch.bfloat16))
        else:
            np.matmul(a, b.T, out=out)
        return out


def run_on_threads(work: Callable[[], None], threads: int, failed: threading.Event, *, half: bool) -> None:
    """Runs `work` on so many threads, each of whose products takes one; the first error stops the others.

    Args:
        work: Looks at `failed` between products.
        threads: How many.
        failed: Set when one of them fails or is interrupted, and at the end.
        half: Whether products are torch's.
    """

    def alone() -> None:
        with one_openmp_thread() if half else nullcontext():
            work()

    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(alone) for _ in range(threads)]:
                done.result()
        finally:
            failed.set()
