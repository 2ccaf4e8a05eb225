"""Exact permutation moments, up to the third, of the cosine of two centred kernels, and Pearson's type III tail."""

from collections.abc import Iterator
from functools import lru_cache
from math import factorial, perm, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from featcache.metrics.certainty.floor import LEAST_P
from featcache.metrics.knn.precision import full_precision
from featcache.metrics.scores.gram import GramKernel, LinearKernel, centring

_SINGLE = 1 << 32  # multiply-adds of a kernel [n, n] from which on its products are in float32
_PANEL_ENTRIES = 1 << 21
_ROUND = 1e-4  # a skewness that cannot be told from 0
# Sums of products of two or three entries of a kernel whose rows and trace sum to 0, by (rows, diagonal entries,
# distinct pairs of rows) that the entries name; all other sums are 0.
_CLASSES = {
    2: ((1, 2, 0), (2, 0, 1)),
    3: ((1, 3, 0), (2, 1, 1), (2, 2, 1), (2, 0, 1), (3, 0, 3)),
}


class Moments(NamedTuple):
    """Mean and standard deviation of a score when the rows of one space are permuted at random."""

    mean: float
    std: float


class PearsonIII(NamedTuple):
    """Mean, standard deviation and skewness of a permuted score, and the shifted gamma distribution that has them.

    It is exact where one direction dominates each space (a chi-squared) and where none does (a normal). Between them,
    two directions that carry about half of the variance of the score, P(p <= .001) reaches .0021 and P(p <= .05) falls
    to .045.
    """

    mean: float
    std: float
    skewness: float

    def tail(self, score: float) -> float:
        """P(permuted score >= score) of the Pearson III distribution with these moments, at least LEAST_P.

        Example:
            >>> round(PearsonIII(0.0, 1.0, 0.0).tail(1.0), 3), PearsonIII(0.0, 1.0, 2.0).tail(50.0)
            (0.159, 0.001)
        """
        from scipy.special import gammainc, gammaincc, ndtr

        if self.std <= 0:
            return 1.0
        z = (score - self.mean) / self.std
        if abs(self.skewness) < _ROUND:
            return max(float(ndtr(-z)), LEAST_P)
        shape = 4 / self.skewness**2
        upper, sign = (gammaincc, 1) if self.skewness > 0 else (gammainc, -1)
        return max(float(upper(shape, max(sign * z * shape**0.5 + shape, 0.0))), LEAST_P)

    def quantile(self, share: float) -> float:
        """Score below which a share of the Pearson III distribution lies.

        Example:
            >>> round(PearsonIII(0.0, 1.0, 2.0).quantile(1 - np.exp(-3.0)), 6)
            2.0
        """
        from scipy.special import gammaincinv, ndtri

        if abs(self.skewness) < _ROUND:
            return self.mean + self.std * float(ndtri(share))
        shape, sign = 4 / self.skewness**2, 1 if self.skewness > 0 else -1
        point = float(gammaincinv(shape, share if sign > 0 else 1 - share))
        return self.mean + sign * self.std * (point - shape) / shape**0.5


def two_moments(a: LinearKernel, b: LinearKernel, *, debiased: bool) -> Moments:
    """Exact mean and standard deviation of the cosine of two prepared kernels, in O(n).

    Debiased, the mean is 0 and the variance 2 / (n (n - 3)) whatever the features: U-centred kernels have zero row sums
    and zero diagonals, so that Mantel's moments depend on their norms alone.

    Args:
        a: A linear kernel of n >= 4 rows, not constant.
        b: Another.
        debiased: Whether they are U-centred.

    Source: Kazi-Aoual et al. 1995, Computational Statistics & Data Analysis 20 (moments of the RV coefficient).
    """
    n = len(a)
    if debiased:
        return Moments(0.0, (2 / (n * (n - 3))) ** 0.5)
    first, second = (_Diagonal.of(space, debiased=False) for space in (a, b))
    variance = _central(2, first.second_order(), second.second_order(), n)
    return Moments(first.trace * second.trace / (n - 1), max(variance, 0.0) ** 0.5)


