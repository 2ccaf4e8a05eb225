"""How alike are two cached encoders on the samples they share? The numbers behind `featcache align`."""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, get_args

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.features import Features
from featcache.metrics import METRICS
from featcache.metrics.certainty.calibration import calibrate
from featcache.metrics.certainty.intervals import query_interval, sample_interval
from featcache.metrics.certainty.sides import sides_of
from featcache.metrics.comparison import Comparison, KnnComparison, backends
from featcache.metrics.errors import BadChoice, MetricError
from featcache.metrics.knn.parts import depth_for
from featcache.metrics.pairing import Mode
from featcache.metrics.scores.local import Cknna
from featcache.metrics.table import Metric, chosen
from featcache.studies.alignment.common_rows import CachedSpace, CommonRows, common_rows

NullKind = Literal["auto", "permutation", "closed", "none"]
IntervalKind = Literal["none", "samples", "queries"]
DEFAULT_METRICS = ("mutual_knn", "cka_linear", "cka_debiased")
# A permuted kernel score costs n^2 or d^2 a draw; with this many rows its null is normal, and its moments are exact.
PERMUTED_ROWS = 500
FEW_PERMUTATIONS = 19  # as few as can reach p = .05
_ELSEWHERE = ("k", "groups")  # options that have a column of their own
_SHORT = 1e-6  # probability that a row's list runs short in half of the samples


@dataclass(frozen=True)
class AlignSettings:
    """What is measured, and how sure it is to be.

    Args:
        metrics: Names of METRICS, each perhaps with options, as in "cka_rbf:sigma=median"; "all" for every one of them.
        k: Neighbours, for the metrics that have them.
        pairing: What becomes of several rows of a group: "mean", "first", "random" or "all".
        split: Only groups of this split; None for all.
        null: "permutation"; "closed": exact mean and variance, normal tails, for metrics that have them; "none";
            "auto": permutation, but from 501 rows on, for metrics without neighbours, closed or few permutations.
        permutations: Behind each permutation null, 19 or more.
        interval: "samples": where the score of other samples, as many, would lie; "queries": where the score of all
            queries lies, of which some are drawn; "none".
        queries: How many queries are drawn.
        repeats: Subsamples behind an interval of samples.
        seed: Of every draw.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    k: int = 10
    pairing: Mode = "mean"
    split: str | None = None
    null: NullKind = "auto"
    permutations: int = 200
    interval: IntervalKind = "none"
    queries: int | None = None
    repeats: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, kinds in (("null", self.null, NullKind), ("interval", self.interval, IntervalKind)):
            if value not in get_args(kinds):
                raise UsageError(f"{name} = {value!r} is unknown; there are {', '.join(get_args(kinds))}")
        if self.permutations < FEW_PERMUTATIONS:
            raise UsageError(f"permutations = {self.permutations}: wanted {FEW_PERMUTATIONS} or more, to reach p = .05")
        if (self.queries is None) == (self.interval == "queries"):
            raise UsageError(
                "an interval of queries and a number of queries belong together: --interval queries --queries N"
            )


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
    x: Features, y: Features, settings: AlignSettings = AlignSettings(), *, cache: Cache | None = None, **changes: Any
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
        score but a note, and those without a closed form, where that is settings for, no null. A metric that has no such
        interval keeps its score and null, and says so in its note.

    Raises:
        NotPaired: If the two share no groups, or are of different data sets.
        MetricError: If a metric or option is unknown, or a metric that was named cannot be computed.
    """
    settings = replace(settings, **changes)
    return align_rows(rows_of([x, y], settings, cache=cache), settings)


def rows_of(arrays: Sequence[Features], settings: AlignSettings, *, cache: Cache | None = None) -> CommonRows:
    """Arrays on their common rows, paired as is settings; as `common_rows`."""
    return common_rows(arrays, pairing=settings.pairing, split=settings.split, seed=settings.seed, cache=cache)


def align_rows(
    common: CommonRows, settings: AlignSettings, on_metric: Callable[[str], None] | None = None
) -> list[Alignment]:
    """Scores of two spaces that are paired already; as `align`.

    Args:
        common: The two spaces.
        settings: What is measured.
        on_metric: Told which metric is next, and of how many.
    """
    found, metrics = list[Alignment](), chosen_metrics(settings)
    for number, (metric, options) in enumerate(metrics, 1):
        if on_metric is not None:
            on_metric(f"{metric.name}, {number} of {len(metrics)}")
        found.append(_measured(common, metric, options, settings))
    return found


