"""How alike are two similarity matrices? Centred kernel alignment, biased and debiased, without an n x n matrix."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from metrics.arrays import X, Y, plain_pair
from metrics.errors import BadChoice, ConstantSpace

Kernel = Literal["linear", "rbf"]
KERNELS: tuple[str, ...] = ("linear", "rbf")
_TILE_ENTRIES = 1 << 21


class Hsic(NamedTuple):
    """Hilbert-Schmidt independence of x with y, x with x, and y with y."""

    xy: float
    xx: float
    yy: float


def cka(
    x: X,
    y: Y,
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    sigma: float | Literal["median"] = 1.0,
    epsilon: float = 0.0,
) -> float:
    """Centred kernel alignment: the cosine of two centred kernel matrices.

    Row i of x and y is the same sample. Symmetric; 1 for a space with itself. Invariant to rotation and translation,
    and the linear one to scale. Biased: in [0, 1], and chance rises with width over n (`chance_cka` gives it).
    Debiased: signed, at most 1, 0 on average for unrelated spaces. All in float64.
    Memory: O(n (dx + dy) + dx dy) for the linear kernel, plus tiles of 16 MB otherwise.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        kernel: "linear" (inner products as they are) or "rbf", exp(-d^2 / (2 sigma^2)).
        debiased: Song et al.'s unbiased estimate (diagonals left out) for numerator and denominator; needs n >= 4.
        sigma: Width of "rbf", in units of the features; "median": each space's root median squared distance.
        epsilon: Added to the denominator. platonic-rep adds 1e-6, which makes self-similarity fall below 1.

    Returns:
        The alignment; higher is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows: As `mutual_knn`.
        ConstantSpace: If a kernel is constant, so that the denominator is 0.
        BadChoice: If the kernel is unknown or sigma is not positive.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cka(x, 3 * x + 1, debiased=True), 6)
        1.0

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, section 3; debiased: Song et al. 2012, JMLR 13, eq. 5.
    """
    if kernel not in KERNELS:
        raise BadChoice(f"kernel {kernel!r} is unknown; there are {', '.join(KERNELS)}")
    if sigma != "median" and not (isinstance(sigma, int | float) and 0 < sigma < np.inf):
        raise BadChoice(f'sigma = {sigma!r}: wanted a positive number or "median"')
    a, b = (centred(values) for values in plain_pair(x, y, at_least=4 if debiased else 2))
    if kernel == "linear":
        sums = linear_hsic(a, b, debiased=debiased)
    else:
        sums = tiled_hsic(_rbf(a, sigma), _rbf(b, sigma), len(a), debiased=debiased)
    if epsilon == 0 and min(sums.xx, sums.yy) <= 0:
        raise ConstantSpace(f"{'x' if sums.xx <= 0 else 'y'}: the centred {kernel} kernel is zero: all rows look alike")
    return float(sums.xy / (np.sqrt(max(sums.xx, 0.0) * max(sums.yy, 0.0)) + epsilon))


def centred(values: np.ndarray) -> np.ndarray:
    """Rows minus their mean; overwrites and returns `values`.

    Features outside 1e-30 ... 1e30 are scaled by a power of two, because their fourth powers leave float64.
    """
    peak = np.abs(values).max()
    if not 1e-30 < peak < 1e30:
        values *= np.ldexp(1.0, -int(np.frexp(peak)[1]))
    values -= values.mean(axis=0)
    return values


def linear_hsic(a: np.ndarray, b: np.ndarray, *, debiased: bool) -> Hsic:
    """HSIC of linear kernels of centred rows, by the cheaper of d x d and tiled n x n products.

    Biased sums carry no 1 / (n - 1)^2, debiased ones carry 1 / (n (n - 3)), as platonic-rep's do.
    """
    n, (da, db) = len(a), (a.shape[1], b.shape[1])
    if n * (da + db) < da * da + da * db + db * db:
        return tiled_hsic(_linear(a), _linear(b), n, debiased=debiased)
    pa, pb = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    return Hsic(
        _linear_sum(a, b, pa, pb, debiased), _linear_sum(a, a, pa, pa, debiased), _linear_sum(b, b, pb, pb, debiased)
    )


def _linear_sum(a: np.ndarray, b: np.ndarray, pa: np.ndarray, pb: np.ndarray, debiased: bool) -> float:
    total = float(np.sum((a.T @ b) ** 2))
    if not debiased:
        return total
    # Song et al. eq. 5 for centred rows: a kernel's row sums without the diagonal are minus its diagonal,
    # so all three terms need only the squared lengths pa, pb.
    n = len(a)
    total += -n / (n - 2) * float(pa @ pb) + float(pa.sum() * pb.sum()) / ((n - 1) * (n - 2))
    return total / (n * (n - 3))


RowKernel = Callable[[slice], np.ndarray]


def tiled_hsic(kernel_a: RowKernel, kernel_b: RowKernel, n: int, *, debiased: bool) -> Hsic:
    """HSIC of any two kernels in one pass over tiles of rows.

    Args:
        kernel_a: Rows of the first kernel matrix: slice -> [t, n].
        kernel_b: Rows of the second.
        n: Number of samples.
        debiased: Leave the diagonals out (Song et al. eq. 5) instead of centring (tr KHLH).
    """
    rows_a, rows_b, products = np.empty(n), np.empty(n), np.zeros(3)
    for part in row_tiles(n):
        ka, kb = kernel_a(part), kernel_b(part)
        if debiased:
            own = np.arange(part.start, part.stop)
            ka[own - part.start, own] = kb[own - part.start, own] = 0
        rows_a[part], rows_b[part] = ka.sum(axis=1), kb.sum(axis=1)
        products += [np.vdot(ka, kb), np.vdot(ka, ka), np.vdot(kb, kb)]

    def settle(product: float, ra: np.ndarray, rb: np.ndarray) -> float:
        if debiased:
            total = product + ra.sum() * rb.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(ra @ rb)
            return float(total / (n * (n - 3)))
        return float(product - 2 / n * float(ra @ rb) + ra.sum() * rb.sum() / n**2)

    xy, xx, yy = (float(product) for product in products)
    sums = Hsic(settle(xy, rows_a, rows_b), settle(xx, rows_a, rows_a), settle(yy, rows_b, rows_b))
    # What is left after cancelling all digits is noise, not a kernel that varies.
    floor = 1e-14 / (n * (n - 3) if debiased else 1)
    return Hsic(sums.xy, sums.xx if sums.xx > floor * xx else 0.0, sums.yy if sums.yy > floor * yy else 0.0)


def row_tiles(n: int) -> Iterator[slice]:
    """Slices of rows whose [t, n] float64 tiles are about 16 MB."""
    step = max(16, _TILE_ENTRIES // n)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _linear(a: np.ndarray) -> RowKernel:
    return lambda part: a[part] @ a.T


def squared_distances(a: np.ndarray, part: slice) -> np.ndarray:
    """Squared Euclidean distances [t, n] of the rows `part` to all rows of a centred array."""
    lengths = np.einsum("ij,ij->i", a, a)
    distances = a[part] @ a.T
    distances *= -2
    distances += lengths[part, None]
    distances += lengths
    own = np.arange(part.start, part.stop)
    distances[own - part.start, own] = 0
    return np.maximum(distances, 0, out=distances)


def _rbf(a: np.ndarray, sigma: float | str) -> RowKernel:
    if sigma == "median":
        upper = [squared_distances(a, part)[_above_diagonal(part, len(a))] for part in row_tiles(len(a))]
        width = float(np.median(np.concatenate(upper)))
        if width == 0:
            raise BadChoice('sigma = "median": the median distance is 0, most rows are the same; give a number')
    else:
        width = float(sigma) ** 2

    def rows(part: slice) -> np.ndarray:
        distances = squared_distances(a, part)
        distances /= -2 * width
        return np.exp(distances, out=distances)

    return rows


def _above_diagonal(part: slice, n: int) -> np.ndarray:
    return np.arange(n) > np.arange(part.start, part.stop)[:, None]
