"""Centred kernels of a space, as its rows or as its Gram matrix, whichever is smaller, and their inner products.

Of spaces with more rows than columns the products come from d x d matrices, |a^T b|^2; n x n kernels of wider spaces
are multiplied entry by entry. Products run on the device of the features, sums in float64.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featcache.metrics.knn.precision import full_precision

Cross = Callable[[np.ndarray], np.ndarray]  # orders [p, n] -> scores [p]

_BLOCK_ROWS = 256  # rows centred at a time: their float64 copy stays in the cache
_PANEL = 256  # columns of x^T x at a time: what lies below the diagonal is left out
NOISE = {torch.float64: 1e-14, torch.float32: 1e-6}  # below this share of the products nothing but rounding is left


@dataclass(frozen=True, eq=False)
class RowKernel:
    """The linear kernel of a space with more rows than columns, as its rows."""

    name: str  # what the messages call the space
    own: float  # inner product of the centred kernel with itself; 0 if the kernel is constant
    rows: Tensor  # [n, d] features, centred, times 2 ** exponent
    lengths: np.ndarray  # [n] float64 squared lengths of the rows: minus the kernel's row sums without its diagonal
    exponent: int = 0  # see rows

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class GramKernel:
    """A kernel as its matrix [n, n]: centred, or U-centred if debiased. Other fields as `RowKernel`."""

    name: str
    own: float
    matrix: Tensor
    exponent: int = 0

    def __len__(self) -> int:
        return len(self.matrix)


LinearKernel = RowKernel | GramKernel


def centred_rows(values: np.ndarray, dtype: type[np.floating[Any]] = np.float64) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows [n, d] minus their mean, their squared lengths [n], and the exponent of two that they were scaled by.

    Mean and lengths are float64 whatever the dtype of the rows. Features whose fourth powers would leave the dtype are
    scaled by a power of two, which changes no digit.

    Example:
        >>> centred_rows(np.array([[1.0, 2.0], [3.0, 2.0]]))
        (array([[-1.,  0.],
               [ 1.,  0.]]), array([1., 1.]), 0)
    """
    peak, exponent = max(float(values.max()), -float(values.min())), 0
    limit = 100 if dtype is np.float64 else 30
    if peak and not 2.0**-limit < peak < 2.0**limit:
        exponent = -int(np.frexp(peak)[1])
        values = np.ldexp(values.astype(np.float64), exponent)
    mean = values.mean(axis=0, dtype=np.float64)
    rows, lengths = np.empty(values.shape, dtype), np.empty(len(values))
    for start in range(0, len(values), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        block = values[part] - mean
        rows[part] = block
        np.einsum("ij,ij->i", block, block, out=lengths[part])
    return rows, lengths, exponent


def linear_kernel(
    rows: Tensor, lengths: np.ndarray, *, debiased: bool, name: str = "x", exponent: int = 0
) -> LinearKernel:
    """The linear kernel of centred rows [n, d] with their squared lengths [n]."""
    n, d = rows.shape
    if n <= d:
        with full_precision():
            kernel = rows @ rows.T
        return gram_kernel(kernel, debiased=debiased, name=name, exponent=exponent)
    squares = own = _self_product(rows)
    floor = NOISE[rows.dtype] * squares
    if debiased:
        cross = float(lengths @ lengths)
        own = unbiased(n, squares - cross, cross, float(lengths.sum()) ** 2)
        floor /= n * (n - 3)
    return RowKernel(name, own if own > floor else 0.0, rows, lengths, exponent)


def gram_kernel(kernel: Tensor, *, debiased: bool, name: str = "x", exponent: int = 0) -> GramKernel:
    """Centres a kernel [n, n], which is overwritten.

    Debiased means U-centred, the diagonal left out: Song et al.'s estimate of HSIC is the inner product of U-centred
    kernels over n (n - 3) (Szekely & Rizzo 2014, Annals of Statistics 42).
    """
    n = len(kernel)
    if debiased:
        kernel.fill_diagonal_(0)
    before = _squares(kernel)
    sums = kernel.sum(dim=1, dtype=torch.float64)
    means = sums / (n - 2 if debiased else n)
    grand = sums.sum() / ((n - 1) * (n - 2) if debiased else n * n)
    kernel -= (means - grand).to(kernel.dtype)[:, None]
    kernel -= means.to(kernel.dtype)
    if debiased:
        kernel.fill_diagonal_(0)
    own = _squares(kernel)
    if own <= NOISE[kernel.dtype] * before:
        own = 0.0
    return GramKernel(name, own / (n * (n - 3) if debiased else 1), kernel, exponent)


def unbiased(n: int, product: Any, cross: Any, totals: Any) -> Any:
    """Song et al.'s unbiased HSIC (eq. 5) from kernels without their diagonals.

    `product` is the sum of K_ij L_ij over i != j and `cross` the inner product of their row sums, one, or one for each
    order of the second space; `totals` is the product of the two kernels' sums.
    """
    return (product + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross) / (n * (n - 3))


def linear_product(a: LinearKernel, b: LinearKernel, *, debiased: bool) -> float:
    """Inner product of two linear kernels: tr(KHLH), or debiased Song et al.'s eq. 5."""
    n = len(a)
    with full_precision():
        if isinstance(a, RowKernel) and isinstance(b, RowKernel):
            squares = _squares(a.rows.T @ b.rows)
            if not debiased:
                return squares
            cross = float(a.lengths @ b.lengths)
            return unbiased(n, squares - cross, cross, float(a.lengths.sum() * b.lengths.sum()))
        # One centred kernel is enough: centring is a projection, so that <HKH, HLH> = <HKH, L>; U-centring likewise.
        if isinstance(a, GramKernel):
            product = a.matrix * b.matrix if isinstance(b, GramKernel) else (a.matrix @ b.rows) * b.rows
        else:
            assert isinstance(b, GramKernel)
            product = (b.matrix @ a.rows) * a.rows
    return torch.sum(product, dtype=torch.float64).item() / (n * (n - 3) if debiased else 1)


def linear_part(space: LinearKernel, rows: np.ndarray, *, debiased: bool) -> LinearKernel:
    """The linear kernel of some rows: centred anew, unless all rows are only rearranged."""
    whole = len(rows) == len(space)
    if isinstance(space, GramKernel):
        at = row_index(rows, space.matrix.device)
        kernel = space.matrix[at[:, None], at]
        if whole:
            return replace(space, matrix=kernel)
        return gram_kernel(kernel, debiased=debiased, name=space.name, exponent=space.exponent)
    taken = space.rows[row_index(rows, space.rows.device)]
    if whole:
        return replace(space, rows=taken, lengths=space.lengths[rows])
    wide = taken.double()
    wide -= wide.mean(dim=0)
    lengths = (wide * wide).sum(dim=1).cpu().numpy()
    return linear_kernel(wide.to(taken.dtype), lengths, debiased=debiased, name=space.name, exponent=space.exponent)


def feature_cross(a: RowKernel, b: RowKernel, *, debiased: bool) -> tuple[Cross, int]:
    """Cosine of two linear kernels, the second in other orders: only |a^T b[order]|^2 depends on the order.

    Returns the function, which multiplies in float32, and how many numbers it moves for one order.
    """
    n, width = b.rows.shape
    # Each space is scaled so that its kernel has norm 1.
    (left, p), (right, q) = (
        ((space.rows / space.own**0.25).float(), space.lengths / space.own**0.5) for space in (a, b)
    )
    left = left.T.contiguous()

    def cross(orders: np.ndarray) -> np.ndarray:
        # All orders of the batch concatenated, [n, p, d]: one large product instead of p small ones.
        moved = right[row_index(orders.T, right.device)].view(n, -1)
        with full_precision():
            product = left @ moved
        squares = (product * product).view(len(left), len(orders), -1).sum(dim=2).sum(dim=0, dtype=torch.float64)
        total = squares.cpu().numpy()
        if not debiased:
            return total
        diagonals = q[orders] @ p
        return unbiased(n, total - diagonals, diagonals, float(p.sum() * q.sum()))

    return cross, n * width


def gram_cross(left: Tensor, right: Tensor) -> tuple[Cross, int]:
    """Cosine of two `unit_kernel`s, the second in other orders; returns what `feature_cross` does.

    Memory: a third [n, n] float32, or many small ones.
    """

    def cross(orders: np.ndarray) -> np.ndarray:
        at = row_index(orders, right.device)
        moved = right[at[:, :, None], at[:, None, :]]
        moved *= left
        return moved.sum(dim=2).sum(dim=1, dtype=torch.float64).cpu().numpy()

    return cross, left.numel()


def unit_linear(space: LinearKernel, tiles: Iterable[slice], *, debiased: bool) -> Tensor:
    """The centred linear kernel over its norm, [n, n] float32."""
    n = len(space)
    norm = (space.own * (n * (n - 3) if debiased else 1)) ** 0.5
    if isinstance(space, GramKernel):
        kernel = space.matrix
        return unit_kernel(lambda part: kernel[part] / norm, n, tiles)
    # Rows of a centred linear kernel sum to 0; without the diagonal, to minus the squared length.
    means, grand = centring(-space.lengths if debiased else np.zeros(n), debiased=debiased)
    rows, shift = space.rows, torch.from_numpy(means).to(space.rows)

    def tile(part: slice) -> Tensor:
        with full_precision():
            made = rows[part] @ rows.T
        return centred_tile(made, shift, grand, part, debiased=debiased).div_(norm)

    return unit_kernel(tile, n, tiles)


def unit_kernel(tile: Callable[[slice], Tensor], n: int, tiles: Iterable[slice]) -> Tensor:
    """A kernel [n, n] in float32 from its tiles, so that it never stands in float64."""
    kernel = None
    for part in tiles:
        made = tile(part)
        if kernel is None:
            kernel = torch.empty((n, n), dtype=torch.float32, device=made.device)
        kernel[part] = made
    assert kernel is not None
    return kernel


def centring(sums: np.ndarray, *, debiased: bool) -> tuple[np.ndarray, float]:
    """Row means and grand mean that centre a kernel of these row sums, or U-centre it (diagonal left out)."""
    n = len(sums)
    return sums / (n - 2 if debiased else n), float(sums.sum()) / ((n - 1) * (n - 2) if debiased else n * n)


def centred_tile(tile: Tensor, means: Tensor, grand: float, part: slice, *, debiased: bool) -> Tensor:
    """Rows `part` of a kernel [t, n], centred; overwritten."""
    tile -= (means[part] - grand)[:, None]
    tile -= means
    if debiased:
        tile.diagonal(part.start).fill_(0)
    return tile


def row_index(rows: np.ndarray, device: torch.device) -> Tensor:
    """Row numbers as torch indexes by; a copy, because it takes no read-only or reversed array."""
    return torch.from_numpy(np.array(rows, dtype=np.int64, order="C")).to(device)


def _self_product(rows: Tensor) -> float:
    """|rows^T rows|^2 from the panels on and right of the diagonal: little more than half the work."""
    total = 0.0
    for start in range(0, rows.shape[1], _PANEL):
        with full_precision():
            panel = rows[:, start : start + _PANEL].T @ rows[:, start:]
        total += 2 * _squares(panel) - _squares(panel[:, : len(panel)])
    return total


def _squares(values: Tensor) -> float:
    return torch.linalg.vector_norm(values, dtype=torch.float64).item() ** 2
