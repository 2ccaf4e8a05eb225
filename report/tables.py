"""Alignment, retrieval and contrasts as rows of one shape for the page, the terminal and the sentences."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.runs import RECALLS, REFERENCE, RunResults, load_runs, metric_title, number

if TYPE_CHECKING:
    from featcache.metrics.measure.row import ContrastRow, Row

# first word of the parts of a contrast -> what the contrast is about
_TOPICS = {
    "raw": "parts",
    "adapted": "parts",
    "untrained": "training",
    "control": "pairing",
    "mixed": "mixing",
}


@dataclass(frozen=True)
class AlignmentRow:
    """One space's alignment in one run.

    Args:
        run: The run's label.
        group: "raw", "adapted", "joint", "untrained", "mixed" or "between" (two sides, no reference).
        space: A side, "average", "maximum", "joint", "joint:a+b" or "mixed"; of "between" "<a>, <b>, <stage>".
        label: What a reader calls it.
        scores: Metric -> row.
    """

    run: str
    group: str
    space: str
    label: str
    scores: "Mapping[str, Row]"

    @property
    def derived(self) -> bool:
        """Whether it is computed from the rows above it."""
        return self.space in ("average", "maximum")


@dataclass(frozen=True)
class RetrievalRow:
    """One retrieval score on the test split: a recall in [0, 1] or a median rank (1 is best)."""

    run: str
    stage: str
    direction: str
    label: str
    metric: str
    score: "Row"


@dataclass(frozen=True)
class VerdictRow:
    """One contrast of one metric: that of a run, or of each of several seeds.

    Args:
        run: The run's label.
        metric: Name of the metric.
        topic: "parts", "training", "pairing" (against a control), "mixing" or "other".
        contrast: Its name, as in "joint − best raw part".
        against: What the whole is compared with, as in "best raw part".
        whole: Whose score is compared.
        rows: Of the run, or of each seed.
        binding: The part that decides, where the contrast is with the best of several and the rows agree on it.
    """

    run: str
    metric: str
    topic: str
    contrast: str
    against: str
    whole: str
    rows: "Sequence[ContrastRow]"
    binding: str = ""

    @property
    def verdict(self) -> str:
        """The verdict; of several seeds how many have which, as in "below in 6 of 6"."""
        if len(self.rows) == 1:
            return self.rows[0].verdict
        counts = Counter(row.verdict for row in self.rows)
        return ", ".join(f"{verdict} in {count} of {len(self.rows)}" for verdict, count in counts.most_common())

    @property
    def unanimous(self) -> str:
        """The verdict that all seeds share, or ""."""
        verdicts = {row.verdict for row in self.rows}
        return verdicts.pop() if len(verdicts) == 1 else ""

    @property
    def difference(self) -> str:
        """The difference; of several seeds their mean."""
        values = self._values
        return f"{'mean ' if len(self.rows) > 1 else ''}{signed(fmean(values))}" if values else "–"

    @property
    def interval(self) -> str:
        """The interval of the difference; of several seeds the range of their differences."""
        if len(self.rows) > 1:
            return f"range {signed(min(self._values))} to {signed(max(self._values))}" if self._values else "–"
        row = self.rows[0]
        return "–" if row.ci_low is None or row.ci_high is None else f"[{signed(row.ci_low)}, {signed(row.ci_high)}]"

    @property
    def p(self) -> str:
        """The p after Holm's correction; "–" for several seeds."""
        from featcache.metrics.measure.row import p_text

        return (p_text(self.rows[0].p_holm) if len(self.rows) == 1 else "") or "–"

    @property
    def note(self) -> str:
        """The part that decides, or why there is no difference or interval."""
        notes = dict.fromkeys(row.note for row in self.rows if row.note)
        return "; ".join(notes) or (f"decided by {self.binding}" if self.binding else "")

    def text(self) -> str:
        """Verdict, difference and interval, as in "below (−.181 [−.212, −.150])"."""
        from featcache.metrics.measure.row import verdict_text

        if len(self.rows) == 1:
            return verdict_text(self.rows[0])
        return f"{self.verdict} seeds ({self.difference}, {self.interval})"

    @property
    def _values(self) -> list[float]:
        return [row.value for row in self.rows if row.value is not None]


