"""Neighbour graphs of cached features: searched once, kept beside the features, shared like them."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from blake3 import blake3

from featcache.cache import Cache
from featcache.derived.writer import store_derived
from featcache.errors import FeatcacheError, UsageError
from featcache.features import Features
from featcache.storage.local import LocalFolder
from featcache.store.array import FeatureArray

if TYPE_CHECKING:
    from featcache.metrics import Neighbors
    from featcache.metrics.knn.exact import Measure
    from featcache.metrics.knn.graph import Backend

RowRule = Literal["mean", "first", "each"]
ROW_RULES: tuple[RowRule, ...] = ("mean", "first", "each")


@dataclass(frozen=True, eq=False)
class Graph:
    """A neighbour graph of cached features, and where it came from."""

    neighbors: "Neighbors"  # its ids count the rows of the graph
    rows: np.ndarray  # [m] row of the features behind each row of the graph: under "mean", the first of its group
    origin: str  # "cached, 50 deep", "searched and cached", or "searched, not cached: " and why


def graph(
    cache: Cache,
    features: Features,
    *,
    k: int,
    rows: RowRule = "mean",
    metric: "Measure" = "cosine",
    backend: "Backend | None" = None,
    similarities: bool = False,
) -> Graph:
    """The exact k nearest neighbours of each row, from the cache if they are there, else searched and cached.

    A complete cached graph of the same features (digest and root), metric, row rule and groups serves every k up to its
    own depth. What is kept is bound to the features, travels with `featcache push` and is dropped with them.

    A graph is kept in the row space of the features, so that it needs no table of its own and its ids stay row numbers
    of the array wherever it is copied: under the rules "mean" and "first" every row carries the list of its group, and
    a neighbouring group is named by its first row. Five captions a photo thus take five times the room of the photos'
    own graph, which at k = 10 and d = 384 is a nineteenth of what the captions' features take in half precision.

    Where the cache cannot be written to (read-only, full, or a remote), the graph is searched and `origin` says so.

    Args:
        cache: The cache that holds the features.
        features: All rows of one cached array, as `Cache.load` gives them.
        k: Neighbours per row, 1 <= k < m.
        rows: What is a row of the graph. "mean": a group's mean, groups in order of first occurrence; "first": a
            group's first row; "each": every row, of which those of one group are never neighbours. Where every group
            has one row the three are the same graph.
        metric: "cosine", "ip" or "euclidean".
        backend: Who searches, as in `metrics.neighbors`; None for its default. The ids do not depend on it.
        similarities: Compute the similarities of a cached graph, in float64; else they are NaN. One that is searched
            has them.

    Returns:
        The graph of m rows: m groups, or every row.

    Raises:
        UsageError: If the features are not all rows of their array, or the rule is unknown.
        MetricError: As `metrics.neighbors`.
        Damaged: If the cached graph is.
    """
    from featcache.metrics import neighbors

    view = _GraphRows(cache, features, rows, metric)
    known = view.deepest(k)
    if known is not None:
        return view.load(known, k, similarities=similarities)
    choice: dict[str, Any] = {} if backend is None else {"backend": backend}
    values, groups = view.values()
    searched = neighbors(values, k=k, groups=groups, metric=metric, name=features.name, **choice)
    return Graph(searched, view.firsts, view.keep(searched))


def cached_graph(
    cache: Cache, features: Features, *, rows: RowRule = "mean", metric: "Measure" = "cosine"
) -> Graph | None:
    """The deepest graph of these features in the cache, or None; never searches. Arguments and errors as `graph`."""
    view = _GraphRows(cache, features, rows, metric)
    known = view.deepest(1)
    return None if known is None else view.load(known, known.key().binds["d"], similarities=False)


def graph_name(features: Features) -> str:
    """The name in the array's path under which graphs of features lie: encoder and layer, as in gpt2.6.mean."""
    return f"{features.encoder}.{features.layer}"


