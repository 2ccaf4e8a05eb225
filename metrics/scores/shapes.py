"""How far apart are two spaces once one is turned onto the other? Procrustes distances, angles and cosines."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.arrays import X, Y, checked
from featcache.metrics.comparison import Comparison, check_flag
from featcache.metrics.errors import ConstantSpace, ZeroRow
from featcache.metrics.scores.correlation import cross_products
from featcache.metrics.scores.gram import LinearSide, centred_rows
from featcache.metrics.scores.kernels import LinearCka, check_choice

Size = Literal["unit", "kept", "relative"]
SIZES: tuple[str, ...] = ("unit", "kept", "relative")


def procrustes(x: X, y: Y, *, size: Size = "unit", center: bool = True) -> float:
    """Orthogonal Procrustes distance: what is left between two spaces after the best rotation or reflection.

    A distance: 0 for equal shapes, LOWER is more aligned. The narrower space counts as padded with zeros. Symmetric
    (but not with size="relative"); invariant to rotation, and to translation if centred. In float64: the nuclear norm
    of the dx x dy cross product, never n x n. Taken from a difference of squares, so values below 1e-7 of the
    spaces' size are rounding.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        size: "unit": each space is divided by its Frobenius norm first, range [0, sqrt 2] (ReSi's
            OrthogonalProcrustesCenteredAndNormalized). "kept": in units of the features, as large as they are (ReSi's
            ProcrustesSizeAndShapeDistance, netrep's LinearMetric(alpha=1, euclidean)). "relative": that over y's norm;
            Aristotelian's `procrustes` is 1 minus this.
        center: Subtract each space's mean row.

    Returns:
        The distance; lower is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows, ConstantSpace: As `mutual_knn`.
        BadChoice: If size is unknown.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> procrustes(x, -2 * x[:, ::-1] + 1) < 1e-7
        True

    Source:
        Schönemann 1966, Psychometrika 31; Williams et al. 2021, arXiv:2110.14739.
    """
    return ProcrustesComparison(size, center)(x, y)


def angular_distance(x: X, y: Y, *, center: bool = True) -> float:
    """Riemannian shape distance: the angle between two spaces after the best rotation or reflection, in radians.

    arccos of the nuclear norm of x^T y, both of Frobenius norm 1. A metric (triangle inequality); LOWER is more
    aligned. Symmetric, 0 for equal shapes (values below 1e-7 are rounding). Invariant to rotation and scale, and to
    translation if centred. ReSi's OrthogonalAngularShapeMetricCentered, netrep's LinearMetric(alpha=1, angular).

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.
        center: Subtract each space's mean row.

    Returns:
        The angle, in [0, pi / 2]; lower is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows, ConstantSpace: As `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> angular_distance(x, 5 * x) < 1e-7
        True

    Source:
        Williams et al. 2021, arXiv:2110.14739.
    """
    return AngularComparison(center)(x, y)


def aligned_cosine(x: X, y: Y, *, center: bool = False) -> float:
    """Mean cosine of matching rows after the best rotation or reflection of one space onto the other.

    The rotation is the orthogonal Procrustes solution for the rows as they are, on the directions that the spaces
    share. Symmetric; 1 for a space with itself; invariant to rotation and scale. ReSi's AlignedCosineSimilarity.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space; any width.
        center: Subtract each space's mean row first.

    Returns:
        Mean cosine, in [-1, 1]; higher is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows, ConstantSpace: As `mutual_knn`.
        ZeroRow: If a row is zero (with center: is the mean row).

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> round(aligned_cosine(x, -2 * x[:, ::-1]), 6)
        1.0

    Source:
        Hamilton et al. 2016, arXiv:1605.09096; ReSi (Klabunde et al. 2024, arXiv:2408.00531).
    """
    return AlignedCosine(center)(x, y)


def angular_cka(x: X, y: Y) -> float:
    """The angle between two centred linear kernels, in radians: arccos of linear `cka`.

    A metric (triangle inequality), which `cka` is not; LOWER is more aligned. Symmetric, 0 for a space with itself
    (values below 1e-7 are rounding); invariant to rotation, scale and translation. netrep's LinearCKA.

    Args:
        x: Features of n samples in the first space.
        y: Features of the same samples, in the same order, in the second space.

    Returns:
        The angle, in [0, pi / 2]; lower is more aligned.

    Raises:
        BadShape, BadDtype, NotFinite, TooFewRows, ConstantSpace: As `cka`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> angular_cka(x, 5 * x) < 1e-7
        True

    Source:
        Williams et al. 2021, arXiv:2110.14739.
    """
    return AngularCka()(x, y)


@dataclass(frozen=True, eq=False)
class Shape:
    """One space, ready to be turned onto another.

    Args:
        rows: [n, min(n, d)] of Frobenius norm 1, centred if asked; turned into no more columns than rows.
        size: Frobenius norm before that, of features times 2 ** exponent.
        name: What the messages call it.
        exponent: See size.
    """

    rows: np.ndarray
    size: float
    name: str
    exponent: int


class _ShapeComparison(Comparison[Shape]):
    """What all scores of this module share: the sides."""

    center: bool

    def prepare(self, x: X, name: str = "x") -> Shape:
        """The rows of one space at size 1."""
        values = checked(x, name)
        if self.center:
            rows, _, exponent = centred_rows(values)
        else:
            exponent = -int(np.frexp(np.abs(values).max())[1])
            rows = np.ldexp(values.astype(np.float64), exponent)
        if rows.shape[1] > len(rows):
            # A^T = QR, so that A Q = R^T: the same rows seen in a basis of their own span.
            rows = np.asarray(np.linalg.qr(rows.T, mode="r")).T
        return self._shape(rows, 1.0, name, exponent)

    def _shape(self, rows: np.ndarray, unit: float, name: str, exponent: int) -> Shape:
        norm = float(np.linalg.norm(rows))
        if norm == 0:
            raise ConstantSpace(f"{name}: all {len(rows)} rows look alike; there is no shape to turn")
        return Shape(rows / norm, norm * unit, name, exponent)

    def take(self, side: Shape, rows: np.ndarray) -> Shape:
        """Some rows, centred and sized anew unless all of them are only rearranged."""
        part = side.rows[rows]
        if len(rows) == len(side.rows):
            return replace(side, rows=part)
        return self._shape(part - part.mean(axis=0) if self.center else part, side.size, side.name, side.exponent)


class _NuclearComparison(_ShapeComparison):
    """Scores that depend on the nuclear norm of the cross product alone."""

    @abstractmethod
    def settle(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
        """Scores [p] from nuclear norms [p], in [0, 1]."""

    def compare(self, a: Shape, b: Shape) -> float:
        """The score from one d x d decomposition."""
        return float(self.settle(_nuclear((a.rows.T @ b.rows)[None]), a, b)[0])

    def permuted(self, a: Shape, b: Shape, orders: np.ndarray) -> np.ndarray:
        """Scores with b's rows in other orders, many small decompositions at a time."""
        nuclear = np.concatenate([_nuclear(cross) for cross in cross_products(a.rows, b.rows, orders)])
        return self.settle(nuclear, a, b)


@dataclass(frozen=True)
class ProcrustesComparison(_NuclearComparison):
    """`procrustes` in two steps."""

    size: Size = "unit"
    center: bool = True

    def __post_init__(self) -> None:
        check_choice("size", self.size, SIZES)
        check_flag("center", self.center)

    def settle(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
        """|A R - B| from |A|^2 + |B|^2 - 2 |A^T B|_*."""
        if self.size == "unit":
            return np.sqrt(2 - 2 * nuclear)
        # In units of the larger features; (p - q)^2 + 2 p q (1 - nuclear) cancels less than the sum of squares.
        unit = min(a.exponent, b.exponent)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            p, q = (np.ldexp(side.size, unit - side.exponent) for side in (a, b))
            left = np.sqrt((p - q) ** 2 + 2 * p * q * (1 - nuclear))
            return np.ldexp(left, -unit) if self.size == "kept" else left / q


@dataclass(frozen=True)
class AngularComparison(_NuclearComparison):
    """`angular_distance` in two steps."""

    center: bool = True

    def __post_init__(self) -> None:
        check_flag("center", self.center)

    def settle(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
        """The angle whose cosine is the nuclear norm."""
        return np.arccos(nuclear)


@dataclass(frozen=True)
class AlignedCosine(_ShapeComparison):
    """`aligned_cosine` in two steps."""

    center: bool = False

    def __post_init__(self) -> None:
        check_flag("center", self.center)

    def _shape(self, rows: np.ndarray, unit: float, name: str, exponent: int) -> Shape:
        zero = np.flatnonzero(~rows.any(axis=1))
        if len(zero):
            raise ZeroRow(f"{name}: {len(zero)} of {len(rows)} rows are zero, the first is row {zero[0]}; no cosine")
        return super()._shape(rows, unit, name, exponent)

    def compare(self, a: Shape, b: Shape) -> float:
        """Mean cosine of a's rows, turned, with b's."""
        left, found, right = np.linalg.svd(a.rows.T @ b.rows, full_matrices=False)
        # Where nothing is shared the rotation is arbitrary: those directions add nothing.
        shared = found > max(len(a.rows), *left.shape) * np.finfo(np.float64).eps * found[0]
        turned = (a.rows @ left[:, shared]) @ right[shared]
        products = np.einsum("ij,ij->i", turned, b.rows)
        return float(np.mean(products / (np.linalg.norm(a.rows, axis=1) * np.linalg.norm(b.rows, axis=1))))


class AngularCka(Comparison[LinearSide]):
    """`angular_cka` in two steps."""

    cka = LinearCka()

    def prepare(self, x: X, name: str = "x") -> LinearSide:
        """As linear `cka`."""
        return self.cka.prepare(x, name)

    def compare(self, a: LinearSide, b: LinearSide) -> float:
        """The angle whose cosine is CKA."""
        return float(np.arccos(min(self.cka.compare(a, b), 1.0)))

    def take(self, side: LinearSide, rows: np.ndarray) -> LinearSide:
        """As linear `cka`."""
        return self.cka.take(side, rows)

    def permuted(self, a: LinearSide, b: LinearSide, orders: np.ndarray) -> np.ndarray:
        """As linear `cka`, products in float32."""
        return np.arccos(np.minimum(self.cka.permuted(a, b, orders), 1.0))


def _nuclear(cross: np.ndarray) -> np.ndarray:
    """Nuclear norm of each matrix [p, da, db], at most 1 despite rounding."""
    return np.minimum(np.linalg.svd(cross, compute_uv=False).sum(axis=1), 1.0)
