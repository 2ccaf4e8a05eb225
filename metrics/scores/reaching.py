"""Compiled count of the similarities that reach a query's best match."""

import numba
import numpy as np

_CHUNK = 64  # similarities that are counted together before any of them is looked at alone


@numba.njit(nogil=True, cache=True)
def count_reaching(scores: np.ndarray, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many scores of each row are `high` or more, and row and column of those from `low` to below `high`.

    One pass: 64 scores are counted at once, and looked at alone only if one of them lies between.

    Args:
        scores: [q, g] float32.
        high: [q] float32, not below `low`.
        low: [q] float32.
    """
    above = np.zeros(len(scores), dtype=np.int64)
    rows, cols = [0 for _ in range(0)], [0 for _ in range(0)]  # numba reads the type of an empty list off these
    for i in range(len(scores)):
        line, top, floor = scores[i], high[i], low[i]
        for first in range(0, len(line), _CHUNK):
            last = min(first + _CHUNK, len(line))
            count, near = np.int32(0), np.int32(0)
            if last - first == _CHUNK:
                values = line[first:last]
                for c in range(_CHUNK):
                    count += np.int32(values[c] >= top)
                    near += np.int32(values[c] >= floor)
            else:
                for c in range(first, last):
                    count += np.int32(line[c] >= top)
                    near += np.int32(line[c] >= floor)
            above[i] += count
            if near == count:
                continue
            for c in range(first, last):
                if floor <= line[c] < top:
                    rows.append(i)
                    cols.append(c)
    return above, np.array(rows, dtype=np.int64), np.array(cols, dtype=np.int64)
