"""Inner products of every linear kernel of one list with every kernel of another, from Gram matrices that all share."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from featcache.metrics.knn.precision import full_precision
from featcache.metrics.scores.gram import RowKernel, unbiased

_ENTRIES = 1 << 23  # of all kernels' tiles together: 32 MB in float32
_SUMMED = 4096  # products that are summed in the kernels' own type before float64


def shared_grams_pay(xs: Sequence[RowKernel], ys: Sequence[RowKernel]) -> bool:
    """Whether half a Gram matrix [n, n] each is less work than a product d x d a pair.

    Example:
        >>> from featcache.metrics.scores.gram import linear_kernel
        >>> kernel = linear_kernel(torch.eye(100, 60), np.ones(100), debiased=False)
        >>> shared_grams_pay([kernel] * 5, [kernel] * 5), shared_grams_pay([kernel], [kernel])
        (True, False)
    """
    n, wide, other = len(xs[0]), *(sum(kernel.rows.shape[1] for kernel in each) for each in (xs, ys))
    return n * (wide + other + len(xs) * len(ys)) / 2 < wide * other


def shared_products(xs: Sequence[RowKernel], ys: Sequence[RowKernel], *, debiased: bool) -> Float[np.ndarray, "x y"]:
    """`linear_product` of every pair, [x, y] float64.

    Each kernel's upper half is multiplied out once, a few rows at a time, and all pairs are one product of the tiles.
    Time: n^2 d / 2 a kernel and n^2 / 2 a pair. Memory: one tile of every kernel.

    Args:
        xs: Kernels of n rows each, of one type and device.
        ys: The same.
        debiased: As of `linear_product`.
    """
    n, kernels = len(xs[0]), [*xs, *ys]
    step = max(8, _ENTRIES // (n * len(kernels)))
    total = torch.zeros((len(xs), len(ys)), dtype=torch.float64, device=xs[0].rows.device)
    with full_precision():
        for start in range(0, n, step):
            stop = min(start + step, n)
            tiles = [kernel.rows[start:stop] @ kernel.rows[start:].T for kernel in kernels]
            own = torch.stack([tile[:, : stop - start].reshape(-1) for tile in tiles])
            total += _pair_sums(own[: len(xs)], own[len(xs) :])
            if stop < n:  # what lies right of the diagonal stands left of it too
                rest = torch.stack([tile[:, stop - start :].reshape(-1) for tile in tiles])
                total += 2 * _pair_sums(rest[: len(xs)], rest[len(xs) :])
    squares = total.cpu().numpy()
    if not debiased:
        return squares
    lengths = [np.stack([kernel.lengths for kernel in each]) for each in (xs, ys)]
    cross, sums = lengths[0] @ lengths[1].T, np.outer(*(each.sum(axis=1) for each in lengths))
    return unbiased(n, squares - cross, cross, sums)


def _pair_sums(a: Float[Tensor, "x m"], b: Float[Tensor, "y m"]) -> Float[Tensor, "x y"]:
    """Products a b^T, float64; sums of a few thousand products at a time are of the type of a and b."""
    whole = a.shape[1] // _SUMMED * _SUMMED
    parts = [each[:, :whole].reshape(len(each), -1, _SUMMED).transpose(0, 1) for each in (a, b)]
    sums = torch.bmm(parts[0], parts[1].transpose(1, 2)).sum(dim=0, dtype=torch.float64)
    return sums + (a[:, whole:] @ b[:, whole:].T).double()
