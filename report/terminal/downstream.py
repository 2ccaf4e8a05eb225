"""Terminal output of downstream tasks: caveats, accuracies by space, and differences with their verdicts."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featcache.metrics.measure.row import ContrastRow, Row
    from featcache.studies.downstream.tables import TaskResult

_JUDGED = ("probe_accuracy", "knn_accuracy", "zero_shot_accuracy", "head_agreement", "head_accuracy")


def show_task(result: "TaskResult", *, as_json: bool) -> None:
    """Shows what a task measured.

    Args:
        result: From `featcache.studies.downstream`.
        as_json: Print JSON.
    """
    if as_json:
        head = {"dataset": result.dataset, "task": result.task, "groups": dict(result.counts)}
        head |= {"classes": result.classes, "baseline": result.baseline, "notes": list(result.notes)}
        scores, differences = ([asdict(row) for row in rows] for rows in (result.rows, result.contrasts))
        print_json({**head, "scores": scores, "differences": differences})
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in result.counts.items())
    console().print(f"{result.dataset}: {result.task}; {result.classes:,} classes; groups: {counts}.")
    for note in result.notes:
        console().print(f"{note}.", style="bold" if note.startswith("Caveat") else None)
    _print_scores(result.rows)
    shown = [row for row in result.contrasts if row.metric in _JUDGED]
    if shown:
        console().print()
        title = f"Minus {result.baseline}, on the same test groups (Holm within each metric)"
        rows = [_difference(row) for row in shown]
        print_table(("space", "metric", "difference and verdict", "p"), rows, title=title)
        console().print()
    console().print(
        "Intervals take each classifier as it was trained, over new test groups. Chance, penalties and every "
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
    titles = [metric.replace("_", " ").replace("accuracy", "").strip() for metric in metrics]
    print_table(("space", "d", *titles), lines, title="On test, with 95 % intervals")


def _score(row: "Row | None") -> str:
    if row is None or row.value is None:
        return "–"
    value = f"{row.value:.3f}"
    return value if row.ci_low is None or "balanced" in row.metric else f"{value} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def _difference(row: "ContrastRow") -> tuple[str, ...]:
    from featcache.metrics.measure.row import p_text, verdict_text

    return (row.whole, row.metric, verdict_text(row), p_text(row.p_holm) or "–")
