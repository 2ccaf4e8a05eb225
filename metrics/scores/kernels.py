"""How alike are two similarity matrices? Centred kernel alignment, biased and debiased."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from featcache.metrics.arrays import X, Y, checked, is_number
from featcache.metrics.comparison import Comparison, check_amount, check_flag
from featcache.metrics.errors import BadChoice, ConstantSpace
from featcache.metrics.scores.gram import (
    Cross,
    GramSide,
    LinearSide,
    RowSide,
    centred_rows,
    centred_tile,
    centring,
    feature_cross,
    gram_cross,
    gram_side,
    linear_product,
    linear_side,
    part_of_linear,
    row_index,
    unbiased,
    unit_kernel,
    unit_linear,
)
from featcache.metrics.scores.medians import median

Kernel = Literal["linear", "rbf"]
KERNELS: tuple[str, ...] = ("linear", "rbf")
Precision = Literal["float64", "float32"]
PRECISIONS: tuple[str, ...] = ("float64", "float32")
Sigma = float | Literal["median", "median_with_self"]
SIGMAS: tuple[str, ...] = ("median", "median_with_self")

_TILE_ENTRIES = 1 << 21  # 16 MB of float64; kernels up to this size are kept
_PRODUCTS_PER_ROW = 100  # d x d products cost less than gathering n x n up to about dx * dy = 100 n
_BATCH_ENTRIES = 1 << 22  # 16 MB of float32 moved at a time: many permutations a call where they are small
_LARGEST_KERNEL = 8192  # 256 MB of float32 a kernel


def cka(
    x: X,
    y: Y,
    *,
    kernel: Kernel = "linear",
    debiased: bool = False,
    sigma: Sigma = 1.0,
    epsilon: float = 0.0,
    precision: Precision = "float64",
) -> float:
    """Centred kernel alignment: the cosine of two centred kernel matrices.

    Row i of x and y is the same sample. Symmetric; 1 for a space with itself. Invariant to rotation and translation,
    and the linear one to scale. Biased: in [0, 1], and chance rises with width over n (`chance_cka` gives it).
    Debiased: signed, at most 1, 0 on average for unrelated spaces.
    Memory: O(n (dx + dy) + dx dy) for the linear kernel (n x n only of a space with n <= d, where it is the smaller),
    tiles of 16 MB for the other. Nulls hold up to three n x n float32, 12 n^2 bytes, up to 8,192 rows.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        kernel: "linear" (inner products as they are) or "rbf", exp(-d^2 / (2 sigma^2)).
        debiased: Song et al.'s unbiased estimate (diagonals left out) for numerator and denominator; needs n >= 4.
        sigma: Width of "rbf", in units of the features. "median": each space's root median squared distance over pairs
            of different rows (thingsvision). "median_with_self": over all n^2 entries, the n zeros of the diagonal
            among them, the lower of the two middle ones (Aristotelian).
        epsilon: Added to the denominator. platonic-rep adds 1e-6, which makes self-similarity fall below 1.
        precision: Of the linear kernel's products; means, lengths and sums of squares are float64 in any case.
            "float32" makes no float64 copy and was within 1.5e-8 of "float64" on 100 pairs of float32 spaces
            (n 200 to 4,000, d 50 to 3,000, means up to 1,000 standard deviations away from 0).

    Returns:
        The alignment; higher is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows: As `mutual_knn`.
        ConstantSpace: If a kernel is constant, so that the denominator is 0.
        BadChoice: If kernel or precision is unknown, sigma not positive, epsilon negative or not finite, or debiased
            neither True nor False.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cka(x, 3 * x + 1, debiased=True), 6)
        1.0

    Source:
        Kornblith et al. 2019, arXiv:1905.00414, section 3; debiased: Song et al. 2012, JMLR 13, eq. 5.
    """
    check_choice("kernel", kernel, KERNELS)
    check_sigma(sigma)
    check_choice("precision", precision, PRECISIONS)
    if kernel == "linear":
        return LinearCka(debiased, epsilon, precision)(x, y)
    if precision != "float64":
        raise BadChoice(f'precision {precision!r} is for kernel "linear"; "rbf" is computed in float64')
    return RbfCka(debiased, sigma, epsilon)(x, y)


def rv(x: X, y: Y, *, precision: Precision = "float64") -> float:
    """RV coefficient: the cosine of two cross-product matrices of centred features; linear `cka` under its older name.

    Symmetric, in [0, 1]; higher is more aligned. Arguments and errors as `cka`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(rv(x, -2 * x), 6)
        1.0

    Source:
        Robert & Escoufier 1976, Journal of the Royal Statistical Society C 25.
    """
    return rv_comparison(precision)(x, y)


def rv_comparison(precision: Precision = "float64") -> "LinearCka":
    """`rv` in two steps."""
    return LinearCka(precision=precision)


@dataclass(frozen=True)
class LinearCka(Comparison[LinearSide]):
    """CKA of linear kernels; arguments as `cka`."""

    debiased: bool = False
    epsilon: float = 0.0
    precision: Precision = "float64"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_flag("debiased", self.debiased)
        check_amount("epsilon", self.epsilon)
        object.__setattr__(self, "at_least", 4 if self.debiased else 2)

    def prepare(self, x: X, name: str = "x") -> LinearSide:
        """Centred rows or kernel, and its norm."""
        dtype = np.float64 if self.precision == "float64" else np.float32
        rows, lengths, exponent = centred_rows(checked(x, name), dtype)
        on_device = torch.from_numpy(rows).to(_device(x))
        return linear_side(on_device, lengths, debiased=self.debiased, name=name, exponent=exponent)

    def product(self, a: LinearSide, b: LinearSide) -> float:
        """Inner product of the centred kernels: tr(KHLH), or debiased Song et al.'s eq. 5."""
        return linear_product(a, b, debiased=self.debiased)

    def compare(self, a: LinearSide, b: LinearSide) -> float:
        """CKA of two prepared spaces; raises ConstantSpace if a kernel is constant, and epsilon 0."""
        scale = _scale(a, b, "linear", self.epsilon)
        return self.product(a, b) / (scale + self.epsilon)

    def take(self, side: LinearSide, rows: np.ndarray) -> LinearSide:
        """Some rows, centred anew."""
        return part_of_linear(side, rows, debiased=self.debiased)

    def permuted(self, a: LinearSide, b: LinearSide, orders: np.ndarray) -> np.ndarray:
        """As compared one by one within 1e-6, many at a time: products in float32, sums in float64.

        One d x d product for each order, or one pass over two float32 kernels [n, n] where that is less, of up to 8,192
        rows: with the one that is rearranged, 12 n^2 bytes.
        """
        scale = _scale(a, b, "linear", self.epsilon)
        if scale == 0:
            return np.zeros(len(orders))
        if isinstance(a, RowSide) and isinstance(b, RowSide) and _narrow(a, b):
            cross = feature_cross(a, b, debiased=self.debiased)
        else:
            left, right = (unit_linear(side, row_tiles(len(side)), debiased=self.debiased) for side in (a, b))
            cross = gram_cross(left, right)
        return _in_batches(*cross, orders) * (scale / (scale + self.epsilon))


