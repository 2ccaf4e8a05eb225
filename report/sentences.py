"""Conclusions in words, computed from the tables: flip a number and its sentence flips."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.report.runs import RunResults, Score, load_runs
from featcache.report.tables import AlignmentRow, Reading, RetrievalRow, retrieval_table, summary_table

_SMALL_TEST = 500
Rows = dict[tuple[str, str], AlignmentRow]


@dataclass(frozen=True)
class Comparison:
    """A difference of two scores and the margin below which it is called level."""

    difference: float
    margin: float

    @property
    def verdict(self) -> str:
        """Returns "above", "below" or "level with"."""
        if abs(self.difference) <= self.margin or self.difference == 0:
            return "level with"
        return "above" if self.difference > 0 else "below"

    def text(self, other: float) -> str:
        """Returns the other score, the signed difference, and the margin where it decides."""
        inside = f", inside ±{self.margin:.3f}" if self.verdict == "level with" else ""
        return f"{other:.3f}; {_signed(self.difference)}{inside}"


def compare(a: Reading, b: Reading, *parts: Reading) -> Comparison:
    """Compares two scores; where b is a mean, `parts` are what it is a mean of.

    The margin adds the half-widths of the null ranges (or of the intervals, where they are wider) as independent
    errors. The scores share their test groups, so this is cautious.

    Example:
        >>> compare(Reading(0.30, null_low=0.0, null_high=0.02), Reading(0.295, null_low=0.0, null_high=0.02)).verdict
        'level with'
    """
    other = math.hypot(*(part.spread for part in parts)) / len(parts) if parts else b.spread
    return Comparison(a.value - b.value, math.hypot(a.spread, other))


def findings(runs: Sequence[Path | str | RunResults]) -> list[str]:
    """States what the runs show, in sentences computed from their numbers.

    Args:
        runs: Run folders or loaded runs.

    Returns:
        Sentences in reading order; each opens with the run's label where there are several runs. Caveats come last and
        open with "Caveat".

    Raises:
        RunMissing: If a folder is not there.
        RunDamaged: If a folder is not a whole run.
    """
    loaded = load_runs(runs)
    several = len(loaded) > 1
    sentences = [f"{run.label}: {line}" if several else line for run in loaded for line in run_findings(run)]
    return comparison_of_runs(loaded) + sentences + caveats(loaded)


def brief(runs: Sequence[Path | str | RunResults]) -> list[str]:
    """As `findings`; of several runs, what is said of the nearest to the reference alone stands for all."""
    loaded = load_runs(runs)
    best = max(loaded, key=lambda run: _joint(rows_of(run)).value)
    if len(loaded) == 1:
        return findings(loaded)
    return comparison_of_runs(loaded) + [f"{best.label}: {line}" for line in run_findings(best)] + caveats(loaded)


def headline(runs: Sequence[RunResults]) -> str:
    """Returns what opens the page: the best joint space against both readings of its parts."""
    best = max(runs, key=lambda run: _joint(rows_of(run)).value)
    whose = f"Highest of {len(runs)} runs is {best.label}. " if len(runs) > 1 else ""
    return whose + _against_parts(best, "mutual_knn", rows_of(best))


def run_findings(run: RunResults) -> list[str]:
    """Returns the sentences about one run, caveats aside."""
    rows = rows_of(run)
    sentences = [
        _against_parts(run, "mutual_knn", rows),
        _second_metric(rows),
        _null(rows),
        _untrained(rows),
        _mixing(rows),
        _over_training(run),
        *_retrieval(run),
    ]
    return [line for line in sentences if line]


def comparison_of_runs(runs: Sequence[RunResults]) -> list[str]:
    """Returns which run's joint space stands nearest to the reference, or nothing for one run or unequal tests."""
    if len(runs) < 2 or not same_test(runs):
        return []
    joints = sorted(((_joint(rows_of(run)), run.label) for run in runs), key=lambda pair: -pair[0].value)
    (first, best), (second, next_best) = joints[:2]
    verdict = "ahead of" if compare(first, second).verdict == "above" else "level with"
    return [
        f"Of {len(runs)} runs the joint space of {best} stands nearest to the reference ({first.value:.3f}), "
        f"{verdict} {next_best} ({second.value:.3f}); the last, {joints[-1][1]}, reaches {joints[-1][0].value:.3f}."
    ]


def caveats(runs: Sequence[RunResults]) -> list[str]:
    """Returns what limits the reading: size, kinship with the reference, intervals, controls, unequal tests."""
    sentences: dict[str, None] = {}
    for run in runs:
        sentences |= dict.fromkeys(_size(run) + _kinship(run) + _no_interval(run))
        if run.config.get("config", {}).get("shuffle_pairs"):
            sentences[f"Caveat: {run.label} is a control, its training pairs were shuffled across groups."] = None
    if len(runs) > 1 and not same_test(runs):
        sentences[
            "Caveat: the runs do not share test groups, features and k, so do not compare their scores with each other."
        ] = None
    return list(sentences)


