"""Modality gap (of centroids and of distributions), alignment and uniformity of features on the unit sphere."""

from dataclasses import dataclass

import numpy as np

from featcache.metrics.arrays import X, Y, as_float64, check_same_width, checked, unit_rows
from featcache.metrics.comparison import Comparison, RowComparison, check_amount
from featcache.metrics.errors import BadShape, TooFewRows
from featcache.metrics.scores.kernels import row_tiles


def modality_gap(x: X, y: Y) -> float:
    """Distance between the centroids of two spaces' unit rows.

    In [0, 2]; LOWER is closer. Says how far apart two modalities lie in one joint space, not which rows match:
    rearranging the rows changes nothing, so it has no permutation null, and 0 is not alignment. Symmetric; invariant to
    the length of rows; turning only one of the spaces changes the gap. Spaces and errors as `mutual_knn`, but of one
    width d; BadShape also if the widths differ.

    Example:
        >>> modality_gap(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[-3.0, 0.0], [0.0, 4.0]]))
        1.0

    Source: Liang et al. 2022, arXiv:2203.02053.
    """
    return ModalityGap()(x, y)


def distribution_gap(x: X, y: Y) -> float:
    """Energy distance between two spaces' unit rows once each is centred: the modality gap that no shift closes.

    2 E|a - b| - E|a - a'| - E|b - b'| over rows of different samples. The means are those of the sample, which lie too
    near to their own rows: distances between the spaces are scaled so that their mean square is what the two variances
    give. So where the two have one distribution apart from their means it is 0 on average, to within .2 / n by
    simulation, however matching rows depend on each other, and may lie below 0. LOWER is closer. Not scaled
    by the spread of the rows. Symmetric; invariant to the length of rows; turning only one of the spaces changes it. In
    float64, in tiles of about 16 MB. Spaces and errors as `modality_gap`; TooFewRows below 2 rows.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> distribution_gap(x, x), round(distribution_gap(x, np.array([[1.0, 0.0]] * 4)), 3)
        (0.0, 0.7)

    Source: Szekely & Rizzo 2013, J. Statistical Planning and Inference 143:8 (energy distance); over pairs of different
    samples as Gretton et al. 2012, JMLR 13, lemma 6. Centroid and distribution are told apart as in arXiv:2604.00279,
    whose own formula this is not.
    """
    a, b = (unit_rows(as_float64(space, name), name) for space, name in ((x, "x"), (y, "y")))
    check_same_width(a, b)
    n = len(a)
    if len(b) != n:
        raise BadShape(f"x has {n} rows and y {len(b)}; row i of both must be the same sample")
    if n < 2:
        raise TooFewRows(f"wanted at least 2 rows, got {n}")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    squares = n * float(np.vdot(a, a) + np.vdot(b, b))  # over (n - 1) n: what the variances give
    if not squares:
        return 0.0
    matches = float(np.vdot(a - b, a - b))
    between = _distances_of_others(a, b) * float(np.sqrt(squares / (squares - matches)))
    return (2 * between - _distances_of_others(a, a) - _distances_of_others(b, b)) / (n * (n - 1))


def _distances_of_others(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of |a_i - b_j| over i and j that differ."""
    squares, total = np.einsum("ij,ij->i", b, b), 0.0
    for part in row_tiles(len(a)):
        distances = a[part] @ b.T
        distances *= -2
        distances += np.einsum("ij,ij->i", a[part], a[part])[:, None]
        distances += squares
        np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
        rows = np.arange(len(distances))
        distances[rows, part.start + rows] = 0
        total += float(distances.sum())
    return total


def alignment_loss(x: X, y: Y, *, power: float = 2.0) -> float:
    """Mean distance to a power between matching unit rows of two modalities.

    In [0, 2 ** power]; LOWER is more aligned, 0 where every pair coincides. Symmetric; invariant to the length of rows.
    Chance at power = 2, rows permuted: 2 minus twice the product of the centroids. Spaces and errors as `modality_gap`;
    BadChoice if power is not a positive number.

    Example:
        >>> alignment_loss(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [3.0, 3.0]]))
        1.0

    Source: Wang & Isola 2020, arXiv:2005.10242, section 4.1.
    """
    return AlignmentLoss(power)(x, y)


def uniformity(x: X, *, t: float = 2.0) -> float:
    """Spread of one space's unit rows over the sphere: log mean exp(-t distance^2) over pairs of different rows.

    In [-4 t, 0]; LOWER is more uniform, 0 where all rows point one way. In float64, in tiles of about 16 MB. x [n, d]
    has two rows or more, t > 0 is the sharpness of the Gaussian. Errors as `mutual_knn`; BadChoice for t.

    Example:
        >>> uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]]))
        -8.0

    Source: Wang & Isola 2020, arXiv:2005.10242, section 4.1; pairs i < j as in their code.
    """
    check_amount("t", t, positive=True)
    rows = unit_rows(as_float64(x))
    n = len(rows)
    if n < 2:
        raise TooFewRows(f"wanted at least 2 rows, got {n}")
    top, total = -np.inf, 0.0
    for part in row_tiles(n):
        exponents = rows[part] @ rows[part.start :].T
        exponents -= 1
        exponents *= 2 * t  # -t |a - b|^2 of unit rows
        above = exponents[np.triu_indices(len(exponents), k=1, m=exponents.shape[1])]
        if len(above):
            # The largest exponent is taken out, so that no t makes every term vanish.
            peak = max(top, float(above.max()))
            total = total * float(np.exp(top - peak)) + float(np.exp(above - peak).sum())
            top = peak
    return min(0.0, top + float(np.log(total / (n * (n - 1) / 2))))


class _OneSphere(Comparison[np.ndarray]):
    """Scores of unit rows of one width."""

    def prepare(self, x: X, name: str = "x") -> np.ndarray:
        """Unit rows [n, d] in float64."""
        return unit_rows(checked(x, name).astype(np.float64), name)

    def take(self, space: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Some rows."""
        return space[rows]


@dataclass(frozen=True)
class ModalityGap(_OneSphere):
    """`modality_gap` in two steps."""

    def compare(self, a: np.ndarray, b: np.ndarray) -> float:
        """Distance of the two means."""
        check_same_width(a, b)
        return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))

    def permuted(self, a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """The same gap for every order."""
        return np.full(len(orders), self.compare(a, b))


@dataclass(frozen=True)
class AlignmentLoss(_OneSphere, RowComparison[np.ndarray]):
    """`alignment_loss` in two steps."""

    power: float = 2.0

    def __post_init__(self) -> None:
        check_amount("power", self.power, positive=True)

    def rows(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Loss of each row, [n]."""
        check_same_width(a, b)
        apart = a - b
        squares = np.einsum("ij,ij->i", apart, apart)
        return squares if self.power == 2 else squares ** (self.power / 2)
