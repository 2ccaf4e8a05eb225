"""The question that runs ask, and its answer in one line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.report.caveats import OLD_FORMAT
from featcache.report.names import decimals, span
from featcache.report.runs import RunResults, metric_title, number
from featcache.report.seeds import same_features
from featcache.report.sentences import listed
from featcache.report.tables import VerdictRow, raw_contrast, score_facts

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.studies.alignment.grid import LayerScore

_CORRECTED = "Cannot tell after correction"
# verdict -> how the whole answer opens, and shorter ones
_OPENINGS = {
    "above": ("Yes: the joint space is above its best raw part", "Yes: the joint is above its best raw part:"),
    "below": ("No: the joint space is below its best raw part", "No: the joint is below its best raw part:"),
    "cannot tell": (
        "Cannot tell the joint space from its best raw part",
        "Cannot tell the joint from its best raw part:",
    ),
    "cannot tell after correction": (
        f"{_CORRECTED} the joint space from its best raw part",
        f"{_CORRECTED}: joint − best raw part",
    ),
}


def question(runs: Sequence[RunResults]) -> str:
    """The question that runs ask."""
    names = runs[0].names()
    control = "Control with shuffled pairs: d" if all(run.is_control for run in runs) else "D"
    if not same_features(runs):
        return f"{control}o joint spaces come closer to their references? {len(runs)} runs compared"
    sides = listed([names[side] for side in runs[0].sides])
    if not runs[0].reference:
        return f"{control}o adapters bring {sides} together?"
    return f"{control}oes a joint space of {sides} come closer to {names['reference']}?"


def answer(run: RunResults) -> str:
    """The answer of a run in one sentence that names everything; see `answers`.

    Args:
        run: Of one seed, or of several pooled.
    """
    return answers(run)[0]


def answers(run: RunResults) -> list[str]:
    """The answer of a run in one line each: the whole, then shorter ones, the last of 80 columns at most.

    The verdict is that of the contrast of the joint space with its best raw part, by the run's first metric. Without a
    reference, the agreement of the sides before and after training; of a control, that it is one.
    """
    if run.is_control:
        return [
            "A control: its training pairs were shuffled across groups, so by itself it says nothing of pairing",
            "A control, its training pairs shuffled: by itself it says nothing of pairing",
        ]
    if not run.reference:
        return _agreement(run)
    row = raw_contrast(run, "max", run.metrics[0])
    if row is None:
        return _no_verdict(run)
    return _of_seeds(run, row) if run.seeds else _of_one(run, row)


def against_unrelated(row: "Row | LayerScore") -> str:
    """Where a score stands against the central 95 % of its null, in words; "" where there is no such range.

    Example:
        >>> from featcache.metrics.measure.row import Row
        >>> against_unrelated(Row("x", "y", "mutual_knn", 0.2, null_low=0.01, null_high=0.03))
        'above unrelated features'
    """
    if row.value is None or row.null_low is None or row.null_high is None:
        return ""
    label = row.null.partition(" within ")[2]
    what = f"pairs shuffled within equal {label}" if label else "unrelated features"
    if row.null_low <= row.value <= row.null_high:
        return f"within what {what} score"
    return f"{'above' if row.value > row.null_high else 'below'} {what}"


def _of_one(run: RunResults, row: VerdictRow) -> list[str]:
    whole, short = _OPENINGS[row.verdict]
    p = row.p if row.p.startswith(("<", "≤")) else f"= {row.p}"
    evidence = f"{row.difference} {row.interval}, p {p}" if row.difference != "–" else row.note
    named = f"{whole}{_part(run, row)}, in agreement with {run.names()['reference']}"
    texts = [f"{whole}: {evidence}", f"{short} {evidence}", f"{short} {row.difference}, p {p}"]
    return [f"{named}: {evidence} ({_facts(run)})", *(text.replace("p = ", "p ") for text in texts)]


def _of_seeds(run: RunResults, row: VerdictRow) -> list[str]:
    where = f"in agreement with {run.names()['reference']}"
    if row.unanimous:
        whole, short = _OPENINGS[row.unanimous]
        seeds = f"in {len(row.rows)} of {len(row.rows)} seeds"
        return [
            f"{whole}{_part(run, row)}, {where}, {seeds}: {row.difference}, {row.interval} ({_facts(run)})",
            f"{whole} {seeds}: {row.difference}",
            f"{short.removesuffix(':')} {seeds}: {row.difference}",
        ]
    return [
        f"The seeds differ: the joint space against its best raw part{_part(run, row)}, {where}, is "
        f"{row.verdict} seeds: {row.difference}, {row.interval} ({_facts(run)})",
        f"The seeds differ: joint − best raw part {row.verdict}",
        f"The seeds differ on joint − best raw part: {row.difference}",
    ]


def _no_verdict(run: RunResults) -> list[str]:
    joint = run.on_test("trained", "joint", run.metrics[0])
    assert joint is not None  # run.metrics are those that the joint has
    score = f"{decimals(number(joint))} {span(joint.ci_low, joint.ci_high)}".strip()
    why = OLD_FORMAT if run.format == 1 else "the run has no contrasts"
    return [
        f"No verdict ({why}): the joint space reaches {score} with {run.names()['reference']} ({_facts(run)})",
        f"No verdict, the run has no contrasts: joint {score} ({metric_title(joint.metric)})",
    ]


def _agreement(run: RunResults) -> list[str]:
    """As in "Agreement of images and captions: .241 before training, .252 [.210, .295] after"."""
    metric, pairs = run.metrics[0], []
    for a, b in run.pairs:
        raw, trained = (run.on_test(stage, a, metric, b) for stage in ("raw", "trained"))
        if trained is not None:
            pairs.append((a, b, raw, trained))
    texts = [
        f"{run.space_name(a)} and {run.space_name(b)} {_before(raw)}{decimals(number(trained))} "
        f"{span(trained.ci_low, trained.ci_high)}".strip()
        + " after"
        for a, b, raw, trained in pairs
    ]
    before = [number(raw) for _, _, raw, _ in pairs if raw is not None]
    after = [number(trained) for *_, trained in pairs]
    interval = span(pairs[0][3].ci_low, pairs[0][3].ci_high) if len(pairs) == 1 else ""
    short = f"{_between(before)} before training, " if before else ""
    whose = "The sides agree" if len(pairs) == 1 else f"The {len(pairs)} pairs of sides agree"
    return [
        f"Agreement of the sides, before and after training: {'; '.join(texts)} ({_facts(run)}; no verdict)",
        f"{whose}: {short}{_between(after)} {interval}".strip() + " after",
    ]


def _before(raw: "Row | None") -> str:
    return f"{decimals(number(raw))} before, " if raw is not None else ""


def _between(values: Sequence[float]) -> str:
    """One number, or the lowest and the highest."""
    ends = dict.fromkeys((decimals(min(values)), decimals(max(values))))
    return " to ".join(ends)


def _part(run: RunResults, row: VerdictRow) -> str:
    return f", {run.space_name(row.binding.removeprefix('raw '))}" if row.binding else ""


def _facts(run: RunResults) -> str:
    """As in "mutual-kNN, k = 10, 230 test groups, chance .044"."""
    row = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])[0]
    return ", ".join(score_facts(row, decimals))
