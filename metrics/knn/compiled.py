"""Compiled loops over neighbours: float64 values in a fixed order, scans of a tile, counts of shared neighbours.

Numba compiles them at first use and caches the result. Nothing here may be compiled with fastmath: the order of every
float64 sum is part of the result.
"""

import numba
import numpy as np
from numba import types
from numba.extending import overload

_CHUNK = 64  # similarities that are looked at together before any of them is looked at alone
SLOTS = 1 << 12  # few enough to stay in the first cache; ids that share one are compared


@numba.njit(inline="always")
def _dot(a, b):  # noqa: ANN001, ANN202 - typed by numba
    """Sum of a[i] * b[i] in float64: eight running sums, then their fixed tree, whatever machine or vector width."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = len(a) // 8 * 8
    for i in range(0, whole, 8):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
        s4 += np.float64(a[i + 4]) * np.float64(b[i + 4])
        s5 += np.float64(a[i + 5]) * np.float64(b[i + 5])
        s6 += np.float64(a[i + 6]) * np.float64(b[i + 6])
        s7 += np.float64(a[i + 7]) * np.float64(b[i + 7])
    for i in range(whole, len(a)):
        s0 += np.float64(a[i]) * np.float64(b[i])
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@numba.njit(inline="always")
def _squared_distance(a, b):  # noqa: ANN001, ANN202
    """Sum of (a[i] - b[i])^2 in float64, in the order of `_dot`."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = len(a) // 8 * 8
    for i in range(0, whole, 8):
        s0 += (np.float64(a[i]) - np.float64(b[i])) ** 2
        s1 += (np.float64(a[i + 1]) - np.float64(b[i + 1])) ** 2
        s2 += (np.float64(a[i + 2]) - np.float64(b[i + 2])) ** 2
        s3 += (np.float64(a[i + 3]) - np.float64(b[i + 3])) ** 2
        s4 += (np.float64(a[i + 4]) - np.float64(b[i + 4])) ** 2
        s5 += (np.float64(a[i + 5]) - np.float64(b[i + 5])) ** 2
        s6 += (np.float64(a[i + 6]) - np.float64(b[i + 6])) ** 2
        s7 += (np.float64(a[i + 7]) - np.float64(b[i + 7])) ** 2
    for i in range(whole, len(a)):
        s0 += (np.float64(a[i]) - np.float64(b[i])) ** 2
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@numba.njit(nogil=True, cache=True)
def squared_lengths(values: np.ndarray, out: np.ndarray) -> None:
    """out[i] = |values[i]|^2, float64."""
    for i in range(len(values)):
        out[i] = _dot(values[i], values[i])