def summary_table(runs: Sequence[Path | str | RunResults]) -> list[AlignmentRow]:
    """Collects the alignment of every space on the test split.

    Averages and maxima of the sides are computed here, from the very numbers the rows above them show.

    Args:
        runs: Run folders or loaded runs.

    Returns:
        Rows run by run: raw, adapted, joint, untrained and mixed against the reference, then side against side.

    Raises:
        RunMissing: If a folder is not there.
        RunDamaged: If a folder is not a whole run.
    """
    return [row for run in load_runs(runs) for row in _alignment_rows(run)]


def retrieval_table(runs: Sequence[Path | str | RunResults]) -> list[RetrievalRow]:
    """Collects recall and median rank on the test split, trained first, every direction; as `summary_table`."""
    rows: list[RetrievalRow] = []
    for run in load_runs(runs):
        for stage in ("trained", "untrained"):
            for direction, label in run.directions().items():
                for metric in (*RECALLS, "median_rank"):
                    for score in run.find(stage=stage, direction=direction, metric=metric, split="test")[:1]:
                        rows.append(RetrievalRow(run.label, stage, direction, label, metric, score))
    return rows


def contrast_table(runs: Sequence[Path | str | RunResults], *, clean: bool = False) -> list[VerdictRow]:
    """Collects the contrasts of every run, metric by metric, in their order; as `summary_table`.

    Those on the test split, or with `clean` on its clean part.
    """
    from featcache.metrics.measure.row import CLEAN

    rows: list[VerdictRow] = []
    for run in load_runs(runs):
        contrasts: dict[tuple[str, str], list[ContrastRow]] = {}
        for row in (row for one in run.each for row in one.contrasts if (row.split == CLEAN) == clean):
            contrasts.setdefault((row.metric, row.contrast), []).append(row)
        metrics = [*run.metrics, *(metric for metric, _ in contrasts)]
        for metric, name in sorted(contrasts, key=lambda key: metrics.index(key[0])):
            own = tuple(contrasts[metric, name])
            parts = {row.binding for row in own}
            binding = run.space_name(parts.pop()) if len(parts) == 1 else ""
            topic = _TOPICS.get(own[0].parts.split(" ")[0], "other")
            against = name.partition(" − ")[2] or name
            rows.append(VerdictRow(run.label, metric, topic, name, against, own[0].whole, own, binding))
    return rows


def epoch_curve(run: RunResults, **columns: Any) -> "list[Row]":
    """Scores of trained spaces by epoch; what untrained ones score is epoch 0, where the curve lacks one.

    Args:
        run: A run, or several seeds pooled.
        columns: As of `RunResults.find`, without the stage.

    Returns:
        Rows in the order of their epochs; none where there are none of trained spaces.
    """
    trained = {row.epoch: row for row in run.find(stage="trained", **columns) if row.epoch is not None}
    if not trained:
        return []
    untrained = run.find(stage="untrained", **columns)
    curve = ({0: untrained[0]} if untrained else {}) | trained
    return [curve[epoch] for epoch in sorted(curve)]


def raw_contrast(run: RunResults, kind: str, metric: str) -> VerdictRow | None:
    """The contrast of the joint with the best ("max") or the "average" of its raw parts; None where there is none."""
    rows = [row for row in contrast_table([run]) if row.metric == metric and row.topic == "parts"]
    return next((row for row in rows if row.rows[0].kind == kind and row.rows[0].parts.startswith("raw ")), None)


