"""Sweeps on the terminal: progress with the time that is left, what would be trained, and what came of it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, count, duration, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from featcache.studies.experiments.plan import Outcome, Training
    from featcache.studies.experiments.processes import OnDone
    from featcache.studies.experiments.spec import Source
    from featcache.studies.experiments.sweep import Planned, Sweep
    from featcache.studies.ledger.ledger import Entry

_METRICS = ("mutual_knn", "cka_debiased")
_CONTRASTS = ("joint − average of raw parts", "joint − best raw part")


@contextmanager
def sweep_progress(processes: int, names: Mapping[str, str]) -> "Iterator[OnDone]":
    """A line on stderr for each training that has ended, with the time that is left; yields what it is passed to.

    Args:
        processes: Trainings at a time.
        names: Run folder -> name of its experiment, of several; empty for one.

    The time that is left follows from the trainings that were computed, not from those that were there.
    """
    started, computed = time.monotonic(), 0

    def on_done(training: "Training", outcome: "Outcome", ended: int, total: int) -> None:
        nonlocal computed
        computed += outcome.computed
        each = (time.monotonic() - started) / computed if computed else 0.0
        left = f", {duration(each * (total - ended))} left" if computed and ended < total else ""
        state = "failed" if outcome.error or outcome.lacking else "done" if outcome.computed else "was there"
        name = f"{names[training.folder]}: " if training.folder in names else ""
        console(stderr=True).print(f"[{ended}/{total}] {name}{training.title}: {state}{left}")

    console(stderr=True).print(f"{count(max(processes, 1), 'training')} at a time")
    yield on_done


def show_plan(planned: "Planned") -> None:
    """What a sweep would train, and what is there."""
    source, trainings, there = planned.source, planned.trainings, planned.there
    console().print(f"{source.name} ({source.profile}): {source.experiment.question}")
    rows = [
        (training.title, "there" if there[training.folder] else "to train", training.folder) for training in trainings
    ]
    print_table(("training", "state", "run folder"), rows)
    missing = sum(not one for one in there.values())
    panels = {len(training.panel) for training in trainings}
    whose = "each" if len(panels) == 1 else "those that do not read the reference"
    further = max(panels, default=0)
    extra = f", {whose} measured against {count(further, 'further reference')}" if further else ""
    console().print(f"{count(missing, 'training')} to do of {len(there)}{extra}")


def show_skipped(source: "Source", commands: Sequence[str], *, some: bool) -> None:
    """One line: that an experiment, or some of it, is left out, and what makes its features."""
    run = " && ".join(commands)
    what = "skipped in part: some of its features" if some else "skipped: its features"
    console().print(f"{source.name} ({source.profile}): {what} are not cached. Run: {run}")


def show_sweep(sweep: "Sweep") -> None:
    """The joint space's scores, mean over seeds, the best first marked; then failures on stderr."""
    console().print(f"{sweep.source.name} ({sweep.source.profile}): {sweep.source.experiment.question}")
    for metric in _METRICS:
        _show_metric(sweep, metric)
    _show_contrasts(sweep)
    there = sum(outcome.panel is not None for outcome in sweep.outcomes.values())
    computed = sum(outcome.computed and not outcome.error for outcome in sweep.outcomes.values())
    console().print(
        f"\n{count(there, 'run')}, {computed} of them computed now; tables: {sweep.folder}/rows.parquet, "
        "contrasts.parquet, points.parquet"
    )
    show_failures(sweep)


def show_figures(folder: "Path", names: Sequence[str]) -> None:
    """Where figures were written."""
    console().print(f"Figures in {folder}: {', '.join(names) or 'none'}")


def show_failures(sweep: "Sweep") -> None:
    """Names, on stderr, the trainings that failed, with their errors."""
    if not sweep.failures:
        return
    to = console(stderr=True)
    to.print(f"{count(len(sweep.failures), 'training')} of {len(sweep.trainings)} failed; the tables lack them:")
    for error in dict.fromkeys(sweep.failures.values()):
        titles = [title for title, own in sweep.failures.items() if own == error]
        to.print(f"  {'; '.join(titles)}:\n    " + error.replace("\n", "\n    "))


def _show_contrasts(sweep: "Sweep") -> None:
    """The joint space against its raw parts, with each run's own verdicts."""
    from featcache.studies.experiments.summary import joint_contrasts

    contrasts = joint_contrasts(sweep.source, sweep.tables.contrasts, _METRICS[0], _CONTRASTS)
    if not contrasts:
        return
    rows = [
        (one.label or "base", one.reference)
        + tuple("{:+.3f} {}".format(*one.values[name]) if name in one.values else "–" for name in _CONTRASTS)
        for one in contrasts
    ]
    title = f"\nJoint space minus its raw parts on test, {_METRICS[0]} (mean over seeds; verdicts of single runs)"
    print_table(("varied", "reference", "− average", "− best"), rows, title=title)


def _show_metric(sweep: "Sweep", metric: str) -> None:
    from featcache.studies.experiments.summary import joint_scores

    scores = joint_scores(sweep.source, sweep.tables.rows, metric)
    if not scores:
        return
    best = {reference: max(one.mean for one in scores if one.reference == reference) for reference in
            dict.fromkeys(one.reference for one in scores)}  # fmt: skip
    rows = [
        (
            ("* " if score.mean == best[score.reference] else "") + (score.label or "base"),
            score.reference,
            f"{score.mean:.3f}",
            f"[{score.low:.3f}, {score.high:.3f}]" if score.low is not None and score.high is not None else "–",
            score.runs,
        )
        for score in scores
    ]
    print_table(
        ("varied", "reference", "mean", "95 %", "seeds"), rows, title=f"\nJoint space on test, {metric} (* the best)"
    )
    for words in dict.fromkeys(score.interval for score in scores if score.interval):
        console().print(f"(interval: {words})")


def show_ledger(entries: "Sequence[Entry]", files: "Sequence[Path]") -> None:
    """Every claim with its effect and verdict, and where the ledger was written."""
    from featcache.metrics.measure.row import p_text

    rows = []
    for entry in entries:
        effect = "–" if entry.effect is None else f"{entry.effect:+.3f}"
        interval = "–" if entry.low is None or entry.high is None else f"[{entry.low:+.3f}, {entry.high:+.3f}]"
        p = p_text(entry.p_holm) or "–"
        rows.append(
            (entry.claim, entry.dataset, entry.reference, entry.metric, effect, interval, entry.n, p, entry.verdict)
        )
    print_table(("claim", "data set", "reference", "metric", "effect", "95 %", "n", "p (Holm)", "verdict"), rows)
    notes = [(entry.claim, entry.note) for entry in entries if entry.note]
    if notes:
        print_table(("claim", "note"), [*dict.fromkeys(notes)], title="\nNotes")
    console().print(f"\nThe ledger: {', '.join(str(file) for file in files)}")
