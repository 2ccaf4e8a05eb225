"""Exact neighbour graphs, the same ids whatever back end computed them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from featcache.metrics.arrays import Groups, X, checked, group_codes, is_whole
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn import bfloat16, exact, faiss_backend, search, tiles
from featcache.metrics.knn.bfloat16 import Operands
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.knn.plan import SMALL

Backend = Literal["auto", "tiles", "bfloat16", "torch", "faiss"]
BACKENDS: tuple[str, ...] = ("auto", "tiles", "bfloat16", "torch", "faiss")


@dataclass(frozen=True, eq=False)
class Neighbors:
    """A neighbour graph of n rows."""

    # neighbours of each row, nearest first, ties by the lower id; -1 behind the last of a short list (`among`)
    ids: Int[np.ndarray, "n k"]
    similarities: Float[np.ndarray, "n k"]  # cosine, inner product, or minus the Euclidean distance
    metric: str  # "cosine", "ip" or "euclidean"
    backend: str  # what searched: "tiles (2 threads)", "tiles, bfloat16 (2 threads)", "torch (cuda:0)", "faiss (cpu)"
    recomputed: int  # pairs that were decided in float64
    searched_again: int  # rows that the back end could not certify, so that torch searched them
    recall: float | None = None  # share of true neighbours, measured on a sample of rows; None where ids are exact

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.ids.shape[0]

    @property
    def k(self) -> int:
        """Neighbours per row."""
        return self.ids.shape[1]

    def among(self, rows: Int[np.ndarray, " m"]) -> "Neighbors":
        """The graph of some rows among themselves, from the lists that are there.

        Row i is row rows[i] of this one; ids count in the new order. Each list keeps its order; where entries were
        dropped it ends with -1 (similarity NaN): exact as far as it goes, and short if fewer than the wanted k are
        left. BadChoice if rows are not distinct row numbers; all n of them rearrange the graph.

        Example:
            >>> graph = neighbors(np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]]), k=2)
            >>> graph.among(np.array([3, 2, 1])).ids.tolist()
            [[1, 2], [2, -1], [1, -1]]
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.size == 0:
            raise BadChoice(f"rows: wanted row numbers [m], got {rows.dtype} of shape {rows.shape}")
        if rows.min() < 0 or rows.max() >= self.n or len(np.unique(rows)) != len(rows):
            raise BadChoice(f"rows: wanted distinct numbers from 0 to {self.n - 1}")
        place = np.full(self.n + 1, -1, dtype=self.ids.dtype)  # the last: where -1 points
        place[rows] = np.arange(len(rows))
        ids, similarities = place[self.ids[rows]], self.similarities[rows]
        if len(rows) < self.n:
            order = np.argsort(ids < 0, axis=1, kind="stable")  # what is left moves to the front
            ids, similarities = np.take_along_axis(ids, order, 1), np.take_along_axis(similarities, order, 1)
            similarities[ids < 0] = np.nan
        return replace(self, ids=ids, similarities=similarities)


