"""Conclusions in words: every "above", "below" and "cannot tell" is a verdict of the run's table of contrasts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.report.caveats import caveats
from featcache.report.leaks import clean_part
from featcache.report.runs import RunResults, load_runs, metric_title, mixture_text, number
from featcache.report.seeds import headline_run, is_range, pool_seeds, score_text
from featcache.report.tables import RetrievalRow, VerdictRow, contrast_table, epoch_curve, retrieval_table, score_facts

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row


def findings(runs: Sequence[Path | str | RunResults]) -> list[str]:
    """States what the runs show, in sentences computed from their numbers and verdicts.

    Runs that differ in their seed only are spoken of as one, by mean and range.

    Args:
        runs: Run folders or loaded runs.

    Returns:
        Sentences in reading order; each opens with the run's label where there are several runs. Caveats come last and
        open with "Caveat".

    Raises:
        RunMissing: If a folder is not there.
        RunDamaged: If a folder is not a whole run.
    """
    loaded = pool_seeds(load_runs(runs))
    several = len(loaded) > 1
    sentences = [f"{run.label}: {line}" if several else line for run in loaded for line in run_findings(run)]
    return selection(loaded) + sentences + caveats(loaded)


def brief(runs: Sequence[Path | str | RunResults]) -> list[str]:
    """As `findings`; of several runs, only the headline run is spoken of."""
    loaded = pool_seeds(load_runs(runs))
    if len(loaded) == 1:
        return findings(loaded)
    headline, _ = headline_run(loaded)
    return selection(loaded) + [f"{headline.label}: {line}" for line in run_findings(headline)] + caveats(loaded)


def selection(runs: Sequence[RunResults]) -> list[str]:
    """How the headline run was chosen among several, and which runs are seeds of one recipe."""
    sentences = [headline_run(runs)[1]]
    for run in runs:
        if run.seeds:
            numbers = ", ".join(str(one.settings.get("seed")) for one in run.seeds)
            whose = f"{run.label}: " if len(runs) > 1 else ""
            sentences.append(
                f"{whose}{len(run.seeds)} runs differ in their seed only ({numbers}): scores are their mean and their "
                "range, and no seed is picked."
            )
    return [line for line in sentences if line]


def run_findings(run: RunResults) -> list[str]:
    """The sentences about one run, caveats aside; the first opens the page."""
    control = "This run is a control: its training pairs were shuffled across groups. " if run.is_control else ""
    if run.reference:
        sentences = [
            control + reached(run),
            *(other_metric(run, metric) for metric in run.metrics[1:]),
            unrelated(run),
            training_effect(run),
            *other_contrasts(run),
            mixing(run),
            over_training(run),
        ]
    else:
        sentences = [control + between_sides(run)]
    return [line for line in (*sentences, *retrieval_sentences(run)) if line]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if not names:
        return ""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def reached(run: RunResults) -> str:
    """The joint's score, and its verdicts against all its parts, by the first metric."""
    metric, where = run.metrics[0], run.names()["reference"]
    joint = _joint(run, metric)
    verdicts = _clauses(_verdicts(run, "parts", metric))
    verdicts = f" Joint against {verdicts}." if verdicts else ""
    seeds = f", over {len(run.seeds)} seeds," if run.seeds else ""
    sides = f" of all {len(run.sides)} sides" if len(run.sides) > 2 else ""
    return (
        f"Against {where}{seeds} the joint space{sides} reaches {score_text(joint)} ({', '.join(score_facts(joint))})."
        f"{clean_part(run)}{verdicts}"
    )


def other_metric(run: RunResults, metric: str) -> str:
    """The verdicts against the parts by another metric: those that differ from the first metric's."""
    first = {row.contrast: row.verdict for row in _verdicts(run, "parts", run.metrics[0])}
    rows = _verdicts(run, "parts", metric)
    title = metric_title(metric)
    opening = f"By {title} the joint reaches {score_text(_joint(run, metric))}"
    if not rows:
        return f"{opening}."
    unlike = [row for row in rows if row.verdict != first.get(row.contrast)]
    if not unlike:
        return f"{opening}, with the same verdicts in all {len(rows)} contrasts with its parts."
    return (
        f"{opening}, with other verdicts in {len(unlike)} of {len(rows)} contrasts with its parts: joint against "
        f"{_clauses(unlike)}."
    )


def unrelated(run: RunResults) -> str:
    """Where the joint's score stands to what unrelated features score; "" where no null was measured."""
    joint = _joint(run, run.metrics[0])
    if joint.null_low is None or joint.null_high is None:
        return ""
    low, high = (joint.ci_low, joint.ci_high) if is_range(joint) else (joint.value, joint.value)
    assert low is not None and high is not None
    where = "above" if low > joint.null_high else "below" if high < joint.null_low else "within"
    seeds = ", for every seed" if is_range(joint) and where != "within" else ""
    return (
        f"The joint's score is {where} what unrelated features score (95 % of permutations: {joint.null_low:.3f} to "
        f"{joint.null_high:.3f}){seeds}."
    )


def training_effect(run: RunResults) -> str:
    """What training did to the spaces, against untrained adapters; "" where those were not measured."""
    metric = run.metrics[0]
    rows = _verdicts(run, "training", metric)
    before = run.on_test("untrained", "joint", metric)
    if not rows:
        return f"Untrained adapters give a joint of {score_text(before)}; side by side, no verdict." if before else ""
    draws = f", {before.note.partition(',')[0]}" if before and before.note else ""
    reached = f" (joint {number(before):.3f} untrained{draws})" if before else ""
    verdicts = "; ".join(f"{row.whole}: {row.text()}" for row in rows)
    how = "Training on shuffled pairs" if run.is_control else "Training"
    return f"{how}, trained against untrained{reached}: {verdicts}."


