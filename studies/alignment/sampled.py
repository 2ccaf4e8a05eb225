"""Alignment of arrays too large for a graph: some rows as queries, the whole gallery read block by block."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics import group_mean, mutual_knn_graphs, neighbors_in
from featcache.metrics.certainty.intervals import scores_interval
from featcache.metrics.measure.row import Row
from featcache.provenance import provenance
from featcache.store.reader import Reader
from featcache.studies.tables import identity, table, write_table
from featcache.trainer.errors import NotPaired

_LARGEST_GROUP = 4096  # rows of one group that are averaged while they pass


@dataclass(frozen=True)
class SampleSettings:
    """How an alignment is estimated from queries.

    Args:
        queries: Groups that are drawn.
        k: Neighbours.
        pairing: What becomes of several rows of a group: their mean (rows of a group must stand together in the array),
            or the first.
        seed: Of the draw.
        block: Rows that are read at a time.

    Raises:
        UsageError: If a number is out of range.
    """

    queries: int = 10_000
    k: int = 10
    pairing: Literal["mean", "first"] = "mean"
    seed: int = 0
    block: int = 8192

    def __post_init__(self) -> None:
        if min(self.queries, self.k, self.block) < 1:
            raise UsageError(f"queries {self.queries}, k {self.k}, block {self.block}: wanted numbers above 0")


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of some queries against the whole gallery.

    Args:
        groups: [q] groups of the queries.
        scores: [q] share of the k neighbours that both spaces have in common.
        population: Groups in the gallery, of which the queries were drawn.
        backend: What searched.
    """

    groups: np.ndarray
    scores: np.ndarray
    population: int
    backend: str

    def row(self, pair: "Sequence[Gallery]", k: int, seconds: float = 0.0) -> Row:
        """Their mean, with the interval of the mean over all groups of the gallery, of which these were drawn.

        Args:
            pair: The galleries.
            k: Neighbours.
            seconds: That it took.
        """
        x, y = (gallery.features for gallery in pair)
        where = scores_interval(self.scores, population=self.population)
        return Row(
            x.name, y.name, "mutual_knn", where.value, "cosine", n=len(self.scores), k=k,
            d=pair[0].reader.complete.d, d_against=pair[1].reader.complete.d,
            chance=k / (self.population - 1), ci_low=where.low, ci_high=where.high, estimand=where.estimand,
            interval=where.method, short_rows=0, backend=self.backend, seconds=seconds,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gallery:
    """One array as a gallery of one row a group.

    Args:
        features: Ids and groups of the array's rows; values of no width.
        reader: Of the array.
        group: [n] number of the group of each row; -1 for rows that take no part.
        numbers: [g] place in the array's own order of each common group.
    """

    features: Features
    reader: Reader
    group: np.ndarray
    numbers: np.ndarray

    def queries(self, chosen: np.ndarray) -> np.ndarray:
        """Rows [q, d] float32 of some common groups: the mean of their rows."""
        own = self.numbers[chosen]
        at = np.flatnonzero(np.isin(self.group, own))
        order = np.argsort(self.group[at], kind="stable")
        at = at[order]
        values = self.reader.take(at, dtype="float32")
        means = _means(values, self.group[at])
        return means[np.searchsorted(np.sort(own), own)]

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first group, [b, d] float32) in the array's own order; a group is never cut."""
        held, codes, first = np.empty((0, 0), np.float32), np.empty(0, np.int64), 0
        for start, values in self.reader.blocks(rows, dtype="float32"):
            mine = self.group[start : start + len(values)]
            if (mine < 0).any():
                values, mine = values[mine >= 0], mine[mine >= 0]
            if len(codes):
                values, mine = np.concatenate([held, values]), np.concatenate([codes, mine])
            if not len(mine):
                continue
            whole = np.searchsorted(mine, mine[-1])  # the last group may go on in the next block
            if whole:
                made = _means(values[:whole], mine[:whole])
                yield first, made
                first += len(made)
            held, codes = values[whole:].copy(), mine[whole:]
            if len(codes) > _LARGEST_GROUP:
                raise UsageError(
                    f"a group of {self.features.name} has more than {_LARGEST_GROUP:,} rows\n"
                    "  Take the first of each: --pairing first"
                )
        if len(codes):
            yield first, _means(held, codes)


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The mean of each group's rows, which stand together; rows themselves where each is a group of its own."""
    if not (np.diff(codes) == 0).any():
        return values
    return np.asarray(group_mean(values, codes)[0])


