"""What is linearly there of a reference: cross-validated ridge regression beside raw spaces and kernel mixtures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcache.metrics.arrays import Groups, X, as_float64, check_pair, checked, group_codes
from featcache.metrics.certainty.inputs import prepare_all
from featcache.metrics.combine import mixed
from featcache.metrics.errors import BadChoice
from featcache.metrics.sweeps.ridge import HeldOut, cross_predicted, fold_numbers, normalized
from featcache.metrics.table import chosen, known_chance

ALPHAS = tuple(10.0 ** (step / 2) for step in range(-8, 7))  # half decades, 1e-4 to 1e3
BALANCES = (0.25, 1.0, 4.0)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class CeilingPoint:
    """How close one source is to the reference on one held-out fold: a row of a tidy table."""

    source: str  # "x", "y" or "both": predicted from it; "raw x", "raw y" or "mixed w=0.3": as it is, w of x
    metric: str  # a label: a name of `METRICS`, perhaps with options behind it; or "r2"
    fold: int
    value: float  # score against the true held-out rows, which are also the gallery
    n: int  # held-out rows
    k: int | None  # neighbours, where the metric has them
    chance: float | None  # of unrelated spaces at this n and k, where there is a closed form (mutual_knn)
    alpha: float | None  # penalty chosen inside the training folds; None for what is not predicted
    balance: float | None  # scale of y over x, chosen with it; None for one of them alone


@dataclass(frozen=True)
class MixingPoint:
    """Score of one mixture against the reference: a row of a tidy table."""

    weight: float  # of x's kernel; y's has 1 - weight
    metric: str
    value: float
    n: int  # rows
    k: int | None  # neighbours, where the metric has them
    chance: float | None  # of unrelated spaces, where there is a closed form (mutual_knn)


def ridge_ceiling(
    x: X,
    y: X,
    reference: X,
    *,
    groups: Groups | None = None,
    folds: int = 5,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    metrics: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("mutual_knn", "cka_debiased"),
    weights: Sequence[float] = (),
) -> list[CeilingPoint]:
    """How well a linear map of x, of y, and of both concatenated predicts a reference on rows it has not seen.

    A cross-validated lower bound of what is linearly there: what a trained map of the same inputs scores less, training
    missed. It is no upper bound, for least squares aim at no score, and the raw space itself may score more; so it is
    read with raw spaces and mixtures on the same folds and galleries beside it (`weights`).

    Each fold's map is fitted on the others (inputs and reference centred there), its penalty chosen on each of the
    others in turn, and its predictions are compared with the true rows of the fold alone. Each input space is divided
    by one number, and no column by itself: rare units would explode. Concatenated, y stands at a quarter of x's scale,
    the same, or four times it, chosen with the penalty; so both are about as good as the better one at least. kNN
    scores have a gallery of n / folds rows and are comparable only at that size. Float64; memory O(n d + folds d^2),
    time that of a min(n, d) eigenproblem for every fold and pair of folds, five times over.

    Args:
        x: Features [n, dx].
        y: Features [n, dy] of the same samples.
        reference: Features of the same samples in the stronger space, compared as they are given.
        groups: The group of each row, or None: never split over folds, and handed to metrics that exclude by group.
        folds: How many, 3 or more.
        alphas: Penalties to choose from, in units of the mean variance of a column (sklearn's alpha over n).
        seed: Of the folds.
        metrics: Names of `METRICS`, or label -> options (`{"mutual_knn": {"k": 5}}`). A label is a name, perhaps with
            ":" and more behind it, so that one metric may come at several options ("mutual_knn:k=5").
        weights: Of x's kernel in mixtures of the raw spaces (`mixed`, unit rows) that are scored on the same folds,
            each in [0, 1]; 1 is raw x and 0 raw y.

    Returns:
        A tidy table: sources x, y, both; for each, every fold's "r2" (1 - residual over total sum of squares of all
        reference columns, the total around the training mean: at most 1, about 0 for nothing learnt) and metrics. Then
        the raw sources, each fold's metrics.

    Raises:
        BadShape, BadDtype, NotFinite, ConstantSpace: As `mutual_knn`; for x, y or the reference.
        TooFewRows: If a fold has too few rows for a metric.
        BadChoice: If folds, alphas or a metric are not possible; also if there are fewer groups than they need.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 300, 4))
        >>> points = ridge_ceiling(x, y, x[:, :2] + y[:, :2], metrics=["cka_linear"])
        >>> r2 = {s: [p.value for p in points if (p.source, p.metric) == (s, "r2")] for s in ("x", "y", "both")}
        >>> {source: round(sum(values) / 5, 1) for source, values in r2.items()}
        {'x': 0.5, 'y': 0.5, 'both': 1.0}

    Source: Hoerl and Kennard 1970, Technometrics 12 (ridge); scored by held-out neighbours: ours.
    """
    check_pair(x, reference)
    check_pair(y, reference)
    targets = as_float64(reference, "reference")
    codes = group_codes(groups, len(targets))[0]
    options = metrics if isinstance(metrics, Mapping) else {name: {} for name in metrics}
    _check_choices(folds, alphas, int(codes.max()) + 1)
    fold_of = fold_numbers(codes, folds, seed)
    scorers = [_Scorer(options, targets, codes, fold_of == fold) for fold in range(folds)]
    a, b = normalized(as_float64(x)), normalized(as_float64(y, "y"))
    predicted = [
        point
        for source, spaces in {"x": [a], "y": [b], "both": _Concatenated(a, b)}.items()
        for fold, held in enumerate(cross_predicted(spaces, targets, fold_of, alphas))
        for point in scorers[fold].points(source, fold, held)
    ]
    raw = [
        point
        for weight, values in ((w, mixed([x, y], [w, 1 - w])) for w in weights)
        for fold, scorer in enumerate(scorers)
        for point in scorer.scores(_raw_source(weight), fold, checked(values)[fold_of == fold])
    ]
    return predicted + raw


def _raw_source(weight: float) -> str:
    return {1.0: "raw x", 0.0: "raw y"}.get(float(weight), f"mixed w={weight:g}")


class _Concatenated(Sequence[np.ndarray]):
    """x and y concatenated at each balance, made when read."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(BALANCES)

    def __getitem__(self, at: Any) -> Any:
        return np.concatenate([self.x, BALANCES[at] * self.y], axis=1)


