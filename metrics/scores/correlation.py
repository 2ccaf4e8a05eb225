"""Canonical correlations of two spaces: CCA, SVCCA and projection-weighted CCA."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.arrays import X, Y, checked
from featcache.metrics.comparison import Comparison, check_amount, check_flag
from featcache.metrics.errors import BadChoice, ConstantSpace, TooFewRows
from featcache.metrics.scores.gram import centred_rows

Weighting = Literal["projection", "variate"]
WEIGHTINGS: tuple[str, ...] = ("projection", "variate")
_BATCH_ENTRIES = 1 << 21  # 16 MB of float64 moved at a time


def cca(x: X, y: Y, *, ridge: float = 0.0) -> float:
    """Mean canonical correlation: how well each direction of the smaller space is predicted, all directions alike.

    In [0, 1]; higher is more aligned, 1 for a space with itself. Symmetric. Invariant to translation and to any
    invertible linear map of either space, so small directions weigh as much as large ones: see `svcca`. In float64.
    Chance is high: permuted, the squared correlations sum to dx dy / (n - 1) on average, so that their mean is
    max(dx, dy) / (n - 1). With n - 1 independent directions or more every score would be 1: TooFewRows.
    Memory: the rows of both spaces in float64. Spaces and errors as `mutual_knn`.

    A ridge, 0 or more, is added to the diagonal of both covariances (over n - 1), in units of squared features. It
    shrinks every correlation, takes any n, and then neither scale nor maps leave the score. Aristotelian's has 1e-6.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> round(cca(x, x @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 5.0], [0.0, 0.0, 0.1]]) + 7), 6)
        1.0

    Source: Hotelling 1936, Biometrika 28; as a similarity: Raghu et al. 2017, arXiv:1706.05806.
    """
    return cca_comparison(ridge=ridge)(x, y)


def svcca(x: X, y: Y, *, dims: int | float = 0.99, standardize: bool = False, ridge: float = 0.0) -> float:
    """Mean canonical correlation of the leading principal components of both spaces.

    In [0, 1]; higher is more aligned, 1 for a space with itself. Symmetric; invariant to rotation, scale and
    translation. Exact singular value decomposition in float64, so the score is the same every time. Spaces, ridge (on
    the components' covariances) and errors as `cca`; BadChoice also if a space has fewer than dims components.

    Conventions: 0.99 is Raghu et al.'s (and platonic-universe's); `dims=10, standardize=True` is platonic-rep's, whose
    random projection scatters around the exact value; `dims=10, ridge=1e-6` is Aristotelian's; ReSi asks for 99 % of
    the variance but keeps one component, which is `dims=1`. `dims` is a whole number, or a float in (0, 1], the share
    of variance to reach. `standardize` divides each feature by its standard deviation (constant ones stay 0); it breaks
    rotation.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8)) * [9, 9, 9, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]
        >>> round(svcca(x, x[:, :3]), 3)
        1.0

    Source: Raghu et al. 2017, arXiv:1706.05806.
    """
    return svcca_comparison(dims=dims, standardize=standardize, ridge=ridge)(x, y)


def pwcca(x: X, y: Y, *, weighting: Weighting = "projection", ridge: float = 0.0) -> float:
    """Canonical correlations weighted by how much of x's features their directions carry.

    In [0, 1]; higher is more aligned, 1 for a space with itself. Not symmetric: the weights are x's. Invariant to
    translation and scale, and to any invertible linear map of y; a rotation of x changes the weights. In float64.
    Spaces, ridge and errors as `cca`.

    The weights come from the canonical variates h of x: "projection", the sum over x's features of |<h, feature>|
    (Morcos et al.), or "variate", the sum of |h| over samples (Aristotelian's, with ridge 1e-6).

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> round(pwcca(x, 2 * x), 6)
        1.0

    Source: Morcos et al. 2018, arXiv:1806.05759.
    """
    return pwcca_comparison(weighting=weighting, ridge=ridge)(x, y)


def cca_comparison(*, ridge: float = 0.0) -> "CanonicalComparison":
    """`cca` in two steps."""
    return CanonicalComparison(ridge=ridge)


def svcca_comparison(
    *, dims: int | float = 0.99, standardize: bool = False, ridge: float = 0.0
) -> "CanonicalComparison":
    """`svcca` in two steps."""
    return CanonicalComparison(dims=dims, standardize=standardize, ridge=ridge)


def pwcca_comparison(*, weighting: Weighting = "projection", ridge: float = 0.0) -> "CanonicalComparison":
    """`pwcca` in two steps."""
    return CanonicalComparison(weighting=weighting, ridge=ridge)


@dataclass(frozen=True, eq=False)
class Components:
    """One space, ready for canonical correlations."""

    basis: np.ndarray  # [n, r] principal components of length 1, or shorter with a ridge
    loadings: np.ndarray  # [d, r] inner products of the centred features with the basis
    source: np.ndarray  # [n, d] the features as given
    name: str  # what the messages call it


@dataclass(frozen=True)
class CanonicalComparison(Comparison[Components]):
    """A mean of canonical correlations; dims None keeps all components, weighting None is the plain mean."""

    dims: int | float | None = None
    standardize: bool = False
    ridge: float = 0.0
    weighting: Weighting | None = None

    def __post_init__(self) -> None:
        check_amount("ridge", self.ridge)
        check_flag("standardize", self.standardize)
        if self.weighting is not None and self.weighting not in WEIGHTINGS:
            raise BadChoice(f"weighting {self.weighting!r} is unknown; there are {', '.join(WEIGHTINGS)}")
        if self.dims is not None and not _fit_dims(self.dims):
            raise BadChoice(
                f"dims = {self.dims!r}: wanted a whole number of components, or a share of variance in (0, 1]"
            )

    def prepare(self, x: X, name: str = "x") -> Components:
        """The leading principal components of one space, whitened."""
        source = checked(x, name)
        rows, _, exponent = centred_rows(source)
        if self.standardize:
            rows, exponent = _standardized(rows, np.ldexp(np.abs(source).max(axis=0).astype(np.float64), exponent)), 0
        left, lengths, right = np.linalg.svd(rows, full_matrices=False)
        kept = self._kept(lengths, rows.shape, name)
        left, lengths, right = left[:, :kept], lengths[:kept], right[:kept]
        # (U S V^T) whitened by its covariance S^2 / (n - 1) + ridge, up to the factor that cancels.
        shrunk = lengths / np.sqrt(lengths**2 + np.ldexp(self.ridge, 2 * exponent) * (len(rows) - 1))
        return Components(left * shrunk, right.T * (lengths * shrunk), source, name)

    def _kept(self, lengths: np.ndarray, shape: tuple[int, int], name: str) -> int:
        n = shape[0]
        rank = int(np.sum(lengths > max(shape) * np.finfo(np.float64).eps * lengths[0]))
        if rank == 0:
            raise ConstantSpace(f"{name}: all {n} rows look alike, no direction is left after centring")
        if isinstance(self.dims, float | np.floating):
            shares = np.cumsum(lengths**2)
            kept = min(int(np.searchsorted(shares / shares[-1], self.dims)) + 1, rank)
        else:
            kept = rank if self.dims is None else int(self.dims)
        if kept > rank:
            raise BadChoice(f"{name}: dims = {kept}, but only {rank} directions vary (n = {n}, d = {shape[1]})")
        if kept >= n - 1 and self.ridge == 0:
            raise TooFewRows(
                f"{name}: {kept} directions for {n} rows, so that every canonical correlation is 1 whatever the other "
                "space; measure more rows, keep fewer (svcca with a lower dims), or give a ridge"
            )
        return kept

    def compare(self, a: Components, b: Components) -> float:
        """Mean of the singular values of the product of the two bases."""
        return float(self._mean(a, (a.basis.T @ b.basis)[None])[0])

    def take(self, space: Components, rows: np.ndarray) -> Components:
        """Some rows: decomposed anew, unless all of them are only rearranged."""
        if len(rows) < len(space.source):
            return self.prepare(space.source[rows], space.name)
        return replace(space, basis=space.basis[rows], source=space.source[rows])

    def permuted(self, a: Components, b: Components, orders: np.ndarray) -> np.ndarray:
        """Many small decompositions at a time."""
        return np.concatenate([self._mean(a, cross) for cross in cross_products(a.basis, b.basis, orders)])

    def _mean(self, a: Components, cross: np.ndarray) -> np.ndarray:
        if self.weighting is None:
            return np.minimum(np.linalg.svd(cross, compute_uv=False), 1.0).mean(axis=1)
        turned, correlations, _ = np.linalg.svd(cross, full_matrices=False)
        carried = a.loadings if self.weighting == "projection" else a.basis
        weights = np.abs(carried @ turned).sum(axis=1)
        return (weights * np.minimum(correlations, 1.0)).sum(axis=1) / weights.sum(axis=1)


def cross_products(a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> Iterator[np.ndarray]:
    """a^T b[order] for each of the orders [p, n], in batches [c, da, db] of about 16 MB."""
    step = max(1, _BATCH_ENTRIES // (max(len(a), a.shape[1]) * b.shape[1]))
    for start in range(0, len(orders), step):
        yield a.T @ b[orders[start : start + step]]


def _standardized(rows: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Centred columns over their standard deviation; those that vary by rounding alone become 0."""
    deviations = np.sqrt(np.mean(rows**2, axis=0))
    varies = deviations > 1e-14 * len(rows) * peaks
    return np.where(varies, rows, 0) / np.where(varies, deviations, 1)


def _fit_dims(dims: object) -> bool:
    if isinstance(dims, bool):
        return False
    if isinstance(dims, int | np.integer):
        return bool(dims >= 1)
    return isinstance(dims, float | np.floating) and bool(0 < dims <= 1)
