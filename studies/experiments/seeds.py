"""Means over the seeds of a training, with intervals that say what they are of."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

if TYPE_CHECKING:
    import polars as pl

OVER_SEEDS = "95 % of the mean over {n} seeds (Student's t; same test groups)"
ROUNDING = 1e-12  # of values of order 1: a spread below it is that of sums in another order


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None, float | None, float | None]:
    """Mean of independent values, its interval, and the two-sided p of a mean of 0, by Student's t.

    Values that do not differ at all tell nothing of how others would: they have no interval and no p.

    Args:
        values: One or more.
        level: Of the interval.

    Returns:
        Mean, low, high, p; None below two values, or without spread.

    Example:
        >>> mean, low, high, p = student([1.0, 2.0, 3.0])
        >>> mean, round(low, 3), round(high, 3), round(p, 3)
        (2.0, -0.484, 4.484, 0.074)
    """
    mean, n = float(np.mean(values)), len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if error <= ROUNDING:
        return mean, None, None, None
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * error
    return mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error))


def mean_interval(rows: "pl.DataFrame", column: str) -> tuple[float, float | None, float | None, str]:
    """Mean of rows that differ in their seed, with the interval over seeds, of one row that of its samples.

    Args:
        rows: Rows of the tidy table, one a seed.
        column: "value" or "calibrated".

    Returns:
        Mean, low, high, and what the interval is of; no interval where there is none.
    """
    values = [float(value) for value in rows[column]]
    mean, low, high, _ = student(values)
    if low is not None:
        return mean, low, high, OVER_SEEDS.format(n=len(values))
    row = rows.row(0, named=True)
    if column == "value" and row["ci_low"] is not None and len(set(values)) == 1:
        return mean, row["ci_low"], row["ci_high"], f"{row['estimand']} ({row['interval']})"
    return mean, None, None, ""
