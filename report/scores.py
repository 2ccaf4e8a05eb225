"""Figures of final scores: alignment as dots, retrieval as bars, on the test split."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from featcache.report import charts, theme
from featcache.report.figure import Figure, columns_for, shorten
from featcache.report.runs import ALIGNMENT, RECALLS, RunResults
from featcache.report.tables import AlignmentRow, RetrievalRow, retrieval_table, summary_table

# the maxima repeat a dot that already stands, and "pair" has no reference: neither belongs on this axis
_LEFT_OUT = ("maximum",)
Rows = list[dict[str, Any]]


def final_alignment(runs: Sequence[RunResults]) -> Figure:
    """Draws every space's agreement with the reference on the test split, with null range and chance."""
    table = [row for row in summary_table(runs) if row.group != "pair" and row.space not in _LEFT_OUT]
    labels = {(row.group, row.space): _label(row, runs) for row in table}
    several = len(runs) > 1
    panels = []
    for metric, name in ALIGNMENT.items():
        for run in runs:
            rows = [_dot(row, metric, labels) for row in table if row.run == run.label and getattr(row, metric)]
            panels.append((f"{run.label}, {name}" if several else name, rows))
    caption = " ".join(_order(run, table, labels) for run in runs) if not several else _ranking(runs, table)
    n = {row.mutual_knn.n for row in table if row.mutual_knn}
    size = f", n = {n.pop():,} groups" if len(n) == 1 else ""
    return Figure(
        "final_alignment",
        "Final agreement with the reference",
        f"{caption} Test split{size}. Dot: score; diamond: average of two sides; hollow: untrained; grey band: 95 % "
        "null range from shuffled pairs; dark tick: chance; thin line: interval, where the run has one.",
        f"Dot plot of every space's mutual-kNN and linear CKA with the reference. {caption}",
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
        untrained = {(row.direction, row.metric): row.reading.value for row in rows if row.stage == "untrained"}
        bars = [_bar(row, untrained.get((row.direction, row.metric))) for row in rows if row.stage == "trained"]
        if bars:
            panels.append((run.label if len(runs) > 1 else "", bars))
    if not panels:
        return None
    caption = f"R@10: {'; '.join(_recalls(title, rows) for title, rows in panels)}."
    n = {row.reading.n for row in table if row.metric == "R@10" and row.reading.n}
    size = f", {' and '.join(f'{count:,}' for count in sorted(n))} queries" if n else ""
    shades = [theme.COLOURS["x"], theme.COLOURS["y"], *theme.LABELS[1:3], *theme.LABELS[3:]]
    return Figure(
        "final_retrieval",
        "Final retrieval",
        f"{caption} Test split{size}. Bar: trained adapters; line: 95 % interval; dark tick: chance; hollow dot: "
        "untrained adapters.",
        f"Bars of R@1, R@5 and R@10 in both directions. {caption}",
        [row for _, rows in panels for row in rows],
        charts.bars(panels, columns=columns_for(len(runs)), colours=dict(zip(names, shades, strict=False))),
    )


def _label(row: AlignmentRow, runs: Sequence[RunResults]) -> str:
    """Returns one label for a row of all runs; a mixture's weight differs by run, so it is left to the table."""
    names = {role: shorten(name) for role, name in runs[0].names().items()}
    alike = all(run.names() == runs[0].names() for run in runs)
    side = names.get(row.space, row.space) if alike else row.space
    return {
        "joint": "joint",
        "mixed": "raw kernels mixed",
        "untrained": f"{side}, untrained",
    }.get(row.group, f"{side}, {row.group}")


def _dot(row: AlignmentRow, metric: str, labels: dict[tuple[str, str], str]) -> dict[str, Any]:
    label = labels[row.group, row.space]
    score = getattr(row, metric)
    colour = {"average": theme.MUTED, "x+y": theme.COLOURS["mixed"]}.get(row.space) or theme.COLOURS[row.space]
    return {
        "run": row.run,
        "metric": metric,
        "label": label,
        "group": row.group,
        "space": row.space,
        **asdict(score),
        "_colour": colour,
        "_hollow": row.group == "untrained",
        "_derived": row.space == "average",
        "_tip": f"{label}: {score.text()}",
    }


def _bar(row: RetrievalRow, untrained: float | None) -> dict[str, Any]:
    score = row.reading
    bounds = "" if score.ci_low is None or score.ci_high is None else f" [{score.ci_low:.3f}, {score.ci_high:.3f}]"
    return {
        "run": row.run,
        "direction": row.label,
        "metric": row.metric,
        "value": score.value,
        "ci_low": score.ci_low,
        "ci_high": score.ci_high,
        "chance": score.chance,
        "untrained": untrained,
        "n": score.n,
        "_tip": f"{row.label}, {row.metric}: {score.value:.3f}{bounds}",
    }


def _order(run: RunResults, table: list[AlignmentRow], labels: dict[tuple[str, str], str]) -> str:
    ranked = [
        (row.mutual_knn.value, labels[row.group, row.space]) for row in table if row.run == run.label and row.mutual_knn
    ]
    ranked = sorted([entry for entry in ranked if not entry[1].startswith("average")], reverse=True)
    place = 1 + [label for _, label in ranked].index("joint")
    return (
        f"The highest mutual-kNN is that of {ranked[0][1]} ({ranked[0][0]:.3f}); the joint space is number {place} "
        f"of {len(ranked)} ({ranked[place - 1][0]:.3f})."
    )


def _ranking(runs: Sequence[RunResults], table: list[AlignmentRow]) -> str:
    joints = [(row.mutual_knn.value, row.run) for row in table if row.group == "joint" and row.mutual_knn]
    joints.sort(reverse=True)
    return f"Mutual-kNN of the joint spaces: {', '.join(f'{run} {value:.3f}' for value, run in joints)}."


def _recalls(title: str, rows: Rows) -> str:
    tens = [f"{row['direction']} {row['value']:.3f}" for row in rows if row["metric"] == "R@10"]
    return f"{title} {' and '.join(tens)}".strip()