@numba.njit(nogil=True, cache=True)
def row_sum(values: np.ndarray, scale: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Sum of the rows start ... stop times their scale, [d] float64."""
    total = np.zeros(values.shape[1])
    for i in range(start, stop):
        for c in range(len(total)):
            total[c] += values[i, c] * scale[i]
    return total


@numba.njit(nogil=True, cache=True)
def centre(
    values: np.ndarray,
    scale: np.ndarray,
    mean: np.ndarray,
    distance: bool,
    start: int,
    stop: int,
    centred: np.ndarray,
    bias: np.ndarray,
    lengths: np.ndarray,
    reach: np.ndarray,
) -> None:
    """Fills c = u - mean (rounded to float32), bias, |c|^2 and |u|^2 of rows start ... stop; see `exact.SearchRows`."""
    row = np.empty(values.shape[1])
    for i in range(start, stop):
        for c in range(len(row)):
            row[c] = values[i, c] * scale[i]
        reach[i] = _dot(row, row)
        for c in range(len(row)):
            row[c] -= mean[c]
            centred[i, c] = row[c]
        lengths[i] = _dot(row, row)
        bias[i] = -lengths[i] / 2 if distance else _dot(row, mean)


@numba.njit(nogil=True, cache=True)
def pair_values(
    a: np.ndarray,
    b: np.ndarray,
    a_scale: np.ndarray,
    b_scale: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    distance: bool,
    out: np.ndarray,
) -> None:
    """out[p] = a[rows[p]] . b[cols[p]] times both scales, or minus the squared distance; float64.

    The scales are multiplied with each other first, so that a pair has one value from both its ends.
    """
    for p in range(len(rows)):
        i, j = rows[p], cols[p]
        if distance:
            out[p] = -_squared_distance(a[i], b[j])
        else:
            out[p] = _dot(a[i], b[j]) * (a_scale[i] * b_scale[j])


@numba.njit(inline="always")
def _sift(best, best_ids, value, row, size):  # noqa: ANN001, ANN202
    """Puts a value in place of the smallest of a heap (smallest first) and restores the heap."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and best[child + 1] < best[child]:
            child += 1
        if best[child] >= value:
            break
        best[at] = best[child]
        best_ids[at] = best_ids[child]
        at = child
    best[at] = value
    best_ids[at] = row


@numba.njit(inline="always")
def _sort_falling(best, best_ids):  # noqa: ANN001, ANN202
    """Orders a heap (smallest first) by falling value."""
    for size in range(len(best) - 1, 0, -1):
        value, row = best[size], best_ids[size]
        best[size], best_ids[size] = best[0], best_ids[0]
        _sift(best, best_ids, value, row, size)


def _single(value):  # noqa: ANN001, ANN202 - typed by numba
    """A float32, or the one that the 16 bits of a bfloat16 stand for; for compiled code alone."""
    raise NotImplementedError


@overload(_single, inline="always")
def _single_of(value):  # noqa: ANN001, ANN202
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@numba.njit(nogil=True, cache=True)
def to_bfloat16(centred: np.ndarray, start: int, stop: int, bits: np.ndarray, residual: np.ndarray) -> None:
    """Rounds rows start ... stop to the nearest bfloat16, ties to even: fills bits, and the length of what was lost."""
    for i in range(start, stop):
        lost, words = 0.0, centred[i].view(np.uint32)
        for c in range(centred.shape[1]):
            whole = words[c]
            short = np.uint16((whole + np.uint32(0x7FFF) + ((whole >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
            bits[i, c] = short
            lost += (np.float64(centred[i, c]) - np.float64(_single(short))) ** 2
        residual[i] = np.sqrt(lost) * (1 + 1e-9)


@numba.njit(inline="always")
def _any_passes(values, biases, floors, row_floor, row_bias, both):  # noqa: ANN001, ANN202
    """Whether one of _CHUNK similarities passes its row's floor or, if `both`, its column's.

    A length that the compiler knows, and 32-bit hits, make vector instructions of it: twelve times as fast.
    """
    hit = np.int32(0)
    if both:
        for c in range(_CHUNK):
            value = _single(values[c])
            hit |= np.int32((value + biases[c] > row_floor) | (value + row_bias > floors[c]))
    else:
        for c in range(_CHUNK):
            hit |= np.int32(_single(values[c]) + biases[c] > row_floor)
    return hit != 0


@numba.njit(nogil=True, cache=True)
def scan_tile(
    tile: np.ndarray,
    start_i: int,
    start_j: int,
    bias: np.ndarray,
    codes: np.ndarray,
    floor: np.ndarray,
    best: np.ndarray,
    best_ids: np.ndarray,
) -> None:
    """Enters the similarities of one tile into the lists of its rows and, off the diagonal, of its columns.

    One pass: 64 similarities are compared with their row's and their columns' floors at once, and looked at alone
    only if one of them passes.

    Args:
        tile: [r, c] products of rows start_i ... and start_j ..., float32 or the bits of bfloat16 (uint16).
        start_i: Number of the tile's first row.
        start_j: Number of its first column; equal to start_i on the diagonal, where only rows are served.
        bias: [n] float32; a product plus the bias of j orders the candidates j of any row.
        codes: [n] group numbers; rows of one group are not entered.
        floor: [n] float32, the smallest of each list: what a candidate must pass.
        best: [n, m] float32, each list a heap with its smallest first; -inf where nothing is entered yet.
        best_ids: [n, m] int32, their row numbers.
    """
    count, size = tile.shape[1], best.shape[1]
    both = start_i != start_j
    col_bias, col_floor = bias[start_j : start_j + count], floor[start_j : start_j + count]
    for r in range(len(tile)):
        i = start_i + r
        line = tile[r]
        row_floor, row_bias = floor[i], bias[i]
        for first in range(0, count, _CHUNK):
            last = min(first + _CHUNK, count)
            if last - first == _CHUNK:
                values, biases, floors = line[first:last], col_bias[first:last], col_floor[first:last]
                if not _any_passes(values, biases, floors, row_floor, row_bias, both):
                    continue
            for c in range(first, last):
                j, value = start_j + c, _single(line[c])
                if value + bias[j] > row_floor and codes[i] != codes[j]:
                    _sift(best[i], best_ids[i], value + bias[j], j, size)
                    row_floor = best[i, 0]
                if both and value + row_bias > floor[j] and codes[i] != codes[j]:
                    _sift(best[j], best_ids[j], value + row_bias, i, size)
                    floor[j] = best[j, 0]
        floor[i] = row_floor


@numba.njit(nogil=True, cache=True)
def scan_rows(
    tile: np.ndarray, start_i: int, start_j: int, bias: np.ndarray, best: np.ndarray, best_ids: np.ndarray
) -> None:
    """Enters the similarities of one tile into the lists of its rows alone; arguments as of `scan_tile`.

    Lists may start with a floor and the id -1 in place of entries: what does not pass it is not entered.
    """
    count, size = tile.shape[1], best.shape[1]
    col_bias = bias[start_j : start_j + count]
    for r in range(len(tile)):
        i, line = start_i + r, tile[r]
        row_floor = best[i, 0]
        for first in range(0, count, _CHUNK):
            last = min(first + _CHUNK, count)
            if last - first == _CHUNK:
                values, biases = line[first:last], col_bias[first:last]
                if not _any_passes(values, biases, biases, row_floor, row_floor, False):
                    continue
            for c in range(first, last):
                value = _single(line[c]) + col_bias[c]
                if value > row_floor:
                    _sift(best[i], best_ids[i], value, start_j + c, size)
                    row_floor = best[i, 0]


@numba.njit(nogil=True, cache=True)
def decide(
    values: np.ndarray,
    scale: np.ndarray,
    bound: np.ndarray,
    rounding: float,
    bias_reach: float,
    best: np.ndarray,
    best_ids: np.ndarray,
    distance: bool,
    start: int,
    stop: int,
    ids: np.ndarray,
    similarities: np.ndarray,
    uncertain: np.ndarray,
) -> int:
    """The k nearest of rows start ... stop from their lists, by float64 value, ties by the lower id.

    The lists of `scan_tile` are sorted in place. A list is certain if its last entry is below its k-th by more than
    what both may be off: the bound of the row and `rounding` of the product, which is at most |entry| + bias_reach.
    Then nothing that did not get in can be among the k nearest. Others are marked, to be searched again. Returns the
    number of pairs that were computed in float64.
    """
    k, m = ids.shape[1], best.shape[1]
    exact = np.empty(m)
    computed = 0
    for i in range(start, stop):
        _sort_falling(best[i], best_ids[i])
        kth, last = np.float64(best[i, k - 1]), np.float64(best[i, m - 1])
        low = kth - rounding * (abs(kth) + bias_reach) - 2 * np.float64(bound[i])
        uncertain[i] = last > -np.inf and last + rounding * (abs(last) + bias_reach) >= low
        if uncertain[i]:
            continue
        kept = 0
        for c in range(m):
            entry = np.float64(best[i, c])
            if entry == -np.inf or entry + rounding * (abs(entry) + bias_reach) < low:
                break
            j = best_ids[i, c]
            if distance:
                value = -_squared_distance(values[i], values[j])
            else:
                value = _dot(values[i], values[j]) * (scale[i] * scale[j])
            at = kept  # insertion by falling value, then rising id, into the part of `best_ids` already read
            while at > 0 and (exact[at - 1] < value or (exact[at - 1] == value and best_ids[i, at - 1] > j)):
                exact[at] = exact[at - 1]
                best_ids[i, at] = best_ids[i, at - 1]
                at -= 1
            exact[at] = value
            best_ids[i, at] = j
            kept += 1
        computed += kept
        for c in range(k):
            ids[i, c] = best_ids[i, c]
            similarities[i, c] = exact[c]
    return computed


@numba.njit(nogil=True, cache=True)
def count_shared(a: np.ndarray, b: np.ndarray, orders: np.ndarray, counts: np.ndarray) -> None:
    """counts[p, i]: neighbours of row i in a that are neighbours in b taken in orders[p]; -1 where a list is short."""
    draws, n = orders.shape
    k = a.shape[1]
    mark = np.empty(SLOTS, dtype=np.int32)
    for p in range(draws):
        order = orders[p]
        mark[:] = -1
        for i in range(n):
            row = order[i]  # the row of b that stands at i; it names j by order[j]
            if a[i, k - 1] < 0 or b[row, k - 1] < 0:
                counts[p, i] = -1
                continue
            for c in range(k):
                mark[b[row, c] & (SLOTS - 1)] = i
            count = 0
            for c in range(k):
                wanted = order[a[i, c]]
                if mark[wanted & (SLOTS - 1)] != i:
                    continue
                if _holds(b[row], wanted):
                    count += 1
            counts[p, i] = count


@numba.njit(nogil=True, cache=True)
def count_cycles(a: np.ndarray, b: np.ndarray, orders: np.ndarray, counts: np.ndarray) -> None:
    """counts[p, i]: 1 where row i is in a's list of one of its neighbours in b taken in orders[p]; -1 where short."""
    draws, n = orders.shape
    k = a.shape[1]
    place = np.empty(n, dtype=np.int32)
    for p in range(draws):
        order = orders[p]
        for i in range(n):
            place[order[i]] = i
        for i in range(n):
            counts[p, i] = -1 if a[i, k - 1] < 0 or b[order[i], k - 1] < 0 else 0
            if counts[p, i] < 0:
                continue
            for neighbour in b[order[i]]:
                if _holds(a[place[neighbour]], i):
                    counts[p, i] = 1
                    break


@numba.njit(inline="always")
def _holds(ids, wanted):  # noqa: ANN001, ANN202
    for other in ids:
        if other == wanted:
            return True
    return False
