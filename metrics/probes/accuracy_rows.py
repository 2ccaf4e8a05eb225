"""Tidy rows of predicted classes: accuracy with chance and interval, and paired differences with their verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featcache.metrics.certainty.halves import Halves
from featcache.metrics.errors import TooFewRows
from featcache.metrics.measure.contrasts import Contrast, HalfScores, contrast_row, with_verdicts
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.probes.accuracy import accuracies, accuracy, chance_accuracy
from featcache.metrics.scores.retrieval import clustered_wilson

LEAST_ROWS = 4
_ESTIMAND = "accuracy of the classifier as it was trained, new test groups"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted classes of the test groups, one space, one way of predicting.

    Args:
        row: What the rows of the table share: space, d, stage, note, ...; its metric is the way, such as "probe".
        classes: [n] predicted class of each test group.
    """

    row: Row
    classes: np.ndarray


def accuracy_rows(
    predictions: Sequence[Predictions],
    true: np.ndarray,
    *,
    repeats: int = 200,
    balanced: Sequence[bool] = (False, True),
) -> list[Row]:
    """Rows of each prediction: "<way>_accuracy" and "<way>_balanced_accuracy".

    The interval of plain accuracy is Wilson's over test groups; that of balanced accuracy comes from random halves of
    them. Both take the classifier as given: other training rows would move it, too.

    Args:
        predictions: Of the same test groups.
        true: [n] their classes.
        repeats: Halves of the test groups.
        balanced: Which of the two.

    Raises:
        TooFewRows: Below four test groups.
    """
    halves, rows = _halves(true, repeats), list[Row]()
    for each in predictions:
        correct = each.classes == true
        for weighed in balanced:
            value = accuracy(each.classes, true, balanced=weighed)
            if weighed:
                half = halves.half_width(accuracies(correct, true, halves.masks, balanced=True), 0.95, of_graphs=False)
                low, high, how = max(0.0, value - half), min(1.0, value + half), halves.method
            else:
                (low, high), how = clustered_wilson(correct, range(len(true))), "Wilson, over test groups"
            rows.append(
                replace(
                    each.row,
                    metric=metric_name(each.row.metric, weighed),
                    value=value,
                    n=len(true),
                    chance=chance_accuracy(each.classes, true, balanced=weighed),
                    ci_low=low,
                    ci_high=high,
                    estimand=_ESTIMAND,
                    interval=how,
                )
            )
    return rows


def accuracy_contrasts(
    predictions: Sequence[Predictions],
    true: np.ndarray,
    contrasts: Sequence[Contrast],
    *,
    repeats: int = 200,
    balanced: Sequence[bool] = (False, True),
) -> list[ContrastRow]:
    """Paired differences of accuracies, plain and balanced, each way of predicting by itself.

    What the test groups do to both accuracies cancels. Verdicts are those of `with_verdicts`.

    Args:
        predictions: Of the same test groups.
        true: [n] their classes.
        contrasts: Which spaces; one that a way has not is left out of that way.
        repeats: Halves of the test groups.
        balanced: Plain accuracy, balanced or both.

    Raises:
        TooFewRows: Below four test groups.
    """
    halves, rows = _halves(true, repeats), list[ContrastRow]()
    for way in dict.fromkeys(each.row.metric for each in predictions):
        own = {each.row.space: each for each in predictions if each.row.metric == way}
        for weighed in balanced:
            scores = _half_scores(own, true, halves, balanced=weighed)
            for contrast in contrasts:
                if {contrast.whole, *contrast.parts} <= own.keys():
                    blank = ContrastRow("", "", "", "", own[contrast.whole].row.against, metric_name(way, weighed))
                    # no convention: it names what was chosen for a space, and a family is of one convention
                    blank = replace(blank, n=len(true))
                    row = contrast_row(contrast, scores, blank, sign=1, alpha=0.05)
                    rows.append(replace(row, estimand="difference of the classifiers as trained, new test groups"))
    return with_verdicts(rows, alpha=0.05)


def hit_row(row: Row, hits: np.ndarray) -> Row:
    """A row whose value is the share of hits, with Wilson's interval over test groups.

    Args:
        row: Everything else of it.
        hits: [n] whether each test group is right.
    """
    low, high = clustered_wilson(hits, range(len(hits)))
    how = {"estimand": _ESTIMAND, "interval": "Wilson, over test groups"}
    return replace(row, value=float(np.mean(hits)), n=len(hits), ci_low=low, ci_high=high, **how)


def explained_row(row: Row, predicted: np.ndarray, true: np.ndarray, mean: np.ndarray, *, repeats: int = 200) -> Row:
    """A row whose value is the share of the true outputs' variance that is explained, with an interval from halves.

    Args:
        row: Everything else of it.
        predicted: [n, c].
        true: [n, c].
        mean: [c] the outputs that explain nothing, from training groups.
        repeats: Halves of the test groups.
    """
    halves = _halves(true, repeats)
    missed, whole = ((predicted - true) ** 2).sum(axis=1), ((true - mean) ** 2).sum(axis=1)
    value = 1 - float(missed.sum() / whole.sum())
    masks = halves.masks.astype(np.float64)
    half = halves.half_width(1 - (masks @ missed) / (masks @ whole), 0.95, of_graphs=False)
    ends = {"ci_low": value - half, "ci_high": min(1.0, value + half)}
    return replace(row, value=value, n=len(true), estimand=_ESTIMAND, interval=halves.method, **ends)


def metric_name(way: str, balanced: bool = False) -> str:
    """Name of the metric of a way of predicting.

    Example:
        >>> metric_name("knn", balanced=True), metric_name("head_agreement")
        ('knn_balanced_accuracy', 'head_agreement')
    """
    if way.endswith("agreement"):
        return f"{way}_balanced" if balanced else way
    return f"{way}_balanced_accuracy" if balanced else f"{way}_accuracy"


def _halves(true: np.ndarray, repeats: int) -> Halves:
    if len(true) < LEAST_ROWS:
        raise TooFewRows(f"{len(true)} test groups: an interval needs {LEAST_ROWS} or more")
    return Halves(len(true), repeats=repeats)


def _half_scores(own: Mapping[str, Predictions], true: np.ndarray, halves: Halves, *, balanced: bool) -> HalfScores:
    correct = {name: each.classes == true for name, each in own.items()}
    return HalfScores(
        halves,
        {name: accuracy(each.classes, true, balanced=balanced) for name, each in own.items()},
        {name: accuracies(hits, true, halves.masks, balanced=balanced) for name, hits in correct.items()},
        dict.fromkeys(own, 0),
        {},
        of_graphs=False,
    )
