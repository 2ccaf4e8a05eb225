"""Ridge regression whose penalty is chosen inside cross-validated folds, or on rows that are held out.

Everything that chooses a penalty comes from sums over folds: X^T X, X^T Y of a fit are those of its folds added up, and
the error on another fold is a quadratic form of that fold's sums. Rows are only touched to sum them and to predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np


class HeldOut(NamedTuple):
    """Predictions of one fold."""

    rows: np.ndarray  # [h] the fold's rows, rising
    predicted: np.ndarray  # [h, t] float64
    space: int  # which of the input spaces, chosen without this fold
    alpha: float  # penalty, chosen with it


def fold_numbers(codes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, [n]: groups are dealt out at random, as evenly as their number allows, none is split.

    Example:
        >>> fold_numbers(np.array([0, 0, 1, 2, 2, 3]), 2, seed=0).tolist()
        [1, 1, 0, 0, 0, 1]
    """
    count = int(codes.max()) + 1
    fold_of_group = np.empty(count, np.int64)
    fold_of_group[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    return fold_of_group[codes]


def normalized(values: np.ndarray) -> np.ndarray:
    """A space [n, d] centred and divided by one number, so that its columns have a mean square of 1 on average.

    Columns are not standardised one by one: a unit that is active in two of a thousand rows would be blown up thirty
    times, and a row of another fold in which it is active with it. The number comes from all rows of the inputs; it
    decides only what a penalty means, and how two concatenated spaces weigh. Zeros if all rows are the same.
    """
    centred = values - values.mean(axis=0)
    deviation = float(np.sqrt(np.mean(centred**2)))
    varies = deviation > 1e-12 * float(np.abs(values).max())  # a constant column's mean need not be exactly its value
    return centred / deviation if varies else np.zeros_like(centred)


def cross_predicted(
    spaces: Sequence[np.ndarray], targets: np.ndarray, fold_of: np.ndarray, alphas: Sequence[float]
) -> list[HeldOut]:
    """Out-of-fold predictions of the targets [n, t] from spaces [n, d] float64, one fold after the other.

    Inputs and targets are centred by the rows that are fitted, and scaled by nothing. The space and penalty of fold f
    are those with the smallest squared error on the other folds g, fitted without f and g. Time: for each space one
    product X^T X and an eigenproblem of min(n, d) for each fold and each pair of folds, whatever the number of
    penalties.

    Spaces are held one at a time. Folds are numbered 0, 1, ...: three or more, two where there is nothing to choose.
    Penalties are added to the eigenvalues of the inputs' covariance matrix (sklearn's alpha over n).
    """
    count = int(fold_of.max()) + 1
    predictions: list[HeldOut] = []
    least = np.full(count, np.inf)
    for space, values in enumerate(spaces):
        problem: _Tall | _Wide = (_Tall if values.shape[1] <= len(values) else _Wide)(values, targets, fold_of)
        errors = np.zeros((count, len(alphas)))
        if len(alphas) * len(spaces) > 1:
            for f, g in combinations(range(count), 2):
                fit = problem.fit(without=(f, g))
                errors[f] += fit.errors(problem.held(fit, g), alphas)
                errors[g] += fit.errors(problem.held(fit, f), alphas)
        for f in np.flatnonzero(errors.min(axis=1) < least):
            rows, alpha = problem.rows[f], float(alphas[int(errors[f].argmin())])
            held = HeldOut(rows, problem.fit(without=(int(f),)).predicted(problem.values[rows], alpha), space, alpha)
            predictions[f : f + 1] = [held]  # in their order, all of them by the first space
        least = np.minimum(least, errors.min(axis=1))
    return predictions


@dataclass(frozen=True, eq=False)
class RidgePath:
    """A ridge regression at every penalty, for rows that it was not fitted to; from `ridge_paths`."""

    fit: "_Fit"
    offset: np.ndarray  # [d] what the inputs of the fit were centred by

    def predicted(self, values: np.ndarray, alpha: float) -> np.ndarray:
        """Targets [h, t] of other rows [h, d] at a penalty."""
        return self.fit.predicted_few(self._scores(values), alpha)

    def chosen(self, values: np.ndarray, targets: np.ndarray, alphas: Sequence[float]) -> tuple[float, float]:
        """The penalty with the smallest squared error on other rows, and the R² there, the first of equals.

        R² is 1 minus the squared error over that of these rows' own mean; 0 where they do not vary.
        """
        z = self._scores(values)
        y = targets - self.fit.target_mean
        errors = self.fit.errors(_Held(z.T @ z, z.T @ y, float(np.vdot(y, y))), alphas)
        best, spread = int(errors.argmin()), float(((targets - targets.mean(axis=0)) ** 2).sum())
        return float(alphas[best]), 1 - float(errors[best]) / spread if spread else 0.0

    def _scores(self, values: np.ndarray) -> np.ndarray:
        return (values - self.offset - self.fit.mean) @ self.fit.basis


def ridge_paths(values: np.ndarray, targets: np.ndarray, columns: Mapping[str, slice]) -> dict[str, RidgePath]:
    """Ridge regressions of targets [n, t] on some columns of rows [n, d] each, all float64, at every penalty.

    Inputs and targets are centred by the rows, and scaled by nothing; penalties as in `cross_predicted`. Time: one
    product of the rows for all, and for each one eigenproblem of min(n, its columns), however many penalties.

    Example:
        >>> x = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> paths = ridge_paths(x, 3 * x[:, :1] + 5, {"all": slice(None), "last": slice(1, 2)})
        >>> paths["all"].predicted(np.array([[2.0, 0.0]]), alpha=1e-12).round(6)
        array([[11.]])
        >>> paths["all"].chosen(x, 3 * x[:, :1] + 5, alphas=(1e-12, 1.0))
        (1e-12, 1.0)
    """
    n, d = values.shape
    offset = values.mean(axis=0)
    if d > n:  # some fits, at least, come from products of rows
        one = np.zeros(n, np.int64)
        parts = {name: values[:, own] for name, own in columns.items()}
        problems = {name: (_Tall if x.shape[1] <= n else _Wide)(x, targets, one) for name, x in parts.items()}
        return {name: RidgePath(each.fit(without=()), offset[columns[name]]) for name, each in problems.items()}
    centred, target_mean = values - offset, targets.mean(axis=0)
    xx, xy = centred.T @ centred, centred.T @ (targets - target_mean)
    return {
        name: RidgePath(_fitted(n, np.zeros_like(offset[own]), target_mean, xx[own, own], xy[own]), offset[own])
        for name, own in columns.items()
    }


class _Held(NamedTuple):
    """Sums over the rows of a fold, inputs in a fit's basis: Z^T Z, Z^T Y, and the sum of squares of Y."""

    zz: np.ndarray
    zy: np.ndarray
    yy: float


@dataclass(frozen=True, eq=False)
class _Fit:
    """A ridge regression at every penalty: Z diag(1 / (eigenvalues + alpha n)) right, with Z = (X - mean) basis."""

    n: int
    mean: np.ndarray
    target_mean: np.ndarray
    eigenvalues: np.ndarray
    basis: np.ndarray
    right: np.ndarray

    def errors(self, held: _Held, alphas: Sequence[float]) -> np.ndarray:
        """Squared error on held-out rows at each penalty."""
        inner, cross = held.zz * (self.right @ self.right.T), (held.zy * self.right).sum(axis=1)
        shrunk = [self._shrinkage(alpha) for alpha in alphas]
        return np.array([held.yy - 2 * q @ cross + q @ inner @ q for q in shrunk])

    def predicted(self, values: np.ndarray, alpha: float) -> np.ndarray:
        """Targets [h, t] of some rows [h, d]."""
        weights = self.basis @ (self._shrinkage(alpha)[:, None] * self.right)
        return (values - self.mean) @ weights + self.target_mean

    def predicted_few(self, scores: np.ndarray, alpha: float) -> np.ndarray:
        """As `predicted`, of few rows whose coordinates Z [h, r] are there: no product of d by t."""
        return (scores * self._shrinkage(alpha)) @ self.right + self.target_mean

    def _shrinkage(self, alpha: float) -> np.ndarray:
        return 1 / (np.maximum(self.eigenvalues, 0) + alpha * self.n)  # rounding leaves some a little below 0


def _fitted(n: int, mean: np.ndarray, target_mean: np.ndarray, xx: np.ndarray, xy: np.ndarray) -> _Fit:
    """The fit of centred sums X^T X and X^T Y."""
    eigenvalues, basis = np.linalg.eigh(xx)
    return _Fit(n, mean, target_mean, eigenvalues, basis, basis.T @ xy)


class _Tall:
    """More rows than columns: fits from sums over folds."""

    def __init__(self, values: np.ndarray, targets: np.ndarray, fold_of: np.ndarray):
        # Centred over all rows, so that sums lose no digits; what a fit sees does not depend on it.
        self.values = values - values.mean(axis=0)
        self.rows = _rows_of(fold_of)
        self.offset = targets.mean(axis=0)
        pairs = [(self.values[rows], targets[rows] - self.offset) for rows in self.rows]
        self.x = [x.sum(axis=0) for x, _ in pairs]
        self.y = [y.sum(axis=0) for _, y in pairs]
        self.xx = [x.T @ x for x, _ in pairs]
        self.xy = [x.T @ y for x, y in pairs]
        self.yy = [float(np.vdot(y, y)) for _, y in pairs]

    def fit(self, without: tuple[int, ...]) -> _Fit:
        kept = [fold for fold in range(len(self.rows)) if fold not in without]
        n = sum(len(self.rows[fold]) for fold in kept)
        mean, target_mean = (np.sum([sums[fold] for fold in kept], axis=0) / n for sums in (self.x, self.y))
        xx, xy = (np.add.reduce([sums[fold] for fold in kept]) for sums in (self.xx, self.xy))
        xx -= n * np.outer(mean, mean)
        xy -= n * np.outer(mean, target_mean)
        return _fitted(n, mean, target_mean + self.offset, xx, xy)

    def held(self, fit: _Fit, fold: int) -> _Held:
        n, x, y, mean, target_mean = len(self.rows[fold]), self.x[fold], self.y[fold], fit.mean, fit.target_mean
        target_mean = target_mean - self.offset
        xx = self.xx[fold] - np.outer(x, mean) - np.outer(mean, x - n * mean)
        xy = self.xy[fold] - np.outer(x, target_mean) - np.outer(mean, y - n * target_mean)
        yy = self.yy[fold] - 2 * float(target_mean @ y) + n * float(target_mean @ target_mean)
        return _Held(fit.basis.T @ xx @ fit.basis, fit.basis.T @ xy, yy)


class _Wide:
    """More columns than rows: fits from products of rows."""

    def __init__(self, values: np.ndarray, targets: np.ndarray, fold_of: np.ndarray):
        self.values, self.targets, self.rows = values - values.mean(axis=0), targets, _rows_of(fold_of)

    def fit(self, without: tuple[int, ...]) -> _Fit:
        kept = np.concatenate([rows for fold, rows in enumerate(self.rows) if fold not in without])
        inputs, targets = self.values[kept], self.targets[kept]
        mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
        inputs = inputs - mean
        eigenvalues, vectors = np.linalg.eigh(inputs @ inputs.T)
        return _Fit(len(kept), mean, target_mean, eigenvalues, inputs.T @ vectors, vectors.T @ (targets - target_mean))

    def held(self, fit: _Fit, fold: int) -> _Held:
        z = (self.values[self.rows[fold]] - fit.mean) @ fit.basis
        y = self.targets[self.rows[fold]] - fit.target_mean
        return _Held(z.T @ z, z.T @ y, float(np.vdot(y, y)))


def _rows_of(fold_of: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(fold_of == fold) for fold in range(int(fold_of.max()) + 1)]
