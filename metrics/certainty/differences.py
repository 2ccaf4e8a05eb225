"""Is one space closer to a reference than another? Paired differences on the same rows and the same subsamples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from featcache.metrics.arrays import Groups, X
from featcache.metrics.certainty.intervals import Interval, half_width, halves, halving, part_of, short
from featcache.metrics.certainty.sides import sides_of
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.graph import Neighbors


@dataclass(frozen=True)
class Difference:
    """m(whole, reference) - m(part, reference) on the same rows.

    Args:
        metric: A name of `METRICS`.
        whole: Score of the whole against the reference.
        part: Score of the part against the reference.
        interval: The difference and its interval.
        p: One-sided p of "the whole is no closer to the reference than the part".
    """

    metric: str
    whole: float
    part: float
    interval: Interval
    p: float


@dataclass(frozen=True)
class Exceeds:
    """Whether a whole is closer to a reference than every one of its parts.

    Args:
        differences: Whole minus part, by name of the part.
        closest: Name of the part whose difference is the least sure.
        p: The largest of the parts' p: intersection-union.
    """

    differences: Mapping[str, Difference]
    closest: str
    p: float


def paired_difference(
    name: str,
    whole: X | Neighbors,
    part: X | Neighbors,
    reference: X | Neighbors,
    *,
    groups: Groups | None = None,
    repeats: int = 200,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> Difference:
    """How much closer one space is to a reference than another, on the same rows: its interval and one-sided p.

    Both scores are taken on the same random halves, so that what the rows do to both cancels; the standard deviation of
    the halves' differences stands for that of new samples at gallery size n, as in `sample_interval`.

    Args:
        name: A key of `METRICS`.
        whole: Features [n, d] of the space that may be closer (a joint space), or for kNN metrics a graph.
        part: Features of the same samples in the space it is compared with, or their graph.
        reference: Features of the same samples in the reference, or their graph.
        groups: The group of each row, or None; whole groups are taken or left.
        repeats: Halves to draw, 20 or more.
        level: Of the interval.
        seed: Of the draws.
        options: Of the metric ("k", ...).

    Returns:
        m(whole, reference) - m(part, reference): above 0 the whole is closer, or for a distance below 0; `p` is the
        normal tail beyond it of "no closer".

    Raises:
        As `sample_interval`.

    Example:
        >>> reference, noise = np.random.default_rng(0).standard_normal((2, 200, 8))
        >>> found = paired_difference("cka_debiased", reference + noise, noise, reference)
        >>> found.interval.low > 0, found.p < 0.001
        (True, True)
    """
    parts = {"part": part}
    draws: dict[str, Any] = {"groups": groups, "repeats": repeats, "level": level, "seed": seed}
    return _differences(name, whole, parts, reference, options=options, **draws)["part"]


def exceeds_parts(
    name: str,
    whole: X | Neighbors,
    parts: Mapping[str, X | Neighbors],
    reference: X | Neighbors,
    *,
    groups: Groups | None = None,
    repeats: int = 200,
    level: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> Exceeds:
    """Whether the whole is closer to the reference than the best of its parts: it must be closer than each.

    "Whole > max of parts" is refuted by any part that is as close. So every part is tested at the full level and the
    largest p decides; that needs no correction for the number of parts.

    Args:
        name: A key of `METRICS`.
        whole: Features [n, d] of the whole (the joint space), or for kNN metrics a graph.
        parts: Name -> features of the same samples in a part (each modality's own space), or their graph.
        reference: Features of the same samples in the reference, or their graph.
        groups: The group of each row, or None.
        repeats: Halves to draw, the same for all parts.
        level: Of each part's interval.
        seed: Of the draws.
        options: Of the metric.

    Returns:
        Each part's difference, and the largest p.

    Raises:
        BadChoice: Also if there is no part.
        As `sample_interval`.

    Example:
        >>> reference, noise, other = np.random.default_rng(0).standard_normal((3, 200, 8))
        >>> found = exceeds_parts("cka_debiased", reference + noise, {"x": noise, "y": reference + other}, reference)
        >>> found.closest, found.p > 0.05
        ('y', True)

    Source:
        Berger 1982, Technometrics 24 (intersection-union test).
    """
    if not parts:
        raise BadChoice("parts: wanted one or more")
    draws: dict[str, Any] = {"groups": groups, "repeats": repeats, "level": level, "seed": seed}
    found = _differences(name, whole, parts, reference, options=options, **draws)
    closest = max(found, key=lambda part: found[part].p)
    return Exceeds(found, closest, found[closest].p)


def _differences(
    name: str,
    whole: X | Neighbors,
    parts: Mapping[str, X | Neighbors],
    reference: X | Neighbors,
    *,
    groups: Groups | None,
    repeats: int,
    level: float,
    seed: int,
    options: dict[str, Any],
) -> dict[str, Difference]:
    """Whole minus each part: every space is prepared once, and all scores are taken on the same halves."""
    spaces = {"whole": whole, "reference": reference} | {f"parts[{part!r}]": space for part, space in parts.items()}
    metric, comparison = halving(name, spaces, groups, options)
    (first, ref, *others), n = sides_of(comparison, spaces)

    def scores(at: Any, *sides: Any) -> np.ndarray:
        return np.array([comparison.compare(side, at) for side in sides])

    observed = scores(ref, first, *others)
    on_halves: list[np.ndarray] = []
    short_rows = np.zeros(len(others), dtype=np.int64)
    for rows in halves(comparison, groups, n, repeats=repeats, seed=seed):
        at, *sides = (part_of(comparison, side, rows) for side in (ref, first, *others))
        short_rows += [short(comparison, at, sides[0], side) for side in sides[1:]]
        on_halves.append(scores(at, *sides))
    drawn = np.array(on_halves)
    found: dict[str, Difference] = {}
    for number, part in enumerate(parts):
        value = float(observed[0] - observed[number + 1])
        half = half_width(drawn[:, 0] - drawn[:, number + 1], groups, n, level)
        interval = Interval(
            *(value, value - half, value + half, level),
            estimand=f"expected {name} of whole minus {part} against the reference, new samples at gallery size {n}",
            method=f"delete-half subsampling{'' if groups is None else ' of whole groups'}, {repeats} halves for both",
            n=n,
            repeats=repeats,
            short_rows=int(short_rows[number]),
        )
        p = _one_sided(value if metric.higher_is_better else -value, half, level)
        found[part] = Difference(name, float(observed[0]), float(observed[number + 1]), interval, p)
    return found


def _one_sided(gain: float, half: float, level: float) -> float:
    """Normal tail beyond a gain, its standard deviation from the width of the interval; 1 where nothing differs."""
    if half == 0:
        return 0.0 if gain > 0 else 1.0
    return 0.5 * math.erfc(gain / half * NormalDist().inv_cdf(0.5 + level / 2) / math.sqrt(2))
