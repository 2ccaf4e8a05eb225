"""Threads over blocks of rows, and one thread a matrix product meanwhile."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

_ROWS = 2048
Result = TypeVar("Result")


def over_rows(work: Callable[[int, int], Result], n: int) -> list[Result]:
    """Calls `work(start, stop)` for blocks of n rows, on as many threads as torch may use; results in order.

    `work` is compiled code that releases the interpreter's lock; blocks never overlap.
    """
    spans = [(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS)]
    if len(spans) == 1:
        return [work(*spans[0])]
    with ThreadPoolExecutor(min(torch.get_num_threads(), len(spans))) as pool:
        return list(pool.map(lambda span: work(*span), spans))


_one_search = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread a matrix product while several products run in parallel, in this process for one caller at a time.

    The number is the whole process's: a second caller waits, as it would for the cores.
    """
    with _one_search, _controller().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def one_openmp_thread() -> Iterator[None]:
    """One thread a product of torch's, in the calling thread alone; others keep theirs."""
    torch.get_num_threads()  # a thread takes the process's number at its first use of torch, not behind our backs
    with _controller().limit(limits=1, user_api="openmp"):
        yield


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
