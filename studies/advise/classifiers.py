"""Classifiers of one use of two spaces, fitted on training rows, chosen on inner ones, and read on rows held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from featcache.metrics.probes.accuracy import majority_class
from featcache.metrics.probes.calibrated import log_softmax
from featcache.metrics.probes.few_shot import centred_unit, draw_shots, few_shot_classes
from featcache.metrics.probes.logistic import LogisticProbe, fit_logistic
from featcache.metrics.probes.perceptron import PerceptronSettings, perceptron_logits

Values = Float[np.ndarray, "n d"]
_PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
_PERCEPTRON, _PATIENCE = PerceptronSettings(epochs=25), 5


@dataclass(frozen=True, eq=False)
class FoldSplit:
    """Rows that are fitted on, chosen by and held out, with their classes.

    Args:
        y: [n] class of each row.
        classes: How many there are.
        train: Rows that are fitted on.
        inner: Rows by which penalty, kind and epoch are chosen.
        held: Rows that are read.
    """

    y: Int[np.ndarray, " n"]
    classes: int
    train: Bool[np.ndarray, " n"]
    inner: Bool[np.ndarray, " n"]
    held: Bool[np.ndarray, " n"]

    def hits(self, predicted: Int[np.ndarray, "... held"]) -> Float[np.ndarray, " held"]:
        """Whether each row that is held out is told right; the share of several predictions."""
        right = (predicted == self.y[self.held]).astype(float)
        return right if right.ndim == 1 else right.mean(axis=0)

    @cached_property
    def majority(self) -> Int[np.ndarray, " held"]:
        """The most frequent training class, for every row that is held out."""
        return np.full(np.count_nonzero(self.held), majority_class(self.y[self.train]))


def fold_splits(y: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"]) -> list[FoldSplit]:
    """One split for each fold, which is held out; the next fold is the inner one.

    Args:
        y: Class of each row.
        folds: Fold of each row, numbers from 0.
    """
    count, classes = int(folds.max()) + 1, int(y.max()) + 1
    return [
        FoldSplit(y, classes, ~inner & (folds != fold), inner, folds == fold)
        for fold, inner in ((fold, folds == (fold + 1) % count) for fold in range(count))
    ]


def classify(blocks: Sequence[Values], split: FoldSplit, *, hidden: bool = False) -> Int[np.ndarray, " held"]:
    """Classes of the rows held out, by the classifier of the least cross-entropy on the inner rows.

    Args:
        blocks: Spaces that are read side by side.
        split: Rows and classes.
        hidden: Whether one with a hidden layer competes with the logistic ones.
    """
    x = np.concatenate(blocks, axis=1)
    probe, best = _logistic(x, split)
    chosen = probe.classes(x[split.held])
    if not hidden:
        return chosen
    since = 0
    for (logits,) in perceptron_logits(x, split.y, split.train[None], classes=split.classes, settings=_PERCEPTRON):
        loss, since = _loss(logits[split.inner], split.y[split.inner]), since + 1
        if loss < best:
            best, chosen, since = loss, logits[split.held].argmax(axis=1), 0
        if since >= _PATIENCE:
            break
    return chosen


def transfer(source: Values, target: Values, split: FoldSplit) -> Int[np.ndarray, " held"]:
    """Classes of held rows of one space, by a logistic classifier of another one that both are mapped into.

    Each side is centred by its own training rows, which takes no labels: a gap between the sides would move every row
    across the same borders.

    Args:
        source: Rows of the space whose training rows have labels.
        target: Rows of the space that is classified.
        split: Rows and classes.
    """
    given, used = (values - values[split.train].mean(axis=0) for values in (source, target))
    return _logistic(given, split)[0].classes(used[split.held])


def few_labels(
    blocks: Sequence[Values], split: FoldSplit, drawn: Int[np.ndarray, "draws rows"]
) -> Int[np.ndarray, "draws held"]:
    """Classes of the rows held out, by ridge regression on the classes of a few training rows.

    Args:
        blocks: Spaces that are read side by side; each is centred and brought to total variance 1 by the training rows,
            which takes no labels.
        split: Rows and classes.
        drawn: Rows with labels, of each draw (`draw_labels`).
    """
    x = np.concatenate([centred_unit(values, split.train) for values in blocks], axis=1)
    return np.stack([*few_shot_classes(x, split.y, drawn, split.held, classes=split.classes)])


def draw_labels(split: FoldSplit, labels: int, draws: int, seed: int) -> Int[np.ndarray, "draws rows"]:
    """Training rows, so many of each class, for each draw.

    Args:
        split: Rows and classes; every class has so many training rows.
        labels: Of each class.
        draws: How many.
        seed: Of the draws.
    """
    return draw_shots(split.y, split.train, labels, draws=draws, seed=seed)


def _logistic(x: Values, split: FoldSplit) -> tuple[LogisticProbe, float]:
    """The logistic classifier of the first penalty, from the strongest, behind which inner rows are told worse."""
    chosen, best = None, np.inf
    for penalty in _PENALTIES:
        [probe] = fit_logistic(x[split.train], split.y[split.train], penalties=(penalty,), classes=split.classes)
        loss = _loss(probe.logits(x[split.inner]), split.y[split.inner])
        if chosen is not None and loss >= best:
            break
        chosen, best = probe, loss
    assert chosen is not None  # there is a penalty
    return chosen, best


def _loss(logits: np.ndarray, y: np.ndarray) -> float:
    return -float(log_softmax(logits)[np.arange(len(y)), y].mean())
