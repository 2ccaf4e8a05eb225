"""Entropy, mutual information and Bayes accuracy of tables of probabilities, in nats."""

import numpy as np
from jaxtyping import Float

from featcache.metrics.errors import BadShape, MetricError

SUM_TOLERANCE = 1e-9  # by how much the sum of a table may differ from 1


class NotProbabilities(MetricError):
    """A table holds something negative or not finite, or does not sum to 1; the message says which."""


def checked(table: Float[np.ndarray, "..."], dimensions: int, name: str = "the table") -> np.ndarray:
    """The table in float64, scaled to sum to 1 exactly.

    Args:
        table: Non-negative, of sum 1 within SUM_TOLERANCE.
        dimensions: Axes that are wanted.
        name: What messages call it.

    Raises:
        BadShape: If it has other axes, or an axis without entries.
        NotProbabilities: If its entries are no probabilities.
    """
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != dimensions or not values.size:
        raise BadShape(f"{name}: wanted {dimensions} axes of one entry or more, got shape {values.shape}")
    total = float(values.sum())
    if not np.isfinite(total) or values.min() < 0:
        raise NotProbabilities(f"{name}: wanted finite entries of 0 or more, got {values.min()} to {values.max()}")
    if abs(total - 1) > SUM_TOLERANCE:
        raise NotProbabilities(f"{name} sums to {total:.12g}, wanted 1: divide it by its sum")
    return values / total


def entropy(probabilities: Float[np.ndarray, "..."]) -> float:
    """Entropy of a distribution in nats: 0 for one certain outcome, log n at most for n.

    Args:
        probabilities: A table of any shape that sums to 1: its entries are the outcomes.

    Raises:
        BadShape, NotProbabilities: As `checked`.

    Example:
        >>> round(entropy(np.array([0.5, 0.25, 0.25])), 5)  # 1.5 ln 2
        1.03972
    """
    p = checked(probabilities, np.ndim(probabilities))
    return max(-_plogp(p), 0.0)


def mutual_information(joint: Float[np.ndarray, "a b"]) -> float:
    """Mutual information of the two axes of a table in nats; 0 if they are independent, symmetric.

    Args:
        joint: p(a, b).

    Raises:
        BadShape, NotProbabilities: As `checked`.

    Example:
        >>> round(mutual_information(np.diag([0.5, 0.5])), 6), mutual_information(np.full((2, 2), 0.25))
        (0.693147, 0.0)
    """
    p = checked(joint, 2)
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    present = p > 0
    # of ratios, not entropies: small informations keep their digits
    ratios = p[present] / rows[:, None].repeat(p.shape[1], axis=1)[present]
    ratios /= np.broadcast_to(columns, p.shape)[present]
    return max(float(p[present] @ np.log(ratios)), 0.0)


def bayes_accuracy(joint: Float[np.ndarray, "a c"]) -> float:
    """Share of rows that the best guess of a class from a gets right: the sum of the largest p(a, c) of each a.

    Args:
        joint: p(a, c).

    Returns:
        Between the largest p(c) and 1; higher is better.

    Raises:
        BadShape, NotProbabilities: As `checked`.

    Example:
        >>> bayes_accuracy(np.array([[0.3, 0.2], [0.1, 0.4]]))
        0.7
    """
    return float(checked(joint, 2).max(axis=1).sum())


def _plogp(p: np.ndarray) -> float:
    present = p[p > 0]
    return float(present @ np.log(present))
