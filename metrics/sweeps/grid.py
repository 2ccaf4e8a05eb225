"""Scores of every pair of layers of two encoders, each layer prepared once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from itertools import permutations as ordered_pairs
from time import perf_counter
from typing import Any, TypeAlias

import numba
import numpy as np

from featcache.metrics.arrays import Groups, X
from featcache.metrics.certainty.calibration import MaxNull, calibrated_best, max_null
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.comparison import Comparison, KnnComparison, backends
from featcache.metrics.errors import BadChoice, TooFewRows
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.knn.graph_scores import mutual_knn_graphs
from featcache.metrics.table import chosen, known_chance

Layer: TypeAlias = X | Neighbors


@dataclass(frozen=True)
class GridPoint:
    """One layer pair of two encoders: a row of a tidy table."""

    x: str  # encoder
    y: str  # encoder
    layer_x: int
    layer_y: int
    metric: str
    value: float
    best: bool  # whether it is the best of this pair of encoders
    n: int  # rows
    k: int | None  # neighbours, where the metric has them
    chance: float | None  # of one pair of unrelated layers, where there is a closed form
    p: float | None  # share of permutations whose best pair is at least as good as this one; None without permutations


@dataclass(frozen=True, eq=False)
class Grid:
    """Scores of all layer pairs of two encoders."""

    metric: str
    scores: np.ndarray  # [l_x, l_y] float64
    best: tuple[int, int]  # row and column of the highest score, or of the lowest distance; the first of equals
    best_score: float  # that score, with its sign
    n: int  # rows of each layer
    k: int | None  # neighbours, where the metric has them
    chance: float | None  # of one pair of unrelated layers; the best of many is higher by chance alone: `max_null`
    calibrated: float | None  # the best score beyond what the best of permuted pairs passes, in [0, 1]
    max_null: MaxNull | None  # null of the best score, the same permutation for all pairs; None without permutations
    backend: str  # what searched the graphs, or prepared the layers of metrics without
    prepare_seconds: float  # time of the l_x + l_y preparations (in `many_grid`: of all)
    compare_seconds: float  # time of the l_x * l_y comparisons, and of the null

    def points(self, x: str = "x", y: str = "y") -> list[GridPoint]:
        """The grid as a tidy table of l_x * l_y rows; x and y name the encoders."""
        adjusted = None if self.max_null is None else self.max_null.p_values
        return [
            GridPoint(
                x=x,
                y=y,
                layer_x=i,
                layer_y=j,
                metric=self.metric,
                value=float(self.scores[i, j]),
                best=(i, j) == self.best,
                n=self.n,
                k=self.k,
                chance=self.chance,
                p=None if adjusted is None else float(adjusted[i, j]),
            )
            for i, j in np.ndindex(*self.scores.shape)
        ]


def layer_grid(
    name: str,
    xs: Sequence[Layer],
    ys: Sequence[Layer],
    *,
    groups: Groups | None = None,
    permutations: int = 0,
    seed: int = 0,
    **options: Any,
) -> Grid:
    """Every layer of one encoder against every layer of another: l_x + l_y preparations, then cheap comparisons.

    Row i of every layer is the same sample; a layer is features [n, d], or for kNN metrics a graph as in `calibrate`.
    mutual_knn compares all pairs in one pass over the rows. Memory: all prepared layers at once (for kNN metrics their
    graphs). Permutations, if any, give the null of the best score. Other arguments and errors as `calibrate`, with the
    layer's name; BadChoice also if there is no layer.

    Example:
        >>> layers = np.random.default_rng(0).standard_normal((3, 40, 8))
        >>> grid = layer_grid("mutual_knn", layers, layers[1:], k=5)
        >>> grid.scores.shape, grid.best, grid.best_score
        ((3, 2), (1, 0), 1.0)

    Source: Huh et al. 2024, arXiv:2405.07987, section 3: maximum over layer pairs. Its code starts the search at 0, so
    that an all-negative grid has no best pair; this one has.
    """
    search = _Search(name, {"xs": xs, "ys": ys}, groups, permutations, seed, options)
    return search.grid("xs", "ys")


def many_grid(
    name: str,
    encoders: Mapping[str, Sequence[Layer]],
    *,
    groups: Groups | None = None,
    permutations: int = 0,
    seed: int = 0,
    **options: Any,
) -> list[GridPoint]:
    """Every layer of every encoder against every layer of every other, each layer prepared once.

    A tidy table, one row a layer pair, pairs of two encoders or more in the order given; a metric that is not symmetric
    is computed both ways. Arguments and errors as `layer_grid`; the permutations of every pair are the same.

    Example:
        >>> layers = np.random.default_rng(0).standard_normal((4, 40, 8))
        >>> table = many_grid("mutual_knn", {"a": layers[:2], "b": layers[1:3], "c": layers[3:]}, k=5)
        >>> [(p.x, p.y, p.layer_x, p.layer_y) for p in table if p.value == 1]
        [('a', 'b', 1, 0)]
    """
    if len(encoders) < 2:
        raise BadChoice(f"wanted two encoders or more, got {', '.join(encoders) or 'none'}")
    search = _Search(name, encoders, groups, permutations, seed, options)
    pairs = combinations if search.metric.symmetric else ordered_pairs
    return [point for x, y in pairs(encoders, 2) for point in search.grid(x, y).points(x, y)]


class _Search:
    """What all grids of one call share: the metric at its options, every layer prepared, and the null to draw."""

    def __init__(
        self,
        name: str,
        encoders: Mapping[str, Sequence[Layer]],
        groups: Groups | None,
        permutations: int,
        seed: int,
        options: Mapping[str, Any],
    ):
        if permutations < 0:
            raise BadChoice(f"permutations = {permutations}: wanted 0 or more")
        self.metric, self.comparison = chosen(name, groups=groups, **options)
        self.groups, self.permutations, self.seed = groups, permutations, seed
        empty = [encoder for encoder, layers in encoders.items() if not len(layers)]
        if empty:
            raise BadChoice(f"{empty[0]}: no layer; wanted one or more")
        started = perf_counter()
        every = {f"{encoder}[{i}]": layer for encoder, layers in encoders.items() for i, layer in enumerate(layers)}
        spaces, self.n = prepare_all(self.comparison, every)
        self.seconds = perf_counter() - started
        ends = np.cumsum([len(layers) for layers in encoders.values()])
        self.spaces = {
            encoder: spaces[end - len(layers) : end]
            for (encoder, layers), end in zip(encoders.items(), ends, strict=True)
        }

    def grid(self, x: str, y: str) -> Grid:
        """All pairs of layers of two encoders, the best, and its null."""
        xs, ys = self.spaces[x], self.spaces[y]
        started = perf_counter()
        null = self._max_null(xs, ys) if self.permutations else None
        scores = null.scores if null else _all_pairs(self.comparison, xs, ys)
        compare_seconds = perf_counter() - started
        unknown = np.argwhere(np.isnan(scores))
        if len(unknown):
            raise TooFewRows(f"layers {tuple(unknown[0].tolist())}: no row has k neighbours in both; search deeper")
        place = scores.argmax() if self.metric.higher_is_better else scores.argmin()
        i, j = (int(at) for at in np.unravel_index(place, scores.shape))
        return Grid(
            metric=self.metric.name,
            scores=scores,
            best=(i, j),
            best_score=float(scores[i, j]),
            n=self.n,
            k=getattr(self.comparison, "k", None),
            chance=known_chance(self.comparison, self.n, self.groups),
            calibrated=calibrated_best(self.metric, self.comparison, null, xs[i], ys[j]) if null else None,
            max_null=null,
            backend=backends(self.comparison, *xs, *ys),
            prepare_seconds=self.seconds,
            compare_seconds=compare_seconds,
        )

    def _max_null(self, xs: list[Any], ys: list[Any]) -> MaxNull:
        draws: dict[str, Any] = {"groups": self.groups, "permutations": self.permutations, "seed": self.seed}
        better = self.metric.higher_is_better
        return max_null(self.comparison, xs, ys, n=self.n, higher_is_better=better, **draws)


def _all_pairs(comparison: Comparison[Any], xs: list[Any], ys: list[Any]) -> np.ndarray:
    """Scores [l_x, l_y]; NaN where no row could be scored."""
    if isinstance(comparison, KnnComparison) and comparison.per_row is mutual_knn_graphs:
        k = comparison.k
        a, b = (np.stack([space.ids[:, :k] for space in spaces], axis=1) for spaces in (xs, ys))
        shared, rows = (np.zeros((len(xs), len(ys)), np.int64) for _ in range(2))
        _shared_by_all(a, b, shared, rows)
        with np.errstate(invalid="ignore"):
            return shared / (rows * k)
    return comparison.compare_all(xs, ys)


@numba.njit(nogil=True, cache=True)
def _shared_by_all(a: np.ndarray, b: np.ndarray, shared: np.ndarray, rows: np.ndarray) -> None:
    """Adds shared neighbours of every pair of graphs in one pass: O(n l_x l_y k) lookups in one array of n bytes.

    a and b are ids [n, l_x, k] and [n, l_y, k], -1 behind the last of a short list; shared and rows [l_x, l_y] are
    summed into: the shared neighbours, and the rows with k neighbours in both.
    """
    n, layers, k = a.shape
    marked = np.zeros(n, np.uint8)
    for i in range(n):
        for first in range(layers):
            if a[i, first, k - 1] < 0:
                continue
            for c in range(k):
                marked[a[i, first, c]] = 1
            for second in range(b.shape[1]):
                if b[i, second, k - 1] < 0:
                    continue
                count = 0
                for c in range(k):
                    count += marked[b[i, second, c]]
                shared[first, second] += count
                rows[first, second] += 1
            for c in range(k):
                marked[a[i, first, c]] = 0
