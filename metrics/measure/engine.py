"""One measurement: named spaces of the same samples and a reference in, tidy rows and contrasts out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featcache.metrics.arrays import Groups, X, group_codes
from featcache.metrics.errors import BadChoice, BadShape, MetricError
from featcache.metrics.measure.contrasts import Contrast, with_verdicts
from featcache.metrics.measure.one_metric import OneMetric, Pair, Run
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.measure.settings import MeasureSettings, chosen_metrics
from featcache.metrics.measure.space import ArraySpace, Space, named_spaces
from featcache.metrics.table import Metric

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
        pairs: Names of spaces to be compared with each other: in addition to the reference, or without one instead of
            every pair in the order of the spaces.
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
    compared = _pairs(named, reference, pairs, every)
    _check_contrasts(contrasts, named, reference)
    metrics = chosen_metrics(settings)
    _check_metric_names(contrasts, metrics)
    if settings.unit_rows:
        every = {name: space.unit() for name, space in every.items()}
    run = Run(every, settings, contrasts, reference.name if reference else "")
    run.plan(metrics)
    scores: list[dict[Pair, Row]] = []
    differences: list[dict[Contrast, ContrastRow]] = []
    for number, (metric, options) in enumerate(metrics, 1):
        if on_metric is not None:
            on_metric(f"{metric.name}, {number} of {len(metrics)}")
        one = OneMetric(run, metric, options)
        scores.append(one.rows(compared))
        differences.append(one.contrasts())
    rows = [of_metric[pair] for pair in compared for of_metric in scores]
    answers = [of_metric[one] for one in contrasts for of_metric in differences if one in of_metric]
    return Measured(rows, with_verdicts(answers, alpha=settings.alpha))


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


def _check_metric_names(contrasts: Sequence[Contrast], metrics: Sequence[tuple[Metric, object]]) -> None:
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
    **options: object,
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