def galleries(cache: Cache, dataset: str, selectors: Sequence[str], pairing: Literal["mean", "first"]) -> list[Gallery]:
    """Arrays of one data set as galleries of the groups that all have; no chunk is read.

    Args:
        cache: The cache, on a disk or in a bucket.
        dataset: Data set name.
        selectors: `[view/]encoder[/layer.pooling][@digest]`.
        pairing: As `SampleSettings`.

    Raises:
        NotPaired: If they share no group, or rows of a group that are to be averaged stand apart.
        FeaturesNotCached, Ambiguous, OutdatedRows, Damaged: As `Cache.load`.
    """
    found = [cache.find(dataset, selector) for selector in selectors]
    described = [cache.describe(array) for array in found]
    readers = [cache.reader(array) for array in found]
    kept = [_kept_rows(one, reader, pairing) for one, reader in zip(described, readers, strict=True)]
    orders = [list(dict.fromkeys(one.groups[rows].tolist())) for one, rows in zip(described, kept, strict=True)]
    shared = set.intersection(*map(set, orders))
    if not shared:
        names = " and ".join(f"{one.view}/{one.name}" for one in described)
        raise NotPaired(f"{names} share no groups; choose views of the same samples")
    common = [group for group in orders[0] if group in shared]
    made = list[Gallery]()
    for one, reader, rows, order in zip(described, readers, kept, orders, strict=True):
        own = {group: number for number, group in enumerate(group for group in order if group in shared)}
        group = np.full(len(one), -1, np.int64)
        group[rows] = [own.get(name, -1) for name in one.groups[rows].tolist()]
        passed = group[group >= 0]
        if (np.diff(passed) < 0).any():
            raise NotPaired(
                f"rows of a group stand apart in {one.view}/{one.name}: their mean would need them all in memory\n"
                "  Take the first of each: --pairing first"
            )
        numbers = np.array([own[name] for name in common], np.int64)
        made.append(Gallery(one, reader, group, numbers))
    return made


def _kept_rows(features: Features, reader: Reader, pairing: str) -> np.ndarray:
    """Numbers of the rows that take part: all but those that failed, or the first of each group."""
    failed = np.isin(features.ids.astype(str), sorted(reader.complete.failed))
    rows = np.flatnonzero(~failed)
    if pairing == "first":
        first: dict[Hashable, int] = {}
        for row, group in zip(rows.tolist(), features.groups[rows].tolist(), strict=True):
            first.setdefault(group, row)
        rows = np.array([*first.values()], np.int64)
    return rows


def sampled_scores(
    pair: Sequence[Gallery],
    settings: SampleSettings,
    *,
    part: tuple[int, int] = (0, 1),
    on_groups: Callable[[int], None] | None = None,
) -> QueryScores:
    """Mutual k-NN of queries of two galleries, each searched exactly in the whole gallery.

    The ids are those that graphs of all rows would hold, so the scores are theirs, query by query. Memory: O(queries ×
    (d + k)), one block, and the ids and groups of the rows.

    Args:
        pair: From `galleries`, two of them.
        settings: How many queries, and k.
        part: (i, n): every n-th of the drawn queries from the i-th, for several processes.
        on_groups: Called with the groups that have passed since the last call, of both galleries together.

    Raises:
        NotPaired: If there are fewer groups than k and one.
        UsageError: If no query is left for this part.
        MetricError: As `neighbors_in`.
    """
    population = len(pair[0].numbers)
    if population <= settings.k:
        raise NotPaired(f"{population} groups: wanted more than k = {settings.k}")
    drawn = np.random.default_rng(settings.seed).permutation(population)[: settings.queries]
    mine = np.sort(drawn)[part[0] :: part[1]]
    if not len(mine):
        raise UsageError(f"{len(drawn)} queries leave none for part {part[0]} of {part[1]}\n  Use fewer parts")
    lists, ran = list[np.ndarray](), list[str]()
    for gallery in pair:
        blocks = _told(gallery.blocks(settings.block), on_groups)
        found = neighbors_in(gallery.queries(mine), blocks, k=settings.k, exclude=gallery.numbers[mine])
        common = np.empty(population, np.int64)
        common[gallery.numbers] = np.arange(population)
        lists.append(common[found.ids])
        ran.append(found.backend)
    names = np.array([*dict.fromkeys(_names(pair[0]))], object)[mine]
    return QueryScores(names, mutual_knn_graphs(lists[0], lists[1]), population, ", ".join(dict.fromkeys(ran)))


def _names(gallery: Gallery) -> list[Hashable]:
    return gallery.features.groups[gallery.group >= 0].tolist()


def _told(
    blocks: Iterator[tuple[int, np.ndarray]], on_groups: Callable[[int], None] | None
) -> Iterator[tuple[int, np.ndarray]]:
    for start, block in blocks:
        yield start, block
        if on_groups is not None:
            on_groups(len(block))


def write_sample(path: Path | None, row: Row, pair: Sequence[Gallery], settings: SampleSettings) -> None:
    """Writes the estimate as a tidy table of one row; nothing where there is no path."""
    if path is None:
        return
    shared: dict[str, str | int] = {"command": "sample", "dataset": pair[0].features.dataset, "seed": settings.seed}
    shared |= {"pairing": settings.pairing, "population": len(pair[0].numbers), "overlay": pair[0].features.overlay}
    for role, gallery in zip("xy", pair, strict=True):
        own = identity(replace(gallery.features, root=gallery.reader.complete.root))
        shared |= {f"{role}_{what}": value for what, value in own.items() if what != "d"}
    write_table(table([row], [shared | provenance()]), path)
