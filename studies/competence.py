"""Competence and convergence: do encoders that do better on a task stand closer to the others?"""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.settings import MeasureSettings
from featcache.provenance import provenance
from featcache.selectors import parse_selector
from featcache.studies.alignment.common_rows import CommonRows, common_rows
from featcache.studies.downstream.probe import ProbeSettings, probe
from featcache.studies.tables import check_table_path, table, write_table

if TYPE_CHECKING:
    import polars as pl

LEAST = 3  # encoders
_EVERY_ORDER = 8  # encoders up to which every order is counted: 40,320
_ORDERS = 100_000  # drawn for more
PERFORMANCE = "probe_accuracy"


@dataclass(frozen=True)
class Competence:
    """One encoder: its mean alignment with the others, and how well it does on a task.

    Args:
        dataset: Of both.
        encoder: View, encoder and layer.
        metric: Of alignment.
        value: Mean alignment with the other encoders, on test groups.
        performance: Accuracy of a linear probe on test groups, or what was given.
        performance_of: What that is.
        n: Groups that alignment is measured on.
        k: Neighbours.
        others: JSON of the other encoders and the alignment with each.
        reference: "", as of rows that are of no reference.
        layers: As `encoder`.
        split: Of the groups.
        stage: "raw".
        control: "".
        seed: 0.
    """

    dataset: str
    encoder: str
    metric: str
    value: float
    performance: float
    performance_of: str
    n: int
    k: int
    others: str
    reference: str = ""
    layers: str = ""
    split: str = "test"
    stage: str = "raw"
    control: str = ""
    seed: int = 0


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation over encoders, with the exact p of a permutation test.

    Args:
        rho: Spearman's coefficient; None where one of both has no spread.
        p: Two-sided: share of the orders of one that correlate as strongly; None as rho.
        n: Encoders.
        method: How p was got.
    """

    rho: float | None
    p: float | None
    n: int
    method: str


def rank_correlation(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """Spearman's correlation of two quantities of the same encoders; ties share their mean rank.

    Every order of y is as likely where the two have nothing to do with each other, however the values of x depend on
    one another (the mean alignments of encoders do). With few encoders p cannot be small: it is at least 2 / n!.

    Args:
        x: One value an encoder.
        y: Another.
        seed: Of the orders that are drawn, for more than 8 encoders.

    Example:
        >>> result = rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 40.0])
        >>> result.rho, round(result.p, 3), result.n
        (1.0, 0.333, 3)
    """
    from scipy.stats import rankdata

    n = len(x)
    a, b = (rank - rank.mean() for rank in (rankdata(x), rankdata(y)))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if not scale:
        return RankCorrelation(None, None, n, "no spread")
    rho = float(a @ b) / scale
    if n <= _EVERY_ORDER:
        orders = np.array([*itertools.permutations(range(n))])
        method = f"every one of {len(orders):,} orders"
    else:
        rng = np.random.default_rng(seed)
        orders = np.vstack([np.arange(n), *(rng.permutation(n) for _ in range(_ORDERS - 1))])
        method = f"{_ORDERS:,} orders, the observed among them"
    drawn = b[orders] @ a / scale
    return RankCorrelation(rho, float(np.mean(np.abs(drawn) >= abs(rho) - 1e-12)), n, method)


@dataclass(frozen=True, eq=False)
class CompetenceResult:
    """What was measured of some encoders.

    Args:
        rows: One an encoder, the most competent first.
        correlation: Of performance with mean alignment.
        common: The arrays on their common rows.
        out: Where the table was written, or None.
    """

    rows: list[Competence]
    correlation: RankCorrelation
    common: CommonRows
    out: Path | None


def competence(
    cache: Cache,
    dataset: str,
    encoders: Sequence[str],
    *,
    performance: dict[str, float] | None = None,
    label: str | None = None,
    metric: str = "mutual_knn",
    k: int = 10,
    out: Path | None = None,
    on_step: Callable[[str], None] | None = None,
) -> CompetenceResult:
    """Whether encoders that do better on a task align better with the others.

    Alignment of an encoder is the mean of its scores with every other, one row a group, on the test split where the
    data set has one. Performance is the accuracy of a linear probe of a label, or what is given.

    Args:
        cache: The cache.
        dataset: Data set name.
        encoders: Three or more `[view/]encoder[/layer.pooling][@digest]`.
        performance: Encoder as typed -> its performance; None to probe.
        label: Label column that is probed; None for the first.
        metric: A name of METRICS.
        k: Neighbours.
        out: Where the rows are written, as Parquet; None for nowhere.
        on_step: Called with the name of each step.

    Raises:
        UsageError: For fewer than three encoders, or a performance that lacks one.
        FeaturesNotCached, NotPaired, MetricError: As `Cache.load`, `common_rows`, `probe` and the metric.

    Source:
        Huh et al. 2024, arXiv:2405.07987, section 2.3 (vision models align as competence increases).
    """
    check_table_path(out)
    if len(dict.fromkeys(encoders)) < LEAST:
        raise UsageError(f"{len(encoders)} encoders: ranks over fewer than {LEAST} say nothing\n  Name more")
    note = on_step or (lambda step: None)
    note("alignment of every two")
    arrays = [cache.load(dataset, name) for name in encoders]
    has_test = "test" in set(arrays[0].splits.astype(str).tolist())
    common = common_rows(arrays, split="test" if has_test else None, cache=cache)
    scores = measure(common.spaces, None, MeasureSettings((metric,), k, null="none")).rows
    names = [space.name for space in common.spaces]
    with_others: dict[str, dict[str, float]] = {name: {} for name in names}
    for row in scores:
        if row.value is not None:
            with_others[row.space][row.against] = with_others[row.against][row.space] = row.value
    note("performance")
    known = _probed(cache, dataset, encoders, label) if performance is None else _given(encoders, performance)
    what = f"{PERFORMANCE} of {label or 'the first label'}" if performance is None else "given"
    rows = [
        Competence(
            dataset, f"{features.view}/{features.name}", metric, float(np.mean([*with_others[name].values()])),
            known[typed], what, common.spaces[0].n, k, json.dumps(with_others[name], ensure_ascii=False),
            layers=f"{features.view}/{features.name}", split=common.split,
        )
        for typed, name, features in zip(encoders, names, arrays, strict=True)
    ]  # fmt: skip
    result = rank_correlation([row.performance for row in rows], [row.value for row in rows])
    rows.sort(key=lambda row: -row.performance)
    if out is not None:
        write_table(table(rows, [provenance()] * len(rows)), out)
    return CompetenceResult(rows, result, common, out)


def correlation_of(rows: "pl.DataFrame") -> RankCorrelation:
    """The rank correlation of a table that `competence` wrote: of performance with mean alignment.

    Args:
        rows: Has the columns performance and value; rows that lack one are left out.
    """
    kept = rows.filter(rows["performance"].is_finite() & rows["value"].is_finite())
    return rank_correlation(kept["performance"].to_list(), kept["value"].to_list())


def cached_encoders(cache: Cache, dataset: str, encoders: Sequence[str]) -> tuple[list[str], list[str]]:
    """The encoders that the cache has features of, and the others."""
    there = {name: cache.holds(dataset, name) for name in encoders}
    return [name for name in encoders if there[name]], [name for name in encoders if not there[name]]


def parse_performance(typed: Sequence[str]) -> dict[str, float] | None:
    """Performances as typed, ENCODER=NUMBER each; None where there are none.

    Raises:
        UsageError: If one is not of that form.

    Example:
        >>> parse_performance(["resnet18=0.7", "captions/gpt2=0.6"])
        {'resnet18': 0.7, 'captions/gpt2': 0.6}
    """
    values: dict[str, float] = {}
    for text in typed:
        name, _, number = text.rpartition("=")
        try:
            values[name] = float(number)
        except ValueError:
            values[name] = math.nan
        if not name or not math.isfinite(values[name]):
            raise UsageError(f"performance {text!r}: wanted ENCODER=NUMBER, as in resnet18=0.7")
    return values or None


def _probed(cache: Cache, dataset: str, encoders: Sequence[str], label: str | None) -> dict[str, float]:
    """Accuracy of a linear probe of each encoder."""
    result = probe(cache, dataset, encoders, (), ProbeSettings(label=label))
    of_space = {row.space: row.value for row in result.rows if row.metric == PERFORMANCE and row.value is not None}
    lacking = [name for name in encoders if name not in of_space]
    if lacking:
        raise UsageError(
            f"no probe of {', '.join(lacking)}: made from the label, or equal to another\n"
            "  Leave it out, or give what it performs by --performance"
        )
    return {name: of_space[name] for name in encoders}


def _given(encoders: Sequence[str], performance: dict[str, float]) -> dict[str, float]:
    by_name = {parse_selector(name).encoder: value for name, value in performance.items()} | performance
    known = {name: by_name.get(name, by_name.get(parse_selector(name).encoder)) for name in encoders}
    lacking = [name for name, value in known.items() if value is None]
    if lacking:
        raise UsageError(f"no performance of {', '.join(lacking)}\n  Give one of each, as in {lacking[0]}=0.8")
    return {name: value for name, value in known.items() if value is not None}
