"""Alignment and retrieval rows, one shape for the page, the terminal and the conclusions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.report.runs import ALIGNMENT, RECALLS, RunResults, Score, load_runs

# (group, stage, space) in reading order; the average and the maximum are added where both sides stand
_PARTS = (("raw", "raw"), ("adapted", "trained"))


@dataclass(frozen=True)
class Reading:
    """One number with what it must be read against; None where the run measured no such bound."""

    value: float
    chance: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    k: int | None = None

    @property
    def spread(self) -> float:
        """Half the wider of the null range and the interval: differences below it cannot be told from none."""
        widths = [_half(self.null_low, self.null_high), _half(self.ci_low, self.ci_high)]
        return max(widths)

    def text(self) -> str:
        """Returns the value, and the null range where there is one, with three decimals.

        Example:
            >>> Reading(0.30712, null_low=0.008, null_high=0.0124).text()
            '0.307 (null 0.008–0.012)'
        """
        if self.null_low is None or self.null_high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} (null {self.null_low:.3f}–{self.null_high:.3f})"


@dataclass(frozen=True)
class AlignmentRow:
    """One space's alignment in one run.

    Args:
        run: The run's label.
        group: "raw", "adapted", "joint", "untrained", "mixed" or "pair" (x against y, no reference).
        space: "x", "y", "average", "maximum", "joint", "x+y" (mixed), or the stage for "pair".
        label: What a reader calls it.
        mutual_knn: Mutual-kNN, or None.
        cka: Linear CKA, or None.
        w: Weight of x in a mixed kernel, else None.
    """

    run: str
    group: str
    space: str
    label: str
    mutual_knn: Reading | None
    cka: Reading | None
    w: float | None = None

    def cells(self) -> tuple[str, str, str, str]:
        """Returns run, label, mutual-kNN and CKA as text, ready for `rich.table.Table.add_row`."""
        readings = [reading.text() if reading else "–" for reading in (self.mutual_knn, self.cka)]
        return self.run, self.label, readings[0], readings[1]


@dataclass(frozen=True)
class RetrievalRow:
    """One retrieval score on the test split: a recall in [0, 1] or a median rank (1 is best)."""

    run: str
    stage: str
    direction: str
    label: str
    metric: str
    reading: Reading


def summary_table(runs: Sequence[Path | str | RunResults]) -> list[AlignmentRow]:
    """Collects the alignment of every space on the test split.

    Averages and maxima of the two sides are computed here, from the very numbers the rows above them show.

    Args:
        runs: Run folders or loaded runs.

    Returns:
        Rows run by run: raw, adapted, joint, untrained, mixed, then x against y.

    Raises:
        RunMissing: If a folder is not there.
        RunDamaged: If a folder is not a whole run.
    """
    return [row for run in load_runs(runs) for row in _alignment_rows(run)]


def retrieval_table(runs: Sequence[Path | str | RunResults]) -> list[RetrievalRow]:
    """Collects recall and median rank on the test split, trained before untrained, both directions.

    Args:
        runs: Run folders or loaded runs.

    Returns:
        Rows run by run.

    Raises:
        RunMissing: If a folder is not there.
        RunDamaged: If a folder is not a whole run.
    """
    rows: list[RetrievalRow] = []
    for run in load_runs(runs):
        names = run.directions()
        for stage in ("trained", "untrained"):
            for direction, label in names.items():
                for metric in (*RECALLS, "median_rank"):
                    for score in run.find(stage=stage, direction=direction, metric=metric, split="test")[:1]:
                        rows.append(RetrievalRow(run.label, stage, direction, label, metric, reading(score)))
    return rows


def reading(score: Score) -> Reading:
    """Returns what a table shows of one row of metrics.parquet."""
    return Reading(
        score.value,
        score.chance,
        score.null_low,
        score.null_high,
        score.ci_low,
        score.ci_high,
        score.n,
        score.k,
    )


def average(a: Reading, b: Reading) -> Reading:
    """Returns the mean of two scores, without the null range and interval that nobody measured for a mean.

    Example:
        >>> average(Reading(0.5, 0.01), Reading(0.1, 0.01)).value
        0.3
    """
    chance = None if a.chance is None or b.chance is None else (a.chance + b.chance) / 2
    return Reading((a.value + b.value) / 2, chance, n=a.n, k=a.k)


def maximum(a: Reading, b: Reading) -> Reading:
    """Returns the larger of two scores."""
    return a if a.value >= b.value else b


def _alignment_rows(run: RunResults) -> list[AlignmentRow]:
    names = run.names()
    rows: list[AlignmentRow] = []
    for group, stage in _PARTS:
        sides = [_row(run, group, stage, space, f"{names[space]}, {group}") for space in ("x", "y")]
        rows += [*sides, _derived(sides, "average"), _derived(sides, "maximum")]
    rows.append(_row(run, "joint", "trained", "joint", "joint, trained"))
    rows.append(_row(run, "untrained", "untrained", "joint", "joint, untrained"))
    rows += [_row(run, "untrained", "untrained", space, f"{names[space]}, untrained adapter") for space in ("x", "y")]
    rows.append(_mixed(run))
    for stage, label in (("raw", "raw"), ("untrained", "untrained"), ("trained", "trained")):
        rows.append(_pair(run, stage, f"{names['x']} against {names['y']}, {label}"))
    return [row for row in rows if row.mutual_knn or row.cka]


def _row(run: RunResults, group: str, stage: str, space: str, label: str) -> AlignmentRow:
    by_metric = [run.on_test(stage, space, metric) for metric in ALIGNMENT]
    knn, cka = (reading(score) if score else None for score in by_metric)
    return AlignmentRow(run.label, group, space, label, knn, cka)


def _derived(sides: list[AlignmentRow], which: str) -> AlignmentRow:
    combine = {"average": average, "maximum": maximum}[which]
    a, b = sides
    knn = combine(a.mutual_knn, b.mutual_knn) if a.mutual_knn and b.mutual_knn else None
    cka = combine(a.cka, b.cka) if a.cka and b.cka else None
    return AlignmentRow(a.run, a.group, which, f"{which} of the two, {a.group}", knn, cka)


def _mixed(run: RunResults) -> AlignmentRow:
    by_metric = [run.find(stage="mixed", metric=metric, against="reference", split="test")[:1] for metric in ALIGNMENT]
    knn, cka = (reading(scores[0]) if scores else None for scores in by_metric)
    weights = [score.w for scores in by_metric for score in scores if score.w is not None]
    label = "raw kernels mixed" + (f", w = {' / '.join(f'{w:.2f}' for w in dict.fromkeys(weights))}" if weights else "")
    return AlignmentRow(run.label, "mixed", "x+y", label, knn, cka, weights[0] if weights else None)


def _pair(run: RunResults, stage: str, label: str) -> AlignmentRow:
    by_metric = [run.find(stage=stage, metric=metric, against="pair", split="test")[:1] for metric in ALIGNMENT]
    knn, cka = (reading(scores[0]) if scores else None for scores in by_metric)
    return AlignmentRow(run.label, "pair", stage, label, knn, cka)


def _half(low: float | None, high: float | None) -> float:
    return 0.0 if low is None or high is None else (high - low) / 2