def chosen_metrics(settings: AlignSettings) -> list[tuple[Metric, dict[str, Any]]]:
    """The metrics that are settings for, each with its options, k among them where the metric has neighbours.

    Raises:
        BadChoice: If a metric or an option is unknown; lists what exists.
    """
    names = [name for word in settings.metrics for name in (METRICS if word == "all" else (word,))]
    found: list[tuple[Metric, dict[str, Any]]] = []
    for name, options in map(parse_metric, names):
        if "groups" in options:
            raise BadChoice(f"{name}:groups=...: groups are those of the data set; what becomes of them says --pairing")
        metric, _ = chosen(name, **options)
        told = {"k": settings.k, "pair_seed": settings.seed if "pairs" in options else 0}
        found.append(
            (metric, {option: value for option, value in told.items() if option in metric.options()} | options)
        )
    return found


def parse_metric(text: str) -> tuple[str, dict[str, Any]]:
    """A metric's name and options as typed; values are true, false, none, numbers, JSON, or else text.

    Example:
        >>> parse_metric("cka_rbf:sigma=median,debiased=true")
        ('cka_rbf', {'sigma': 'median', 'debiased': True})
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise BadChoice(f"{text!r}: wanted name:option=value,option=value; {part!r} has no '='")
        options[option] = _value(value)
    return name, options


def _value(text: str) -> Any:
    """What was typed, in whatever case, as TOML, JSON and Python write it."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for read in (json.loads, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def convention(metric: Metric, options: Mapping[str, Any]) -> str:
    """Every option of a metric and its value, but those that have a column of their own.

    Example:
        >>> convention(METRICS["mutual_knn"], {"k": 5})
        'metric=cosine'
    """
    parameters = inspect.signature(metric.function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    unused = {*_ELSEWHERE, *(() if options.get("pairs") else ("pair_seed",))}
    named = {name: options.get(name, default) for name, default in defaults.items() if name not in unused}
    matters = {name: value for name, value in named.items() if name in metric.options() or isinstance(value, str)}
    return " ".join(f"{name}={value}" for name, value in matters.items() if value is not None)


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
    """Two spaces, or their graphs, and what every function of them is told."""

    x: Any
    y: Any
    told: dict[str, Any]


def _null(metric: Metric, comparison: Comparison[Any], given: _Given, settings: AlignSettings) -> dict[str, Any]:
    """The score and its null; none where no rearrangement of the rows changes the score."""
    if settings.null == "none" or not metric.paired:
        return _score(comparison, given)
    few = settings.null == "auto" and "k" not in metric.options() and len(given.x) > PERMUTED_ROWS
    draws = min(settings.permutations, FEW_PERMUTATIONS) if few else settings.permutations
    try:
        closed = 0 if few or settings.null == "closed" else draws
        found = calibrate(metric.name, given.x, given.y, permutations=closed, **given.told)
    except BadChoice as error:
        if not few and not (settings.null == "closed" and "all" in settings.metrics):
            raise
        if not few:
            return _score(comparison, given) | {"note": str(error)}
        found = calibrate(metric.name, given.x, given.y, permutations=draws, **given.told)
    return {
        "value": found.observed,
        "backend": found.backend,
        "chance": found.chance,
        "calibrated": found.calibrated,
        "threshold": found.threshold,
        "p": found.p,
        "null_low": found.null.low,
        "null_high": found.null.high,
        "null": f"{found.null.permutations} permutations" if found.null.permutations else "closed form",
    }


def _score(comparison: Comparison[Any], given: _Given) -> dict[str, Any]:
    (a, b), _ = sides_of(comparison, {"x": given.x, "y": given.y})
    return {"value": comparison.compare(a, b), "backend": backends(comparison, a, b)}


def _interval(metric: Metric, given: _Given, settings: AlignSettings, note: str) -> dict[str, Any]:
    """The interval of the score, if one is wanted; where there is none, why, behind what else there is to note."""
    if settings.interval == "none" or not metric.paired:
        return {}
    try:
        if settings.interval == "samples":
            found = sample_interval(metric.name, given.x, given.y, repeats=settings.repeats, **given.told)
        else:
            found = query_interval(metric.name, given.x, given.y, queries=settings.queries, **given.told)
    except MetricError as error:
        return {"note": "; ".join(filter(None, (note, f"no interval: {error}")))}
    ends = {"ci_low": found.low, "ci_high": found.high}
    return ends | {"estimand": found.estimand, "interval": found.method, "short_rows": found.short_rows}
