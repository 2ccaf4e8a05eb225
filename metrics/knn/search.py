"""Candidate neighbours from tiles of products, on any device, that keep every pair the error bound cannot rule out."""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch

from featcache.metrics.knn import bfloat16, exact
from featcache.metrics.knn.bfloat16 import Operands
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.precision import full_precision

_TILE_ENTRIES = 1 << 24  # 64 MB of float32 similarities: fewer, larger steps lose less to waiting threads
_CHUNK = 32


def tile_rows(n: int, tile: int | None) -> int:
    """Rows per tile: `tile`, or if None so many that a tile of similarities is about 64 MB, at least 64."""
    return tile or max(64, _TILE_ENTRIES // n)


def proposals(
    space: SearchRows,
    exclusion: Exclusion,
    rows: np.ndarray,
    *,
    k: int,
    tile: int | None,
    device: torch.device | str,
    operands: Operands | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Candidate pairs of each tile of `rows`, which are rising row numbers; every true neighbour is among them.

    Columns are dealt into chunks; the k-th largest chunk maximum is a lower bound of the k-th largest value,
    and only chunks that reach it, less what both may be off, are looked into: one pass over the similarities.
    Every row has at least k candidates. Products are computed on `device`, `tile` rows at a time, of `operands` (None:
    the float32 rows).

    Yields:
        The tile's rows, and (row number, candidate) of each pair [m], [m].
    """
    n = len(space)
    chunk = max(1, min(_CHUNK, n // (8 * k)))
    peaks_per_row = -(-n // chunk)
    if not len(rows):
        return
    operands = operands or bfloat16.single(space)
    multiplied = torch.as_tensor(operands.rows).to(device)
    bias, bound = (torch.from_numpy(values).to(device) for values in (space.bias, operands.bound))
    step = min(tile_rows(n, tile), len(rows))
    scores = torch.empty((step, chunk * peaks_per_row), device=device, dtype=torch.float32)
    scores[:, n:] = -torch.inf  # what fills the last chunk up
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        at = torch.from_numpy(part).to(device)
        values = scores[: len(part)]
        products(multiplied[at], multiplied.T, bias, values[:, :n])
        position, excluded = (torch.from_numpy(ids).to(device) for ids in exclusion.pairs(part))
        values[position, excluded] = -torch.inf
        chunks = values.view(len(part), chunk, peaks_per_row)
        position, cols = reaching(chunks, k, bound[at], operands.rounding, operands.bias_reach)
        yield part, part[position.cpu().numpy()], cols.cpu().numpy()


def products(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    """Fills out = left right + bias, float32, from float32 or bfloat16 rows."""
    with full_precision():
        if left.dtype == torch.float32:
            torch.addmm(bias, left, right, out=out)
        else:
            torch.add(torch.mm(left, right), bias, out=out)  # sums in float32


def quicker(space: SearchRows, exclusion: Exclusion, *, k: int, tile: int | None, device: torch.device) -> Operands:
    """Float32 rows or, where a first tile is done sooner with them, pairs decided too, rows in bfloat16."""
    rows = np.arange(min(len(space), tile_rows(len(space), tile)))

    def seconds(operands: Operands) -> float:
        started = perf_counter()
        proposed = proposals(space, exclusion, rows, k=k, tile=tile, device=device, operands=operands)
        for part, pairs, cols in proposed:
            exact.select_nearest(space, pairs, cols, len(part), k)
        return perf_counter() - started

    both = bfloat16.single(space), bfloat16.halved(space)
    for operands in both:  # the first of a kind pays for what the device has to load
        seconds(operands)
    return min(both, key=seconds)


def reaching(
    scores: torch.Tensor,
    k: int,
    bound: torch.Tensor,
    rounding: float = 0.0,
    bias_reach: float = 0.0,
    floor: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the scores [t, chunk, peaks] that what they may be off cannot rule out of the k largest.

    A score is off by `bound` [t], and by `rounding` of its product, which is at most |score| + bias_reach. Excluded
    pairs have the score -inf. If k is above `peaks`, every score is looked into. The floor [t] is a value known to be
    too small.
    """
    peaks = scores.amax(dim=1)
    low = torch.full_like(bound, -torch.inf)
    if k <= peaks.shape[1]:
        kth = peaks.topk(k, dim=1).values[:, -1]
        size = kth.abs().nan_to_num(posinf=0.0)  # of -inf, where too many chunks are excluded
        low = kth - bound - rounding * (size + bias_reach)
    if floor is not None:
        low = torch.maximum(low, floor)
    low = low - bound - rounding * bias_reach
    # the least score s with s + rounding |s| >= low
    low = low / torch.where(low > 0, 1 + rounding, 1 - rounding)
    low = low - 1e-6 * low.abs() if rounding else low
    row, peak = (peaks >= low[:, None]).nonzero(as_tuple=True)
    values = scores[row, :, peak]
    hit, member = ((values >= low[row, None]) & (values > -torch.inf)).nonzero(as_tuple=True)
    return row[hit], member * scores.shape[2] + peak[hit]
