"""One measurement: named spaces of the same samples and a reference in, tidy rows and contrasts out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from featcache.metrics.arrays import Groups, X, group_codes
from featcache.metrics.certainty.halves import Halves, compares_neighbors
from featcache.metrics.certainty.intervals import Interval, drawn_interval, samples_interval
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import BadChoice, BadShape, MetricError
from featcache.metrics.measure.contrasts import Contrast, HalfScores, contrast_row, with_verdicts
from featcache.metrics.measure.null_policy import null_columns
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.measure.settings import MeasureSettings, chosen_metrics, convention
from featcache.metrics.measure.space import ArraySpace, Space, compares_graphs, named_spaces
from featcache.metrics.table import Metric, chosen

Pair = tuple[str, str]
DEFAULT_SETTINGS = MeasureSettings()


@dataclass(frozen=True)
class Measured:
    """What one measurement gave.

    Args:
        rows: One row a pair of spaces and metric: pairs in their order, metrics in theirs.
        contrasts: One row a contrast and metric that it is for.
    """

    rows: list[Row]
    contrasts: list[ContrastRow]


def measure(
    spaces: Iterable[Space] | Mapping[str, Space | X],
    reference: Space | None = None,
    settings: MeasureSettings = DEFAULT_SETTINGS,
    *,
    contrasts: Sequence[Contrast] = (),
    pairs: Iterable[Pair] | None = None,
    on_metric: Callable[[str], None] | None = None,
) -> Measured:
    """Scores of named spaces, with chance, null and interval, and the contrasts between them.

    Row i of all spaces is the same sample (pair them first: `featcache.metrics.paired`). Each graph and each prepared
    kernel is made once for a space and metric, however many pairs, nulls, intervals and contrasts need it. All scores
    against one space are taken on the same random halves.

    Args:
        spaces: The spaces that are measured.
        reference: What each of them is compared with; None: with each other.
        settings: Metrics, nulls, intervals, and whether all rows are brought to length 1 first.
        contrasts: Questions about the spaces' scores against the reference; their intervals are those of new samples at
            gallery size n.
        pairs: Names of spaces to be compared with each other: beside the reference, or without one instead of every
            pair in the order of the spaces.
        on_metric: Called with each metric before it is measured, and of how many.

    Returns:
        Rows and contrasts.

    Raises:
        BadShape: If the spaces differ in rows or groups.
        BadChoice: If two spaces share a name, a contrast or pair names none that exists, contrasts lack a reference, or
            a metric or option is unknown.
        MetricError: If a metric that was named cannot be computed. Of "all", such a metric has a note instead.

    Example:
        >>> x, noise, other = np.random.default_rng(0).standard_normal((3, 200, 8))
        >>> spaces = {"x": x + other, "y": noise}
        >>> settings = MeasureSettings(metrics=("cka_debiased",))
        >>> result = measure(spaces, ArraySpace(x, "r"), settings, contrasts=[Contrast("x", ("y",))])
        >>> [(row.space, row.against, row.p) for row in result.rows][0], result.contrasts[0].verdict
        (('x', 'r', 0.004975124378109453), 'above')
    """
    named = named_spaces(spaces)
    every = _with_reference(named, reference)
    _check_rows(every)
    asked = _pairs(named, reference, pairs, every)
    _check_contrasts(contrasts, named, reference)
    metrics = chosen_metrics(settings)
    _check_metric_names(contrasts, metrics)
    if settings.unit_rows:
        every = {name: space.unit() for name, space in every.items()}
    run = _Run(every, settings, contrasts, reference.name if reference else "")
    run.plan(metrics)
    scores: list[dict[Pair, Row]] = []
    differences: list[dict[Contrast, ContrastRow]] = []
    for number, (metric, options) in enumerate(metrics, 1):
        if on_metric is not None:
            on_metric(f"{metric.name}, {number} of {len(metrics)}")
        one = _OneMetric(run, metric, options)
        scores.append(one.rows(asked))
        differences.append(one.contrasts())
    rows = [of_metric[pair] for pair in asked for of_metric in scores]
    answers = [of_metric[one] for one in contrasts for of_metric in differences if one in of_metric]
    return Measured(rows, with_verdicts(answers, alpha=settings.alpha))


class _Run:
    """What all metrics of one measurement share."""

    def __init__(
        self, spaces: dict[str, Space], settings: MeasureSettings, contrasts: Sequence[Contrast], reference: str
    ) -> None:
        self.spaces, self.settings, self.contrasts, self.reference = spaces, settings, contrasts, reference
        first = next(iter(spaces.values()))
        self.n, self.groups = first.n, first.groups
        self.depths: dict[str, int] = {}

    @cached_property
    def halves(self) -> Halves:
        """The random halves of all intervals and contrasts."""
        return Halves(self.n, self.groups, self.settings.repeats, self.settings.seed)

    def needs_halves(self, metric: Metric) -> bool:
        """Whether scores of this metric are taken on halves."""
        asked = self.settings.interval == "samples" and metric.paired
        return asked or any(_is_for(contrast, metric) for contrast in self.contrasts)

    def comparison(self, metric: Metric, options: Mapping[str, Any]) -> Comparison[Any]:
        """The metric at its options, which searches deep enough for what will be asked of it."""
        _, comparison = chosen(metric.name, groups=self.groups, **options)
        if not self.needs_halves(metric) or "depth" not in metric.options() or "depth" in options:
            return comparison
        depth = self.halves.depth(comparison)
        return chosen(metric.name, groups=self.groups, **options, depth=depth)[1]

    def plan(self, metrics: Sequence[tuple[Metric, dict[str, Any]]]) -> None:
        """Notes how deep graphs of each measure must be for all metrics, so that each is searched once."""
        for metric, options in metrics:
            comparison = self.comparison(metric, options)
            if compares_graphs(comparison):
                depth = max(getattr(comparison, "depth", None) or 0, getattr(comparison, "k", 0))
                known = self.depths.get(comparison.metric, 0)
                self.depths[comparison.metric] = max(known, min(depth, self.halves_room))

    @cached_property
    def halves_room(self) -> int:
        """Candidates of a row of the largest group: more than these cannot be searched for."""
        return self.n - int(np.bincount(group_codes(self.groups, self.n)[0]).max())


class _OneMetric:
    """One metric of one measurement: every space prepared once."""

    def __init__(self, run: _Run, metric: Metric, options: dict[str, Any]) -> None:
        self.run, self.metric, self.options = run, metric, options
        self.comparison = run.comparison(metric, options)
        self.convention = convention(metric, options) + (" rows=unit" if run.settings.unit_rows else "")
        self.known: dict[str, Any] = {}
        self.halved: dict[Pair, tuple[np.ndarray, int]] = {}
        self.missing: dict[Pair, str] = {}

    def prepared(self, name: str) -> Any:
        """One space, ready to be compared."""
        if name not in self.known:
            depth = self.run.depths.get(getattr(self.comparison, "metric", ""), 0)
            self.known[name] = self.run.spaces[name].prepared(self.comparison, depth)
        return self.known[name]

    def rows(self, pairs: Sequence[Pair]) -> dict[Pair, Row]:
        """A row for each pair."""
        rows: dict[Pair, Row] = {}
        for pair in pairs:
            started = perf_counter()
            row = self._scored(pair)
            rows[pair] = replace(row, seconds=perf_counter() - started)
        if self.run.settings.interval == "none" or not self.metric.paired:
            return rows
        started = perf_counter()
        if self.run.settings.interval == "samples":
            self._halve([pair for pair in pairs if rows[pair].value is not None])
        shared = (perf_counter() - started) / len(pairs)
        for pair in pairs:
            if rows[pair].value is not None:
                started = perf_counter()
                row = self._with_interval(rows[pair], pair)
                rows[pair] = replace(row, seconds=row.seconds + shared + perf_counter() - started)
        return rows

    def _scored(self, pair: Pair) -> Row:
        space, against = pair
        first, second = self.run.spaces[space], self.run.spaces[against]
        row = Row(
            space,
            against,
            self.metric.name,
            None,
            convention=self.convention,
            higher_is_better=self.metric.higher_is_better,
            n=self.run.n,
            d=first.width,
            d_against=second.width,
            k=self.options.get("k"),
        )
        try:
            both = self.prepared(space), self.prepared(against)
            options: dict[str, Any] = {"n": self.run.n, "groups": self.run.groups}
            return replace(row, **null_columns(self.metric, self.comparison, both, self.run.settings, **options))
        except MetricError as error:
            if not self.run.settings.tolerant:
                raise
            return replace(row, note=str(error))

    def _with_interval(self, row: Row, pair: Pair) -> Row:
        """The row with its interval; where there is none, why, behind what else there is to note."""
        try:
            interval = self._interval(pair)
        except MetricError as error:
            return replace(row, note="; ".join(filter(None, (row.note, f"no interval: {error}"))))
        words = {"estimand": interval.estimand, "interval": interval.method, "short_rows": interval.short_rows}
        return replace(row, ci_low=interval.low, ci_high=interval.high, **words)

    def _interval(self, pair: Pair) -> Interval:
        settings, run = self.run.settings, self.run
        both, level = (self.prepared(pair[0]), self.prepared(pair[1])), 1 - settings.alpha
        if settings.interval == "queries":
            draws: dict[str, Any] = {"n": run.n, "groups": run.groups, "level": level, "seed": settings.seed}
            return drawn_interval(self.metric, self.comparison, both, settings.queries, **draws)
        if pair in self.missing:
            raise MetricError(self.missing[pair])
        scores, short = self.halved[pair]
        return samples_interval(self.metric, self.comparison, both, run.halves, scores, level=level, short_rows=short)

    def _halve(self, pairs: Sequence[Pair]) -> None:
        """Scores on halves of pairs that have none yet: all that share a second space at once."""
        for against in dict.fromkeys(pair[1] for pair in pairs):
            names = [one for one, other in pairs if other == against]
            names = [name for name in names if (name, against) not in self.halved | self.missing]
            try:
                self._score_halves(names, against)
            except MetricError:  # of some of them: find out of which
                for name in names:
                    try:
                        self._score_halves([name], against)
                    except MetricError as error:
                        self.missing[name, against] = str(error)

    def _score_halves(self, names: Sequence[str], against: str) -> None:
        if not names:
            return
        halves = self.run.halves
        spaces = [self.prepared(name) for name in names]
        scores, short = halves.scores(self.comparison, spaces, self.prepared(against))
        for name, of_space, left_out in zip(names, scores, short, strict=True):
            if np.isnan(of_space).any():
                raise MetricError(f"{name}: the score is undefined on a half of the rows")
            self.halved[name, against] = (of_space, int(left_out))

    def contrasts(self) -> dict[Contrast, ContrastRow]:
        """A row for each contrast that is for this metric."""
        run, against = self.run, self.run.reference
        wanted = [contrast for contrast in run.contrasts if _is_for(contrast, self.metric)]
        if not wanted:
            return {}
        observed, missing = self._observed([name for one in wanted for name in (one.whole, *one.parts)])
        self._halve([(name, against) for name in observed])
        missing |= {name: self.missing[name, against] for name in observed if (name, against) in self.missing}
        halved = {name: self.halved[name, against] for name in observed if name not in missing}
        on_halves = {name: scores for name, (scores, _) in halved.items()}
        short = {name: rows for name, (_, rows) in halved.items()}
        graphs = any(compares_neighbors(self.known[name]) for name in halved)
        scores = HalfScores(run.halves, observed, on_halves, short, missing, graphs)
        row = ContrastRow("", "", "", "", against, self.metric.name, self.convention, self.options.get("k"), n=run.n)
        sign, alpha = (1 if self.metric.higher_is_better else -1), run.settings.alpha
        return {one: contrast_row(one, scores, row, sign=sign, alpha=alpha) for one in wanted}

    def _observed(self, names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
        """Scores against the reference, and why there is none."""
        observed: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name in dict.fromkeys(names):
            try:
                observed[name] = self.comparison.compare(self.prepared(name), self.prepared(self.run.reference))
            except MetricError as error:
                if not self.run.settings.tolerant:
                    raise
                missing[name] = str(error)
        return observed, missing


def _is_for(contrast: Contrast, metric: Metric) -> bool:
    return not contrast.metrics or metric.name in contrast.metrics


def _with_reference(named: dict[str, Space], reference: Space | None) -> dict[str, Space]:
    if not named:
        raise BadChoice("no spaces: wanted one or more")
    if reference is None:
        return named
    if named.get(reference.name, reference) is not reference:
        raise BadChoice(f"the reference and a space are both named {reference.name!r}; every space needs its own name")
    return named | {reference.name: reference}


def _check_rows(spaces: Mapping[str, Space]) -> None:
    """Refuses spaces whose rows cannot be the same samples."""
    sizes = {name: space.n for name, space in spaces.items()}
    if len(set(sizes.values())) != 1:
        raise BadShape(
            f"numbers of rows differ ({', '.join(f'{name}: {rows}' for name, rows in sizes.items())}): row i of all "
            "must be the same sample; pair them by id"
        )
    first, *others = spaces.values()
    for other in others:
        if (other.groups is None) != (first.groups is None) or not np.array_equal(_codes(other), _codes(first)):
            raise BadShape(f"{other.name} has other groups than {first.name}: row i of both must be the same sample")


def _codes(space: Space) -> np.ndarray:
    return group_codes(space.groups, space.n)[0]


def _pairs(
    named: Mapping[str, Space], reference: Space | None, pairs: Iterable[Pair] | None, every: Mapping[str, Space]
) -> list[Pair]:
    """Every space with the reference, or with each other, and the pairs that were named."""
    names = list(named)
    listed = list(dict.fromkeys((first, second) for first, second in pairs or ()))
    unknown = [name for pair in listed for name in pair if name not in every]
    if unknown:
        raise BadChoice(f"pairs name {', '.join(map(repr, dict.fromkeys(unknown)))}; there are {', '.join(every)}")
    if reference is not None:
        with_it = [(name, reference.name) for name in names if name != reference.name]
        return with_it + [pair for pair in listed if pair not in with_it]
    if pairs is not None:
        return listed
    if len(names) < 2:
        raise BadChoice(f"one space ({names[0]}) and no reference: wanted two spaces or more")
    return [(first, second) for place, first in enumerate(names) for second in names[place + 1 :]]


def _check_contrasts(contrasts: Sequence[Contrast], named: Mapping[str, Space], reference: Space | None) -> None:
    if contrasts and reference is None:
        raise BadChoice("contrasts compare scores against a reference; give one")
    for contrast in contrasts:
        unknown = [name for name in (contrast.whole, *contrast.parts) if name not in named]
        if unknown:
            raise BadChoice(
                f"{contrast.title}: no space is named {', '.join(map(repr, unknown))}; there are {', '.join(named)}"
            )


def _check_metric_names(contrasts: Sequence[Contrast], metrics: Sequence[tuple[Metric, dict[str, Any]]]) -> None:
    there = [metric.name for metric, _ in metrics]
    for contrast in contrasts:
        unknown = [name for name in contrast.metrics if name not in there]
        if unknown:
            raise BadChoice(
                f"{contrast.title}: {', '.join(map(repr, unknown))} is not measured; these are: {', '.join(there)}"
            )


def paired_difference(
    name: str,
    whole: X,
    part: X,
    reference: X,
    *,
    groups: Groups | None = None,
    repeats: int = 200,
    alpha: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> ContrastRow:
    """How much closer one space is to a reference than another, on the same rows: difference, interval and two-sided p.

    One contrast of `measure`. For a distance the sign is turned: above 0 the whole is always the closer one.

    Args:
        name: A key of `METRICS`.
        whole: Features [n, d] of the space that may be closer (a joint space).
        part: Features of the same samples in the space that it is compared with.
        reference: Features of the same samples in the reference.
        groups: The group of each row, or None; whole groups are taken or left.
        repeats: Halves to draw, 20 or more.
        alpha: Level of the verdict; the interval covers 1 - alpha.
        seed: Of the draws.
        options: Of the metric ("k", ...).

    Raises:
        MetricError: As `measure`.

    Example:
        >>> reference, noise = np.random.default_rng(0).standard_normal((2, 200, 8))
        >>> result = paired_difference("cka_debiased", reference + noise, noise, reference)
        >>> result.verdict, result.ci_low > 0, result.p < 0.001
        ('above', True, True)
    """
    spaces = [ArraySpace(values, label, groups) for label, values in (("whole", whole), ("part", part))]
    settings = MeasureSettings(((name, options),), null="none", repeats=repeats, seed=seed, alpha=alpha)
    target = ArraySpace(reference, "reference", groups)
    [row] = measure(spaces, target, settings, contrasts=[Contrast("whole", ("part",))]).contrasts
    if row.ci_low is None:
        raise MetricError(row.note)
    return row
