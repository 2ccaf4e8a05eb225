"""Effects of claims with their intervals: contrasts of runs, differences between trainings, and trends, over seeds."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtr, stdtrit

from featcache.studies.competence import rank_correlation
from featcache.studies.experiments.seeds import student
from featcache.studies.experiments.spec import CONTEXT, nearest
from featcache.studies.experiments.tables import ROW_KEYS, selected
from featcache.studies.ledger.claims import Claim

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.95
SEEDS = "over {n} seeds (initial weights, draws, subsets), on the same test groups; Student's t"
BOTH = "over test groups (random halves) and {n} seeds; Student's t, Satterthwaite's degrees of freedom"
SAMPLES = "over test groups (random halves), of one seed; Student's t"
RANKS = "none; p over {n} encoders, {method}"


@dataclass(frozen=True)
class Effect:
    """An effect with its interval, not yet corrected for other claims.

    Args:
        value: The effect; None where there are no rows.
        low: Lower end of the 95 % interval; None where it cannot be given.
        high: Upper end.
        p: Two-sided; None where it cannot be given.
        interval: What the interval is of.
        n: Seeds; of ranks, encoders.
        test_groups: Groups of the test split.
        rows: Rows that it was computed from.
        note: Why there is no effect or no interval, or "".
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    interval: str = ""
    n: int = 0
    test_groups: int | None = None
    rows: int = 0
    note: str = ""


Estimator = Callable[[Claim, "pl.DataFrame"], Effect]


def matching(rows: "pl.DataFrame", wanted: Mapping[str, Any]) -> "pl.DataFrame":
    """Rows whose columns have those values; none where a column is not there."""
    if any(name not in rows.columns for name in wanted):
        return rows.clear()
    return rows.filter(*(selected(name, value) for name, value in wanted.items()))


def of_contrast(claim: Claim, rows: "pl.DataFrame") -> Effect:
    """Mean over seeds of a paired difference that the runs hold, with the spread over test groups and over seeds.

    Both variances are added: that over test groups as the runs give it, which all seeds share, and that over seeds
    divided by their number. Of a contrast with several parts ("max"), an effect below 0 has its p times the parts.

    Args:
        claim: Reads contrast.
        rows: Contrasts of one data set and reference.
    """
    known = rows["contrast"].unique().to_list()
    rows = matching(rows, {"contrast": claim.contrast})
    if rows.is_empty():
        return Effect(note=f"no contrast {claim.contrast!r}{nearest(claim.contrast, known)}")
    mixed = _mixed(rows, ())
    if mixed:
        return Effect(rows=len(rows), note=mixed)
    rows = rows.filter(rows["value"].is_not_null() & rows["ci_low"].is_not_null())
    if rows.is_empty():
        return Effect(note="the contrast has no interval")
    values = rows["value"].to_numpy()
    freedom = 1 / (1 / (rows["n"].to_numpy() - 1) + 2 / rows["repeats"].to_numpy())
    errors = (rows["ci_high"].to_numpy() - rows["ci_low"].to_numpy()) / 2 / stdtrit(freedom, 0.5 + LEVEL / 2)
    m, samples = len(values), float(np.mean(errors**2))
    seeds = float(values.var(ddof=1)) / m if m > 1 else 0.0
    error = math.sqrt(samples + seeds)
    if not error:
        return Effect(float(values.mean()), n=m, rows=m, note="halves and seeds do not differ at all")
    within = samples**2 / float(freedom.min())
    df = (samples + seeds) ** 2 / (within + (seeds**2 / (m - 1) if m > 1 else 0.0))
    value, half = float(values.mean()), float(stdtrit(df, 0.5 + LEVEL / 2)) * error
    p = 2 * float(stdtr(df, -abs(value) / error))
    if value < 0 and rows["kind"][0] == "max":
        p = min(1.0, p * (1 + rows["parts"][0].count("+")))
    words = BOTH.format(n=m) if m > 1 else SAMPLES
    return Effect(value, value - half, value + half, p, words, m, int(rows["n"][0]), m)


def of_difference(claim: Claim, rows: "pl.DataFrame") -> Effect:
    """Mean over seeds of the score of some trainings minus that of others of the same seed.

    Args:
        claim: Reads a and b; what else was varied pairs the rows, and is averaged within a seed.
        rows: Scores of one data set and reference.
    """
    keys = [name for name in _varied(rows) if name not in (*claim.a, *claim.b) or name == "seed"]
    first, second = matching(rows, claim.a), matching(rows, claim.b)
    mixed = _mixed(first, keys) or _mixed(second, keys)
    if mixed:
        return Effect(rows=len(first) + len(second), note=mixed)
    both = first.join(second, on=keys, suffix="_b", how="inner", nulls_equal=True)
    if both.is_empty():
        return Effect(note="no seed has rows of both")
    differences = both.with_columns(effect=both["value"] - both["value_b"])
    return _over_seeds(differences, 2 * len(both))