class _GraphRows:
    """Features, the rows that a graph of them has, and the arrays that may hold it."""

    def __init__(self, cache: Cache, features: Features, rows: RowRule, metric: "Measure") -> None:
        from featcache.metrics.arrays import group_codes

        if rows not in ROW_RULES:
            raise UsageError(f"rows {rows!r} is no rule; there are {', '.join(ROW_RULES)}")
        self.cache, self.features, self.metric = cache, features, metric
        groups, order = group_codes(features.groups, len(features))
        self.alone = len(order) == len(features)
        self.rule: RowRule = "each" if self.alone else rows
        self.codes = np.arange(len(features)) if self.rule == "each" else groups  # graph row of each feature row
        self.firsts = np.unique(self.codes, return_index=True)[1]
        # The digest binds the groups of the row table; a caller may have regrouped the rows in memory.
        partition = "self" if self.alone else blake3(groups.astype("<i8").tobytes()).hexdigest(length=16)
        self.made_by = {"graph": "exact neighbours", "metric": metric, "rows": self.rule, "groups": partition}

    def deepest(self, k: int) -> FeatureArray | None:
        """The deepest complete cached graph of these rows with at least k neighbours."""
        source = {"digest": self.features.digest, "root": self.features.root}
        best, depth = None, k - 1
        for array in self.cache.arrays(
            self.features.dataset, self.features.view, graph_name(self.features), f"graph.{self.metric}"
        ):
            try:
                encoder, d = array.key().binds["encoder"], int(array.key().binds["d"])
            except FeatcacheError:
                continue  # what is damaged is for `featcache verify` to say
            made_by = {name: value for name, value in encoder["made_by"].items() if name != "k"}
            if d > depth and made_by == self.made_by and encoder["from"] == source and array.is_complete:
                best, depth = array, d
        return best

    def load(self, array: FeatureArray, k: int, *, similarities: bool) -> Graph:
        from featcache.metrics import Neighbors

        kept = self.cache.load_array(array)
        self._require_all_rows(kept.ids)
        place = np.full(int(array.key().binds["rows"]["n"]) + 1, -1, np.int32)  # the last: where -1 points
        place[self._array_rows(array)] = self.codes
        ids = place[kept.values[self.firsts, :k]]
        unknown = np.broadcast_to(np.nan, ids.shape)
        loaded = Neighbors(
            ids=ids, similarities=unknown, metric=self.metric, backend="cache", recomputed=0, searched_again=0
        )
        if similarities:
            loaded = replace(loaded, similarities=self._similarities(ids))
        return Graph(loaded, self.firsts, f"cached, {kept.width} deep")

    def _similarities(self, ids: np.ndarray) -> np.ndarray:
        from featcache.metrics.arrays import as_float64
        from featcache.metrics.knn import exact

        space = exact.prepare(as_float64(self.values()[0], self.features.name), self.metric)  # pyright: ignore
        at = np.repeat(np.arange(len(ids)), ids.shape[1])
        return exact.reported(space, exact.pair_values(space, at, ids.ravel())).reshape(ids.shape)

    def values(self) -> tuple[np.ndarray, list[Hashable] | None]:
        """The rows of the graph, [m, d], and their groups where they are not all different."""
        from featcache.metrics.pairing import paired

        values, groups = self.features.values, self.features.groups.tolist()
        if self.rule == "each":
            return values, None if self.alone else groups
        return np.asarray(paired(values, values, groups, groups, mode=self.rule).x), None

    def keep(self, searched: "Neighbors") -> str:
        """Caches a graph that was searched; what came of it, in words."""
        if not isinstance(self.cache.folder, LocalFolder):
            return f"searched, not cached: {self.cache.folder} is a remote"
        origin = self.cache.find(
            self.features.dataset, f"{self.features.view}/{self.features.name}@{self.features.digest}"
        )
        rows = self._array_rows(origin)
        ids = rows[self.firsts].astype(np.int32)[searched.ids][self.codes]
        made_by: dict[str, Any] = self.made_by | {"k": searched.k}
        name, layer = graph_name(self.features), f"graph.{self.metric}"
        try:
            store_derived(self.cache, self.features, ids, name=name, layer=layer, made_by=made_by)
        except OSError as error:
            return f"searched, not cached: {error.strerror or error} ({self.cache.folder})"
        return "searched and cached"

    def _array_rows(self, array: FeatureArray) -> np.ndarray:
        """Row of the array behind each row of the features: rows that failed at extraction are not handed out."""
        if int(array.key().binds["rows"]["n"]) == len(self.features):
            return np.arange(len(self.features))
        at = {row_id: row for row, row_id in enumerate(self.cache.rows(array.key()).ids)}
        return np.array([at[row_id] for row_id in self.features.ids.tolist()])

    def _require_all_rows(self, ids: np.ndarray) -> None:
        if ids.tolist() != self.features.ids.tolist():
            raise UsageError(
                f"{self.features.name} has {len(self.features)} rows and its cached graph {len(ids)}: a graph needs "
                "every row of the array, in order; take parts of the graph instead"
            )
