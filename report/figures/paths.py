"""Paths over epochs through retrieval and alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from featcache.report.figures import charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.runs import REFERENCE, RunResults, metric_title, number
from featcache.report.tables import epoch_curve

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class PathPoint:
    """One epoch on validation: mean R@10 of all directions, and the joint's alignment with the reference."""

    epoch: int
    retrieval: float
    alignment: float


def retrieval_path(run: RunResults) -> list[PathPoint]:
    """Retrieval and alignment of every epoch on validation; [] without a reference or epochs."""
    if not run.reference or run.solved:
        return []
    aligned = epoch_curve(run, metric=run.metrics[0], split="validation", space="joint", against=REFERENCE)
    recalls: dict[int, list[float]] = {}
    for direction in run.directions():
        for row in epoch_curve(run, metric="R@10", split="validation", direction=direction):
            recalls.setdefault(row.epoch or 0, []).append(number(row))
    return [
        PathPoint(row.epoch or 0, fmean(recalls[row.epoch or 0]), number(row))
        for row in aligned
        if (row.epoch or 0) in recalls
    ]


def alignment_against_retrieval(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the path of each run over its epochs: retrieval across, alignment with the reference up; None without."""
    rows: Rows = []
    for place, run in enumerate(runs):
        for point in retrieval_path(run):
            kept = point.epoch == run.selected_epoch
            words = f"{run.label}, epoch {point.epoch}: R@10 {point.retrieval:.3f}, alignment {point.alignment:.3f}"
            rows.append(
                {"run": run.label, "epoch": point.epoch, "retrieval": point.retrieval, "alignment": point.alignment}
                | {"kept": kept, "_colour": theme.series(place)[0], "_text": theme.series(place)[1], "_tip": words}
            )
    if not rows:
        return None
    metric = metric_title(runs[0].metrics[0])
    kept = " The ring marks the epoch kept." if any(row["kept"] for row in rows) else ""
    return Figure(
        "alignment_against_retrieval",
        "Does getting better at the task bring the joint closer to the reference?",
        "Each line is the path of the joint space over the epochs, on validation: to the right it answers more "
        f"queries, up it is closer to the reference. The path starts at the hollow dot, before training.{kept}",
        f"Paths of mean R@10 and {metric} over epochs. "
        + "; ".join(
            f"{run.label} from {path[0].retrieval:.3f}, {path[0].alignment:.3f} to {path[-1].retrieval:.3f}, "
            f"{path[-1].alignment:.3f}"
            for run in runs
            if (path := retrieval_path(run))
        ),
        rows,
        charts.paths(rows, titles=("mean R@10 of all directions, validation", f"{metric} with the reference")),
    )