def other_contrasts(run: RunResults) -> list[str]:
    """The contrast with a control, and those of no topic."""
    metric, sentences = run.metrics[0], []
    for row in _verdicts(run, "pairing", metric):
        sentences.append(
            f"Pairing: the joint against the joint of a control trained on shuffled pairs: {row.text()}. This contrast "
            "alone says what true pairs add."
        )
        others = [_verdicts(run, "pairing", other) for other in run.metrics[1:]]
        sentences[-1] += "".join(f" By {metric_title(one.metric)}: {one.text()}." for rows in others for one in rows)
    sentences += [f"{row.contrast}: {row.text()}." for row in _verdicts(run, "other", metric)]
    return [line[0].upper() + line[1:] for line in sentences]


def mixing(run: RunResults) -> str:
    """What mixed raw kernels reach, and the joint's verdict against them; "" where none were."""
    metric = run.metrics[0]
    mixed = run.on_test("mixed", "mixed", metric)
    if mixed is None:
        return ""
    weights = mixture_text(mixed)
    chosen = f" ({weights}; chosen on validation)" if weights else ""
    verdicts = "; ".join(row.text() for row in _verdicts(run, "mixing", metric))
    verdicts = f"; joint against it: {verdicts}" if verdicts else "; side by side with the joint, no verdict"
    return f"Mixing the raw kernels{chosen} reaches {number(mixed):.3f}{verdicts}."


def over_training(run: RunResults) -> str:
    """Where the alignment peaked over the epochs; "" without epochs."""
    curve = epoch_curve(run, space="joint", metric=run.metrics[0], split="validation", against="reference")
    if len(curve) < 2 or run.solved:
        return ""
    peak, last = max(curve, key=number), curve[-1]
    chosen = f"; the epoch kept is {run.selected_epoch}" if run.selected_epoch is not None else ""
    what = "On validation the joint's alignment" + (", averaged over seeds," if run.seeds else "")
    if peak.epoch == last.epoch:
        return f"{what} is highest at the last epoch ({last.epoch}){chosen}."
    where = f"at epoch {peak.epoch}" if peak.epoch else "before training"
    return (
        f"{what} peaks {where} ({number(peak):.3f}) and stands at {number(last):.3f} after epoch {last.epoch}{chosen}."
    )


def between_sides(run: RunResults) -> str:
    """How the sides agree before and after training, without a reference."""
    metric = run.metrics[0]
    clauses: list[str] = []
    first = ""
    for a, b in run.pairs:
        raw, trained = (run.on_test(stage, a, metric, b) for stage in ("raw", "trained"))
        if trained is not None:
            first = first or ", ".join(score_facts(trained))
            before = f" (raw {score_text(raw)})" if raw else ""
            clauses.append(f"{run.space_name(a)} and {run.space_name(b)} agree at {score_text(trained)}{before}")
    return (
        f"No reference was named, so the sides are read against each other, side by side and without verdicts. After "
        f"training, {'; '.join(clauses)}: {first}."
    )


def retrieval_sentences(run: RunResults) -> list[str]:
    """R@10 of every direction, against chance and untrained adapters."""
    rows = {(row.stage, row.direction): row for row in retrieval_table([run]) if row.metric == "R@10"}
    return [
        _retrieved(run, row, rows.get(("untrained", direction)))
        for (stage, direction), row in rows.items()
        if stage == "trained"
    ]


def _retrieved(run: RunResults, row: RetrievalRow, before: RetrievalRow | None) -> str:
    score = row.score
    sentence = f"Retrieval {row.label}: R@10 {score_text(score)}"
    if score.chance is not None:
        sentence += f", {_against_chance(run, row)}"
    if before is not None:
        sentence += f"; untrained adapters {score_text(before.score)}"
    return sentence + "."


def _against_chance(run: RunResults, row: RetrievalRow) -> str:
    """Where the interval stands against chance; of a control nothing is said, for that would speak of pairing."""
    chance = f"chance {row.score.chance:.3f}"
    places: list[str] = []
    for one in run.each if not run.is_control else ():
        for score in one.find(stage=row.stage, direction=row.direction, metric=row.metric, split="test")[:1]:
            if score.ci_low is None or score.ci_high is None or score.chance is None:
                return chance
            low, high = score.ci_low > score.chance, score.ci_high < score.chance
            places.append("above" if low else "below" if high else "cannot tell from")
    if not places:
        return chance
    chance = f"chance ({row.score.chance:.3f})"
    if len(places) == 1:
        return f"{places[0]} {chance}"
    counts = [f"{place} {chance} in {places.count(place)} of {len(places)} seeds" for place in dict.fromkeys(places)]
    return ", ".join(counts)


def _verdicts(run: RunResults, topic: str, metric: str) -> list[VerdictRow]:
    return [row for row in contrast_table([run]) if (row.topic, row.metric) == (topic, metric)]


def _clauses(rows: Sequence[VerdictRow]) -> str:
    """As in "the average of raw parts: cannot tell (−.016 [−.043, +.010]); the best raw part: below (…)"."""
    return "; ".join(f"the {row.against}: {row.text()}" for row in rows)


def _joint(run: RunResults, metric: str) -> "Row":
    row = run.on_test("trained", "joint", metric)
    assert row is not None  # run.metrics are those that the joint has
    return row
