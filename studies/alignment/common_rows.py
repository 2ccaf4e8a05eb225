"""Cached arrays on the rows they share, with the neighbour graphs of those rows."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import Cache
from featcache.derived.graphs import RowRule, cached_graph, graph
from featcache.features import Features
from featcache.metrics.errors import BadShape
from featcache.metrics.measure.space import Space
from featcache.metrics.pairing import Mode, paired
from featcache.studies.alignment.splits import rows_of_split
from featcache.studies.distinct_names import distinct_names
from featcache.trainer.errors import NotPaired

if TYPE_CHECKING:
    from featcache.metrics import Neighbors
    from featcache.metrics.knn.exact import Measure


@dataclass(frozen=True, eq=False)
class CachedSpace(Space):
    """One cached array on the rows that are compared.

    Args:
        name: What rows and messages call it: the encoder and layer, behind the view where that tells it from others.
        features: The array, whole.
        n: Rows that are compared, in an order that all spaces of one comparison share.
        load: Gives them; called when they are first needed, which with a cached graph is never.
        groups: The group of each row where several rows show one thing, else None.
        rule: How a graph of the whole array has rows like these; None where it has none.
        at: [n] row of that graph behind each row.
        cache: Where graphs are kept; None: nowhere.
        graphs: Graphs of these rows so far, by metric.
        origins: Where they came from, by metric.
    """

    name: str
    features: Features
    n: int
    load: Callable[[], np.ndarray]
    groups: tuple[Hashable, ...] | None
    rule: RowRule | None
    at: np.ndarray | None
    cache: Cache | None
    graphs: "dict[str, Neighbors]" = field(default_factory=lambda: {})
    origins: dict[str, str] = field(default_factory=lambda: {})

    @property
    def values(self) -> np.ndarray:
        """The rows, [n, d]."""
        return self._loaded

    @cached_property
    def _loaded(self) -> np.ndarray:
        return self.load()

    @property
    def width(self) -> int:
        """Columns d."""
        return self.features.width

    def graph(self, k: int, metric: "Measure" = "cosine", *, similarities: bool = False) -> "Neighbors":
        """The neighbour graph of these rows, at least k deep: known, cached or searched.

        Args:
            k: Neighbours per row.
            metric: "cosine", "ip" or "euclidean".
            similarities: Whether they are wanted too; the cache keeps none, so they are computed again.
        """
        known = self.graphs.get(metric)
        if known is not None and known.k >= k and not (similarities and np.isnan(known.similarities[0, 0])):
            return known
        made = self._from_cache(k, metric, similarities) or self._searched(k, metric)
        self.graphs[metric], self.origins[metric] = made
        return made[0]

    def _from_cache(self, k: int, metric: "Measure", similarities: bool) -> "tuple[Neighbors, str] | None":
        """The graph by way of the whole array's: looked up and if need be searched there, where all rows are compared.

        Where only some are (a split), a whole graph that is there already and deep enough serves; none is made, since
        a search among some rows costs less. Where the rows are compared in another order than the array's, ties (equal
        captions exist) would fall otherwise than in a search: then there is none.
        """
        if self.cache is None or self.rule is None or self.at is None or (np.diff(self.at) < 0).any():
            return None
        whole = len(np.unique(self.features.groups)) if self.rule != "each" else len(self.features)
        if len(self.at) == whole:
            made = graph(self.cache, self.features, k=k, rows=self.rule, metric=metric, similarities=similarities)
            return made.neighbors.among(self.at), made.origin
        if similarities:
            return None
        kept = cached_graph(self.cache, self.features, rows=self.rule, metric=metric)
        part = kept.neighbors.among(self.at) if kept else None
        if kept is None or part is None or part.k < k or (part.ids[:, k - 1] < 0).any():
            return None
        return replace(part, ids=part.ids[:, :k], similarities=part.similarities[:, :k]), kept.origin

    def _searched(self, k: int, metric: "Measure") -> "tuple[Neighbors, str]":
        from featcache.metrics import neighbors

        made = neighbors(self.values, k=k, groups=self.groups, metric=metric, name=self.features.name)
        reason = ": only graphs of whole arrays in their own order are" if self.cache is not None else ""
        return made, f"searched, not cached{reason}"


@dataclass(frozen=True, eq=False)
class CommonRows:
    """Spaces whose row i is the same sample.

    Args:
        spaces: As many as arrays were given, in their order.
        groups: The group of each row where several rows show one thing (pairing "all"), else None.
        row_groups: The group of each row.
        pairing: How several rows of a group became one, or stayed.
        split: The split that the rows are of; "all" where every row was asked for, "" where no split was.
        notes: What was left out, and what is to be said of the split, in words.
    """

    spaces: list[CachedSpace]
    groups: tuple[Hashable, ...] | None
    row_groups: tuple[Hashable, ...]
    pairing: Mode
    split: str
    notes: list[str]

    def labels(self, column: str) -> tuple[Hashable, ...]:
        """The label of each row.

        Raises:
            NotPaired: If no array has such a column; lists those there are.
        """
        for space in self.spaces:
            features = space.features
            if column in features.labels:
                of_group = dict(zip(features.groups.tolist(), features.labels[column].tolist(), strict=True))
                return tuple(of_group[group] for group in self.row_groups)
        there = sorted({name for space in self.spaces for name in space.features.labels})
        raise NotPaired(
            f"no label {column!r} in {self.spaces[0].features.dataset}; it has {', '.join(there) or 'none'}"
        )


def common_rows(
    arrays: Sequence[Features],
    *,
    pairing: Mode = "mean",
    split: str | None = None,
    seed: int = 0,
    cache: Cache | None = None,
) -> CommonRows:
    """Brings arrays of one data set to common rows, matched by group; groups that one of them lacks are left out.

    Args:
        arrays: Two or more, whole.
        pairing: What becomes of several rows of a group, as in `featcache.metrics.pairing.paired`.
        split: Only groups of this split, "all" for every one; None for the default, as `rows_of_split`.
        seed: Of the pairing "random".
        cache: Where neighbour graphs are kept; None: nowhere.

    Returns:
        One space an array, groups in the order of the first.

    Raises:
        NotPaired: If they are of different data sets, share no group, or rows of a group cannot all be paired; and as
            `rows_of_split`.
        MetricError: If values are not finite, or the pairing is unknown.
    """
    _check_one_dataset(arrays)
    split, chosen, remarks = rows_of_split(arrays, split)
    parts = [_Part(features, rows) for features, rows in zip(arrays, chosen, strict=True)]
    shared = set.intersection(*(set(part.groups) for part in parts))
    if not shared:
        raise NotPaired(
            f"{_named(arrays[0])} and {', '.join(_named(other) for other in arrays[1:])} share no groups; choose views "
            "of the same samples"
        )
    for part in parts:
        part.keep(shared)
    names = _names(arrays)
    spaces: list[CachedSpace] = []
    groups: tuple[Hashable, ...] = ()
    for number, part in enumerate(parts):
        matched, rows = part.matched(parts[0] if number else parts[-1], pairing, seed, first=not number)
        if number and matched != groups:
            raise NotPaired(
                f"pairing {pairing!r}: {_named(part.features)} has not as many rows a group as arrays before it; "
                "name the view with most rows a group first, or pair by mean, first or random"
            )
        groups = matched
        several = groups if pairing == "all" and len(set(groups)) < len(groups) else None
        rule, at = part.graph_rows(pairing, groups, rows)
        load = partial(part.values, groups, rows)
        spaces.append(CachedSpace(names[number], part.features, len(groups), load, several, rule, at, cache))
    notes = [*remarks, *(note for part in parts if (note := part.note(len(shared))))]
    return CommonRows(spaces, spaces[0].groups, groups, pairing, split, list(dict.fromkeys(notes)))


class _Part:
    """The rows of one array that may be compared."""

    def __init__(self, features: Features, rows: np.ndarray) -> None:
        self.features, self.rows = features, rows
        self.groups: list[Hashable] = features.groups[self.rows].tolist()
        self.count = len(set(self.groups))

    def keep(self, shared: set[Hashable]) -> None:
        """Drops the rows of groups that another array lacks."""
        if self.count > len(shared):
            self.rows = self.rows[[group in shared for group in self.groups]]
            self.groups = self.features.groups[self.rows].tolist()

    def matched(
        self, other: "_Part", pairing: Mode, seed: int, *, first: bool
    ) -> tuple[tuple[Hashable, ...], np.ndarray | None]:
        """The group of each row that is compared, and which row of the array it is; None where rows are averaged."""
        x, y = (self, other) if first else (other, self)
        # One column is enough to say which rows answer to which.
        a, b = (side.features.values[side.rows, :1] for side in (x, y))
        try:
            both = paired(a, b, x.groups, y.groups, mode=pairing, seed=seed)
        except BadShape as error:
            raise NotPaired(f"{_named(x.features)} and {_named(y.features)}: {error}") from error
        rows = both.rows_x if first else both.rows_y
        return both.groups, None if rows is None else self.rows[rows]

    def values(self, groups: Sequence[Hashable], rows: np.ndarray | None) -> np.ndarray:
        """The rows that are compared: rows of the array, or means of its groups."""
        if rows is not None:
            every = len(rows) == len(self.features) and bool((rows == np.arange(len(rows))).all())
            return self.features.values if every else self.features.values[rows]
        part = self.features.values[self.rows]
        means = paired(part, part, self.groups, self.groups, mode="mean")
        place = {group: number for number, group in enumerate(means.groups)}
        return np.asarray(means.x)[[place[group] for group in groups]]

    def note(self, shared: int) -> str:
        """What was left out, in words; "" for nothing."""
        left = self.count - shared
        return f"{left:,} of {self.count:,} groups of {_named(self.features)} have no partner" if left else ""

    def graph_rows(
        self, pairing: Mode, groups: Sequence[Hashable], rows: np.ndarray | None
    ) -> tuple[RowRule | None, np.ndarray | None]:
        """How a graph of the whole array has rows like those that were paired, and which of its rows they are."""
        if pairing in ("mean", "first"):
            place = {group: number for number, group in enumerate(dict.fromkeys(self.features.groups.tolist()))}
            return pairing, np.array([place[group] for group in groups])
        if pairing == "all" and rows is not None and len(np.unique(rows)) == len(rows):
            return "each", rows
        return None, None  # rows drawn at random, or repeated: no graph but their own has such rows


def _check_one_dataset(arrays: Sequence[Features]) -> None:
    other = next((features for features in arrays if features.dataset != arrays[0].dataset), None)
    if other is not None:
        raise NotPaired(
            f"{arrays[0].name} is of {arrays[0].dataset} and {other.name} of {other.dataset}; choose encoders of one "
            "data set"
        )


def _names(arrays: Sequence[Features]) -> list[str]:
    """A name for each array: encoder and layer, behind the view, and behind its place where they still coincide."""
    whole = [f"{each.view}/{each.name}" for each in arrays]
    return distinct_names([each.name for each in arrays], whole, [f"{at}:{name}" for at, name in enumerate(whole)])


def _named(features: Features) -> str:
    return f"{features.name} ({features.view})"
