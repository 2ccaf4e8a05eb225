"""Ridge maps from one space to another, fitted on training rows, with the penalty chosen on others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from featcache.metrics.arrays import X, Y, as_float64
from featcache.metrics.errors import BadChoice, BadShape

ALPHAS = tuple(float(10.0**power) for power in range(-6, 3))


@dataclass(frozen=True, eq=False)
class RidgeMap:
    """An affine map: (x - mean) @ weights + target_mean, in float64.

    Args:
        mean: [d] of the training inputs.
        weights: [d, t].
        target_mean: [t] of the training targets.
        alpha: The penalty, added to the eigenvalues of the inputs' covariance in units of their mean.
    """

    mean: np.ndarray
    weights: np.ndarray
    target_mean: np.ndarray
    alpha: float

    def __call__(self, x: X) -> Float[np.ndarray, "n t"]:
        """The images of some rows."""
        return (as_float64(x) - self.mean) @ self.weights + self.target_mean


def fit_ridge_map(x: X, y: Y, held_out: tuple[X, Y], *, alphas: Sequence[float] = ALPHAS) -> RidgeMap:
    """Fits a linear map on training rows; the penalty is that of the smallest squared error on held-out rows.

    Args:
        x: [n, d] training inputs; centred, scaled by nothing.
        y: [n, t] training targets, row for row.
        held_out: Inputs and targets of the validation rows.
        alphas: Penalties, 0 or more, in units of the mean eigenvalue of the inputs' covariance.

    Returns:
        The map fitted on the training rows alone.

    Raises:
        BadShape: If rows or widths do not fit.
        BadChoice: If a penalty is negative, or there is none.
        BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> y = x @ np.array([[1.0], [2.0], [0.0]]) + 5
        >>> fitted = fit_ridge_map(x, y, (x[:9], y[:9]))
        >>> fitted(np.array([[1.0, 1.0, 1.0]])).round(3).item()
        8.0
    """
    inputs, targets = as_float64(x, "inputs"), as_float64(y, "targets")
    rows, wanted = as_float64(held_out[0], "held-out inputs"), as_float64(held_out[1], "held-out targets")
    if (len(inputs), inputs.shape[1], targets.shape[1], len(rows)) != (
        len(targets),
        rows.shape[1],
        wanted.shape[1],
        len(wanted),
    ):
        raise BadShape(
            f"inputs {inputs.shape} and targets {targets.shape} do not fit, or not to the held-out {rows.shape} and "
            f"{wanted.shape}"
        )
    if not alphas or min(alphas) < 0:
        raise BadChoice(f"alphas = {tuple(alphas)}: wanted one or more, none below 0")
    mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    inputs, targets = inputs - mean, targets - target_mean
    # x = left diag(s) right: one decomposition serves every penalty, tall or wide
    left, s, right = np.linalg.svd(inputs, full_matrices=False)
    kept = s > (s[0] if len(s) else 0.0) * 1e-10
    left, s, right = left[:, kept], s[kept], right[kept]
    if not len(s):
        raise BadChoice("inputs: every training row is the same, so nothing can be mapped")
    scale = float(s @ s) / inputs.shape[1]
    cross, turned = left.T @ targets, (rows - mean) @ right.T
    best: tuple[float, float, np.ndarray] | None = None
    for alpha in alphas:
        shrunk = (s / (s**2 + alpha * scale))[:, None] * cross
        error = float(np.sum((turned @ shrunk + target_mean - wanted) ** 2))
        if best is None or error < best[0]:
            best = error, alpha, shrunk
    assert best is not None  # there is a penalty
    return RidgeMap(mean, right.T @ best[2], target_mean, float(best[1]))
