"""Centred kernel alignment (CKA), biased and debiased, of linear and Gaussian kernels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from featcache.metrics.arrays import X, Y, checked, is_number
from featcache.metrics.comparison import Comparison, check_amount, check_flag
from featcache.metrics.errors import BadChoice, ConstantSpace
from featcache.metrics.scores.gram import (
    Cross,
    GramKernel,
    LinearKernel,
    RowKernel,
    centred_rows,
    centred_tile,
    centring,
    feature_cross,
    gram_cross,
    gram_kernel,
    linear_kernel,
    linear_part,
    linear_product,
    row_index,
    unbiased,
    unit_kernel,
    unit_linear,
)
from featcache.metrics.scores.gram_grid import shared_grams_pay, shared_products
from featcache.metrics.scores.medians import median
from featcache.metrics.scores.subsets import linear_on_subsets

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

    Higher is more aligned. Symmetric; 1 for a space with itself. Invariant to rotation and translation, and the linear
    one to scale. Biased: in [0, 1], and chance rises with width over n (`chance_cka` gives it). Debiased: signed, at
    most 1, 0 on average for unrelated spaces. Spaces and errors as `mutual_knn`.
    Memory: O(n (dx + dy) + dx dy) for the linear kernel (n x n only of a space with n <= d, where it is the smaller),
    tiles of 16 MB for the other. Nulls hold up to three n x n float32, 12 n^2 bytes, up to 8,192 rows.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        kernel: "linear" (inner products as they are) or "rbf", exp(-d^2 / (2 sigma^2)).
        debiased: Song et al.'s unbiased estimate (diagonals left out) for numerator and denominator; needs n >= 4.
        sigma: Width of "rbf", in units of the features. "median": each space's root median squared distance over pairs
            of different rows (thingsvision). "median_with_self": over all n^2 entries, the n zeros of the diagonal
            among them, the lower of the two middle ones (Aristotelian).
        epsilon: Added to the denominator. platonic-rep adds 1e-6, which makes self-similarity fall below 1.
        precision: Of the linear kernel's products; means, lengths and sums of squares are float64 in any case.
            "float32" makes no float64 copy and was within 1.5e-8 of "float64" on 100 pairs of float32 spaces
            (n 200 to 4,000, d 50 to 3,000, means up to 1,000 standard deviations away from 0).

    Raises:
        ConstantSpace: If a kernel is constant, so that the denominator is 0.
        BadChoice: If kernel or precision is unknown, sigma not positive, epsilon negative or not finite, or debiased
            neither True nor False.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cka(x, 3 * x + 1, debiased=True), 6)
        1.0

    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3; debiased: Song et al. 2012, JMLR 13, eq. 5.
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

    Source: Robert & Escoufier 1976, Journal of the Royal Statistical Society C 25.
    """
    return rv_comparison(precision)(x, y)


def rv_comparison(precision: Precision = "float64") -> "LinearCka":
    """`rv` in two steps."""
    return LinearCka(precision=precision)


