"""One metric of a measurement: rows and contrasts of named spaces, each space prepared once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from featcache.metrics.arrays import group_codes
from featcache.metrics.certainty.halves import Halves, compares_neighbors
from featcache.metrics.certainty.intervals import Interval, drawn_interval, samples_interval
from featcache.metrics.comparison import Comparison
from featcache.metrics.errors import MetricError
from featcache.metrics.measure.contrasts import Contrast, HalfScores, contrast_row
from featcache.metrics.measure.null_policy import null_columns
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.measure.settings import MeasureSettings, convention
from featcache.metrics.measure.space import Space, compares_graphs
from featcache.metrics.table import Metric, chosen

Pair = tuple[str, str]


class Run:
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
        of_score = self.settings.interval == "samples" and metric.paired
        return of_score or any(_is_for(contrast, metric) for contrast in self.contrasts)

    def comparison(self, metric: Metric, options: Mapping[str, Any]) -> Comparison[Any]:
        """The metric at its options, which searches deep enough for halves where they are needed."""
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
                self.depths[comparison.metric] = max(known, min(depth, self.candidates))

    @cached_property
    def candidates(self) -> int:
        """Candidates of a row of the largest group: more than these cannot be searched for."""
        return self.n - int(np.bincount(group_codes(self.groups, self.n)[0]).max())


class OneMetric:
    """One metric of one measurement: every space prepared once."""

    def __init__(self, run: Run, metric: Metric, options: dict[str, Any]) -> None:
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