@dataclass(frozen=True, eq=False)
class RbfSide:
    """A space ready for rbf kernels: its rows, centred for precision's sake, and what one pass over its kernel gave.

    Args:
        name: What the messages call the space.
        own: Inner product of the centred kernel with itself; 0 if the kernel is constant.
        rows: [n, d] float64 on the device of the features.
        width: sigma^2 in units of the rows.
        sums: [n] row sums of the kernel, without the diagonal if debiased.
        kernel: [n, n], centred; None above 16 MB.
    """

    name: str
    own: float
    rows: torch.Tensor
    width: float
    sums: np.ndarray
    kernel: GramSide | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class RbfCka(Comparison[RbfSide]):
    """CKA of Gaussian kernels; arguments as `cka`. Memory: tiles of 16 MB, but see `permuted`."""

    debiased: bool = False
    sigma: Sigma = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_flag("debiased", self.debiased)
        check_amount("epsilon", self.epsilon)
        object.__setattr__(self, "at_least", 4 if self.debiased else 2)

    def prepare(self, x: X, name: str = "x") -> RbfSide:
        """Width, row sums and norm of the kernel."""
        rows, _, exponent = centred_rows(checked(x, name))
        on_device = torch.from_numpy(rows).to(_device(x))
        if isinstance(self.sigma, str):
            width = _median_width(on_device, self.sigma, name)
        else:
            with np.errstate(over="ignore", under="ignore"):  # how tiny or how huge does not matter
                square = np.clip(float(self.sigma), 1e-100, 1e100) ** 2
                width = float(np.ldexp(square, 2 * exponent).clip(1e-300, 1e300))
        return self._side(on_device, width, name)

    def _side(self, rows: torch.Tensor, width: float, name: str) -> RbfSide:
        n = len(rows)
        if n * n <= _TILE_ENTRIES:
            kernel = gram_side(_rbf_tile(rows, width, slice(0, n)), debiased=self.debiased, name=name)
            return RbfSide(name, kernel.own, rows, width, np.zeros(n), kernel)
        sums, squares = np.empty(n), 0.0
        for part in row_tiles(n):
            tile = self._tile(rows, width, part)
            sums[part] = tile.sum(dim=1).cpu().numpy()
            squares += torch.sum(tile * tile).item()
        own = self._settled(squares, sums, sums)
        # What is left after cancelling all digits is noise, not a kernel that varies.
        floor = 1e-14 * squares / (n * (n - 3) if self.debiased else 1)
        return RbfSide(name, own if own > floor else 0.0, rows, width, sums)

    def _tile(self, rows: torch.Tensor, width: float, part: slice) -> torch.Tensor:
        tile = _rbf_tile(rows, width, part)
        if self.debiased:
            tile.diagonal(part.start).fill_(0)
        return tile

    def _settled(self, product: float, a_sums: np.ndarray, b_sums: np.ndarray) -> float:
        n, cross = len(a_sums), float(a_sums @ b_sums)
        if self.debiased:
            return unbiased(n, product, cross, a_sums.sum() * b_sums.sum())
        return float(product - 2 / n * cross + a_sums.sum() * b_sums.sum() / n**2)

    def product(self, a: RbfSide, b: RbfSide) -> float:
        """Inner product of the centred kernels, as `LinearCka.product`."""
        if a.kernel and b.kernel:
            return linear_product(a.kernel, b.kernel, debiased=self.debiased)
        total = 0.0
        for part in row_tiles(len(a.rows)):
            total += torch.sum(self._tile(a.rows, a.width, part) * self._tile(b.rows, b.width, part)).item()
        return self._settled(total, a.sums, b.sums)

    def compare(self, a: RbfSide, b: RbfSide) -> float:
        """CKA of two prepared spaces; raises ConstantSpace if a kernel is constant, and epsilon 0."""
        scale = _scale(a, b, "rbf", self.epsilon)
        return self.product(a, b) / (scale + self.epsilon)

    def take(self, side: RbfSide, rows: np.ndarray) -> RbfSide:
        """Some rows; a median width is that of the rows taken."""
        taken = side.rows[row_index(rows, side.rows.device)]
        whole = len(rows) == len(side.rows)
        if whole and side.kernel is None:
            return replace(side, rows=taken, sums=side.sums[rows])
        if whole or not isinstance(self.sigma, str):
            return self._side(taken, side.width, side.name)
        return self._side(taken, _median_width(taken, self.sigma, side.name), side.name)

    def permuted(self, a: RbfSide, b: RbfSide, orders: np.ndarray) -> np.ndarray:
        """As compared one by one within 1e-6, many at a time, from two float32 kernels [n, n].

        With the one that is rearranged, 12 n^2 bytes: 805 MB at 8,192 rows. Larger kernels are not held: they are
        compared one by one.
        """
        scale = _scale(a, b, "rbf", self.epsilon)
        if scale == 0:
            return np.zeros(len(orders))
        n = len(a.rows)
        if n > _LARGEST_KERNEL:
            return super().permuted(a, b, orders)
        left, right = (self._unit_kernel(side) for side in (a, b))
        return _in_batches(*gram_cross(left, right), orders) * (scale / (scale + self.epsilon))

    def _unit_kernel(self, side: RbfSide) -> torch.Tensor:
        n = len(side)
        if side.kernel:
            return unit_linear(side.kernel, row_tiles(n), debiased=self.debiased)
        norm = (side.own * (n * (n - 3) if self.debiased else 1)) ** 0.5
        means, grand = centring(side.sums, debiased=self.debiased)
        shift = torch.from_numpy(means).to(side.rows)

        def tile(part: slice) -> torch.Tensor:
            made = _rbf_tile(side.rows, side.width, part)
            return centred_tile(made, shift, grand, part, debiased=self.debiased).div_(norm)

        return unit_kernel(tile, n, row_tiles(n))


