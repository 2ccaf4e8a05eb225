"""Exact medians of more values than fit in memory, in a few passes that only count."""

from collections.abc import Callable, Iterator

import numpy as np

Passes = Callable[[], Iterator[np.ndarray]]
_DIGIT = 16  # bits of the float64 decided a pass
_KEPT = 1 << 21  # 16 MB: so few may be sorted


def median(passes: Passes, *, lower: bool = False) -> float:
    """The median of values that are 0 or more; `lower` takes the lower of two middle values instead of their mean.

    Each call of `passes` yields all values anew, piece by piece, the same every time.

    Example:
        >>> median(lambda: iter([np.array([3.0, 1.0]), np.array([2.0, 10.0])]))
        2.5
        >>> median(lambda: iter([np.array([3.0, 1.0]), np.array([2.0, 10.0])]), lower=True)
        2.0
    """
    count = sum(values.size for values in passes())
    low = _of_rank(passes, (count - 1) // 2)
    return low if lower or count % 2 else (low + _of_rank(passes, count // 2)) / 2


def _of_rank(passes: Passes, rank: int) -> float:
    """The value with `rank` values before it. Float64 numbers from 0 on sort as their bits do: a radix search."""
    prefix, shift = np.uint64(0), 64
    while True:
        shift -= _DIGIT
        counts = np.zeros(1 << _DIGIT, dtype=np.int64)
        for keys in _matching(passes, prefix, shift + _DIGIT):
            counts += np.bincount((keys >> np.uint64(shift)).astype(np.int64) & 0xFFFF, minlength=len(counts))
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[digit] - counts[digit])
        prefix = (prefix << np.uint64(_DIGIT)) | np.uint64(digit)
        if shift == 0:
            return float(prefix.view(np.float64))
        if counts[digit] <= _KEPT:
            near = np.concatenate(list(_matching(passes, prefix, shift)))
            return float(np.partition(near, rank)[rank].view(np.float64))


def _matching(passes: Passes, prefix: np.uint64, shift: int) -> Iterator[np.ndarray]:
    """Bits of the values that begin with the prefix."""
    for values in passes():
        keys = np.ascontiguousarray(values, dtype=np.float64).ravel().view(np.uint64)
        yield keys if shift == 64 else keys[keys >> np.uint64(shift) == prefix]
