"""Partial information decompositions of two sources: redundancy, unique parts, synergy; the table of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from featcache.metrics.information.tables import checked, mutual_information
from featcache.metrics.information.union import Margin, union_information

_ROUNDING = 1e-12  # nats

Joint = Float[np.ndarray, "x1 x2 c"]


@dataclass(frozen=True)
class Decomposition:
    """Four parts of I(X1, X2; Y) in nats, which sum to it; I1 = redundancy + unique1 and I2 = redundancy + unique2.

    Args:
        redundancy: What either source tells.
        unique1: What only the first tells.
        unique2: What only the second tells.
        synergy: What only both together tell.
        gap: By how much each part may be wrong, where it is the end of an iteration; 0 where it is a formula.
            Redundancy and synergy are then too small by at most the gap, the unique parts too large.
    """

    redundancy: float
    unique1: float
    unique2: float
    synergy: float
    gap: float = 0.0


@dataclass(frozen=True)
class Measure:
    """One way to decompose: a function of p(x1, x2, y), what it may do, and its source."""

    name: str  # its key in DECOMPOSITIONS
    function: Callable[[Joint], Decomposition]
    non_negative: bool  # whether no part of any table is below 0
    additive: bool  # whether the parts of independent systems add
    source: str


def broja(joint: Joint, *, tolerance: float = 1e-6) -> Decomposition:
    """Decomposition by the least joint information that the margins (X1, Y) and (X2, Y) allow.

    Redundancy and unique parts depend on these two margins only. No part is negative.

    Args:
        joint: p(x1, x2, y).
        tolerance: Wanted of the gap, in nats.

    Raises:
        BadShape, NotProbabilities: As `mutual_information`.
        BadChoice, NotConverged: As `union_information`.

    Example:
        >>> from math import log
        >>> both = np.zeros((2, 2, 2))
        >>> both[[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]] = 0.25  # y = x1 AND x2
        >>> parts = broja(both)
        >>> round(parts.redundancy / log(2), 3), round(parts.synergy / log(2), 3)
        (0.311, 0.5)

    Source:
        Bertschinger, Rauh, Olbrich, Jost & Ay 2014, Quantifying unique information, Entropy 16.
    """
    p = checked(joint, 3)
    first, second, together = _margins(p)
    floor = max(mutual_information(first), mutual_information(second))
    if together - floor <= 1e-9:  # the table itself is one of least information
        return _by_union(first, second, together, max(together, floor), max(together - floor, 0.0))
    union = union_information(first, second, tolerance=tolerance)
    gap = max(union.gap - max(union.information - together, 0.0), 0.0)
    return _by_union(first, second, together, min(union.information, together), gap)


def broja_of_margins(
    first: Margin, second: Margin, joint_information: float, *, tolerance: float = 1e-6
) -> Decomposition:
    """`broja` where the joint table is not known, only both margins and I(X1, X2; Y), as of estimates.

    Synergy is what the joint information leaves over: negative if that is below what the margins imply.

    Args:
        first: p(x1, y).
        second: p(x2, y), with the same p(y).
        joint_information: I(X1, X2; Y) in nats, from wherever it is known.
        tolerance: Wanted of the gap, in nats.

    Raises:
        BadShape, NotProbabilities, BadChoice, NotConverged: As `union_information`.

    Example:
        >>> from math import log
        >>> nothing = np.full((1, 2), 0.5)
        >>> broja_of_margins(nothing, nothing, log(2)).synergy == log(2)  # XOR, as it looks from each side
        True
    """
    union = union_information(first, second, tolerance=tolerance)
    return _by_union(checked(first, 2), checked(second, 2), joint_information, union.information, union.gap)


def common_information(joint: Joint) -> Decomposition:
    """Decomposition whose redundancy is what the common part of both sources tells of the target.

    The common part is all that can be computed from either source with certainty (Gács & Körner): which component of
    the graph of pairs that occur. Any noise between the sources leaves none, and redundancy 0. Synergy may be negative.

    Args:
        joint: p(x1, x2, y).

    Raises:
        BadShape, NotProbabilities: As `mutual_information`.

    Example:
        >>> from math import log
        >>> xor = np.zeros((2, 2, 2))
        >>> xor[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 0.25
        >>> round(common_information(xor).synergy / log(2), 6)
        1.0

    Source:
        Griffith, Chong, James, Ellison & Crutchfield 2014, Intersection information based on common randomness,
        Entropy 16.
    """
    from scipy.sparse import bmat, csr_matrix
    from scipy.sparse.csgraph import connected_components

    p = checked(joint, 3)
    pairs = csr_matrix(p.sum(axis=2) > 0)
    count, parts = connected_components(bmat([[None, pairs], [pairs.T, None]]), directed=False)
    first, second, together = _margins(p)
    common = np.zeros((count, p.shape[2]))
    np.add.at(common, parts[: len(first)], first)
    return _by_redundancy(first, second, together, mutual_information(common))


def minimum_information(joint: Joint) -> Decomposition:
    """Decomposition whose redundancy is the mean over classes of the least that a source tells of the class.

    It compares amounts, not contents: sources that tell different things of equal size count as redundant. No part is
    negative.

    Args:
        joint: p(x1, x2, y).

    Raises:
        BadShape, NotProbabilities: As `mutual_information`.

    Example:
        >>> from math import log
        >>> two_bits = np.zeros((2, 2, 4))
        >>> two_bits[[0, 0, 1, 1], [0, 1, 0, 1], range(4)] = 0.25  # y = (x1, x2)
        >>> round(minimum_information(two_bits).redundancy / log(2), 6)
        1.0

    Source:
        Williams & Beer 2010, Nonnegative decomposition of multivariate information, arXiv:1004.2515.
    """
    first, second, together = _margins(checked(joint, 3))
    redundancy = float(np.minimum(_specific(first), _specific(second)).sum())
    return _by_redundancy(first, second, together, redundancy)


DECOMPOSITIONS: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("broja", broja, True, True, "Bertschinger et al. 2014, Entropy 16"),
            Measure("common", common_information, False, True, "Griffith et al. 2014, Entropy 16"),
            Measure("i_min", minimum_information, True, False, "Williams & Beer 2010, arXiv:1004.2515"),
        )
    }
)


def _margins(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """p(x1, y), p(x2, y) and I(X1, X2; Y)."""
    return joint.sum(axis=1), joint.sum(axis=0), mutual_information(joint.reshape(-1, joint.shape[2]))


def _specific(margin: np.ndarray) -> np.ndarray:
    """What a source tells of each class, times its probability: sum over x of p(x, y) log p(y | x) / p(y)."""
    products = margin.sum(axis=1, keepdims=True) * margin.sum(axis=0)
    ratios = np.divide(margin, products, out=np.ones_like(margin), where=margin > 0)
    return (margin * np.log(ratios)).sum(axis=0)


def _by_union(first: np.ndarray, second: np.ndarray, together: float, union: float, gap: float) -> Decomposition:
    one, two = mutual_information(first), mutual_information(second)
    return _decomposition(one + two - union, one, two, together, gap)


def _by_redundancy(first: np.ndarray, second: np.ndarray, together: float, redundancy: float) -> Decomposition:
    return _decomposition(redundancy, mutual_information(first), mutual_information(second), together, 0.0)


def _decomposition(redundancy: float, one: float, two: float, together: float, gap: float) -> Decomposition:
    """The parts that follow from the redundancy; 0 where a part is nothing but rounding."""
    parts = (redundancy, one - redundancy, two - redundancy, together - one - two + redundancy)
    redundancy, unique1, unique2, synergy = (0.0 if abs(part) < _ROUNDING else part for part in parts)
    return Decomposition(redundancy, unique1, unique2, synergy, gap)


def decompositions(joint: Joint) -> dict[str, Decomposition]:
    """A table by every one of DECOMPOSITIONS; arguments and errors as `broja`."""
    return {name: measure.function(joint) for name, measure in DECOMPOSITIONS.items()}
