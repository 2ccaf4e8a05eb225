"""Scores of cached features against gallery size and k, and what linear maps and kernel mixtures reach."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.metrics.comparison import KnnComparison
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.subgraph import depth_for
from featcache.metrics.measure.settings import chosen_metrics
from featcache.metrics.sweeps.ceiling import WEIGHTS, CeilingPoint, MixingPoint, mixing_curve, ridge_ceiling
from featcache.metrics.sweeps.curve import CurvePoint, gallery_curve, k_curve
from featcache.metrics.table import Metric, chosen
from featcache.studies.alignment.common_rows import CommonRows
from featcache.studies.alignment.result import Result, common_rows_of, metric_columns, resolved, write_result
from featcache.studies.alignment.settings import AlignSettings
from featcache.studies.tables import check_table_path

_HALVINGS = 5  # galleries of n, n/2, ... n/16 need lists of about 40 k entries
_KS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)


@dataclass(frozen=True, eq=False)
class Curves:
    """A score against the size of the gallery, and against k.

    Args:
        gallery: One point a size and draw.
        ks: One point a k, at the full gallery.
        depth: Neighbours that were searched for, or cached.
        backend: What searched, or that the graphs were cached.
    """

    gallery: list[CurvePoint]
    ks: list[CurvePoint]
    depth: int
    backend: str


@dataclass(frozen=True, eq=False)
class Ceilings:
    """What of a reference two encoders hold.

    Args:
        ridge: Held-out scores of linear maps from x, y and both to the reference.
        mixing: Scores of kernel mixtures of x and y against the reference.
    """

    ridge: list[CeilingPoint]
    mixing: list[MixingPoint]


def curves_cached(
    cache: Cache,
    dataset: str,
    x: str,
    y: str,
    settings: AlignSettings,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 5,
    out: Path | None = None,
) -> Result[Curves]:
    """`curves` of two arrays of the cache, by name; also written as a tidy table to `out`."""
    check_table_path(out)
    common = common_rows_of(cache, dataset, (x, y), settings)
    settings = resolved(settings, common)
    measured = curves(common, settings, sizes=sizes, repeats=repeats)
    points = [*measured.gallery, *measured.ks]
    columns = [{"command": "curve"} | metric_columns(settings, point.metric) for point in points]
    write_result(out, [(points, columns)], common, settings)
    return Result(measured, common, settings, out)


def ceilings_cached(
    cache: Cache,
    dataset: str,
    selectors: tuple[str, str, str],
    settings: AlignSettings,
    *,
    folds: int = 5,
    out: Path | None = None,
) -> Result[Ceilings]:
    """`ceilings` of two arrays and a reference of the cache, by name; also written as a tidy table to `out`."""
    check_table_path(out)
    common = common_rows_of(cache, dataset, selectors, settings)
    settings = resolved(settings, common)
    measured = ceilings(common, settings, folds=folds)
    tables = [
        (rows, [{"command": "ceiling", "kind": kind} | metric_columns(settings, row.metric) for row in rows])
        for kind, rows in {"ridge": measured.ridge, "mixing": measured.mixing}.items()
    ]
    write_result(out, tables, common, settings)
    return Result(measured, common, settings, out)


def curves(
    common: CommonRows, settings: AlignSettings, *, sizes: Sequence[int] | None = None, repeats: int = 5
) -> Curves:
    """Score against gallery size and against k, from one deep neighbour graph of each array.

    Args:
        common: Two arrays on their common rows; their cache is where the graphs are looked for and kept.
        settings: Reads metrics (one, of neighbour graphs), k and seed.
        sizes: Rows of the galleries; None for all rows, half of them, and so on down to a sixteenth. Small galleries
            need deep graphs.
        repeats: Draws for each size.

    Raises:
        UsageError: If not exactly one metric is wanted.
        MetricError: If it is unknown or compares no graphs, or a size is out of range.
    """
    wanted = chosen_metrics(settings.measure())
    if len(wanted) != 1:
        raise UsageError(f"a curve is drawn of one metric; got {', '.join(settings.metrics)}")
    [(metric, options)] = wanted
    _, comparison = chosen(metric.name, groups=common.groups, **options)
    if not isinstance(comparison, KnnComparison):
        raise BadChoice(f"{metric.name} compares no neighbour graphs, so there is no curve of it; take mutual_knn")
    n, k = common.spaces[0].n, comparison.k
    largest = max(Counter(common.groups).values()) if common.groups else 1
    sizes = _halved(n, k, largest) if sizes is None else sizes
    outside = [size for size in sizes if not k < size <= n]
    if outside:
        raise BadChoice(f"size {outside[0]}: wanted galleries of k + 1 = {k + 1} to n = {n} rows")
    depth = min(depth_for(min(sizes), n, k, group_size=largest), n - largest)
    a, b = (space.graph(max(depth, k), comparison.metric) for space in common.spaces)
    gallery = gallery_curve(
        a, b, name=metric.name, k=k, sizes=sizes, repeats=repeats, seed=settings.seed, groups=common.groups
    )
    deep = min(a.k, b.k)
    ks = sorted({k, *(each for each in _KS if each <= deep)})
    backend = ", ".join(dict.fromkeys((a.backend, b.backend)))
    return Curves(gallery, k_curve(a, b, name=metric.name, ks=ks, groups=common.groups), deep, backend)


def ceilings(common: CommonRows, settings: AlignSettings, *, folds: int = 5) -> Ceilings:
    """What linear maps and kernel mixtures of two encoders reach of a reference, without any training of adapters.

    Args:
        common: Two arrays and the reference, the stronger encoder, on their common rows.
        settings: Reads metrics, k and seed.
        folds: Parts of the groups that are held out in turn.

    Raises:
        MetricError: If a metric is unknown or cannot be computed.
    """
    wanted = _labelled(chosen_metrics(settings.measure()))
    a, b, target = (space.values for space in common.spaces)
    ridge = ridge_ceiling(
        a, b, target, groups=common.groups, folds=folds, seed=settings.seed, metrics=wanted, weights=WEIGHTS
    )
    mixing = [
        replace(point, metric=label)
        for label, options in wanted.items()
        for point in mixing_curve(a, b, target, name=label.partition(":")[0], groups=common.groups, **options)
    ]
    return Ceilings(ridge, mixing)


def _labelled(wanted: Sequence[tuple[Metric, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Options by name of the metric, with the options behind the name where a metric is wanted more than once."""
    times = Counter(metric.name for metric, _ in wanted)
    labelled: dict[str, dict[str, Any]] = {}
    for metric, options in wanted:
        behind = ",".join(f"{name}={value}" for name, value in options.items()) if times[metric.name] > 1 else ""
        labelled[f"{metric.name}:{behind}" if behind else metric.name] = options
    return labelled


def _halved(n: int, k: int, largest: int) -> list[int]:
    """n, n/2, ... as long as every row still has a choice of neighbours."""
    least = 4 * (k + 1) * largest
    return [n] + [size for step in range(1, _HALVINGS) if (size := n >> step) >= least]


def parse_sizes(text: str) -> list[int]:
    """Sizes of galleries as typed.

    Raises:
        UsageError: If the text is not numbers with commas between them.

    Example:
        >>> parse_sizes("500,1000")
        [500, 1000]
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"sizes {text!r}: wanted numbers with commas between them, as in 500,1000,5000")
    return [int(part) for part in parts]
