"""Effects of claims about the synthetic study with their intervals: over depths, label tables, or depths and maps."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from featcache.metrics.certainty.clustered import (
    Clustered,
    Method,
    clustered_estimate,
    correlation,
    crossed_estimate,
)
from featcache.studies.emergence.questions.claims import EmergenceClaim
from featcache.studies.emergence.questions.correlations import beyond_depth
from featcache.studies.emergence.questions.depth_law import plane_slope, share_gap
from featcache.studies.emergence.questions.maxima import RELEASED

if TYPE_CHECKING:
    import polars as pl

GAP = "difference less both"
_OVER = "over {n} {what}, each left out once; Student's t"
_WORDS = {"depth": "depths", "uniqueness": "label tables (U)", "phi_depth": "maps"}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What claims are judged by.

    Args:
        best: Models, from `featcache.studies.emergence.questions.maxima.best_of_models`.
        maxima: Of label tables and maps.
        relations: Correlations.
        oracles: Exact quantities of the label tables.
    """

    best: "pl.DataFrame"
    maxima: "pl.DataFrame"
    relations: "pl.DataFrame"
    oracles: "pl.DataFrame"


@dataclass(frozen=True)
class Effect:
    """An effect with its interval, not yet corrected for other claims.

    Args:
        value: The effect; None where it cannot be given.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided.
        models: Behind it.
        rows: Of the table that it was computed from.
        interval: What the interval is of.
        note: Why there is no effect or no interval, or "".
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    models: int = 0
    rows: int = 0
    interval: str = ""
    note: str = ""


def of_relation(claim: EmergenceClaim, evidence: Evidence) -> Effect:
    """One row of the table of correlations: over all maps, of points as measured unless the claim says otherwise."""
    import polars as pl

    table = evidence.relations
    wanted: dict[str, Any] = {"points": "measured", "group": False} | claim.where
    rows = table.filter(*(pl.col(name) == value for name, value in wanted.items()))
    if "uniqueness" not in claim.where:
        rows = rows.filter(pl.col("uniqueness").is_null())
    if len(rows) != 1:
        return Effect(note=f"{len(rows)} correlations fit {json.dumps(claim.where, ensure_ascii=False)}")
    row = rows.row(0, named=True)
    numbers = {name: row[name] for name in ("value", "low", "high", "p", "models", "note")}
    interval = _interval(row["clusters"], row["clustered_by"]) if row["low"] is not None else ""
    return Effect(**numbers, rows=row["n"], interval=interval)


def of_coefficients(claim: EmergenceClaim, evidence: Evidence) -> Effect:
    """Mean of the correlations within each U of `a`, minus that of `b`; the interval is over the depths of all."""
    import polars as pl

    metric = claim.where["metric"] or RELEASED
    rows = evidence.best.filter(metric=metric).with_columns(alignment="value")
    rows = rows.filter(pl.col("uniqueness").is_in([*claim.a, *claim.b]))
    missing = sorted({*claim.a, *claim.b} - set(rows["uniqueness"]))
    if missing:
        return Effect(note=f"no models at U = {', '.join(map(str, missing))}")
    x, y, method = (claim.where[name] for name in ("x", "y", "method"))
    if claim.where.get("question") == "beyond depth":
        parts = rows.partition_by("uniqueness", maintain_order=True)
        rows, method = pl.concat([beyond_depth(part, (x, y), method) for part in parts]), "pearson"
    found = mean_coefficients(rows, x, y, method, (claim.a, claim.b))
    most = 2.0 if claim.b else 1.0  # what a coefficient, or a difference of two, cannot exceed
    low, high = (None if end is None else max(-most, min(most, end)) for end in (found.low, found.high))
    return _effect(replace(found, low=low, high=high), len(rows), "depth")


def mean_coefficients(
    rows: "pl.DataFrame", x: str, y: str, method: Method, levels: tuple[Sequence[int], Sequence[int]]
) -> Clustered:
    """Mean over some U of the correlation within each U and map, minus the mean over others, with interval over depths.

    Args:
        rows: Of models: uniqueness, phi_depth, depth, x and y.
        x: A column.
        y: Another.
        method: Of the coefficients.
        levels: U of the first mean, and those of the one that is taken away, perhaps none.
    """
    columns = {name: rows[name].to_numpy() for name in dict.fromkeys(("uniqueness", "phi_depth", "depth", x, y))}

    def mean(kept: Bool[np.ndarray, " n"], own: Sequence[int]) -> float:
        found: list[float] = []
        for level in own:
            inside = kept & (columns["uniqueness"] == level)
            a, b, maps = (columns[name][inside] for name in (x, y, "phi_depth"))
            found.append(correlation(a.astype(float), b.astype(float), blocks=maps, method=method))
        return float(np.mean(found)) if found else 0.0

    return clustered_estimate(lambda kept: mean(kept, levels[0]) - mean(kept, levels[1]), columns["depth"])


def of_law(claim: EmergenceClaim, evidence: Evidence) -> Effect:
    """Mean over U of a slope over both depths, or of what designs explain; the interval is over depths and maps."""
    rows = evidence.best.filter(metric=RELEASED).with_columns(alignment="value")
    columns = {name: rows[name].to_numpy() for name in ("uniqueness", "depth", "phi_depth", claim.where["outcome"])}
    return _effect(mean_slope(columns, claim.where["outcome"], claim.where["term"]), len(rows), "depths and maps")


def mean_slope(columns: Mapping[str, np.ndarray], outcome: str, term: str) -> Clustered:
    """Mean over U of a slope of the law of depths (`slope`), with interval over depths and maps.

    Args:
        columns: Of models: uniqueness, depth, phi_depth and the outcome.
        outcome: Which column.
        term: As of `slope`, or "difference less both", the mean of `share_gap` in place of a slope.
    """
    levels = np.unique(columns["uniqueness"])

    def mean(kept: Bool[np.ndarray, " n"]) -> float:
        slopes: list[float] = []
        for level in levels:
            inside = kept & (columns["uniqueness"] == level)
            depth, phi, y = (columns[name][inside] for name in ("depth", "phi_depth", outcome))
            slopes.append(share_gap(depth, phi, y) if term == GAP else plane_slope(depth, phi, y, term))
        return float(np.mean(slopes))

    return crossed_estimate(mean, columns["depth"], columns["phi_depth"])


def of_bias(claim: EmergenceClaim, evidence: Evidence) -> Effect:
    """Largest estimate minus largest exact value of the same models, mean over U and maps; the interval is over U."""
    import polars as pl

    rows = evidence.maxima.filter(pl.col("population_maximum").is_not_null(), metric=claim.where["metric"])
    excess = (rows["value"] - rows["population_maximum"]).to_numpy()
    found = clustered_estimate(lambda kept: float(excess[kept].mean()), rows["uniqueness"].to_numpy())
    return _effect(found, int(rows["models"].sum()), "uniqueness")


def of_exact(claim: EmergenceClaim, evidence: Evidence) -> Effect:
    """A difference of exact quantities of one label table."""
    exact = claim.at
    rows = evidence.oracles.filter(uniqueness=exact.uniqueness) if exact else evidence.oracles.clear()
    if exact is None or len(rows) != 1:
        return Effect(note="no such label table")
    missing = [name for name in (*exact.plus, *exact.minus) if name not in rows.columns]
    if missing:
        return Effect(note=f"no column {', '.join(missing)} among the oracles")
    value = sum(rows[name][0] for name in exact.plus) - sum(rows[name][0] for name in exact.minus)
    return Effect(float(value), rows=1, interval="none: exact")


ESTIMATORS: Mapping[str, Callable[[EmergenceClaim, Evidence], Effect]] = MappingProxyType(
    {"relation": of_relation, "coefficients": of_coefficients, "law": of_law, "bias": of_bias, "exact": of_exact}
)


def _effect(found: Clustered, models: int, what: str) -> Effect:
    interval = _interval(found.clusters, what) if found.low is not None else ""
    return Effect(found.value, found.low, found.high, found.p, models, found.n, interval, found.note)


def _interval(clusters: int, what: str) -> str:
    return _OVER.format(n=clusters, what=_WORDS.get(what, what))