def three_moments(a: LinearKernel, b: LinearKernel, *, debiased: bool) -> PearsonIII:
    """Exact mean, standard deviation and skewness, from one pass over each kernel [n, n] in panels, never held.

    Costs n^2 (dx + dy) / 2 multiply-adds and a few products n d^2; arguments as `two_moments`.

    Source: Kazi-Aoual et al. 1995 (sums over equal row numbers); Pearson III: Josse, Pages & Husson 2008,
    Computational Statistics & Data Analysis 53.
    """
    mean, std = two_moments(a, b, debiased=debiased)
    if std == 0:
        return PearsonIII(mean, std, 0.0)
    third = _central(3, _third_order(a, debiased=debiased), _third_order(b, debiased=debiased), len(a))
    return PearsonIII(mean, std, third / std**3)


class _Diagonal(NamedTuple):
    """Of a kernel K of norm 1 whose rows sum to 0: its trace, and the diagonal of K - c H, whose trace is 0.

    c H, with H the centring matrix, is the same in every order of the rows; without it a score's mean is 0.
    """

    trace: float
    shift: float
    values: np.ndarray

    @classmethod
    def of(cls, space: LinearKernel, *, debiased: bool) -> "_Diagonal":
        n = len(space)
        if debiased:
            return cls(0.0, 0.0, np.zeros(n))
        norm = space.own**0.5
        diagonal = space.matrix.diagonal().double().cpu().numpy() if isinstance(space, GramKernel) else space.lengths
        diagonal = diagonal / norm
        shift = float(diagonal.sum()) / (n - 1)
        return cls(shift * (n - 1), shift, diagonal - shift * (1 - 1 / n))

    def second_order(self) -> np.ndarray:
        """Sums of `_CLASSES[2]`."""
        return np.array([float(self.values @ self.values), 1 - self.trace * self.shift])


def _third_order(space: LinearKernel, *, debiased: bool) -> np.ndarray:
    """Sums of `_CLASSES[3]` of the kernel over its norm, without c H."""
    n, diagonal = len(space), _Diagonal.of(space, debiased=debiased)
    d, c = diagonal.values, diagonal.shift
    norm = (space.own * (n * (n - 3) if debiased else 1)) ** 0.5
    if isinstance(space, GramKernel):
        kernel = space.matrix.double() / norm
        with full_precision():
            square = kernel @ kernel
        triangle = float((square * kernel).sum())
        own, quadratic = square.diagonal().cpu().numpy(), float(d @ (kernel.cpu().numpy() @ d))
        entries = float(((kernel + c / n) ** 3).sum()) - float(((_diagonal_of(kernel) + c / n) ** 3).sum())
    else:
        rows = space.rows.double() / norm**0.5
        # U-centring adds u_i + u_j to what is not on the diagonal, and leaves the diagonal out.
        u = np.zeros(n)
        if debiased:
            means, grand = centring(-space.lengths / norm, debiased=True)
            u = grand / 2 - means
        triangle, own = _triangle(rows, u)
        quadratic = float(torch.linalg.vector_norm(rows.T @ torch.from_numpy(d).to(rows)).item() ** 2)
        outside = space.lengths / norm + 2 * u if debiased else None
        if outside is not None:
            triangle += float(2 * (outside**3).sum() - 3 * outside @ own)
        entries = _cubes_outside_diagonal(rows, u + c / n / 2)
    if debiased:
        return np.array([0.0, 0.0, 0.0, entries, triangle])
    squared = own - 2 * c * (d + c * (1 - 1 / n)) + c * c * (1 - 1 / n)  # diagonal of (K - c H)^2
    return np.array(
        [
            float((d**3).sum()),
            float(squared @ d),
            quadratic - c * float(d @ d),
            entries + float((d**3).sum()),
            triangle - 3 * c + 3 * c * c * diagonal.trace - (n - 1) * c**3,
        ]
    )


def _diagonal_of(kernel: Tensor) -> np.ndarray:
    return kernel.diagonal().cpu().numpy()