def of_trend(claim: Claim, rows: "pl.DataFrame") -> Effect:
    """Mean over seeds of the least-squares slope of the score over a column.

    Args:
        claim: Reads over and scale: the slope is per unit, or per doubling.
        rows: Scores of one data set and reference.
    """
    import polars as pl

    if claim.over not in rows.columns:
        return Effect(note=f"no column {claim.over}")
    keys = [name for name in _varied(rows) if name == "seed" or not _says_the_same(rows, name, claim.over)]
    mixed = _mixed(rows, [*keys, claim.over])
    if rows.is_empty() or mixed:
        return Effect(rows=len(rows), note=mixed)
    slopes: list[dict[str, Any]] = []
    for key, part in rows.group_by(keys, maintain_order=True):
        x = part[claim.over].cast(pl.Float64, strict=False).to_numpy()
        x, y = x[np.isfinite(x)], part["value"].to_numpy()[np.isfinite(x)]
        x = np.log2(x) if claim.scale == "log2" else x
        if len(set(x.tolist())) > 1:
            slopes.append(
                {**dict(zip(keys, key, strict=True)), "effect": float(np.polyfit(x, y, 1)[0]), "n": part["n"][0]}
            )
    if not slopes:
        return Effect(rows=len(rows), note=f"fewer than two values of {claim.over}")
    return _over_seeds(pl.DataFrame(slopes), len(rows))


def of_rank(claim: Claim, rows: "pl.DataFrame") -> Effect:
    """Spearman's correlation over encoders of the score with a column, with the exact p of a permutation test.

    Args:
        claim: Reads over.
        rows: One row an encoder, as `featcache competence` writes them.
    """
    if claim.over not in rows.columns:
        return Effect(note=f"no column {claim.over}")
    result = rank_correlation(rows[claim.over].to_list(), rows["value"].to_list())
    words = RANKS.format(n=result.n, method=result.method)
    return Effect(result.rho, p=result.p, interval=words, n=result.n, test_groups=rows["n"][0], rows=len(rows))


def _says_the_same(rows: "pl.DataFrame", one: str, other: str) -> bool:
    """Whether two columns tell the same rows apart, as train_groups and trained_on do."""
    pairs = rows.select(list(dict.fromkeys((one, other)))).n_unique()
    return pairs == rows[one].n_unique() == rows[other].n_unique()


def _over_seeds(effects: "pl.DataFrame", rows: int) -> Effect:
    """Student's t over seeds; what else was varied is averaged within a seed first."""
    import polars as pl

    means = effects.group_by("seed", maintain_order=True).agg(pl.col("effect").mean())["effect"].to_list()
    groups = effects["n"][0]
    mean, low, high, p = student(means, LEVEL)
    if low is None:
        note = "one seed tells nothing of others" if len(means) == 1 else "the seeds do not differ at all"
        return Effect(mean, n=len(means), test_groups=groups, rows=rows, note=note)
    return Effect(mean, low, high, p, SEEDS.format(n=len(means)), len(means), groups, rows)


def _varied(rows: "pl.DataFrame") -> list[str]:
    """Columns of the trainings: seed, control, and what the experiment varied, which stand before a row's own."""
    place = rows.columns.index(CONTEXT[-1]) + 1
    end = next(number for number, name in enumerate(rows.columns) if name in ("space", "contrast"))
    return list(dict.fromkeys(["seed", "control", *rows.columns[place:end]]))


def _mixed(rows: "pl.DataFrame", keys: "list[str] | tuple[str, ...]") -> str:
    """Why some rows are not one a training: they are of several spaces, directions or settings; "" if they are one."""
    whole = keys or ["seed"]
    if rows.is_empty() or not rows.select(whole).is_duplicated().any():
        return ""
    names = [name for name in (*_varied(rows), *ROW_KEYS, "split") if name in rows.columns and name not in whole]
    differ = [name for name in names if rows[name].n_unique() > 1]
    values = {name: rows[name].unique(maintain_order=True).to_list() for name in differ}
    return f"the rows are of several {json.dumps(values, ensure_ascii=False, default=str)}: say which"


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {"contrast": of_contrast, "difference": of_difference, "trend": of_trend, "rank": of_rank}
)
