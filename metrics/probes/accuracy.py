"""Accuracy of predicted classes, plain and balanced, on all rows and on halves of them, and its chance."""

import numpy as np
from jaxtyping import Bool, Float, Int

from featcache.metrics.errors import BadChoice, BadShape

Codes = Int[np.ndarray, " n"]


def class_codes(labels: np.ndarray, classes: list[str]) -> Codes:
    """Number of each label among the classes; a label that is none of them gets a number behind them.

    Example:
        >>> class_codes(np.array(["b", "a", "z"]), ["a", "b"]).tolist()
        [1, 0, 2]
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for name in labels.tolist():
        numbers.setdefault(name, len(numbers))
    return np.array([numbers[name] for name in labels.tolist()], np.int64)


def accuracy(predicted: Codes, true: Codes, *, balanced: bool = False) -> float:
    """Share of rows whose predicted class is the true one.

    Args:
        predicted: Class of each row, as predicted.
        true: Class of each row.
        balanced: The mean over the true classes of the share within each, so that every class weighs alike.

    Returns:
        In [0, 1]; higher is better. Chance: `chance_accuracy`.

    Raises:
        BadShape: If there is no row, or not one prediction a row.

    Example:
        >>> predicted, true = np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])
        >>> accuracy(predicted, true), accuracy(predicted, true, balanced=True)
        (0.75, 0.5)
    """
    _check(predicted, true)
    return float(accuracies(predicted == true, true, np.ones((1, len(true)), bool), balanced=balanced)[0])


def accuracies(
    correct: Bool[np.ndarray, " n"], true: Codes, masks: Bool[np.ndarray, "r n"], *, balanced: bool
) -> Float[np.ndarray, " r"]:
    """Accuracy on each of r sets of rows; balanced, over the classes that stand in the set.

    Args:
        correct: Whether the prediction of a row is right.
        true: Class of each row.
        masks: Rows of each set; none is empty.
        balanced: As of `accuracy`.
    """
    chosen = masks.astype(np.float64)
    if not balanced:
        return (chosen @ correct) / chosen.sum(axis=1)
    _, codes = np.unique(true, return_inverse=True)
    of_class = np.eye(int(codes.max()) + 1)[codes]
    rows, hits = chosen @ of_class, chosen @ (of_class * correct[:, None])
    there = rows > 0
    return np.divide(hits, rows, out=np.zeros_like(hits), where=there).sum(axis=1) / there.sum(axis=1)


def chance_accuracy(predicted: Codes, true: Codes, *, balanced: bool = False) -> float:
    """Mean accuracy over all orders of the true labels: what these predictions score on rows they know nothing of.

    Sum over classes of the predicted share times the true one; balanced, the predicted shares of the true classes over
    their number.

    Example:
        >>> chance_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
        0.5
    """
    _check(predicted, true)
    size = int(max(predicted.max(), true.max())) + 1
    said, real = (np.bincount(codes, minlength=size) / len(true) for codes in (predicted, true))
    return float(said[real > 0].sum() / np.count_nonzero(real)) if balanced else float(said @ real)


def majority_class(true: Codes) -> int:
    """The most frequent class, the first of equals; BadShape without rows.

    Example:
        >>> majority_class(np.array([2, 1, 1, 2, 0]))
        1
    """
    if not len(true):
        raise BadShape("no rows: no class is the most frequent")
    return int(np.bincount(true).argmax())


def check_two_classes(true: Codes, what: str) -> None:
    """Refuses labels of a single class.

    Raises:
        BadChoice: If there is one class or none; `what` is how the message calls the rows.
    """
    if len(np.unique(true)) < 2:
        raise BadChoice(f"{what} hold {len(np.unique(true))} class: a classifier needs two or more")


def _check(predicted: Codes, true: Codes) -> None:
    if predicted.shape != true.shape or true.ndim != 1 or not len(true):
        raise BadShape(f"wanted one predicted class a row, got {predicted.shape} for {true.shape}")
