"""The policy of nulls: permutations where their cost allows, else a closed form, else few permutations."""

from typing import Any

from featcache.metrics.certainty.calibration import Calibrated, calibrate_prepared, exact_chance, has_closed_form
from featcache.metrics.comparison import Comparison, backends
from featcache.metrics.errors import BadChoice
from featcache.metrics.measure.settings import FEW_PERMUTATIONS, MeasureSettings
from featcache.metrics.table import Metric

BUDGET = 2e11
"""Multiply-adds that a null may cost under "auto": a few seconds on two cores."""
PERMUTED_ROWS = 500
"""Rows up to which metrics of unknown cost are permuted in full."""


def draws(
    metric: Metric,
    comparison: Comparison[Any],
    spaces: tuple[Any, Any],
    settings: MeasureSettings,
    *,
    n: int,
    closed: bool,
) -> int:
    """Number of permutations; 0 for the closed form.

    Args:
        metric: The metric.
        comparison: At its options.
        spaces: Two prepared spaces.
        settings: Null and number of permutations.
        n: Rows.
        closed: Whether there is a closed form.
    """
    if settings.null == "permutation":
        return settings.permutations
    if settings.null == "closed":
        return 0
    cost = comparison.permutation_cost(*spaces)
    if cost is None:
        affordable = settings.permutations if "k" in metric.options() or n <= PERMUTED_ROWS else 0
    else:
        affordable = settings.permutations if cost == 0 else int(BUDGET / cost)
    if affordable >= settings.permutations:
        return settings.permutations
    return 0 if closed else max(affordable, FEW_PERMUTATIONS)


def null_columns(
    metric: Metric,
    comparison: Comparison[Any],
    spaces: tuple[Any, Any],
    settings: MeasureSettings,
    *,
    n: int,
    groups: tuple[Any, ...] | None,
) -> dict[str, Any]:
    """The score and its null, as columns of a `Row`; no null where no rearrangement of the rows changes the score.

    Raises:
        BadChoice: If the null is "closed", the metric is named and has no closed form.
    """
    if settings.null == "none" or not metric.paired:
        chance = exact_chance(comparison, *spaces, n=n, groups=groups) if metric.paired else None
        return {"value": comparison.compare(*spaces), "chance": chance, "backend": backends(comparison, *spaces)}
    closed = settings.within is None and has_closed_form(comparison, *spaces, groups=groups)
    count = draws(metric, comparison, spaces, settings, n=n, closed=closed)
    options: dict[str, Any] = {"within": settings.within, "seed": settings.seed, "alpha": settings.alpha}
    try:
        result = calibrate_prepared(metric, comparison, spaces, n=n, groups=groups, permutations=count, **options)
    except BadChoice as error:
        if closed or not settings.tolerant:
            raise
        return {
            "value": comparison.compare(*spaces),
            "backend": backends(comparison, *spaces),
            "note": str(error),
        }
    return _columns(result, settings)


def _columns(result: Calibrated, settings: MeasureSettings) -> dict[str, Any]:
    null = result.null
    within = "" if settings.within is None else " within labels"
    return {
        "value": result.observed,
        "backend": result.backend,
        "chance": result.chance,
        "calibrated": result.calibrated,
        "threshold": result.threshold,
        "p": result.p,
        "null_low": null.low,
        "null_high": null.high,
        "null": f"{null.permutations} permutations{within}" if null.permutations else null.method,
    }