def row_tiles(n: int) -> Iterator[slice]:
    """Slices of rows whose [t, n] float64 tiles are about 16 MB."""
    step = max(16, _TILE_ENTRIES // n)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _squared_distances(rows: torch.Tensor, part: slice) -> torch.Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1).square_()
    distances = torch.addmm(lengths, rows[part], rows.T, alpha=-2)
    distances += lengths[part, None]
    distances.diagonal(part.start).fill_(0)
    return distances.clamp_(min=0)


def _rbf_tile(rows: torch.Tensor, width: float, part: slice) -> torch.Tensor:
    return _squared_distances(rows, part).div_(-2 * width).exp_()


def _median_width(rows: torch.Tensor, sigma: str, name: str) -> float:
    """Median squared distance: over pairs, or over all n^2 entries."""
    n = len(rows)

    def entries() -> Iterator[np.ndarray]:
        for part in row_tiles(n):
            distances = _squared_distances(rows, part).cpu().numpy()
            if sigma == "median":
                distances = distances[np.triu_indices(len(distances), part.start + 1, n)]
            yield distances

    width = median(entries, lower=sigma == "median_with_self")
    if width == 0:
        raise BadChoice(f"sigma = {sigma!r}: the median distance is 0 in {name}, most rows are the same; give a number")
    return width


def _in_batches(cross: Cross, entries: int, orders: np.ndarray) -> np.ndarray:
    step = max(1, _BATCH_ENTRIES // entries)
    return np.concatenate([cross(orders[start : start + step]) for start in range(0, len(orders), step)])


def _scale(a: Any, b: Any, kernel: str, epsilon: float) -> float:
    """Product of the two norms."""
    if epsilon == 0 and min(a.own, b.own) <= 0:
        name = a.name if a.own <= 0 else b.name
        raise ConstantSpace(f"{name}: the centred {kernel} kernel is zero: all rows look alike")
    return float(np.sqrt(a.own * b.own))


def _narrow(a: RowSide, b: RowSide) -> bool:
    return len(a) > _LARGEST_KERNEL or a.rows.shape[1] * b.rows.shape[1] < _PRODUCTS_PER_ROW * len(a)


def _device(x: X) -> torch.device:
    return x.device if isinstance(x, torch.Tensor) else torch.device("cpu")


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuses a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise BadChoice(f"{option} {value!r} is unknown; there are {', '.join(choices)}")


def check_sigma(sigma: object) -> None:
    """Refuses a width that is neither positive nor one of SIGMAS."""
    known = sigma in SIGMAS if isinstance(sigma, str) else is_number(sigma) and 0 < sigma < np.inf
    if not known:
        raise BadChoice(f"sigma = {sigma!r}: wanted a positive number or one of {', '.join(SIGMAS)}")
