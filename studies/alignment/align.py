"""Alignment scores of two cached encoders, with chance, null and interval."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.cache import Cache
from featcache.features import Features
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.studies.alignment.common_rows import CommonRows
from featcache.studies.alignment.result import Result, common_rows_of, resolved, rows_for, write_result
from featcache.studies.alignment.settings import DEFAULT_SETTINGS, AlignSettings
from featcache.studies.tables import check_table_path


def align(
    x: Features,
    y: Features,
    settings: AlignSettings = DEFAULT_SETTINGS,
    *,
    cache: Cache | None = None,
    **changes: Any,
) -> list[Row]:
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
) -> Result[list[Row]]:
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
    settings = resolved(settings, common)
    scores = align_rows(common, settings, on_metric)
    write_result(out, [(scores, [{"command": "align"}] * len(scores))], common, settings)
    return Result(scores, common, settings, out)


def align_rows(
    common: CommonRows, settings: AlignSettings, on_metric: Callable[[str], None] | None = None
) -> list[Row]:
    """Scores of two spaces that are paired already; as `align`.

    Args:
        common: The two spaces.
        settings: What is measured.
        on_metric: Called with each metric before it is measured, and of how many.
    """
    labels = None if settings.within is None else common.labels(settings.within)
    rows = measure(common.spaces, None, settings.measure(labels), on_metric=on_metric).rows
    within = f"within {settings.within}"
    return [replace(row, split=common.split, null=row.null.replace("within labels", within)) for row in rows]
