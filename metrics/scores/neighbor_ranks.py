"""Order and similarity of shared neighbours: rank similarity and second-order cosine similarity."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featcache.metrics.arrays import Groups, X, Y, checked, unit_rows
from featcache.metrics.comparison import KnnComparison, RowComparison, check_search
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.exact import Measure
from featcache.metrics.knn.graph import Neighbors, neighbors
from featcache.metrics.knn.graph_scores import rank_knn_graphs

Vectors = Literal["similarity", "distance"]
_BLOCK_ENTRIES = 1 << 20  # gathered rows: 8 MB of float64 a space


def rank_knn(x: X, y: Y, *, k: int = 10, groups: Groups | None = None, metric: Measure = "cosine") -> float:
    """Mean rank similarity of the two neighbour lists: whether shared neighbours have the same ranks.

    A neighbour that both lists hold, at ranks r and s, gives 2 / ((1 + |r - s|)(r + s)): near ones count more, moved
    ones less. The sum is divided by what as many shared neighbours would give at equal ranks 1, 2, ...; rows that
    share none score 0. So it is about the order of what is shared; `mutual_knn` is about how much is shared.
    Symmetric, in [0, 1]; higher is more aligned. Arguments and errors as `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> rank_knn(x, 2 * x, k=5)
        1.0

    Source: Wang et al. 2022, IEEE Transactions on Knowledge and Data Engineering 34; ReSi (Klabunde et al. 2024,
    arXiv:2408.00531), "rank similarity".
    """
    return KnnComparison(rank_knn_graphs, k, groups, metric)(x, y)


def second_order_cosine(
    x: X,
    y: Y,
    *,
    k: int = 10,
    groups: Groups | None = None,
    metric: Measure = "cosine",
    of: Vectors = "similarity",
) -> float:
    """Cosine of two vectors of cosines: whether samples are equally similar to their neighbours in both spaces.

    For each row, the neighbours that either space has; the row's cosine with each of them in x, and in y; the cosine
    of these two vectors. In [-1, 1]; higher is more aligned, 1 for a space with itself. Symmetric. Its mean is near 1
    wherever neighbours are much alike, in unrelated spaces too: read it against a permutation null. `of` compares
    vectors of cosines, "similarity" (Hamilton et al.), or of 1 - cosine, "distance" (ReSi's SecondOrderCosine). Other
    arguments and errors as `mutual_knn`; ZeroRow if a row is zero, whatever the metric.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> round(second_order_cosine(x, 2 * x, k=5), 6)
        1.0

    Source: Hamilton et al. 2016, arXiv:1606.02821; ReSi (Klabunde et al. 2024, arXiv:2408.00531).
    """
    return SecondOrderCosine(k, groups, metric, of=of)(x, y)


@dataclass(frozen=True, eq=False)
class GraphAndRows:
    """One space, ready for second-order cosines: its neighbours and its unit rows [n, d]."""

    graph: Neighbors
    rows: np.ndarray


@dataclass(frozen=True)
class SecondOrderCosine(RowComparison[GraphAndRows]):
    """`second_order_cosine` in two steps; `depth` as in `KnnComparison`."""

    k: int = 10
    groups: Groups | None = None
    metric: Measure = "cosine"
    depth: int | None = None
    of: Vectors = "similarity"

    def __post_init__(self) -> None:
        check_search(self.k, self.metric, self.depth)
        if self.of not in ("similarity", "distance"):
            raise BadChoice(f"of = {self.of!r} is unknown; there are similarity, distance")

    def prepare(self, x: X, name: str = "x") -> GraphAndRows:
        """The neighbour graph of one space, and its unit rows."""
        graph = neighbors(x, k=self.depth or self.k, groups=self.groups, metric=self.metric, name=name)
        return GraphAndRows(graph, unit_rows(checked(x, name).astype(np.float64), name))

    def rows(self, a: GraphAndRows, b: GraphAndRows) -> np.ndarray:
        """The cosine of each row's two vectors."""
        first, second = a.graph.ids[:, : self.k], b.graph.ids[:, : self.k]
        both = np.concatenate([first, second], axis=1)
        counted = np.ones(both.shape, dtype=bool)
        for column in first.T:  # what the first list has counts once
            counted[:, self.k :] &= second != column[:, None]
        p, q = (self._vectors(space.rows, both) * counted for space in (a, b))
        lengths = np.sqrt(np.einsum("ij,ij->i", p, p) * np.einsum("ij,ij->i", q, q))
        enough = (first[:, -1] >= 0) & (second[:, -1] >= 0)
        # All at distance 0, or all at right angles: nothing says that the two differ unless only one is so.
        alike = np.where(p.any(axis=1) == q.any(axis=1), 1.0, 0.0)
        scores = np.divide(np.einsum("ij,ij->i", p, q), lengths, out=alike, where=lengths > 0)
        return np.where(enough, np.clip(scores, -1.0, 1.0), np.nan)

    def _vectors(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        cosines = np.empty(ids.shape)
        step = max(1, _BLOCK_ENTRIES // (ids.shape[1] * rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            np.einsum("id,ikd->ik", rows[part], rows[ids[part]], out=cosines[part])
        return cosines if self.of == "similarity" else np.maximum(1 - cosines, 0)

    def on_half(self) -> "tuple[SecondOrderCosine, float]":
        """Half as many neighbours."""
        return replace(self, k=(self.k + 1) // 2), 1.0

    def take(self, space: GraphAndRows, rows: np.ndarray) -> GraphAndRows:
        """The graph among some rows, from the lists that are there, and their unit rows."""
        return GraphAndRows(space.graph.among(rows), space.rows[rows])
