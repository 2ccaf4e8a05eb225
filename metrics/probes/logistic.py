"""Multinomial logistic regression with an L2 penalty: the linear probe of a space."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import X, as_float64
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.knn.threads import one_blas_thread
from featcache.metrics.probes.accuracy import check_two_classes
from featcache.metrics.probes.selection import choose_held_out

PENALTIES = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)  # strongest first
_STEPS = 3_000
_GRADIENT = 1e-7  # the largest entry of the gradient that counts as 0
_SHARED = 1e9  # multiplications of a product from which several threads share it


@dataclass(frozen=True, eq=False)
class LogisticProbe:
    """A fitted classifier: logits = (x - mean) / std @ weights + bias, in float64.

    Args:
        mean: [d] of the training rows.
        std: [d] of the training rows; 1 where a dimension is constant.
        weights: [d, c].
        bias: [c].
        penalty: What it was fitted with.
        converged: Whether the gradient vanished within the steps allowed.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    penalty: float
    converged: bool

    def logits(self, x: X) -> Float[np.ndarray, "n c"]:
        """Logits of each class."""
        return (as_float64(x) - self.mean) / self.std @ self.weights + self.bias

    def classes(self, x: X) -> Int[np.ndarray, " n"]:
        """The class of the largest logit, the first of equals."""
        return self.logits(x).argmax(axis=1)

    def loss(self, logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """Mean cross-entropy in nats."""
        shifted = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]))


def fit_logistic(
    x: X, y: Int[np.ndarray, " n"], *, penalties: Sequence[float] = PENALTIES, classes: int | None = None
) -> list[LogisticProbe]:
    """Fits one classifier for each penalty on the same rows.

    Columns are standardised by these rows. Minimised is the mean cross-entropy plus penalty / 2 times the squared
    weights, the bias free; scikit-learn's C is 1 / (n penalty). Each penalty starts from the solution of the one
    before. Where there are more columns than rows, weights lie in the span of the rows, and only that is searched.

    Args:
        x: [n, d] training rows.
        y: Class of each row, 0 to classes - 1.
        penalties: Above 0; strongest first is fastest.
        classes: Number of classes; None: those up to the largest in y.

    Raises:
        BadShape: If there is not one class a row.
        BadChoice: If a penalty is not above 0, or y holds a single class.
        BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> x = np.array([[-1.0, 0.0], [-0.8, 1.0], [0.9, 0.0], [1.0, 1.0]])
        >>> (probe,) = fit_logistic(x, np.array([0, 0, 1, 1]), penalties=(0.1,))
        >>> probe.classes(np.array([[-2.0, 5.0], [2.0, 5.0]])).tolist()
        [0, 1]
    """
    return [*logistic_path(x, y, penalties=penalties, classes=classes)]


def logistic_path(
    x: X, y: Int[np.ndarray, " n"], *, penalties: Sequence[float] = PENALTIES, classes: int | None = None
) -> Iterator[LogisticProbe]:
    """As `fit_logistic`, each classifier fitted when it is asked for."""
    values = as_float64(x)
    if y.shape != (len(values),):
        raise BadShape(f"wanted one class for each of {len(values)} rows, got {y.shape}")
    if not penalties or min(penalties) <= 0:
        raise BadChoice(f"penalties = {tuple(penalties)}: wanted one or more, each above 0")
    check_two_classes(y, "training rows")
    count = int(y.max()) + 1 if classes is None else classes
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > 1e-12 * np.abs(values).max(axis=0), std, 1.0)
    rows = (values - mean) / std
    turn = None
    if rows.shape[1] > len(rows):
        turn, upper = np.linalg.qr(rows.T)
        rows = upper.T
    start = np.zeros((rows.shape[1] + 1, count))
    for penalty in penalties:
        start, converged = _minimise(rows, y, penalty, start)
        weights = start[:-1] if turn is None else turn @ start[:-1]
        yield LogisticProbe(mean, std, weights, start[-1], float(penalty), converged)


def choose_logistic(
    x: X,
    y: Int[np.ndarray, " n"],
    held_out: tuple[X, Int[np.ndarray, " m"]],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> LogisticProbe:
    """The classifier whose penalty is best on held-out rows: by accuracy, of equals by cross-entropy.

    Args:
        x: [n, d] training rows, the only ones fitted on.
        y: Their classes.
        held_out: Validation rows and their classes; a class that no training row has is always missed.
        penalties: As of `fit_logistic`, errors too.
    """
    return choose_held_out(lambda rows, classes: logistic_path(rows, classes, penalties=penalties), x, y, held_out)


def _minimise(rows: np.ndarray, y: np.ndarray, penalty: float, start: np.ndarray) -> tuple[np.ndarray, bool]:
    """Weights [d, c] above the bias [c] at the minimum, by L-BFGS."""
    from scipy.optimize import minimize

    n, shape = len(rows), start.shape
    at = np.arange(n)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(shape)
        logits = rows @ both[:-1] + both[-1]
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        totals = exponentials.sum(axis=1)
        loss = float(np.mean(np.log(totals) - logits[at, y])) + penalty / 2 * float(np.vdot(both[:-1], both[:-1]))
        residual = exponentials / totals[:, None]
        residual[at, y] -= 1
        gradient = np.empty(shape)
        gradient[:-1] = rows.T @ residual / n + penalty * both[:-1]
        gradient[-1] = residual.mean(axis=0)
        return loss, gradient.ravel()

    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "gtol": _GRADIENT, "ftol": 0.0, "maxcor": 20}
    # thousands of products of a millisecond each: waking threads for them takes longer, many times so on a busy machine
    small = rows.size * shape[1] < _SHARED
    with one_blas_thread() if small else nullcontext():
        result = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return result.x.reshape(shape), bool(np.abs(result.jac).max() <= 10 * _GRADIENT)