class _Scorer:
    """The true rows of one fold, prepared once for every metric."""

    def __init__(
        self, options: Mapping[str, Mapping[str, Any]], targets: np.ndarray, codes: np.ndarray, held: np.ndarray
    ):
        self.truth, own = targets[held], codes[held]
        self.total = float(np.sum((self.truth - targets[~held].mean(axis=0)) ** 2))
        names = {label: label.partition(":")[0] for label in options}
        self.comparisons = {label: chosen(names[label], groups=own, **given)[1] for label, given in options.items()}
        self.chance = {name: known_chance(one, len(own), own) for name, one in self.comparisons.items()}
        self.spaces = {name: self._prepared(name, self.truth, "reference") for name in options}

    def points(self, source: str, fold: int, held: HeldOut) -> list[CeilingPoint]:
        """R^2 and every metric of the fold's predictions."""
        penalty, balance = held.alpha, BALANCES[held.space] if source == "both" else None
        r2 = 1 - float(np.sum((held.predicted - self.truth) ** 2)) / self.total
        point = CeilingPoint(source, "r2", fold, r2, len(held.rows), None, None, penalty, balance)
        scored = self.scores(source, fold, held.predicted)
        return [point, *(replace(one, alpha=penalty, balance=balance) for one in scored)]

    def scores(self, source: str, fold: int, values: np.ndarray) -> list[CeilingPoint]:
        """Every metric of some held-out rows [h, d] against the true ones."""
        points: list[CeilingPoint] = []
        for name, comparison in self.comparisons.items():
            space = self._prepared(name, values, f"rows from {source}")
            value, k = comparison.compare(space, self.spaces[name]), getattr(comparison, "k", None)
            points.append(CeilingPoint(source, name, fold, value, len(values), k, self.chance[name], None, None))
        return points

    def _prepared(self, name: str, values: np.ndarray, label: str) -> Any:
        return prepare_all(self.comparisons[name], {label: values})[0][0]


def mixing_curve(
    x: X,
    y: X,
    reference: X,
    *,
    weights: Sequence[float] = WEIGHTS,
    name: str = "mutual_knn",
    groups: Groups | None = None,
    **options: Any,
) -> list[MixingPoint]:
    """Score against a reference of w K_x + (1 - w) K_y, the cosine kernels of two spaces mixed without training.

    The baseline of every joint space: one row a weight, in the order given. Mixtures are `mixed` (float32), the
    reference is prepared once. `x`, `y` and `reference` are features of the same samples, `weights` of x's kernel are
    each in [0, 1]; name, groups, options and errors as `calibrate`.

    Example:
        >>> x, y = np.random.default_rng(0).standard_normal((2, 60, 4))
        >>> [point.value for point in mixing_curve(x, y, x, weights=[1.0], k=5)]
        [1.0]
    """
    comparison = chosen(name, groups=groups, **options)[1]
    if not len(weights):
        raise BadChoice("weights: wanted one or more")
    check_pair(x, reference, at_least=comparison.at_least)
    check_pair(y, reference, at_least=comparison.at_least)
    target, k = comparison.prepare(reference, "reference"), getattr(comparison, "k", None)
    chance = known_chance(comparison, len(x), groups)
    points: list[MixingPoint] = []
    for weight in weights:
        space = comparison.prepare(mixed([x, y], [weight, 1 - weight]), f"mixture at {weight}")
        points.append(MixingPoint(float(weight), name, comparison.compare(space, target), len(x), k, chance))
    return points


def _check_choices(folds: int, alphas: Sequence[float], count: int) -> None:
    if not len(alphas) or not all(0 < alpha < np.inf for alpha in alphas):
        raise BadChoice(f"alphas = {list(alphas)}: wanted one or more positive numbers")
    if not 3 <= folds <= count:  # two leave none to choose a penalty and a balance on
        raise BadChoice(f"folds = {folds}: wanted 3 to {count}, the number of groups")