def same_test(runs: Sequence[RunResults]) -> bool:
    """Returns whether all runs measured the same features on the same test groups with the same k."""
    return len({_test_identity(run) for run in runs}) == 1


def same_features(runs: Sequence[RunResults]) -> bool:
    """Returns whether all runs read the same three feature arrays."""
    return len({_features_identity(run) for run in runs}) == 1


def rows_of(run: RunResults) -> Rows:
    """Returns the alignment rows of one run by (group, space)."""
    return {(row.group, row.space): row for row in summary_table([run])}


def _against_parts(run: RunResults, metric: str, rows: Rows) -> str:
    joint = _joint(rows)
    clauses = [f"{_clause(metric, rows, group)}" for group in ("adapted", "raw")]
    n = f"{joint.n:,} test groups" if joint.n else "the test groups"
    chance = f", chance {joint.chance:.3f}" if joint.chance is not None else ""
    return (
        f"Against {run.names()['reference']} the joint space reaches {joint.value:.3f} (mutual-kNN, k = {joint.k}, "
        f"{n}{chance}): {clauses[0]}; {clauses[1]}."
    )


def _clause(metric: str, rows: Rows, group: str) -> str:
    mean, most = _parts(metric, rows, group)
    joint, x, y, average, best = _five(metric, rows, group)
    if mean.verdict == most.verdict:
        words = f"{mean.verdict} both the average ({mean.text(average.value)}) and the maximum"
    else:
        words = f"{mean.verdict} the average ({mean.text(average.value)}), {most.verdict} the maximum"
    return f"{words} ({most.text(best.value)}) of its {group} parts"


def _five(metric: str, rows: Rows, group: str) -> tuple[Reading, Reading, Reading, Reading, Reading]:
    cells = [rows["joint", "joint"], *(rows[group, space] for space in ("x", "y", "average", "maximum"))]
    joint, x, y, average, best = (getattr(cell, metric) for cell in cells)
    return joint, x, y, average, best


def _parts(metric: str, rows: Rows, group: str) -> tuple[Comparison, Comparison]:
    joint, x, y, average, best = _five(metric, rows, group)
    return compare(joint, average, x, y), compare(joint, best)


def _second_metric(rows: Rows) -> str:
    names = ("average of the adapted", "maximum of the adapted", "average of the raw", "maximum of the raw")
    both = [
        (name, knn.verdict, cka.verdict)
        for group, pair in (("adapted", names[:2]), ("raw", names[2:]))
        for name, knn, cka in zip(pair, _parts("mutual_knn", rows, group), _parts("cka", rows, group), strict=True)
    ]
    unlike = [f"{verdict} the {name}" for name, knn, verdict in both if verdict != knn]
    if not unlike:
        return "Linear CKA gives the same verdict in all four comparisons."
    return (
        f"Linear CKA differs from mutual-kNN in {len(unlike)} of 4 comparisons: it puts the joint {_and(unlike)} parts."
    )


def _null(rows: Rows) -> str:
    joint = _joint(rows)
    if joint.null_low is None or joint.null_high is None:
        return ""
    where = "above" if joint.value > joint.null_high else "below" if joint.value < joint.null_low else "inside"
    meaning = {
        "above": "the agreement is not an accident of pairing",
        "inside": "it is not told apart from shuffled pairing",
        "below": "it agrees less than shuffled pairing",
    }[where]
    return f"The joint score lies {where} its 95 % null range ({joint.null_low:.3f}–{joint.null_high:.3f}): {meaning}."


def _untrained(rows: Rows) -> str:
    if ("untrained", "joint") not in rows:
        return ""
    joint, before = _joint(rows), rows["untrained", "joint"].mutual_knn
    if before is None:
        return ""
    change = compare(joint, before)
    verb = {"above": "raised", "below": "lowered", "level with": "did not move"}[change.verdict]
    if verb == "did not move":
        return f"Training did not move the joint's alignment: {before.value:.3f} untrained, {joint.value:.3f} trained."
    return f"Training {verb} the joint's alignment from {before.value:.3f} (untrained) to {joint.value:.3f}."


def _mixing(rows: Rows) -> str:
    row = rows.get(("mixed", "x+y"))
    if row is None or row.mutual_knn is None:
        return ""
    joint, mixed = _joint(rows), row.mutual_knn
    verdict = compare(joint, mixed).verdict
    weight = f" (w = {row.w:.2f}, chosen on validation)" if row.w is not None else ""
    lesson = {
        "above": "training adds what mixing cannot",
        "below": "mixing, with no training, does better",
        "level with": "training adds nothing over mixing",
    }[verdict]
    return f"Mixing the raw kernels{weight} reaches {mixed.value:.3f}; the joint stands {verdict} it: {lesson}."


