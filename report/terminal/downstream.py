"""Terminal output of downstream tasks: caveats, accuracies by space, and differences with their verdicts."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featcache.metrics.measure.row import ContrastRow, Row
    from featcache.studies.downstream.tables import TaskResult

JUDGED = re.compile(r"(probe|ridge|knn|shot\d+|zero_shot|head)_accuracy|head_agreement")
_TITLES = {
    "probe_accuracy": "logistic",
    "ridge_accuracy": "ridge",
    "knn_accuracy": "k-NN",
    "zero_shot_accuracy": "0-shot",
}
_MARKS = {"above": "▲", "below": "▼"}


def show_task(result: "TaskResult", *, as_json: bool, verbose: bool) -> None:
    """Shows what a task measured.

    Args:
        result: From `featcache.studies.downstream`.
        as_json: Print JSON.
        verbose: Print every metric, and every difference with its interval.
    """
    if as_json:
        head = {"dataset": result.dataset, "task": result.task, "groups": dict(result.counts)}
        head |= {"classes": result.classes, "baseline": result.baseline, "notes": list(result.notes)}
        scores, differences = ([asdict(row) for row in rows] for rows in (result.rows, result.contrasts))
        print_json({**head, "scores": scores, "differences": differences})
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in result.counts.items() if count)
    console().print(f"{result.dataset}: {result.task}; {result.classes:,} classes; groups: {counts}.")
    for note in result.notes:
        console().print(f"{note}.", style="bold" if note.startswith("Caveat") else None)
    _print_scores(result.rows if verbose else [row for row in result.rows if JUDGED.fullmatch(row.metric)])
    shown = [row for row in result.contrasts if JUDGED.fullmatch(row.metric)]
    if shown:
        console().print()
        _print_differences(shown, result.baseline, verbose=verbose)
        console().print()
    more = "" if verbose else "Balanced accuracy, each k, and differences with intervals: --verbose. "
    console().print(
        f"Intervals take each classifier as it was trained, over new test groups. {more}Chance, penalties and every "
        "difference: --out FILE.parquet, or --json."
    )
    if result.table is not None:
        console().print(f"Table: {result.table}")


def _print_scores(rows: "Sequence[Row]") -> None:
    """One line a space, one column a metric; spaces that are left out are among the notes."""
    scored = [row for row in rows if row.value is not None]
    metrics = list(dict.fromkeys(row.metric for row in scored))
    cells = {(row.space, row.metric): row for row in scored}
    lines = [
        (space, next((row.d for row in scored if row.space == space and row.d), "–"))
        + tuple(_score(cells.get((space, metric))) for metric in metrics)
        for space in dict.fromkeys(row.space for row in scored)
    ]
    print_table(("space", "d", *map(task_title, metrics)), lines, title="On test, with 95 % intervals")


def task_title(metric: str) -> str:
    """What a reader calls the metric of a task.

    Example:
        >>> task_title("probe_accuracy"), task_title("shot5_accuracy"), task_title("head_logits_r2")
        ('logistic', '5-shot', 'head logits r2')
    """
    shots = re.fullmatch(r"shot(\d+)_accuracy", metric.replace("zero_shot", "shot0"))
    if shots:
        return f"{shots[1]}-shot"
    return _TITLES.get(metric) or metric.replace("_", " ").replace("accuracy", "").strip()


def _print_differences(rows: "Sequence[ContrastRow]", baseline: str, *, verbose: bool) -> None:
    title = f"Minus {baseline}, on the same test groups (Holm within each metric)"
    if verbose:
        lines = [_difference(row) for row in rows]
        print_table(("space", "metric", "difference and verdict", "p"), lines, title=title)
        return
    metrics, cells = list(dict.fromkeys(row.metric for row in rows)), {(row.whole, row.metric): row for row in rows}
    lines = [
        (space, *(_marked(cells.get((space, metric))) for metric in metrics))
        for space in dict.fromkeys(row.whole for row in rows)
    ]
    print_table(("space", *map(task_title, metrics)), lines, title=title)
    console().print("▲ above, ▼ below; without a mark: cannot tell.")


def _marked(row: "ContrastRow | None") -> str:
    """A difference and the mark of its verdict."""
    from featcache.report.names import decimals

    if row is None or row.value is None:
        return "–"
    sign = "" if row.value < 0 else "+"
    return f"{sign}{decimals(row.value)} {_MARKS.get(row.verdict, ' ')}"


def _score(row: "Row | None") -> str:
    if row is None or row.value is None:
        return "–"
    from featcache.report.names import decimals

    if row.ci_low is None or row.ci_high is None or "balanced" in row.metric:
        return decimals(row.value)
    return f"{decimals(row.value)} [{decimals(row.ci_low)}, {decimals(row.ci_high)}]"


def _difference(row: "ContrastRow") -> tuple[str, ...]:
    from featcache.metrics.measure.row import p_text, verdict_text

    return (row.whole, row.metric, verdict_text(row), p_text(row.p_holm) or "–")
