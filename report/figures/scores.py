"""Figures of final scores: alignment as dots, retrieval as bars, on the test split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import charts, theme
from featcache.report.figures.figure import Figure, columns_for
from featcache.report.names import shorten
from featcache.report.runs import RECALLS, RunResults, metric_title, metrics_of, number
from featcache.report.seeds import score_text
from featcache.report.sentences import listed
from featcache.report.tables import (
    AlignmentRow,
    RetrievalRow,
    contrast_table,
    retrieval_table,
    summary_table,
)

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

_LONGEST_LABEL = 34
Rows = list[dict[str, Any]]


def final_alignment(runs: Sequence[RunResults]) -> Figure:
    """Draws every space's agreement with the reference on the test split, with interval, null range and chance.

    Runs without a reference show the agreement of their sides.
    """
    # a maximum repeats a dot that already stands, and what has no reference does not belong on its axis
    drawn = "against" if any(run.reference for run in runs) else "between"
    by_run = {run.label: run for run in runs}
    table = [row for row in summary_table(runs) if (row.group == "between") == (drawn == "between")]
    table = [row for row in table if row.space != "maximum"]
    labels = {(row.group, row.space): _label(row, by_run[row.run]) for row in table}
    several = len(runs) > 1
    panels = []
    for metric in metrics_of(runs):
        for run in runs:
            rows = [_dot(row, metric, labels, run) for row in table if row.run == run.label and metric in row.scores]
            if rows:
                title = metric_title(metric)
                panels.append((f"{run.label}, {title}" if several else title, rows))
    caption = _joints(runs) if drawn == "against" else ""
    sizes = {score.n for row in table for score in row.scores.values() if score.n}
    size = f", n = {sizes.pop():,} groups" if len(sizes) == 1 else ""
    seeds = "; of several seeds the dot is their mean and the line their range" if any(r.seeds for r in runs) else ""
    titles = " and ".join(metric_title(metric) for metric in metrics_of(runs))
    what, verdicts = "of the sides with each other", ""
    marks = "hollow: untrained; " if any("untrained" in row.space for row in table) else ""
    if drawn == "against":
        what, verdicts = "with the reference", ": read the verdicts"
        marks = "diamond: average of the sides; hollow: untrained; "
    return Figure(
        "final_alignment",
        f"Final agreement {what}",
        f"{caption}Test split{size}. Dot: score; {marks}thin line: 95 % interval, unadjusted{seeds}; grey band: 95 % "
        "of what unrelated features score; dark tick: chance. Two intervals that overlap, or do not, are no "
        f"test{verdicts}.",
        f"Dot plot of every space's {titles} {what}. {caption}",
        [row for _, rows in panels for row in rows],
        charts.dots(
            panels, columns=columns_for(len(runs), panels_of_one=2), order=list(dict.fromkeys(labels.values()))
        ),
    )


def final_retrieval(runs: Sequence[RunResults]) -> Figure | None:
    """Draws R@1, R@5 and R@10 on the test split with intervals, chance and untrained adapters; None without them."""
    panels, names = [], list(dict.fromkeys(name for run in runs for name in run.directions().values()))
    table = retrieval_table(runs)
    for run in runs:
        rows = [row for row in table if row.run == run.label and row.metric in RECALLS]
        untrained = {(row.direction, row.metric): number(row.score) for row in rows if row.stage == "untrained"}
        bars = [_bar(row, untrained.get((row.direction, row.metric))) for row in rows if row.stage == "trained"]
        if bars:
            panels.append((run.label if len(runs) > 1 else "", bars))
    if not panels:
        return None
    caption = f"R@10: {'; '.join(_recalls(title, rows) for title, rows in panels)}."
    n = {row.score.n for row in table if row.metric == "R@10" and row.score.n}
    size = f", {' and '.join(f'{count:,}' for count in sorted(n))} queries" if n else ""
    line = "95 % interval (of several seeds: their range)" if any(run.seeds for run in runs) else "95 % interval"
    return Figure(
        "final_retrieval",
        "Final retrieval",
        f"{caption} Test split{size}. Bar: trained adapters; line: {line}; dark tick: chance; hollow dot: "
        "untrained adapters.",
        f"Bars of R@1, R@5 and R@10 in every direction. {caption}",
        [row for _, rows in panels for row in rows],
        charts.bars(
            panels,
            columns=columns_for(len(runs)),
            colours={name: theme.series(i)[0] for i, name in enumerate(names)},
        ),
    )


def _label(row: AlignmentRow, run: RunResults) -> str:
    """One label for a row of all runs: sides by their names alone."""
    if row.group == "between":
        a, b, stage = row.space.split(", ")
        return f"{shorten(f'{a} and {b}', _LONGEST_LABEL)}, {stage}"
    side = row.space if row.space in run.sides else run.space_name(row.space)
    side = shorten(side, _LONGEST_LABEL)
    return {"joint": side, "mixed": "raw kernels mixed"}.get(row.group, f"{side}, {row.group}")


def _dot(row: AlignmentRow, metric: str, labels: dict[tuple[str, str], str], run: RunResults) -> dict[str, Any]:
    label, score = labels[row.group, row.space], row.scores[metric]
    stage = row.space.rpartition(", ")[2]
    name = {"raw": run.sides[0], "trained": "joint"}.get(stage, stage) if row.group == "between" else row.space
    colour, _ = theme.space(name, run.sides)
    return {
        "run": row.run,
        "metric": metric,
        "label": label,
        "group": row.group,
        "space": row.space,
        **_numbers(score),
        "null_low": score.null_low,
        "null_high": score.null_high,
        "note": score.note,
        "_colour": colour,
        "_fill": "white" if "untrained" in (row.group, stage) else colour,
        "_shape": "diamond" if row.derived else "circle",
        "_size": 34 if row.derived else 60,
        "_tip": f"{label}: {score_text(score)}",
    }


def _bar(row: RetrievalRow, untrained: float | None) -> dict[str, Any]:
    score = row.score
    return {
        "run": row.run,
        "direction": row.label,
        "metric": row.metric,
        **_numbers(score),
        "untrained": untrained,
        "_tip": f"{row.label}, {row.metric}: {score_text(score)}",
    }


def _numbers(score: "Row") -> dict[str, Any]:
    names = ("value", "chance", "ci_low", "ci_high", "interval", "n", "k")
    return {name: getattr(score, name) for name in names}


def _joints(runs: Sequence[RunResults]) -> str:
    """The joint space of each run, in the order given; of a single one the verdicts against its best parts."""
    metric = metrics_of(runs)[0]
    scores = [(run, run.on_test("trained", "joint", metric)) for run in runs]
    texts = [
        f"{run.label} {number(row):.3f}" if len(runs) > 1 else score_text(row) for run, row in scores if row is not None
    ]
    text = f"{metric_title(metric)} of the joint space with the reference: {', '.join(texts)}"
    best = [row for row in contrast_table(runs) if row.topic == "parts" and row.metric == metric]
    best = [row for row in best if row.rows[0].kind == "max"] if len(runs) == 1 else []
    text += "".join(f"; against the {row.against}: {row.text()}" for row in best)
    return f"{text[0].upper()}{text[1:]}. "


def _recalls(title: str, rows: Rows) -> str:
    tens = [f"{row['direction']} {row['value']:.3f}" for row in rows if row["metric"] == "R@10"]
    return f"{title} {listed(tens)}".strip()
