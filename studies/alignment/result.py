"""Results of a measurement together with the rows, the settings and the table that belong to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from featcache.cache import Cache
from featcache.features import Features
from featcache.metrics import METRICS
from featcache.metrics.measure.settings import chosen_metrics, convention, parse_metric
from featcache.provenance import provenance
from featcache.studies.alignment.common_rows import CommonRows, common_rows
from featcache.studies.alignment.settings import AlignSettings
from featcache.studies.tables import context_columns, table, write_table

T = TypeVar("T")
ROLES = ("x", "y", "reference")


@dataclass(frozen=True, eq=False)
class Result(Generic[T]):
    """What one command measured.

    Args:
        values: The measured rows.
        common: The arrays on their common rows.
        settings: How they were measured.
        table: Where the tidy table was written; None for nowhere.
    """

    values: T
    common: CommonRows
    settings: AlignSettings
    table: Path | None


def arrays_by_role(common: CommonRows) -> dict[str, Features]:
    """The arrays as x, y and reference, in their order."""
    return {role: space.features for role, space in zip(ROLES, common.spaces, strict=False)}


def resolved(settings: AlignSettings, common: CommonRows) -> AlignSettings:
    """The settings with the split that is in force, which the default leaves open."""
    return replace(settings, split=common.split or None)


def rows_for(arrays: Sequence[Features], settings: AlignSettings, *, cache: Cache | None = None) -> CommonRows:
    """Arrays on their common rows, paired as the settings say; as `common_rows`."""
    return common_rows(arrays, pairing=settings.pairing, split=settings.split, seed=settings.seed, cache=cache)


def common_rows_of(cache: Cache, dataset: str, selectors: Sequence[str], settings: AlignSettings) -> CommonRows:
    """Loads arrays by name and pairs their rows as the settings say; errors as `Cache.load` and `common_rows`."""
    return rows_for([cache.load(dataset, selector) for selector in selectors], settings, cache=cache)


def write_result(
    out: Path | None,
    tables: Sequence[tuple[Sequence[Any], Sequence[Mapping[str, str | int]]]],
    common: CommonRows,
    settings: AlignSettings,
) -> None:
    """Writes measured rows as one Parquet table, each with digests, pairing, versions and time.

    Args:
        out: The file; None for nowhere.
        tables: (rows of one kind, further columns of each row).
        common: The arrays on their common rows.
        settings: How they were measured.
    """
    import polars as pl

    if out is None:
        return
    context = context_columns(settings, provenance(), **arrays_by_role(common))
    frames = [table(rows, [{**one, **context} for one in more]) for rows, more in tables]
    write_table(pl.concat(frames, how="diagonal"), out)


def metric_columns(settings: AlignSettings, label: str) -> dict[str, str | int]:
    """Convention and direction of a metric, by its label in a table."""
    name, typed = parse_metric(label)
    if name not in METRICS:  # R^2 of a ridge
        return {"convention": "", "higher_is_better": True}
    [*_, (metric, options)] = [one for one in chosen_metrics(settings.measure()) if one[0].name == name]
    return {"convention": convention(metric, options | typed), "higher_is_better": metric.higher_is_better}