@dataclass(frozen=True)
class LinearCka(Comparison[LinearKernel]):
    """CKA of linear kernels; arguments as `cka`."""

    debiased: bool = False
    epsilon: float = 0.0
    precision: Precision = "float64"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_flag("debiased", self.debiased)
        check_amount("epsilon", self.epsilon)
        object.__setattr__(self, "at_least", 4 if self.debiased else 2)

    def prepare(self, x: X, name: str = "x") -> LinearKernel:
        """Centred rows or kernel, and its norm."""
        dtype = np.float64 if self.precision == "float64" else np.float32
        rows, lengths, exponent = centred_rows(checked(x, name), dtype)
        on_device = torch.from_numpy(rows).to(_device(x))
        return linear_kernel(on_device, lengths, debiased=self.debiased, name=name, exponent=exponent)

    def product(self, a: LinearKernel, b: LinearKernel) -> float:
        """Inner product of the centred kernels: tr(KHLH), or debiased Song et al.'s eq. 5."""
        return linear_product(a, b, debiased=self.debiased)

    def compare(self, a: LinearKernel, b: LinearKernel) -> float:
        """ConstantSpace if a kernel is constant, and epsilon 0."""
        scale = _scale(a, b, "linear", self.epsilon)
        return self.product(a, b) / (scale + self.epsilon)

    def compare_all(self, xs: Sequence[LinearKernel], ys: Sequence[LinearKernel]) -> np.ndarray:
        """From Gram matrices that all pairs share, where that is less work."""
        left = [space for space in xs if isinstance(space, RowKernel)]
        right = [space for space in ys if isinstance(space, RowKernel)]
        kinds = {(space.rows.dtype, space.rows.device) for space in (*left, *right)}
        whole = len(left) == len(xs) and len(right) == len(ys) and len(kinds) == 1
        if not whole or not shared_grams_pay(left, right):
            return super().compare_all(xs, ys)
        scales = np.array([[_scale(a, b, "linear", self.epsilon) for b in ys] for a in xs])
        return shared_products(left, right, debiased=self.debiased) / (scales + self.epsilon)

    def take(self, space: LinearKernel, rows: np.ndarray) -> LinearKernel:
        """Some rows, centred anew."""
        return linear_part(space, rows, debiased=self.debiased)

    def permuted(self, a: LinearKernel, b: LinearKernel, orders: np.ndarray) -> np.ndarray:
        """As compared one by one within 1e-6, many at a time: products in float32, sums in float64.

        One d x d product for each order, or one pass over two float32 kernels [n, n] where that is less, of up to 8,192
        rows: with the one that is rearranged, 12 n^2 bytes.
        """
        scale = _scale(a, b, "linear", self.epsilon)
        if scale == 0:
            return np.zeros(len(orders))
        if isinstance(a, RowKernel) and isinstance(b, RowKernel) and _narrow(a, b):
            cross = feature_cross(a, b, debiased=self.debiased)
        else:
            left, right = (unit_linear(space, row_tiles(len(space)), debiased=self.debiased) for space in (a, b))
            cross = gram_cross(left, right)
        return _in_batches(*cross, orders) * (scale / (scale + self.epsilon))

    def self_score(self, space: LinearKernel) -> float:
        """From the norm, which is known."""
        return _scale(space, space, "linear", self.epsilon) / (space.own + self.epsilon)

    def permutation_cost(self, a: LinearKernel, b: LinearKernel) -> float:
        """Of the quicker of the two ways."""
        if isinstance(a, RowKernel) and isinstance(b, RowKernel) and _narrow(a, b):
            return float(len(a) * a.rows.shape[1] * b.rows.shape[1])
        return float(_PRODUCTS_PER_ROW * len(a) ** 2)

    def on_subsets(
        self, spaces: Sequence[LinearKernel], other: LinearKernel, masks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """All subsets from one pass over the kernels, in tiles."""
        scores = linear_on_subsets(spaces, other, masks, debiased=self.debiased, epsilon=self.epsilon)
        return scores, np.zeros(len(spaces), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class RbfKernel:
    """A space ready for rbf kernels: its rows, centred for precision's sake, and what one pass over its kernel gave."""

    name: str  # what the messages call the space
    own: float  # inner product of the centred kernel with itself; 0 if the kernel is constant
    rows: torch.Tensor  # [n, d] float64 on the device of the features
    width: float  # sigma^2 in units of the rows
    sums: np.ndarray  # [n] row sums of the kernel, without the diagonal if debiased
    gram: GramKernel | None = None  # the kernel itself, centred; None above 16 MB

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class RbfCka(Comparison[RbfKernel]):
    """CKA of Gaussian kernels; arguments as `cka`. Memory: tiles of 16 MB, but see `permuted`."""

    debiased: bool = False
    sigma: Sigma = 1.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_flag("debiased", self.debiased)
        check_amount("epsilon", self.epsilon)
        object.__setattr__(self, "at_least", 4 if self.debiased else 2)

    def prepare(self, x: X, name: str = "x") -> RbfKernel:
        """Width, row sums and norm of the kernel."""
        rows, _, exponent = centred_rows(checked(x, name))
        on_device = torch.from_numpy(rows).to(_device(x))
        if isinstance(self.sigma, str):
            width = _median_width(on_device, self.sigma, name)
        else:
            with np.errstate(over="ignore", under="ignore"):  # how tiny or how huge does not matter
                square = np.clip(float(self.sigma), 1e-100, 1e100) ** 2
                width = float(np.ldexp(square, 2 * exponent).clip(1e-300, 1e300))
        return self._from_rows(on_device, width, name)

    def _from_rows(self, rows: torch.Tensor, width: float, name: str) -> RbfKernel:
        n = len(rows)
        if n * n <= _TILE_ENTRIES:
            kernel = gram_kernel(_rbf_tile(rows, width, slice(0, n)), debiased=self.debiased, name=name)
            return RbfKernel(name, kernel.own, rows, width, np.zeros(n), kernel)
        sums, squares = np.empty(n), 0.0
        for part in row_tiles(n):
            tile = self._tile(rows, width, part)
            sums[part] = tile.sum(dim=1).cpu().numpy()
            squares += torch.sum(tile * tile).item()
        own = self._centred_product(squares, sums, sums)
        # What is left after cancelling all digits is noise, not a kernel that varies.
        floor = 1e-14 * squares / (n * (n - 3) if self.debiased else 1)
        return RbfKernel(name, own if own > floor else 0.0, rows, width, sums)

    def _tile(self, rows: torch.Tensor, width: float, part: slice) -> torch.Tensor:
        tile = _rbf_tile(rows, width, part)
        if self.debiased:
            tile.diagonal(part.start).fill_(0)
        return tile

    def _centred_product(self, product: float, a_sums: np.ndarray, b_sums: np.ndarray) -> float:
        n, cross = len(a_sums), float(a_sums @ b_sums)
        if self.debiased:
            return unbiased(n, product, cross, a_sums.sum() * b_sums.sum())
        return float(product - 2 / n * cross + a_sums.sum() * b_sums.sum() / n**2)

    def product(self, a: RbfKernel, b: RbfKernel) -> float:
        """As `LinearCka.product`."""
        if a.gram and b.gram:
            return linear_product(a.gram, b.gram, debiased=self.debiased)
        total = 0.0
        for part in row_tiles(len(a.rows)):
            total += torch.sum(self._tile(a.rows, a.width, part) * self._tile(b.rows, b.width, part)).item()
        return self._centred_product(total, a.sums, b.sums)

    def compare(self, a: RbfKernel, b: RbfKernel) -> float:
        """ConstantSpace if a kernel is constant, and epsilon 0."""
        scale = _scale(a, b, "rbf", self.epsilon)
        return self.product(a, b) / (scale + self.epsilon)

    def take(self, space: RbfKernel, rows: np.ndarray) -> RbfKernel:
        """Some rows; a median width is that of the rows taken."""
        taken = space.rows[row_index(rows, space.rows.device)]
        whole = len(rows) == len(space.rows)
        if whole and space.gram is None:
            return replace(space, rows=taken, sums=space.sums[rows])
        if whole or not isinstance(self.sigma, str):
            return self._from_rows(taken, space.width, space.name)
        return self._from_rows(taken, _median_width(taken, self.sigma, space.name), space.name)

    def permuted(self, a: RbfKernel, b: RbfKernel, orders: np.ndarray) -> np.ndarray:
        """As `LinearCka.permuted`, from float32 kernels, 805 MB at 8,192 rows; one by one where there are more."""
        scale = _scale(a, b, "rbf", self.epsilon)
        if scale == 0:
            return np.zeros(len(orders))
        n = len(a.rows)
        if n > _LARGEST_KERNEL:
            return super().permuted(a, b, orders)
        left, right = (self._unit_kernel(space) for space in (a, b))
        return _in_batches(*gram_cross(left, right), orders) * (scale / (scale + self.epsilon))

    def self_score(self, space: RbfKernel) -> float:
        """From the norm, which is known."""
        return _scale(space, space, "rbf", self.epsilon) / (space.own + self.epsilon)

    def permutation_cost(self, a: RbfKernel, b: RbfKernel) -> float:
        """Of kernels that are held, else of making both again."""
        n, widths = len(a), a.rows.shape[1] + b.rows.shape[1]
        return float(n**2 * (_PRODUCTS_PER_ROW if n <= _LARGEST_KERNEL else _PRODUCTS_PER_ROW + widths))

    def _unit_kernel(self, space: RbfKernel) -> torch.Tensor:
        n = len(space)
        if space.gram:
            return unit_linear(space.gram, row_tiles(n), debiased=self.debiased)
        norm = (space.own * (n * (n - 3) if self.debiased else 1)) ** 0.5
        means, grand = centring(space.sums, debiased=self.debiased)
        shift = torch.from_numpy(means).to(space.rows)

        def tile(part: slice) -> torch.Tensor:
            made = _rbf_tile(space.rows, space.width, part)
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


def _narrow(a: RowKernel, b: RowKernel) -> bool:
    return len(a) > _LARGEST_KERNEL or a.rows.shape[1] * b.rows.shape[1] < _PRODUCTS_PER_ROW * len(a)


def _device(x: X) -> torch.device:
    return x.device if isinstance(x, torch.Tensor) else torch.device("cpu")


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises BadChoice for a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise BadChoice(f"{option} {value!r} is unknown; there are {', '.join(choices)}")


def check_sigma(sigma: object) -> None:
    """Raises BadChoice for a width that is neither positive nor one of SIGMAS."""
    known = sigma in SIGMAS if isinstance(sigma, str) else is_number(sigma) and 0 < sigma < np.inf
    if not known:
        raise BadChoice(f"sigma = {sigma!r}: wanted a positive number or one of {', '.join(SIGMAS)}")