def _triangle(rows: Tensor, u: np.ndarray) -> tuple[float, np.ndarray]:
    """Trace of A^3 and diagonal of A^2, of A_ij = rows_i rows_j + u_i + u_j."""
    shift = torch.from_numpy(u).to(rows)
    left = torch.cat([rows, shift[:, None], torch.ones_like(shift)[:, None]], dim=1)
    right = torch.cat([rows, torch.ones_like(shift)[:, None], shift[:, None]], dim=1)  # A = left right^T
    with full_precision():
        cross, inner = left.T @ left, right.T @ left
        square = right @ cross  # A^2 = right (left^T left) right^T
        return float(torch.trace(inner @ inner @ inner)), (square * right).sum(dim=1).cpu().numpy()


def _cubes_outside_diagonal(rows: Tensor, add: np.ndarray) -> float:
    """Sum over i != j of (rows_i rows_j + add_i + add_j)^3, from panels on and right of the diagonal."""
    n, width = rows.shape
    if n * n * width > _SINGLE:
        rows = rows.float()
    more, step, total = torch.from_numpy(add).to(rows), max(16, _PANEL_ENTRIES // n), 0.0
    for start in range(0, n, step):
        with full_precision():
            panel = rows[start : start + step] @ rows[start:].T
        panel += more[start : start + step, None]
        panel += more[start:]
        panel.diagonal().fill_(0)
        cubes = (panel * panel).mul_(panel)
        total += 2 * torch.sum(cubes, dtype=torch.float64).item()
        total -= torch.sum(cubes[:, : len(cubes)], dtype=torch.float64).item()
    return total


def _central(order: int, first: np.ndarray, second: np.ndarray, n: int) -> float:
    """E[<K, L in a random order>^order] of two kernels whose rows and trace sum to 0, from their sums of `_CLASSES`.

    The row numbers in the product of entries are sorted by which of them are equal; b different rows of L go to any b
    different rows of K equally often.
    """
    blocks, coefficients = _distinct(order)
    possible = blocks <= n
    ways = np.array([float(perm(n, int(count))) for count in blocks[possible]])
    used = coefficients[possible]
    return float(np.sum((used @ first) * (used @ second) / ways))


@lru_cache(maxsize=2)
def _distinct(order: int) -> tuple[np.ndarray, np.ndarray]:
    """How a sum over different row numbers follows from sums over all of them, by partition of the row numbers.

    Returns:
        Number of different rows of each partition, [p], and coefficients of `_CLASSES[order]`, [p, classes]: Moebius
        inversion on the lattice of partitions.
    """
    partitions = list(_partitions(2 * order))
    coefficients = np.zeros((len(partitions), len(_CLASSES[order])))
    for place, labels in enumerate(partitions):
        for merged in _partitions(max(labels) + 1):
            sizes = np.bincount(merged)
            sign = prod((-1) ** int(size - 1) * factorial(int(size - 1)) for size in sizes)
            kind = _kind([merged[label] for label in labels])
            if kind in _CLASSES[order]:
                coefficients[place, _CLASSES[order].index(kind)] += sign
    return np.array([max(labels) + 1 for labels in partitions]), coefficients


def _partitions(length: int) -> Iterator[list[int]]:
    """Set partitions as block numbers, each new block numbered next."""
    if length == 0:
        yield []
        return
    for head in _partitions(length - 1):
        for block in range(max(head, default=-1) + 2):
            yield [*head, block]


def _kind(rows: list[int]) -> tuple[int, int, int] | None:
    """(rows, diagonal entries, distinct pairs) of the entries K[rows[0], rows[1]], ...; None where the sum is 0.

    A row that is named once sums to 0, and so does one that is on its diagonal entry alone (the trace).
    """
    entries = list(zip(rows[::2], rows[1::2], strict=True))
    diagonal = [i for i, j in entries if i == j]
    pairs = {frozenset(entry) for entry in entries if entry[0] != entry[1]}
    if min(np.bincount(rows)) < 2 or any(diagonal.count(i) == 1 and rows.count(i) == 2 for i in diagonal):
        return None
    return max(rows) + 1, len(diagonal), len(pairs)