def score_facts(row: "Row", chance: Callable[[float], str] = "{:.3f}".format) -> list[str]:
    """What a score is of, as in ["mutual-kNN", "k = 10", "230 test groups", "chance 0.044"].

    Args:
        row: A score on the test split.
        chance: How the chance level is written.
    """
    facts = [metric_title(row.metric), f"k = {row.k}" if row.k else "", f"{row.n:,} test groups" if row.n else ""]
    return [*filter(None, facts), *([f"chance {chance(row.chance)}"] if row.chance is not None else [])]


def signed(value: float) -> str:
    """A difference with its sign and three decimals, without the leading zero, as `verdict_text` has it.

    Example:
        >>> signed(-0.0112), signed(1.25)
        ('−.011', '+1.250')
    """
    return ("−" if value < 0 else "+") + f"{abs(value):.3f}".removeprefix("0")


def average(rows: "Sequence[Row]") -> "Row":
    """The mean of scores, without the null range and interval that nobody measured for a mean.

    Example:
        >>> from featcache.metrics.measure.row import Row
        >>> average([Row("a", "r", "mutual_knn", 0.5), Row("b", "r", "mutual_knn", 0.1)]).value
        0.3
    """
    chances = [row.chance for row in rows if row.chance is not None]
    mean, chance = fmean(number(row) for row in rows), fmean(chances) if len(chances) == len(rows) else None
    bare = {"null_low": None, "null_high": None, "ci_low": None, "ci_high": None, "interval": "none", "note": ""}
    return replace(rows[0], space="average", value=mean, chance=chance, **bare)


def maximum(rows: "Sequence[Row]") -> "Row":
    """The largest of some scores."""
    return max(rows, key=number)


def _alignment_rows(run: RunResults) -> list[AlignmentRow]:
    rows = [*_against_reference(run), *_between_sides(run)] if run.reference else _between_sides(run)
    return [row for row in rows if row.scores]


def _against_reference(run: RunResults) -> list[AlignmentRow]:
    rows: list[AlignmentRow] = []
    for group, stage in (("raw", "raw"), ("adapted", "trained")):
        sides = [_row(run, group, stage, side, f"{run.space_name(side)}, {group}") for side in run.sides]
        rows += [*sides, *(_derived(sides, which) for which in ("average", "maximum"))]
    joints = run.joints()
    rows += [_row(run, "joint", "trained", joint, f"{run.space_name(joint)}, trained") for joint in joints]
    rows += [_row(run, "untrained", "untrained", joint, f"{run.space_name(joint)}, untrained") for joint in joints]
    rows += [
        _row(run, "untrained", "untrained", side, f"{run.space_name(side)}, untrained adapter") for side in run.sides
    ]
    return [*rows, _row(run, "mixed", "mixed", "mixed", "raw kernels mixed")]


def _between_sides(run: RunResults) -> list[AlignmentRow]:
    rows: list[AlignmentRow] = []
    for a, b in run.pairs:
        for stage in ("raw", "untrained", "trained"):
            label = f"{run.space_name(a)} against {run.space_name(b)}, {stage}"
            row = _row(run, "between", stage, a, label, against=b)
            rows.append(replace(row, space=f"{a}, {b}, {stage}"))
    return rows


def _row(run: RunResults, group: str, stage: str, space: str, label: str, *, against: str = REFERENCE) -> AlignmentRow:
    by_metric = {metric: run.on_test(stage, space, metric, against) for metric in run.metrics}
    return AlignmentRow(run.label, group, space, label, {metric: row for metric, row in by_metric.items() if row})


def _derived(sides: list[AlignmentRow], which: str) -> AlignmentRow:
    combine, first = {"average": average, "maximum": maximum}[which], sides[0]
    count = "two" if len(sides) == 2 else "sides"
    shared = [metric for metric in first.scores if all(metric in side.scores for side in sides)]
    scores = {metric: combine([side.scores[metric] for side in sides]) for metric in shared}
    return AlignmentRow(first.run, first.group, which, f"{which} of the {count}, {first.group}", scores)
