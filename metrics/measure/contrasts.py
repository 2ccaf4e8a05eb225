"""Contrasts: paired differences of two or more spaces' scores against a reference, with interval, p and verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from featcache.metrics.certainty.halves import Halves
from featcache.metrics.errors import BadChoice
from featcache.metrics.measure.row import ContrastRow

ContrastKind = Literal["difference", "average", "max"]
_ROUNDING = 1e-6  # of the scores: differences up to it are rounding of float32 products


@dataclass(frozen=True)
class Contrast:
    """A question: is one space closer to the reference than another, than the average of some, than the best of some?

    Args:
        whole: Name of the space in question.
        parts: Names of the spaces that it is compared with; one for a difference.
        kind: "difference"; "average": of the parts' scores; "max": of the parts' scores.
        family: Contrasts of one family are corrected together (Holm), for each metric by itself; None: stands alone.
        name: How rows and messages call it; "" makes a name of the spaces.
        metrics: Names of the metrics that it is for; none for all.

    Raises:
        BadChoice: If the kind is unknown, or there are no parts, several for a difference, or the whole among them.
    """

    whole: str
    parts: tuple[str, ...]
    kind: ContrastKind = "difference"
    family: str | None = None
    name: str = ""
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(ContrastKind):
            raise BadChoice(f"kind {self.kind!r} is unknown; there are {', '.join(get_args(ContrastKind))}")
        if isinstance(self.parts, str) or not self.parts or (self.kind == "difference" and len(self.parts) > 1):
            wanted = "one name, as in ('x',)" if self.kind == "difference" else "one name or more, as in ('x', 'y')"
            raise BadChoice(f"parts = {self.parts!r}: wanted {wanted}")
        if self.whole in self.parts or len(set(self.parts)) < len(self.parts):
            raise BadChoice(f"{self.whole!r} against {self.parts!r}: every space stands once in a contrast")

    @property
    def title(self) -> str:
        """Its readable name."""
        words = {"difference": "", "average": "average of ", "max": "best of "}
        return self.name or f"{self.whole} − {words[self.kind]}{', '.join(self.parts)}"


@dataclass(frozen=True, eq=False)
class HalfScores:
    """Scores against the reference, on all rows and on the same random halves, by name of the space.

    Args:
        halves: The halves.
        observed: Score on all rows.
        on_halves: Scores [repeats] on the halves.
        short_rows: Rows, over all halves, that were left out because their lists ran short.
        missing: Why a space has no scores on halves.
        of_graphs: Whether the metric is one of neighbour graphs.
    """

    halves: Halves
    observed: Mapping[str, float]
    on_halves: Mapping[str, np.ndarray]
    short_rows: Mapping[str, int]
    missing: Mapping[str, str]
    of_graphs: bool

    def standard_error(self, on_halves: np.ndarray) -> float:
        """Of a difference, from its values on the halves."""
        return self.halves.standard_error(on_halves, of_graphs=self.of_graphs)


def contrast_row(contrast: Contrast, scores: HalfScores, row: ContrastRow, *, sign: int, alpha: float) -> ContrastRow:
    """One contrast of one metric, without Holm's correction and verdict.

    The differences on random halves spread as those of new samples of size n do; whatever the rows do to both scores
    cancels. Shown by simulation (`tests/test_measure_size.py`): of two spaces with the same distribution relative to
    the reference, at most a share alpha is called different.

    "max" is an intersection-union test (Berger 1982, Technometrics 24): the whole is above the best part if it is above
    each, at the full level, so that the largest p decides; it is below the best part if it is below at least one, whose
    p is multiplied by the number of parts. The binding part is in both cases the one with the smallest difference in
    standard errors.

    Args:
        contrast: Which spaces.
        scores: Of these spaces against the reference.
        row: What is known of the row: metric, convention, against, n.
        sign: 1, or -1 for a distance: a positive difference means closer to the reference.
        alpha: The interval covers 1 - alpha.
    """
    halves, names = scores.halves, (contrast.whole, *contrast.parts)
    row = replace(row, contrast=contrast.title, whole=contrast.whole, parts="+".join(contrast.parts))
    row = replace(row, kind=contrast.kind, family=contrast.family or "", level=1 - alpha)
    unscored = [name for name in names if name not in scores.observed]
    if unscored:
        return replace(row, note="; ".join(f"{name}: {scores.missing[name]}" for name in unscored))
    differences = [_Difference.of(contrast, part, scores, sign) for part in _compared(contrast)]
    missing = [f"{name}: {scores.missing[name]}" for name in names if name not in scores.on_halves]
    if not missing and any(one.value and not scores.standard_error(one.on_halves) for one in differences):
        missing = ["the difference is the same on every half"]  # lists of nearly all rows: nothing is left to vary
    if missing:  # the difference of the scores alone, from the best of several parts
        return replace(row, value=min(one.value for one in differences), note="no interval: " + "; ".join(missing))
    binding = min(differences, key=lambda one: one.in_errors(scores))
    half = halves.half_width(binding.on_halves, 1 - alpha, of_graphs=scores.of_graphs)
    p = max(one.p(scores) for one in differences)
    if min(one.value for one in differences) <= 0 and len(differences) > 1:
        p = min(1.0, len(differences) * binding.p(scores))
    return replace(
        row,
        value=binding.value,
        ci_low=binding.value - half,
        ci_high=binding.value + half,
        p=p,
        binding=binding.part if contrast.kind == "max" else "",
        estimand=f"expected difference of {row.metric} against {row.against}, new samples at gallery size {halves.n}",
        repeats=halves.repeats,
        short_rows=sum(scores.short_rows[name] for name in names),
        method=f"{halves.method} for all spaces, Student's t" + (_MAX if contrast.kind == "max" else ""),
    )


_MAX = "; the interval is that of the binding part, p of all parts (intersection-union; below: Holm)"


def with_verdicts(rows: Sequence[ContrastRow], *, alpha: float) -> list[ContrastRow]:
    """Rows with p after Holm's correction within family, metric and reference, and the verdict that follows from it.

    A contrast that has no p counts as one of its family: the family is what was declared.

    Args:
        rows: As `contrast_row` makes them, all of one measurement.
        alpha: Level of the verdicts.
    """
    families: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        alone = None if row.family else place
        families.setdefault((row.family, alone, row.metric, row.convention, row.k, row.against), []).append(place)
    judged = list(rows)
    for places in families.values():
        p_values = [1.0 if (p := rows[place].p) is None else p for place in places]
        for place, p_holm in zip(places, holm(p_values), strict=True):
            if rows[place].p is not None:
                judged[place] = replace(rows[place], p_holm=p_holm, verdict=_verdict(rows[place], p_holm, alpha))
    return judged


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _verdict(row: ContrastRow, p_holm: float, alpha: float) -> str:
    value, low, high = row.value or 0.0, row.ci_low or 0.0, row.ci_high or 0.0
    if p_holm <= alpha and value:
        return "above" if value > 0 else "below"
    return "cannot tell after correction" if low > 0 or high < 0 else "cannot tell"


def _compared(contrast: Contrast) -> list[tuple[str, ...]]:
    """What the whole is compared with: each part by itself, or all of them on average."""
    return [(part,) for part in contrast.parts] if contrast.kind == "max" else [contrast.parts]


@dataclass(frozen=True, eq=False)
class _Difference:
    """Whole minus the average of some parts, on all rows and on halves."""

    part: str
    value: float
    on_halves: np.ndarray

    @classmethod
    def of(cls, contrast: Contrast, parts: tuple[str, ...], scores: HalfScores, sign: int) -> "_Difference":
        weights = {contrast.whole: 1.0} | {part: -1 / len(parts) for part in parts}
        observed = {name: scores.observed[name] for name in weights}
        halves = {name: scores.on_halves.get(name, np.zeros(1)) for name in weights}
        value = sum(weight * observed[name] for name, weight in weights.items())
        drawn = np.sum([weight * halves[name] for name, weight in weights.items()], axis=0)
        size = max(float(np.abs(np.append(halves[name], observed[name])).max()) for name in weights)
        if max(abs(value), float(np.abs(drawn).max())) <= _ROUNDING * size:
            value, drawn = 0.0, np.zeros_like(drawn)
        return cls("+".join(parts), sign * value, sign * drawn)

    def in_errors(self, scores: HalfScores) -> float:
        """The difference in standard errors; 0 where there is none on any half."""
        error = scores.standard_error(self.on_halves)
        return self.value / error if error else 0.0

    def p(self, scores: HalfScores) -> float:
        """Two-sided."""
        return scores.halves.two_sided(self.value, self.on_halves, of_graphs=scores.of_graphs)
