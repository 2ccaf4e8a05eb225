"""Candidate neighbours from float32 tiles that keep every pair the error bound cannot rule out."""

from collections.abc import Iterator

import numpy as np
import torch

from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.precision import full_precision

_TILE_ENTRIES = 1 << 24  # 64 MB of float32 similarities: fewer, larger steps lose less to waiting threads
_CHUNK = 32


def tile_rows(n: int, tile: int | None) -> int:
    """Rows per tile: `tile`, or if None so many that a tile of similarities is about 64 MB, at least 64."""
    return tile or max(64, _TILE_ENTRIES // n)


def proposals(
    space: SearchRows, exclusion: Exclusion, rows: np.ndarray, *, k: int, tile: int | None, device: torch.device | str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Candidate pairs of each tile of `rows`, which are rising row numbers; every true neighbour is among them.

    Columns are dealt into chunks; the k-th largest chunk maximum is a lower bound of the k-th largest value,
    and only chunks that reach it, less twice the error bound, are looked into: one pass over the similarities.
    Every row has at least k candidates. Products are computed on `device`, `tile` rows at a time.

    Yields:
        The tile's rows, and (row number, candidate) of each pair [m], [m].
    """
    n = len(space)
    chunk = max(1, min(_CHUNK, n // (8 * k)))
    peaks_per_row = -(-n // chunk)
    if not len(rows):
        return
    centred, bias = (torch.from_numpy(values).to(device) for values in (space.centred, space.bias))
    bound = torch.from_numpy(space.bound).to(device)
    step = min(tile_rows(n, tile), len(rows))
    scores = torch.empty((step, chunk * peaks_per_row), device=device, dtype=torch.float32)
    scores[:, n:] = -torch.inf  # what fills the last chunk up
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        at = torch.from_numpy(part).to(device)
        with full_precision():
            values = scores[: len(part)]
            torch.addmm(bias, centred[at], centred.T, out=values[:, :n])
        position, excluded = (torch.from_numpy(ids).to(device) for ids in exclusion.pairs(part))
        values[position, excluded] = -torch.inf
        position, cols = reaching(values.view(len(part), chunk, peaks_per_row), k, bound[at])
        yield part, part[position.cpu().numpy()], cols.cpu().numpy()


def reaching(
    scores: torch.Tensor, k: int, bound: torch.Tensor, floor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of the scores [t, chunk, peaks] that the bound [t] cannot rule out of the k largest.

    Excluded pairs have the score -inf. If k is above `peaks`, every score is looked into. The floor [t] is what is
    known already to be too small.
    """
    peaks = scores.amax(dim=1)
    low = peaks.topk(k, dim=1).values[:, -1] - 2 * bound if k <= peaks.shape[1] else torch.full_like(bound, -torch.inf)
    if floor is not None:
        low = torch.maximum(low, floor)
    row, peak = (peaks >= low[:, None]).nonzero(as_tuple=True)
    values = scores[row, :, peak]
    hit, member = ((values >= low[row, None]) & (values > -torch.inf)).nonzero(as_tuple=True)
    return row[hit], member * scores.shape[2] + peak[hit]
