"""Representational similarity analysis (RSA): agreement of two spaces on which samples are unlike."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.arrays import X, Y, checked, is_whole, unit_rows
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import BadChoice, ConstantSpace, ZeroRow
from featcache.metrics.scores.gram import centred_rows
from featcache.metrics.scores.kernels import row_tiles

Dissimilarity = Literal["correlation", "cosine", "euclidean", "squared_euclidean"]
DISSIMILARITIES: tuple[str, ...] = ("correlation", "cosine", "euclidean", "squared_euclidean")
Agreement = Literal["spearman", "pearson", "cosine", "rho_a", "cosine_cov", "corr_cov"]
AGREEMENTS: tuple[str, ...] = ("spearman", "pearson", "cosine", "rho_a", "cosine_cov", "corr_cov")
_RANKED = ("spearman", "rho_a")
_WHITENED = ("cosine_cov", "corr_cov")
LARGEST = 8192  # rows whose pairs are all kept: 33.5 million, 268 MB of float64 a space
_BATCH_ENTRIES = 1 << 21  # 16 MB of float64 moved at a time


def rsa(
    x: X,
    y: Y,
    *,
    dissimilarity: Dissimilarity = "correlation",
    compare: Agreement = "spearman",
    pairs: int | None = None,
    pair_seed: int = 0,
) -> float:
    """Agreement of two dissimilarity matrices of the same samples, over pairs of different samples.

    In [-1, 1] (cosines in [0, 1]); higher is more aligned. Symmetric; 1 for a space with itself; about 0 for unrelated
    spaces. In float64; squared distances are rounded to 2 ** -40 of the largest squared length (cosines of 1), so that
    pairs which only rounding tells apart tie, as those of repeated rows do. Spaces and errors as `mutual_knn`.
    Memory: n (n - 1) / 2 float64 a space, so that it grows with n squared: 268 MB a space at the 8,192 rows that are
    the limit, 3.3 GB in all while ranking them. Beyond, `pairs` takes a sample of the pairs, if you ask for it.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        dissimilarity: "correlation" (1 - Pearson over features), "cosine" (1 - cosine), "euclidean" or
            "squared_euclidean". rsatoolbox's "euclidean" is the squared distance over d: "squared_euclidean", as no
            score sees the factor.
        compare: "spearman" (average ranks for ties), "pearson" or "cosine" of the dissimilarities; "rho_a", Spearman's
            rho as expected when ties are broken at random (below 1 where there are ties); "cosine_cov", the cosine
            whitened by the covariance of dissimilarities that share a sample, which for "squared_euclidean" is linear
            CKA; "corr_cov", that of dissimilarities minus their mean.
        pairs: None for every pair, or how many pairs of samples to draw without replacement.
        pair_seed: Of the draw; both spaces use the same pairs.

    Raises:
        ZeroRow: If a row has no direction: zero for "cosine", constant over its features for "correlation".
        ConstantSpace: If all pairs of a space are equally unlike.
        BadChoice: If an option is unknown; if there are more than 8,192 rows and pairs is None; if pairs is
            given with a whitened comparison, which needs every pair.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(rsa(x, 3 * x), 6)
        1.0

    Source: Kriegeskorte et al. 2008, Frontiers in Systems Neuroscience 2; rho_a: Schütt et al. 2023, eLife 12;
    whitened: Diedrichsen et al. 2021, arXiv:2007.02789.
    """
    return rsa_comparison(dissimilarity=dissimilarity, compare=compare, pairs=pairs, pair_seed=pair_seed)(x, y)


def rsa_comparison(
    *,
    dissimilarity: Dissimilarity = "correlation",
    compare: Agreement = "spearman",
    pairs: int | None = None,
    pair_seed: int = 0,
) -> "RsaComparison":
    """`rsa` in two steps."""
    return RsaComparison(dissimilarity, compare, pairs, pair_seed)


@dataclass(frozen=True, eq=False)
class Dissimilarities:
    """One space, ready to be compared by its dissimilarities."""

    # [m] of each pair i < j, row by row of the upper triangle or as drawn: dissimilarities or their ranks, shifted and
    # scaled so that the product of two spaces' is the score
    values: np.ndarray
    sums: np.ndarray | None  # [n] of each sample's values over all others, where the comparison is whitened, else None
    directions: np.ndarray  # [n, d] rows that dissimilarities are taken from
    name: str  # what the messages call it

    def __len__(self) -> int:
        return len(self.directions)


@dataclass(frozen=True)
class RsaComparison(Comparison[Dissimilarities]):
    """`rsa` in two steps; `agreement` is what `rsa` calls compare. Permuting takes two n x n float64 matrices."""

    dissimilarity: Dissimilarity = "correlation"
    agreement: Agreement = "spearman"
    pairs: int | None = None
    pair_seed: int = 0

    at_least = 3

    def __post_init__(self) -> None:
        if self.dissimilarity not in DISSIMILARITIES:
            raise BadChoice(f"dissimilarity {self.dissimilarity!r} is unknown; there are {', '.join(DISSIMILARITIES)}")
        if self.agreement not in AGREEMENTS:
            raise BadChoice(f"compare {self.agreement!r} is unknown; there are {', '.join(AGREEMENTS)}")
        if self.pairs is None:
            return
        if not is_whole(self.pairs) or self.pairs < 3:
            raise BadChoice(f"pairs = {self.pairs!r}: wanted None (every pair) or a whole number, 3 or more")
        if self.agreement in _WHITENED:
            raise BadChoice(f"compare={self.agreement!r} needs every pair; leave pairs=None")

    def prepare(self, x: X, name: str = "x") -> Dissimilarities:
        """The dissimilarities of one space."""
        return self._between(_directions(checked(x, name), self.dissimilarity, name), name)

    def _between(self, rows: np.ndarray, name: str) -> Dissimilarities:
        n, distance = len(rows), "euclidean" in self.dissimilarity
        if self.pairs is None and n > LARGEST:
            raise BadChoice(
                f"{name}: {n} rows have {n * (n - 1) // 2} pairs; every pair is compared up to {LARGEST} rows. "
                "Give pairs=1_000_000 for a seeded sample of them, or take cka"
            )
        if self.pairs is None:
            values = _every_pair(rows, distance)
        else:
            values = _pairs_of(rows, *drawn_pairs(n, self.pairs, self.pair_seed), distance)
        grid = 2.0**-40 * (float(np.exp2(np.ceil(np.log2(_squares(rows).max())))) if distance else 1.0)
        values = np.maximum(np.round(values / grid), 0) * grid
        return self._normal(np.sqrt(values) if self.dissimilarity == "euclidean" else values, rows, name)

    def _normal(self, values: np.ndarray, rows: np.ndarray, name: str) -> Dissimilarities:
        """Ranks, shift and scale; done again to a part of the result it gives that part's."""
        if self.agreement in _RANKED:
            from scipy.stats import rankdata

            values = rankdata(values)
        m, largest, sums = len(values), float(np.abs(values).max()), None
        if self.agreement not in ("cosine", "cosine_cov"):
            values = values - values.mean()
        scale = float(np.linalg.norm(values))
        if not scale > 1e-13 * largest * np.sqrt(m):
            raise ConstantSpace(f"{name}: all {m} pairs are equally unlike; there is no order to agree on")
        if self.agreement == "rho_a":  # the norm that ranks without ties would have
            scale = float(np.sqrt((m**3 - m) / 12))
        elif self.agreement in _WHITENED:
            sums = _sums(values, len(rows))
            scale = float(np.sqrt(_whitened(values, values, sums, sums)))
        return Dissimilarities(values / scale, None if sums is None else sums / scale, rows, name)

    def compare(self, a: Dissimilarities, b: Dissimilarities) -> float:
        """One product over the pairs."""
        if a.sums is not None and b.sums is not None:
            return _whitened(a.values, b.values, a.sums, b.sums)
        return float(a.values @ b.values)

    def take(self, space: Dissimilarities, rows: np.ndarray) -> Dissimilarities:
        """The matrix of some rows, ranked and scaled anew if they are a part; drawn pairs are drawn anew."""
        kept = space.directions[rows]
        if self.pairs is not None:
            return self._between(kept, space.name)
        values = _rearranged(space.values, len(space), rows)
        if len(rows) < len(space):
            return self._normal(values, kept, space.name)
        return replace(space, values=values, sums=None if space.sums is None else space.sums[rows], directions=kept)

    def permuted(self, a: Dissimilarities, b: Dissimilarities, orders: np.ndarray) -> np.ndarray:
        """The matrix of b rearranged, about 16 MB of many orders at a time."""
        if self.pairs is not None:
            return super().permuted(a, b, orders)
        left, right, n = _square(a.values, len(a)), _square(b.values, len(b)), len(a)
        if a.sums is None:
            left /= 2  # each pair is there twice
        else:  # whitening centres the matrix; a projection, so that one space is enough
            means = a.sums / n
            left -= means + means[:, None] - means.mean()
        scores = np.zeros(len(orders))
        many, step = max(1, _BATCH_ENTRIES // n**2), max(1, min(n, _BATCH_ENTRIES // n))
        for start in range(0, len(orders), many):
            order = orders[start : start + many]
            for top in range(0, n, step):
                moved = right[order[:, top : top + step, None], order[:, None, :]]
                scores[start : start + many] += moved.reshape(len(order), -1) @ left[top : top + step].ravel()
        return scores


def _directions(values: np.ndarray, dissimilarity: Dissimilarity, name: str) -> np.ndarray:
    """Rows in float64 whose products give the dissimilarities: of length 1, or centred where lengths count."""
    if dissimilarity == "cosine":
        return unit_rows(values.astype(np.float64), name)
    if dissimilarity != "correlation":
        return centred_rows(values)[0]
    rows = values.astype(np.float64)
    peaks = np.abs(rows).max(axis=1)
    rows -= rows.mean(axis=1, keepdims=True)
    flat = np.flatnonzero(np.abs(rows).max(axis=1) <= 1e-14 * peaks)
    if len(flat):
        raise ZeroRow(
            f"{name}: {len(flat)} of {len(rows)} rows are constant over their {rows.shape[1]} features, the first is "
            f'row {flat[0]}; no correlation. Take dissimilarity="euclidean", or drop them'
        )
    return unit_rows(rows, name)


def drawn_pairs(n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs i < j of n samples, each at most once; all of them if there are no more than `count`.

    Example:
        >>> [rows.tolist() for rows in drawn_pairs(3, 5, seed=0)]
        [[0, 0, 1], [1, 2, 2]]
    """
    total, rng = n * (n - 1) // 2, np.random.default_rng(seed)
    if total <= count:
        flat = np.arange(total)
    elif total < 4 * count:
        flat = rng.permutation(total)[:count]
    else:  # draws that repeat are few, so that memory stays at the sample
        flat = np.zeros(0, dtype=np.int64)
        while len(flat) < count:
            flat = np.unique(np.concatenate([flat, rng.integers(total, size=count)]))
        flat = rng.choice(flat, count, replace=False)
    own = np.arange(n)
    starts = own * n - own * (own + 1) // 2
    first = np.searchsorted(starts[:-1], flat, side="right") - 1
    return first, flat - starts[first] + first + 1


def _rows_of_pairs(n: int) -> Iterator[tuple[int, slice]]:
    """(i, where its pairs i < j lie among all pairs) for each i."""
    stop = 0
    for i in range(n - 1):
        start, stop = stop, stop + n - 1 - i
        yield i, slice(start, stop)


def _every_pair(rows: np.ndarray, distance: bool) -> np.ndarray:
    n, squares = len(rows), _squares(rows)
    values, at = np.empty(n * (n - 1) // 2), _rows_of_pairs(n)
    for part in row_tiles(n):
        tile = rows[part] @ rows[part.start :].T
        for i, (own, segment) in zip(range(part.stop - part.start), at, strict=False):
            products = tile[i, i + 1 :]
            values[segment] = squares[own] + squares[own + 1 :] - 2 * products if distance else 1 - products
    return values


def _pairs_of(rows: np.ndarray, first: np.ndarray, second: np.ndarray, distance: bool) -> np.ndarray:
    values, step = np.empty(len(first)), max(1, _BATCH_ENTRIES // rows.shape[1])
    for start in range(0, len(first), step):
        a, b = rows[first[start : start + step]], rows[second[start : start + step]]
        values[start : start + step] = _squares(a - b) if distance else 1 - np.einsum("ij,ij->i", a, b)
    return values


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows, rows)


def _sums(values: np.ndarray, n: int) -> np.ndarray:
    sums = np.zeros(n)
    for i, segment in _rows_of_pairs(n):
        sums[i] += values[segment].sum()
        sums[i + 1 :] += values[segment]
    return sums


def _whitened(a: np.ndarray, b: np.ndarray, a_sums: np.ndarray, b_sums: np.ndarray) -> float:
    """Inner product of two double-centred matrices, tr(HDHE), from their pairs and row sums (Diedrichsen et al.)."""
    n = len(a_sums)
    return float(2 * (a @ b) - 2 / n * (a_sums @ b_sums) + a_sums.sum() * b_sums.sum() / n**2)


def _rearranged(values: np.ndarray, n: int, rows: np.ndarray) -> np.ndarray:
    """Pairs of some rows, in their order, out of all pairs of n."""
    rows = rows.astype(np.int64)
    taken = np.empty(len(rows) * (len(rows) - 1) // 2)
    for i, segment in _rows_of_pairs(len(rows)):
        low, high = np.minimum(rows[i], rows[i + 1 :]), np.maximum(rows[i], rows[i + 1 :])
        taken[segment] = values[low * n - low * (low + 1) // 2 + high - low - 1]
    return taken


def _square(values: np.ndarray, n: int) -> np.ndarray:
    """The symmetric matrix [n, n] of all pairs, with zeros on the diagonal."""
    full = np.zeros((n, n))
    for i, segment in _rows_of_pairs(n):
        full[i, i + 1 :] = full[i + 1 :, i] = values[segment]
    return full
