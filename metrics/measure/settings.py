"""Settings of a measurement: metrics with their options, null and interval."""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from featcache.metrics.arrays import Groups, labels
from featcache.metrics.errors import BadChoice
from featcache.metrics.table import METRICS, Metric, chosen

NullKind = Literal["auto", "permutation", "closed", "none"]
IntervalKind = Literal["none", "samples", "queries"]
DEFAULT_METRICS = ("mutual_knn", "cka_debiased")
FEW_PERMUTATIONS = 19  # as few as can reach p = .05
_ELSEWHERE = ("k", "groups")  # options that have a column of their own
_OPTION = re.compile(r" (?=\w+=)")


@dataclass(frozen=True)
class MeasureSettings:
    """What is measured, and how sure it is to be.

    Args:
        metrics: Names of METRICS, each perhaps with options, as typed ("cka_rbf:sigma=median") or as (name, options);
            "all" for every one of them.
        k: Neighbours, for the metrics that have them.
        null: "permutation"; "closed": exact moments, for metrics that have them; "none"; "auto": permutations where
            their cost allows, else closed or few permutations (`featcache.metrics.measure.null_policy`).
        within: Label of each row: permuted rows change places only within equal labels; None for all rows.
        permutations: Behind each permutation null, 19 or more.
        interval: "samples": where the score of other samples, as many, would lie; "queries": where the score of all
            queries lies, of which some are drawn; "none".
        queries: How many queries are drawn.
        repeats: Random halves behind an interval of samples and behind contrasts, 20 or more.
        seed: Of every draw.
        alpha: Level of thresholds and verdicts; intervals cover 1 - alpha.
        unit_rows: Whether the rows of all spaces are brought to length 1 first: one normalisation for spaces of
            different origin. False: as they are given.
    """

    metrics: tuple[str | tuple[str, Mapping[str, Any]], ...] = DEFAULT_METRICS
    k: int = 10
    null: NullKind = "auto"
    within: Groups | None = None
    permutations: int = 200
    interval: IntervalKind = "none"
    queries: int | None = None
    repeats: int = 200
    seed: int = 0
    alpha: float = 0.05
    unit_rows: bool = False

    def __post_init__(self) -> None:
        for name, value, kinds in (("null", self.null, NullKind), ("interval", self.interval, IntervalKind)):
            if value not in get_args(kinds):
                raise BadChoice(f"{name} = {value!r} is unknown; there are {', '.join(get_args(kinds))}")
        if self.permutations < FEW_PERMUTATIONS:
            raise BadChoice(f"permutations = {self.permutations}: wanted {FEW_PERMUTATIONS} or more, to reach p = .05")
        if (self.queries is None) == (self.interval == "queries"):
            raise BadChoice(
                "an interval of queries and a number of queries belong together: interval='queries', queries=N"
            )
        if not 0 < self.alpha < 1:
            raise BadChoice(f"alpha = {self.alpha}: wanted a share between 0 and 1")
        if self.within is not None:
            if self.null == "closed":
                raise BadChoice("null = 'closed' and within: only permutations keep to labels")
            object.__setattr__(self, "within", tuple(labels(self.within, len(self.within), "within")))

    @property
    def tolerant(self) -> bool:
        """Whether a metric that does not suit the spaces is noted instead of refused: with "all"."""
        return "all" in self.metrics


def chosen_metrics(settings: MeasureSettings) -> list[tuple[Metric, dict[str, Any]]]:
    """The metrics of the settings, each with its options, k among them where the metric has neighbours.

    Raises:
        BadChoice: If a metric or an option is unknown; lists what exists.
    """
    typed = [one for word in settings.metrics for one in (METRICS if word == "all" else (word,))]
    selected: list[tuple[Metric, dict[str, Any]]] = []
    for name, options in (parse_metric(one) if isinstance(one, str) else (one[0], dict(one[1])) for one in typed):
        if "groups" in options:
            raise BadChoice(f"{name}:groups=...: groups are those of the data set; what becomes of them says --pairing")
        metric, _ = chosen(name, **options)
        defaults = {"k": settings.k, "pair_seed": settings.seed if "pairs" in options else 0}
        selected.append(
            (metric, {option: value for option, value in defaults.items() if option in metric.options()} | options)
        )
    return selected


def parse_metric(text: str) -> tuple[str, dict[str, Any]]:
    """A metric's name and options as typed; values are true, false, none, numbers, JSON, or else text.

    Raises:
        BadChoice: If an option has no value.

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
    """A value in whatever case, as TOML, JSON and Python write it."""
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


def unusual_options(metric: str, convention_text: str) -> str:
    """The options in a convention that are not the default, and the measure or kernel in any case.

    Example:
        >>> unusual_options("cka_rbf", convention(METRICS["cka_rbf"], {"sigma": 2.0}))
        'kernel=rbf sigma=2.0'
    """
    usual = set(_OPTION.split(convention(METRICS[metric], {})))
    options = _OPTION.split(convention_text)
    return " ".join(one for one in options if one not in usual or one.startswith(("metric=", "kernel=")))
