"""Bounds of redundancy, unique information and synergy, from usable information of two spaces and of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import Groups
from featcache.metrics.certainty.intervals import scores_interval
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.information.decompositions import broja_of_margins
from featcache.metrics.probes.calibrated import CrossFitted
from featcache.metrics.probes.quantised import CELLS, cell_table, posterior_cells

SHORTFALL = 0.02  # nats by which classifiers may know less than there is to know
PARTS = ("redundancy", "unique1", "unique2", "synergy")
INFORMATIONS = ("information1", "information2", "information12")
_POPULATION = 10**12  # groups: as good as any number of new ones
# Each part lies between the greatest of some sums of I1, I2, I12 and the least of others. 0 is a lower bound of each.
_LOWEST = {
    "redundancy": ((1, 1, -1),),
    "unique1": ((1, -1, 0),),
    "unique2": ((-1, 1, 0),),
    "synergy": ((-1, -1, 1),),
}
_GREATEST = {
    "redundancy": ((1, 0, 0), (0, 1, 0)),
    "unique1": ((1, 0, 0), (0, -1, 1)),
    "unique2": ((0, 1, 0), (-1, 0, 1)),
    "synergy": ((-1, 0, 1), (0, -1, 1)),
}


@dataclass(frozen=True)
class InformationRow:
    """One quantity of the label, in nats.

    Args:
        quantity: One of INFORMATIONS or PARTS.
        value: An information as it is estimated; of a part a point within its bounds, by BROJA.
        low: Lower bound of a part, whatever redundancy is taken to be; of an information its value.
        high: Upper bound.
        ci_low: Where the lower bound lies at least, over new groups and for classifiers that fall short.
        ci_high: Where the upper bound lies at most.
    """

    quantity: str
    value: float
    low: float
    high: float
    ci_low: float
    ci_high: float

    @property
    def known(self) -> bool:
        """Whether the bounds alone settle the part, to a hundredth of a nat."""
        return self.high - self.low < 0.01


def information_rows(
    first: CrossFitted,
    second: CrossFitted,
    both: CrossFitted,
    y: Int[np.ndarray, " n"],
    *,
    groups: Groups | None = None,
    level: float = 0.95,
    shortfall: float = SHORTFALL,
    cells: int = CELLS,
    seed: int = 0,
) -> list[InformationRow]:
    """I1, I2, I12 and the four parts of I12, with the bounds that every decomposition into parts obeys.

    Redundancy R lies in [max(0, I1 + I2 - I12), min(I1, I2)], synergy in [max(0, I12 - I1 - I2), I12 - max(I1, I2)],
    and what is unique to the first in [max(0, I1 - I2), min(I1, I12 - I2)]. The point inside: R by BROJA of the margins
    (Q1, Y) and (Q2, Y), where Q are posteriors in a few cells, put within the bounds; the other parts follow from it
    and I1, I2, I12. Nothing is read off a table of Q1, Q2 and Y together: of x1 XOR x2 both posteriors are constant.

    Each end of an interval holds for all sums that it is the least or greatest of, at once, by Bonferroni; sums are
    means of the terms of each row, and their standard errors are over groups.

    Args:
        first: Of the first space (`cross_fit`).
        second: Of the second one, of the same rows.
        both: Of both side by side.
        y: Class of each row.
        groups: The group of each row, or None.
        level: Share of such intervals that contain both bounds, where classifiers fall short by at most `shortfall`.
        shortfall: Nats that each information may be greater than its estimate: what better classifiers, or more rows to
            fit them on, would find. Added to the intervals.
        cells: Of the posteriors, at most.
        seed: Of the cells.

    Returns:
        INFORMATIONS, then PARTS.

    Raises:
        BadShape: If rows are not as many.
        BadChoice: If level or shortfall are out of range.
        TooFewRows: If there are fewer than two groups.
        NotConverged: As `broja_of_margins`.

    Source:
        The bounds: Williams & Beer 2010, arXiv:1004.2515, whose axioms give them. BROJA: Bertschinger et al. 2014,
        Entropy 16.
    """
    if not len(first.terms) == len(second.terms) == len(both.terms) == len(y):
        raise BadShape(f"{len(first.terms)}, {len(second.terms)} and {len(both.terms)} rows for {len(y)} classes")
    if not 0 < level < 1 or shortfall < 0:
        raise BadChoice(f"level {level}, shortfall {shortfall}: wanted a share between 0 and 1, and 0 nats or more")
    terms = np.stack([first.terms, second.terms, both.terms])
    ends = _Ends(terms, groups, level, shortfall)
    one, two, together = (max(0.0, float(each)) for each in terms.mean(axis=1))
    together = max(together, one, two)  # below both parts by noise alone
    rows = [
        InformationRow(name, value, value, value, *ends.of_information(weights))
        for name, value, weights in zip(INFORMATIONS, (one, two, together), np.eye(3, dtype=int).tolist(), strict=True)
    ]
    bounds = {part: _bounds(part, (one, two, together)) for part in PARTS}
    redundancy = min(max(_redundancy(first, second, y, cells, seed), bounds["redundancy"][0]), bounds["redundancy"][1])
    values = (redundancy, one - redundancy, two - redundancy, together - one - two + redundancy)
    for part, value in zip(PARTS, values, strict=True):
        low, high = bounds[part]
        ci = ends.of_part(_LOWEST[part], _GREATEST[part])
        rows.append(InformationRow(part, min(max(value, low), high), low, high, min(ci[0], low), max(ci[1], high)))
    return rows


def _bounds(part: str, informations: tuple[float, float, float]) -> tuple[float, float]:
    def total(weights: Sequence[int]) -> float:
        return math.fsum(weight * each for weight, each in zip(weights, informations, strict=True))

    low = max(0.0, *(total(weights) for weights in _LOWEST[part]))
    return low, max(low, min(total(weights) for weights in _GREATEST[part]))


def _redundancy(first: CrossFitted, second: CrossFitted, y: np.ndarray, cells: int, seed: int) -> float:
    shares = np.bincount(y, minlength=first.log_posteriors.shape[1]) / len(y)
    tables = [
        cell_table(posterior_cells(each.log_posteriors, cells=cells, seed=seed), each.log_posteriors, shares)
        for each in (first, second)
    ]
    return broja_of_margins(tables[0], tables[1], 0.0, tolerance=1e-3).redundancy


@dataclass(frozen=True, eq=False)
class _Ends:
    """Intervals of sums of informations, from the terms [3, n] of each row."""

    terms: Float[np.ndarray, "three n"]
    groups: Groups | None
    level: float
    shortfall: float

    def of_information(self, weights: Sequence[int]) -> tuple[float, float]:
        low, high = self._interval(weights, 1)
        return max(0.0, low), max(0.0, high)

    def of_part(self, lowest: Sequence[Sequence[int]], greatest: Sequence[Sequence[int]]) -> tuple[float, float]:
        low = max(0.0, *(self._interval(weights, len(lowest))[0] for weights in lowest))
        high = max(0.0, min(self._interval(weights, len(greatest))[1] for weights in greatest))
        return min(low, high), high

    def _interval(self, weights: Sequence[int], among: int) -> tuple[float, float]:
        """Ends of a sum, each of which `among` such ends share the error with."""
        level = 1 - (1 - self.level) / among
        sums = np.asarray(weights, float) @ self.terms
        found = scores_interval(
            sums, population=_POPULATION, groups=self.groups, level=level, bounds=(-math.inf, math.inf)
        )
        short = [self.shortfall * sum(max(0, sign * weight) for weight in weights) for sign in (-1, 1)]
        return found.low - short[0], found.high + short[1]
