"""Tidy rows of accuracies over several draws of the training rows: intervals over draws and over test groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.measure.contrasts import Contrast, with_verdicts
from featcache.metrics.measure.row import ContrastRow, Row
from featcache.metrics.probes.accuracy import chance_accuracy
from featcache.metrics.probes.accuracy_rows import metric_name
from featcache.metrics.probes.effects import Effect, paired_effect

_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class DrawnPredictions:
    """Predicted classes of the test groups by classifiers that each saw another draw of training rows.

    Args:
        row: What the rows of the table share; its metric is the way, such as "shot5".
        classes: [draws, n] predicted class of each test group.
    """

    row: Row
    classes: Int[np.ndarray, "draws n"]

    def hits(self, true: Int[np.ndarray, " n"]) -> Float[np.ndarray, "draws n"]:
        """1 where a prediction is right, else 0."""
        return (self.classes == true).astype(np.float64)


def drawn_rows(predictions: Sequence[DrawnPredictions], true: Int[np.ndarray, " n"]) -> list[Row]:
    """A row of each prediction: "<way>_accuracy", the mean over draws.

    The interval is about new draws of these training groups and new test groups; another pool of training groups would
    move it too, which shows where the pool is hardly larger than a draw. How often it covers is shown by simulation
    (`tests/test_few_shot.py`).

    Args:
        predictions: Of the same test groups.
        true: [n] their classes.

    Raises:
        TooFewRows: If there are fewer than two draws or test groups.
    """
    rows = list[Row]()
    for each in predictions:
        effect = _effect(each.hits(true))
        low, high = effect.interval(_LEVEL)
        rows.append(
            replace(
                each.row,
                metric=metric_name(each.row.metric),
                value=effect.value,
                n=len(true),
                chance=float(np.mean([chance_accuracy(one, true) for one in each.classes])),
                ci_low=max(0.0, low),
                ci_high=min(1.0, high),
                estimand="mean accuracy over draws of the training groups, new test groups",
                interval=f"{len(each.classes)} draws and test groups, Student's t",
            )
        )
    return rows


def drawn_contrasts(
    predictions: Sequence[DrawnPredictions], true: Int[np.ndarray, " n"], contrasts: Sequence[Contrast]
) -> list[ContrastRow]:
    """Differences of accuracies on the same draws and test groups, each way by itself; verdicts as `with_verdicts`.

    Args:
        predictions: Of the same test groups; draw i of all spaces of a way took the same training rows.
        true: [n] their classes.
        contrasts: Differences of two spaces; one that a way has not is left out of that way.
    """
    rows = list[ContrastRow]()
    for way in dict.fromkeys(each.row.metric for each in predictions):
        own = {each.row.space: each for each in predictions if each.row.metric == way}
        rows += [_contrast(one, own, true) for one in contrasts if {one.whole, *one.parts} <= own.keys()]
    return with_verdicts(rows, alpha=1 - _LEVEL)


def _contrast(contrast: Contrast, own: Mapping[str, DrawnPredictions], true: np.ndarray) -> ContrastRow:
    whole, part = own[contrast.whole], own[contrast.parts[0]]
    effect = _effect(whole.hits(true) - part.hits(true))
    low, high = effect.interval(_LEVEL)
    return ContrastRow(
        contrast.title,
        contrast.whole,
        contrast.parts[0],
        contrast.kind,
        whole.row.against,
        metric_name(whole.row.metric),
        convention=whole.row.convention,
        value=effect.value,
        ci_low=low,
        ci_high=high,
        level=_LEVEL,
        p=effect.p,
        family=contrast.family or "",
        estimand="difference of mean accuracies over draws of the training groups, new test groups",
        n=len(true),
        method=f"{len(whole.classes)} shared draws and test groups, Student's t",
    )


def _effect(values: Float[np.ndarray, "draws n"]) -> Effect:
    return paired_effect(values, np.zeros(values.shape[1], np.int64))
