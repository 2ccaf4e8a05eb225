"""Ridge regression on class indicators in closed form: the linear probe without an optimizer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import X, as_float64
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.probes.accuracy import check_two_classes

RIDGE_PENALTIES = tuple(float(10.0**power) for power in range(2, -7, -1))  # strongest first


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """A fitted classifier: (x - mean) @ weights + bias, in float64; the largest output is the class.

    Args:
        mean: [d] of the training rows.
        weights: [d, c].
        bias: [c] mean of the training rows' targets, which are 1 for the own class and -1 for the others.
        penalty: In units of the mean eigenvalue of the training rows' scatter matrix.
        alpha: The same in scikit-learn's unit.
    """

    mean: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    penalty: float
    alpha: float

    def logits(self, x: X) -> Float[np.ndarray, "n c"]:
        """The regression's output for each class."""
        return (as_float64(x) - self.mean) @ self.weights + self.bias

    def classes(self, x: X) -> Int[np.ndarray, " n"]:
        """The class of the largest output, the first of equals."""
        return self.logits(x).argmax(axis=1)

    def loss(self, logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """Mean squared error of the outputs."""
        return float(np.mean((logits - _targets(y, logits.shape[1])) ** 2))


def ridge_path(
    x: X,
    y: Int[np.ndarray, " n"],
    *,
    penalties: Sequence[float] = RIDGE_PENALTIES,
    classes: int | None = None,
) -> Iterator[RidgeProbe]:
    """Fits one classifier for each penalty on the same rows; one decomposition serves all.

    Minimised is the squared error of targets 1 (own class) and -1 (others), plus alpha times the squared weights, the
    bias free. Columns are centred and scaled by nothing. alpha is the penalty times the mean eigenvalue of the centred
    rows' scatter matrix, so that a penalty means the same for every scale of a space.

    Args:
        x: [n, d] training rows.
        y: Class of each row, 0 to classes - 1.
        penalties: 0 or more.
        classes: Number of classes; None: those up to the largest in y.

    Raises:
        BadShape: If there is not one class a row.
        BadChoice: If a penalty is negative, y holds a single class, or all rows are the same.
        BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> x = np.array([[-1.0, 0.0], [-0.8, 1.0], [0.9, 0.0], [1.0, 1.0]])
        >>> (probe,) = ridge_path(x, np.array([0, 0, 1, 1]), penalties=(0.1,))
        >>> probe.classes(np.array([[-2.0, 5.0], [2.0, 5.0]])).tolist()
        [0, 1]

    Source: Hoerl & Kennard 1970, Technometrics 12; on indicators: Hastie, Tibshirani & Friedman 2009, section 4.2.
    """
    values = as_float64(x)
    if y.shape != (len(values),):
        raise BadShape(f"wanted one class for each of {len(values)} rows, got {y.shape}")
    if not penalties or min(penalties) < 0:
        raise BadChoice(f"penalties = {tuple(penalties)}: wanted one or more, none below 0")
    check_two_classes(y, "training rows")
    targets = _targets(y, int(y.max()) + 1 if classes is None else classes)
    mean, bias = values.mean(axis=0), targets.mean(axis=0)
    # x = left diag(s) right
    left, s, right = np.linalg.svd(values - mean, full_matrices=False)
    kept = s > s[0] * 1e-10
    left, s, right = left[:, kept], s[kept], right[kept]
    if not len(s):
        raise BadChoice("training rows: every one is the same, so no class can be told")
    scale, cross = float(s @ s) / values.shape[1], left.T @ (targets - bias)
    for penalty in penalties:
        alpha = penalty * scale
        weights = right.T @ ((s / (s**2 + alpha))[:, None] * cross)
        yield RidgeProbe(mean, weights, bias, float(penalty), alpha)


def _targets(y: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n c"]:
    return 2.0 * np.eye(classes)[y] - 1.0
