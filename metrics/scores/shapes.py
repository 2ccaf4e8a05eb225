"""Procrustes distances, angles and cosines of two spaces after one is rotated onto the other."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.arrays import X, Y, checked
from featcache.metrics.comparison import Comparison, check_flag
from featcache.metrics.errors import ConstantSpace, ZeroRow
from featcache.metrics.scores.correlation import cross_products
from featcache.metrics.scores.gram import LinearKernel, centred_rows
from featcache.metrics.scores.kernels import LinearCka, check_choice

Size = Literal["unit", "kept", "relative"]
SIZES: tuple[str, ...] = ("unit", "kept", "relative")


def procrustes(x: X, y: Y, *, size: Size = "unit", center: bool = True) -> float:
    """Orthogonal Procrustes distance: what is left between two spaces after the best rotation or reflection.

    LOWER is more aligned, 0 for equal shapes. The narrower space counts as padded with zeros. Symmetric (but not with
    size="relative"); invariant to rotation, and to translation if centred. In float64: the nuclear norm of the dx x dy
    cross product, never n x n. Taken from a difference of squares, so values below 1e-7 of the spaces' size are
    rounding. Spaces and errors as `mutual_knn`.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        size: "unit": each space is divided by its Frobenius norm first, range [0, sqrt 2] (ReSi's
            OrthogonalProcrustesCenteredAndNormalized). "kept": in units of the features, as large as they are (ReSi's
            ProcrustesSizeAndShapeDistance, netrep's LinearMetric(alpha=1, euclidean)). "relative": that over y's norm;
            Aristotelian's `procrustes` is 1 minus this. BadChoice for any other.
        center: Subtract each space's mean row.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> procrustes(x, -2 * x[:, ::-1] + 1) < 1e-7
        True

    Source: Schönemann 1966, Psychometrika 31; Williams et al. 2021, arXiv:2110.14739.
    """
    return ProcrustesComparison(size, center)(x, y)


def angular_distance(x: X, y: Y, *, center: bool = True) -> float:
    """Riemannian shape distance: the angle between two spaces after the best rotation or reflection, in radians.

    arccos of the nuclear norm of x^T y, both of Frobenius norm 1. In [0, pi / 2]; LOWER is more aligned, 0 for equal
    shapes (values below 1e-7 are rounding). A metric (triangle inequality). Symmetric; invariant to rotation and scale,
    and to translation if centred. ReSi's OrthogonalAngularShapeMetricCentered, netrep's LinearMetric(alpha=1, angular).
    Arguments and errors as `procrustes`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> angular_distance(x, 5 * x) < 1e-7
        True

    Source: Williams et al. 2021, arXiv:2110.14739.
    """
    return AngularComparison(center)(x, y)


def aligned_cosine(x: X, y: Y, *, center: bool = False) -> float:
    """Mean cosine of matching rows after the best rotation or reflection of one space onto the other.

    In [-1, 1]; higher is more aligned, 1 for a space with itself. The rotation is the orthogonal Procrustes solution
    for the rows as they are, on the directions that the spaces share. Symmetric; invariant to rotation and scale.
    ReSi's AlignedCosineSimilarity. Arguments and errors as `procrustes`; ZeroRow if a row is zero (centred: the mean
    row).

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> round(aligned_cosine(x, -2 * x[:, ::-1]), 6)
        1.0

    Source: Hamilton et al. 2016, arXiv:1605.09096; ReSi (Klabunde et al. 2024, arXiv:2408.00531).
    """
    return AlignedCosine(center)(x, y)


def angular_cka(x: X, y: Y) -> float:
    """The angle between two centred linear kernels, in radians: arccos of linear `cka`.

    In [0, pi / 2]; LOWER is more aligned, 0 for a space with itself (values below 1e-7 are rounding). A metric
    (triangle inequality), which `cka` is not. Symmetric; invariant to rotation, scale and translation. netrep's
    LinearCKA. Spaces and errors as `cka`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> angular_cka(x, 5 * x) < 1e-7
        True

    Source: Williams et al. 2021, arXiv:2110.14739.
    """
    return AngularCka()(x, y)


@dataclass(frozen=True, eq=False)
class Shape:
    """One space, ready to be rotated onto another."""

    rows: np.ndarray  # [n, min(n, d)] of Frobenius norm 1, perhaps centred; rotated into no more columns than rows
    size: float  # Frobenius norm before that, of features times 2 ** exponent
    name: str  # what the messages call it
    exponent: int  # see size


class _ShapeComparison(Comparison[Shape]):
    """Scores of two `Shape`s."""

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

    def take(self, space: Shape, rows: np.ndarray) -> Shape:
        """Some rows, centred and sized anew unless all of them are only rearranged."""
        part = space.rows[rows]
        if len(rows) == len(space.rows):
            return replace(space, rows=part)
        return self._shape(part - part.mean(axis=0) if self.center else part, space.size, space.name, space.exponent)


class _NuclearComparison(_ShapeComparison):
    """Scores that depend on the nuclear norm of the cross product alone."""

    @abstractmethod
    def from_nuclear_norm(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
        """Scores [p] from nuclear norms [p], in [0, 1]."""

    def compare(self, a: Shape, b: Shape) -> float:
        """The score from one d x d decomposition."""
        return float(self.from_nuclear_norm(_nuclear((a.rows.T @ b.rows)[None]), a, b)[0])

    def permuted(self, a: Shape, b: Shape, orders: np.ndarray) -> np.ndarray:
        """Many small decompositions at a time."""
        nuclear = np.concatenate([_nuclear(cross) for cross in cross_products(a.rows, b.rows, orders)])
        return self.from_nuclear_norm(nuclear, a, b)


@dataclass(frozen=True)
class ProcrustesComparison(_NuclearComparison):
    """`procrustes` in two steps."""

    size: Size = "unit"
    center: bool = True

    def __post_init__(self) -> None:
        check_choice("size", self.size, SIZES)
        check_flag("center", self.center)

    def from_nuclear_norm(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
        """|A R - B| from |A|^2 + |B|^2 - 2 |A^T B|_*."""
        if self.size == "unit":
            return np.sqrt(2 - 2 * nuclear)
        # In units of the larger features; (p - q)^2 + 2 p q (1 - nuclear) cancels less than the sum of squares.
        unit = min(a.exponent, b.exponent)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            p, q = (np.ldexp(space.size, unit - space.exponent) for space in (a, b))
            left = np.sqrt((p - q) ** 2 + 2 * p * q * (1 - nuclear))
            return np.ldexp(left, -unit) if self.size == "kept" else left / q


@dataclass(frozen=True)
class AngularComparison(_NuclearComparison):
    """`angular_distance` in two steps."""

    center: bool = True

    def __post_init__(self) -> None:
        check_flag("center", self.center)

    def from_nuclear_norm(self, nuclear: np.ndarray, a: Shape, b: Shape) -> np.ndarray:
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
        """Mean cosine of a's rows, rotated, with b's."""
        left, lengths, right = np.linalg.svd(a.rows.T @ b.rows, full_matrices=False)
        # Where nothing is shared the rotation is arbitrary: those directions add nothing.
        shared = lengths > max(len(a.rows), *left.shape) * np.finfo(np.float64).eps * lengths[0]
        turned = (a.rows @ left[:, shared]) @ right[shared]
        products = np.einsum("ij,ij->i", turned, b.rows)
        return float(np.mean(products / (np.linalg.norm(a.rows, axis=1) * np.linalg.norm(b.rows, axis=1))))


@dataclass(frozen=True)
class AngularCka(Comparison[LinearKernel]):
    """`angular_cka` in two steps."""

    cka = LinearCka()

    def prepare(self, x: X, name: str = "x") -> LinearKernel:
        """As linear `cka`."""
        return self.cka.prepare(x, name)

    def compare(self, a: LinearKernel, b: LinearKernel) -> float:
        """The angle whose cosine is CKA."""
        return float(np.arccos(min(self.cka.compare(a, b), 1.0)))

    def take(self, space: LinearKernel, rows: np.ndarray) -> LinearKernel:
        """As linear `cka`."""
        return self.cka.take(space, rows)

    def permuted(self, a: LinearKernel, b: LinearKernel, orders: np.ndarray) -> np.ndarray:
        """As linear `cka`, products in float32."""
        return np.arccos(np.minimum(self.cka.permuted(a, b, orders), 1.0))

    def permutation_cost(self, a: LinearKernel, b: LinearKernel) -> float:
        """As linear `cka`."""
        return self.cka.permutation_cost(a, b)

    def on_subsets(
        self, spaces: Sequence[LinearKernel], other: LinearKernel, masks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As linear `cka`."""
        scores, short = self.cka.on_subsets(spaces, other, masks)
        return np.arccos(np.minimum(scores, 1.0)), short


def _nuclear(cross: np.ndarray) -> np.ndarray:
    """Nuclear norm of each matrix [p, da, db], at most 1 despite rounding."""
    return np.minimum(np.linalg.svd(cross, compute_uv=False).sum(axis=1), 1.0)