def neighbors(
    x: X,
    *,
    k: int,
    groups: Groups | None = None,
    metric: exact.Measure = "cosine",
    backend: Backend = "auto",
    tile: int | None = None,
    name: str = "x",
) -> Neighbors:
    """The k nearest rows of each row, self and same group excluded by id, ties broken by index.

    Float32 or bfloat16 products propose, with a bound of their error in any order of the sum; one float64 routine of
    fixed order decides. So the ids are bit-equal for every tile size, thread count, device and back end.
    Memory: one float32 copy of x (and one of half its size for "bfloat16"), and O(tile^2 + n k) for "tiles" and
    "bfloat16", O(tile * n) for the others.

    Args:
        x: Features of n samples.
        k: Neighbours per row, 1 <= k < n.
        groups: The group of each row, n hashables; rows of one group are never neighbours. None: only self is excluded.
        metric: "cosine", "ip" (inner product as it is) or "euclidean".
        backend: "tiles" (compiled, on the CPU: half the products), "bfloat16" (the same with products in bfloat16; on
            another device torch's), "torch" (on the device of x) or "faiss" (faiss-cpu, or faiss-gpu for a CUDA
            tensor). "auto": for features on the CPU whichever tiles are quicker, by a short measurement that is kept
            for the machine and a sample of rows; for others "torch", or "bfloat16" where a first tile is quicker so.
        tile: Rows searched at a time; None chooses. Changes time and memory, never the result.
        name: What the messages call x.

    Returns:
        Ids [n, k] (int32 below 2 ** 31 rows), similarities, and what computed them.

    Raises:
        BadShape, BadDtype, NotFinite, ZeroRow: As `mutual_knn`.
        TooFewRows: If a row has fewer than k rows outside its group; names the row.
        BadChoice: If k, metric, back end or tile is not one that exists.
        BackendMissing: If backend is "faiss" and faiss is not installed.

    Example:
        >>> x = torch.tensor([[1., 0.], [.9, .1], [0., 1.], [.1, .9]])
        >>> neighbors(x, k=1).ids.ravel().tolist()
        [1, 0, 3, 2]
        >>> neighbors(x, k=1, groups=["a", "a", "b", "b"]).ids.ravel().tolist()
        [3, 3, 1, 1]

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, section 3.1 (error bound).
    """
    check_choices(k, metric, backend, tile)
    values = checked(x, name)
    n = len(values)
    exclusion = Exclusion(group_codes(groups, n)[0])
    check_enough(exclusion, k)
    space = exact.prepare(values, metric, name=name)
    device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
    half, operands = {"auto": None, "tiles": False, "bfloat16": True}.get(backend, False), None
    if backend == "tiles" or (backend in ("auto", "bfloat16") and device.type == "cpu"):
        ids, values, again, recomputed, ran = tiles.nearest(space, exclusion.codes, k=k, tile=tile, half=half)
    else:
        ids, values = np.empty((n, k), np.int32 if n < 2**31 else np.int64), np.empty((n, k))
        operands = _torch_operands(space, exclusion, half, k=k, tile=tile, device=device)
        again, recomputed = np.arange(n), 0
        ran = f"torch{', bfloat16' if operands.is_half else ''} ({device})"
    if backend == "faiss":
        rows, cols, again = faiss_backend.proposals(space, exclusion, k=k, tile=tile, device=device)
        certain = np.setdiff1d(np.arange(n), again, assume_unique=True)
        if len(certain):
            ids[certain], values[certain] = exact.select_nearest(space, rows, cols, len(certain), k)
        recomputed, ran = len(rows), f"faiss ({device})"
    proposed = search.proposals(space, exclusion, again, k=k, tile=tile, device=device, operands=operands)
    for part, rows, cols in proposed:
        ids[part], values[part] = exact.select_nearest(space, rows, cols, len(part), k)
        recomputed += len(rows)
    searched_again = 0 if operands is not None and backend != "faiss" else len(again)
    return Neighbors(ids, exact.reported(space, values), metric, ran, recomputed, searched_again)


def _torch_operands(
    space: exact.SearchRows,
    exclusion: Exclusion,
    half: bool | None,
    *,
    k: int,
    tile: int | None,
    device: torch.device,
) -> Operands:
    """What torch multiplies on a device: as `half` says, or whatever is quicker there."""
    if half is None and len(space) > SMALL:
        return search.quicker(space, exclusion, k=k, tile=tile, device=device)
    return bfloat16.halved(space) if half else bfloat16.single(space)


def check_choices(k: int, metric: str, backend: str, tile: int | None) -> None:
    """Raises BadChoice, with what there is, for options that are out of range or unknown."""
    if not is_whole(k) or k < 1:
        raise BadChoice(f"k = {k!r}: wanted a whole number of neighbours, 1 or more")
    if metric not in exact.MEASURES:
        raise BadChoice(f"metric {metric!r} is unknown; there are {', '.join(exact.MEASURES)}")
    if backend not in BACKENDS:
        raise BadChoice(f"backend {backend!r} is unknown; there are {', '.join(BACKENDS)}")
    if tile is not None and (not isinstance(tile, int | np.integer) or tile < 1):
        raise BadChoice(f"tile = {tile}: wanted a whole number of rows, 1 or more, or None")


def check_enough(exclusion: Exclusion, k: int) -> None:
    """Raises TooFewRows, naming the first row, if a row has fewer than k candidates."""
    left = len(exclusion.codes) - exclusion.sizes[exclusion.codes]
    short = np.flatnonzero(left < k)
    if len(short):
        row = short[0]
        raise TooFewRows(
            f"k = {k}: row {row} has only {left[row]} rows outside its group (n = {len(left)}, its group has "
            f"{len(left) - left[row]}); {len(short)} rows run short. Lower k or measure more rows"
        )
