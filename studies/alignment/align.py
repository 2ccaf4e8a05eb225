"""Alignment scores of two cached encoders, with chance, null and interval."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from featcache.cache import Cache
from featcache.features import Features
from featcache.metrics.certainty.calibration import calibrate
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.certainty.intervals import query_interval, sample_interval
from featcache.metrics.comparison import Comparison, KnnComparison, backends
from featcache.metrics.errors import BadChoice, MetricError
from featcache.metrics.knn.subgraph import depth_for
from featcache.metrics.scores.local import Cknna
from featcache.metrics.table import Metric, chosen
from featcache.studies.alignment.common_rows import CachedSpace, CommonRows
from featcache.studies.alignment.result import Result, common_rows_of, rows_for, write_result
from featcache.studies.alignment.settings import (
    DEFAULT_SETTINGS,
    FEW_PERMUTATIONS,
    AlignSettings,
    chosen_metrics,
    convention,
)
from featcache.studies.tables import check_table_path

# A permuted kernel score costs n^2 or d^2 a draw; with this many rows its null is normal, and its moments are exact.
PERMUTED_ROWS = 500
_SHORT = 1e-6  # probability that a row's list runs short in half of the samples


@dataclass(frozen=True)
class Alignment:
    """One metric of one pair of spaces.

    Args:
        metric: A name of METRICS.
        convention: The options it was computed with, and which of the metric's published forms they mean.
        value: The score; None where the metric cannot be computed, and `note` says why.
        higher_is_better: Whether a higher score means more aligned.
        n: Rows compared.
        d_x: Width of x.
        d_y: Width of y.
        k: Neighbours, where the metric has them.
        chance: Mean score when the rows of one side are permuted; None without null.
        calibrated: 0 up to what 5 % of the null passes, 1 at the best score there is.
        threshold: What 5 % of the null passes.
        p: Share of permutations at least as aligned, the observed order counted; else a normal's tail.
        null_low: Lower end of the central 95 % of the null.
        null_high: Upper end.
        null: How the null was got: "200 permutations", "closed form", or "none".
        ci_low: Lower end of the 95 % interval of the score.
        ci_high: Upper end.
        estimand: What the interval is about, in words.
        interval: How the interval was got.
        short_rows: Rows that an interval left out because their lists ran short.
        backend: What searched the graphs, or that they were cached; of other metrics, what prepared the spaces.
        seconds: Time of the score, its null and its interval.
        note: Why there is no score, no null or no interval, or "".
    """

    metric: str
    convention: str
    value: float | None
    higher_is_better: bool
    n: int
    d_x: int
    d_y: int
    k: int | None = None
    chance: float | None = None
    calibrated: float | None = None
    threshold: float | None = None
    p: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    null: str = "none"
    ci_low: float | None = None
    ci_high: float | None = None
    estimand: str = ""
    interval: str = "none"
    short_rows: int | None = None
    backend: str = ""
    seconds: float = 0.0
    note: str = ""


def align(
    x: Features, y: Features, settings: AlignSettings = DEFAULT_SETTINGS, *, cache: Cache | None = None, **changes: Any
) -> list[Alignment]:
    """Scores of two feature arrays of one data set, each with its chance level.

    By default rows of a group (five captions of a photo) are averaged first, so that no group is its own neighbour and
    duplicate rows cannot raise a score.

    Args:
        x: Features of one encoder, all rows of the array.
        y: Features of the other.
        settings: What is measured.
        cache: Where neighbour graphs are looked for and kept; None: nowhere.
        changes: Fields of `settings` that are otherwise, as in k=5, split="test".

    Returns:
        One row a metric. Of "all", metrics that do not suit these spaces (of unequal width, too many rows) have no
        score but a note, and those without a closed form, where that is wanted, no null. A metric that has no such
        interval keeps its score and null, and says so in its note.

    Raises:
        NotPaired: If the two share no groups, or are of different data sets.
        MetricError: If a metric or option is unknown, or a metric that was named cannot be computed.
    """
    settings = replace(settings, **changes)
    return align_rows(rows_for([x, y], settings, cache=cache), settings)


def align_cached(
    cache: Cache,
    dataset: str,
    x: str,
    y: str,
    settings: AlignSettings,
    *,
    out: Path | None = None,
    on_metric: Callable[[str], None] | None = None,
) -> Result[list[Alignment]]:
    """Scores of two arrays of the cache, by name.

    Args:
        cache: Where the features are; neighbour graphs are kept there.
        dataset: Data set name.
        x: `[view/]encoder[/layer.pooling][@digest]`.
        y: The other.
        settings: What is measured.
        out: Where a tidy table is written; None for nowhere.
        on_metric: Called with each metric before it is measured.

    Raises:
        FeaturesNotCached, Ambiguous, NotPaired, MetricError: As `Cache.load`, `common_rows` and the metric.
        UsageError: If no table can be written to `out`.
    """
    check_table_path(out)
    common = common_rows_of(cache, dataset, (x, y), settings)
    scores = align_rows(common, settings, on_metric)
    write_result(out, [(scores, [{"command": "align"}] * len(scores))], common, settings)
    return Result(scores, common, settings, out)


def align_rows(
    common: CommonRows, settings: AlignSettings, on_metric: Callable[[str], None] | None = None
) -> list[Alignment]:
    """Scores of two spaces that are paired already; as `align`.

    Args:
        common: The two spaces.
        settings: What is measured.
        on_metric: Called with each metric before it is measured, and of how many.
    """
    scores, metrics = list[Alignment](), chosen_metrics(settings)
    for number, (metric, options) in enumerate(metrics, 1):
        if on_metric is not None:
            on_metric(f"{metric.name}, {number} of {len(metrics)}")
        scores.append(_measured(common, metric, options, settings))
    return scores


def _measured(common: CommonRows, metric: Metric, options: dict[str, Any], settings: AlignSettings) -> Alignment:
    started = perf_counter()
    x, y = common.spaces
    row: dict[str, Any] = {
        "metric": metric.name,
        "convention": convention(metric, options),
        "higher_is_better": metric.higher_is_better,
        "n": x.n,
        "d_x": x.features.width,
        "d_y": y.features.width,
        "k": options.get("k"),
    }
    try:
        _, comparison = chosen(metric.name, groups=common.groups, **options)
        given = _Given(*inputs(x, y, comparison, settings), {"groups": common.groups, "seed": settings.seed} | options)
        row |= _null(metric, comparison, given, settings)
        row |= _interval(metric, given, settings, row.get("note", ""))
    except MetricError as error:
        if "all" not in settings.metrics:
            raise
        row |= {"value": None, "note": str(error)}
    return Alignment(**row, seconds=perf_counter() - started)


def inputs(x: CachedSpace, y: CachedSpace, comparison: Comparison[Any], settings: AlignSettings) -> tuple[Any, Any]:
    """What a metric is given of each space: the neighbour graph where it looks at nothing else.

    Args:
        x: One space.
        y: The other.
        comparison: The metric at its options.
        settings: Says whether parts of the rows will be taken, for which graphs must be deeper.
    """
    similarities = isinstance(comparison, Cknna)  # they are its kernel
    if not isinstance(comparison, KnnComparison | Cknna) or (similarities and not comparison.debiased):
        return x.values, y.values
    depth, n = comparison.k, x.n
    largest = max(Counter(x.groups).values()) if x.groups else 1
    if settings.interval == "samples" and n // 2 > depth + largest:
        depth = min(depth_for(n // 2, n, depth, probability=_SHORT, group_size=largest), n - largest)
    a, b = (space.graph(depth, comparison.metric, similarities=similarities) for space in (x, y))
    return a, b


@dataclass(frozen=True)
class _Given:
    """Two spaces, or their graphs, and the options that every function of them takes."""

    x: Any
    y: Any
    options: dict[str, Any]


def _null(metric: Metric, comparison: Comparison[Any], given: _Given, settings: AlignSettings) -> dict[str, Any]:
    """The score and its null; none where no rearrangement of the rows changes the score."""
    if settings.null == "none" or not metric.paired:
        return _score(comparison, given)
    few = settings.null == "auto" and "k" not in metric.options() and len(given.x) > PERMUTED_ROWS
    draws = min(settings.permutations, FEW_PERMUTATIONS) if few else settings.permutations
    try:
        closed = 0 if few or settings.null == "closed" else draws
        result = calibrate(metric.name, given.x, given.y, permutations=closed, **given.options)
    except BadChoice as error:
        if not few and not (settings.null == "closed" and "all" in settings.metrics):
            raise
        if not few:
            return _score(comparison, given) | {"note": str(error)}
        result = calibrate(metric.name, given.x, given.y, permutations=draws, **given.options)
    return {
        "value": result.observed,
        "backend": result.backend,
        "chance": result.chance,
        "calibrated": result.calibrated,
        "threshold": result.threshold,
        "p": result.p,
        "null_low": result.null.low,
        "null_high": result.null.high,
        "null": f"{result.null.permutations} permutations" if result.null.permutations else "closed form",
    }


def _score(comparison: Comparison[Any], given: _Given) -> dict[str, Any]:
    (a, b), _ = prepare_all(comparison, {"x": given.x, "y": given.y})
    return {"value": comparison.compare(a, b), "backend": backends(comparison, a, b)}


def _interval(metric: Metric, given: _Given, settings: AlignSettings, note: str) -> dict[str, Any]:
    """The interval of the score, if one is wanted; where there is none, why, behind what else there is to note."""
    if settings.interval == "none" or not metric.paired:
        return {}
    try:
        if settings.interval == "samples":
            result = sample_interval(metric.name, given.x, given.y, repeats=settings.repeats, **given.options)
        else:
            result = query_interval(metric.name, given.x, given.y, queries=settings.queries, **given.options)
    except MetricError as error:
        return {"note": "; ".join(filter(None, (note, f"no interval: {error}")))}
    ends = {"ci_low": result.low, "ci_high": result.high}
    return ends | {"estimand": result.estimand, "interval": result.method, "short_rows": result.short_rows}
