"""CKNNA: kernel alignment among shared nearest neighbours, from neighbour graphs instead of n x n masks."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from featcache.metrics.arrays import Groups, X, Y, as_float64
from featcache.metrics.comparison import Comparison, check_amount, check_flag, check_search
from featcache.metrics.errors import BadChoice, ConstantSpace
from featcache.metrics.knn.graph import Neighbors, neighbors

KernelMeasure = Literal["cosine", "ip"]


def cknna(
    x: X,
    y: Y,
    *,
    k: int = 10,
    groups: Groups | None = None,
    metric: KernelMeasure = "cosine",
    debiased: bool = True,
    epsilon: float = 0.0,
) -> float:
    """Centred kernel nearest-neighbour alignment: CKA on the pairs that both spaces call neighbours.

    Higher is more aligned; 1 for a space with itself; not bounded by Cauchy-Schwarz. The numerator keeps a pair where
    both graphs have it, each denominator where its own graph has it. Neighbour masks are not symmetric, and the
    published code is followed in what that means: the first of Song et al.'s three terms multiplies K_ij by L_ji, so
    that only reciprocal pairs count there, and the third meets K's columns with L's rows, so that swapping the spaces
    changes the score a little (.461 and .463 on one pair of 60 rows). Memory: O(n k). Spaces and errors as
    `mutual_knn`.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        k: Neighbours per sample, 2 <= k < n.
        groups: The group of each row, or None.
        metric: "cosine", or "ip" for inner products of rows as they are.
        debiased: Song et al.'s estimate (platonic-rep's default). False: tr(KHLH) of the masked kernels, where a row is
            a candidate of its own and takes one of the k places if its own similarity is among the k largest
            (its `unbiased=False`).
        epsilon: Added to the denominator; platonic-rep adds 1e-6.

    Raises:
        ConstantSpace: Also if the denominator is not positive, and epsilon 0.
        BadChoice: If k < 2, the metric is a distance, or epsilon is negative or not finite.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((50, 8))
        >>> round(cknna(x, 3 * x), 6)
        1.0

    Source: Huh et al. 2024, arXiv:2405.07987, appendix A; platonic-rep, commit dcd76ba, `cknna`.
    """
    return Cknna(k, groups, metric, debiased, epsilon)(x, y)


class _Edges(NamedTuple):
    """Edges of a graph of n rows: row * n + neighbour in rising order, and their similarity."""

    n: int
    codes: np.ndarray
    similarities: np.ndarray


@dataclass(frozen=True)
class Cknna(Comparison[Neighbors]):
    """`cknna` in two steps; search `depth` deep, k or more, if parts are to be taken.

    A part keeps what is left of each row's list. A list with fewer than k entries masks fewer pairs.
    """

    k: int = 10
    groups: Groups | None = None
    metric: KernelMeasure = "cosine"
    debiased: bool = True
    epsilon: float = 0.0
    depth: int | None = None

    at_least = 4

    def __post_init__(self) -> None:
        check_search(self.k, self.metric, self.depth)
        check_flag("debiased", self.debiased)
        check_amount("epsilon", self.epsilon)
        if self.k < 2:
            raise BadChoice(f"k = {self.k}: CKNNA needs 2 or more neighbours")
        if self.metric == "euclidean":
            raise BadChoice('metric "euclidean" is a distance, not a kernel; there are cosine, ip')

    def prepare(self, x: X, name: str = "x") -> Neighbors:
        """The neighbour graph of one space, `depth` deep; biased, with each row on its own list where it belongs."""
        graph = neighbors(x, k=self.depth or self.k, groups=self.groups, metric=self.metric, name=name)
        if self.debiased:
            return graph
        own = np.ones(graph.n)
        if self.metric == "ip":
            values = as_float64(x, name)
            own = np.einsum("ij,ij->i", values, values)
        ids = np.column_stack([np.arange(graph.n, dtype=graph.ids.dtype), graph.ids])
        similarities = np.column_stack([own, graph.similarities])
        order = np.argsort(-similarities, axis=1, kind="stable")[:, : graph.k]
        return replace(
            graph, ids=np.take_along_axis(ids, order, 1), similarities=np.take_along_axis(similarities, order, 1)
        )

    def compare(self, a: Neighbors, b: Neighbors) -> float:
        """ConstantSpace if the denominator is not positive, and epsilon 0."""
        first, second = self._edges(a), self._edges(b)
        xy, xx, yy = self._hsic(first, second), self._hsic(first, first), self._hsic(second, second)
        if self.epsilon == 0 and xx * yy <= 0:
            raise ConstantSpace(f"the denominator is not positive (x: {xx:.3g}, y: {yy:.3g}); CKNNA is undefined here")
        return float(xy / (np.sqrt(max(xx * yy, 0.0)) + self.epsilon))

    def take(self, space: Neighbors, rows: np.ndarray) -> Neighbors:
        """The graph among some rows, from the lists that are there."""
        return space.among(rows)

    def on_half(self) -> "tuple[Cknna, float]":
        """Half as many neighbours, but two."""
        return replace(self, k=max(2, (self.k + 1) // 2)), 1.0

    def _edges(self, graph: Neighbors) -> _Edges:
        ids, n = graph.ids[:, : self.k], graph.n
        row, place = np.nonzero(ids >= 0)
        codes = row * n + ids[row, place]
        order = np.argsort(codes)
        return _Edges(n, codes[order], graph.similarities[row, place][order])

    def _hsic(self, a: _Edges, b: _Edges) -> float:
        """HSIC of the kernels masked to the edges that both graphs have, from those edges alone."""
        n = a.n
        codes, in_a, in_b = np.intersect1d(a.codes, b.codes, assume_unique=True, return_indices=True)
        ka, kb = a.similarities[in_a], b.similarities[in_b]
        row, col = np.divmod(codes, n)
        # tr(KL) = sum of K_ij L_ji: the reverse of each edge, where it is an edge too.
        back = np.minimum(np.searchsorted(codes, col * n + row), max(len(codes) - 1, 0))
        mutual = codes[back] == col * n + row if len(codes) else np.zeros(0, dtype=bool)
        trace = float(np.sum(ka[mutual] * kb[back[mutual]]))
        whole = float(ka.sum() * kb.sum())
        into, out = (np.bincount(at, weights=values, minlength=n) for at, values in ((col, ka), (row, kb)))
        if self.debiased:  # Song et al. eq. 5
            return (trace + whole / ((n - 1) * (n - 2)) - 2 * float(into @ out) / (n - 2)) / (n * (n - 3))
        # tr(KHLH) written out; the masked kernels are not symmetric, so 1'KL1 and 1'LK1 differ.
        other = float(np.bincount(col, weights=kb, minlength=n) @ np.bincount(row, weights=ka, minlength=n))
        return trace - (float(into @ out) + other) / n + whole / n**2