def _over_training(run: RunResults) -> str:
    scores = run.find(space="joint", metric="mutual_knn", split="validation", against="reference")
    curve = [score for score in scores if score.stage in ("untrained", "trained") and score.epoch is not None]
    if len(curve) < 2:
        return ""
    peak, last = max(curve, key=lambda score: score.value), max(curve, key=lambda score: score.epoch or 0)
    chosen = f"; the epoch kept is {run.selected_epoch}" if run.selected_epoch is not None else ""
    if peak.epoch == last.epoch:
        return f"On validation the joint's alignment still rises at the last epoch ({last.epoch}){chosen}."
    where = f"at epoch {peak.epoch}" if peak.epoch else "before training"
    if f"{peak.value:.3f}" == f"{last.value:.3f}":
        return (
            f"On validation the joint's alignment peaks {where} ({peak.value:.3f}) and holds to the last epoch{chosen}."
        )
    return (
        f"On validation the joint's alignment peaks {where} ({peak.value:.3f}) and stands at "
        f"{last.value:.3f} after epoch {last.epoch}{chosen}."
    )


def _retrieval(run: RunResults) -> list[str]:
    rows = {(row.stage, row.direction): row for row in retrieval_table([run]) if row.metric == "R@10"}
    return [_retrieved(row, rows.get(("untrained", key[1]))) for key, row in rows.items() if key[0] == "trained"]


def _retrieved(row: RetrievalRow, before: RetrievalRow | None) -> str:
    score = row.reading
    interval = f" [{score.ci_low:.3f}, {score.ci_high:.3f}]" if score.ci_low is not None and score.ci_high else ""
    sentences = f"Retrieval {row.label}: R@10 {score.value:.3f}{interval}"
    if score.chance is not None:
        sentences += f", {_beyond(score, score.chance)} chance ({score.chance:.3f})"
    if before is not None:
        link = " and" if score.chance is not None else ","
        sentences += f"{link} {_intervals(score, before.reading)} untrained adapters ({before.reading.value:.3f})"
    return sentences + "."


def _beyond(score: Reading, level: float) -> str:
    low, high = score.ci_low, score.ci_high
    if low is None or high is None:
        return "above" if score.value > level else "not above"
    return "above" if low > level else "below" if high < level else "not told apart from"


def _intervals(a: Reading, b: Reading) -> str:
    ends = (a.ci_low, a.ci_high, b.ci_low, b.ci_high)
    if any(end is None for end in ends):
        return "above" if a.value > b.value else "not above"
    low, high, other_low, other_high = (end for end in ends if end is not None)
    return "above" if low > other_high else "below" if high < other_low else "not told apart from"


def _size(run: RunResults) -> list[str]:
    joint = _joint(rows_of(run))
    if joint.n is None or joint.n >= _SMALL_TEST:
        return []
    chance = f" and chance is {joint.chance:.3f}" if joint.chance is not None else ""
    return [
        f"Caveat: the test split has only {joint.n:,} groups{chance}; mutual-kNN falls as the gallery grows, "
        "so compare with other studies at equal n and k only."
    ]


def _no_interval(run: RunResults) -> list[str]:
    if _joint(rows_of(run)).ci_low is not None:
        return []
    return [
        "Caveat: the alignment scores carry no sampling interval; above, below and level are judged by the null ranges "
        "alone, so repeat small differences with other seeds or more test groups before trusting them."
    ]


def _kinship(run: RunResults) -> list[str]:
    reference, names = run.side("reference").encoder, run.names()
    kin = [role for role in ("x", "y") if _family(run.side(role).encoder) == _family(reference)]
    return [
        f"Caveat: the reference {names['reference']} is of the same family as {names[role]}, which agrees with it by "
        "descent and leaves little headroom."
        for role in kin
    ]


def _family(encoder: str) -> str:
    # "resnet18" -> "resnet", "efficientnet-lite0" -> "efficientnet", "tf_efficientnet_b0" -> "efficientnet"
    words = [word for word in re.split(r"[^a-z]+", encoder.lower()) if len(word) > 2]
    return words[0] if words else encoder.lower()


def _joint(rows: Rows) -> Reading:
    score = rows["joint", "joint"].mutual_knn
    assert score is not None  # load_runs refuses a run without it
    return score


def _features_identity(run: RunResults) -> tuple[str, ...]:
    sides = [run.side(role) for role in ("x", "y", "reference")]
    return tuple(part for side in sides for part in (side.view, side.encoder, side.layer, side.digest, side.root))


def _test_identity(run: RunResults) -> tuple[object, ...]:
    joint = run.on_test("trained", "joint", "mutual_knn")
    size = (joint.n, joint.k) if isinstance(joint, Score) else ()
    return (
        *_features_identity(run),
        str(run.config.get("dataset")),
        str(run.config.get("split", {}).get("hashes", {}).get("test")),
        *size,
    )


def _and(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]


def _signed(value: float) -> str:
    return f"+{value:.3f}" if value >= 0 else f"−{-value:.3f}"
