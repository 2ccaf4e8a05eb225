"""Paired differences of accuracy over groups and trainings, with intervals and p."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import Groups, group_codes
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows


@dataclass(frozen=True)
class Effect:
    """A mean difference of accuracy.

    Args:
        value: In [-1, 1]; above 0 the first is better.
        error: Standard error, over groups and over trainings.
        freedom: Degrees of freedom of the error.
        p: Two-sided, of no difference.
    """

    value: float
    error: float
    freedom: float
    p: float

    def interval(self, level: float) -> tuple[float, float]:
        """Ends of an interval that covers `level`; BadChoice if that is not between 0 and 1."""
        from scipy.special import stdtrit

        if not 0 < level < 1:
            raise BadChoice(f"level = {level}: wanted a share between 0 and 1")
        half = float(stdtrit(self.freedom, 0.5 + level / 2)) * self.error
        return self.value - half, self.value + half


def paired_effect(
    differences: Float[np.ndarray, "seeds n"], folds: Int[np.ndarray, " n"], *, groups: Groups | None = None
) -> Effect:
    """The mean difference over rows and trainings, where each fold has its own trainings.

    Two errors add up: that of the rows, which other groups would move, from the spread of the rows' differences (means
    over trainings) over groups; and that of the trainings, from what trainings of one fold differ by. The second counts
    some of the first once more, so that the interval is a little wide. What other training groups would give, beyond
    what folds differ by, is not in it.

    Args:
        differences: Of each training of its fold and each row.
        folds: Fold of each row.
        groups: The group of each row, or None.

    Raises:
        BadShape: If there is not one fold a row.
        TooFewRows: If there are fewer than two trainings or groups.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> effect = paired_effect(0.1 + 0.3 * rng.standard_normal((2, 400)), np.arange(400) % 4)
        >>> low, high = effect.interval(0.95)
        >>> low < 0.1 < high, effect.p < 0.001
        (True, True)

    Source:
        Satterthwaite 1946, Biometrics Bulletin 2: degrees of freedom of a sum of variances.
    """
    from scipy.special import stdtr

    if differences.ndim != 2 or folds.shape != differences.shape[1:]:
        raise BadShape(f"wanted differences [seeds, n] and a fold a row, got {differences.shape} and {folds.shape}")
    codes, names = group_codes(groups, differences.shape[1])
    seeds, units = len(differences), len(names)
    if seeds < 2 or units < 2:
        raise TooFewRows(f"{seeds} trainings and {units} groups: wanted 2 or more of each for a standard error")
    mean = float(differences.mean())
    residuals = np.bincount(codes, weights=differences.mean(axis=0) - mean)
    of_rows = units / (units - 1) * float(residuals @ residuals) / differences.shape[1] ** 2
    numbers, of = np.unique(folds, return_inverse=True)
    sums = np.stack([np.bincount(of, weights=one, minlength=len(numbers)) for one in differences])
    spread = sums.var(axis=0, ddof=1) / seeds / differences.shape[1] ** 2  # of each fold's share of the mean
    of_trainings = float(spread.sum())
    error = math.sqrt(of_rows + of_trainings)
    if not error:
        return Effect(mean, 0.0, float(units - 1), 1.0 if mean == 0 else 0.0)
    parts = of_rows**2 / (units - 1) + float((spread**2).sum()) / (seeds - 1)
    freedom = (of_rows + of_trainings) ** 2 / parts
    return Effect(mean, error, freedom, min(1.0, 2 * float(stdtr(freedom, -abs(mean) / error))))
