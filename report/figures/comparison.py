"""The figure of run A against run B: paired differences by space and metric, with intervals and verdicts."""

from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure
from featcache.report.names import shorten
from featcache.report.runs import metric_title
from featcache.report.tables import signed

if TYPE_CHECKING:
    from featcache.metrics.measure.row import ContrastRow
    from featcache.studies.adapters.comparison import Comparison

_VERDICTS = {"above": ("#009E73", "triangle-up"), "below": ("#D55E00", "triangle-down")}
_UNKNOWN = (theme.MUTED, "circle")
_RECALL = "R@10"  # of the recalls, the one that is drawn; all stand in the table
_LONGEST = 34


def comparison_figure(comparison: "Comparison") -> Figure:
    """The forest of A − B on the test split: each space by each metric, and R@10 in every direction.

    Args:
        comparison: From `featcache.studies.adapters.comparison.compare_runs`.
    """
    from featcache.report.figures import point_charts

    drawn = [row for row in comparison.contrasts if row.split == "test" and row.value is not None]
    drawn = [row for row in drawn if not row.metric.startswith("R@") or row.metric == _RECALL]
    rows: list[dict[str, Any]] = []
    for metric in dict.fromkeys(row.metric for row in drawn):
        own = [row for row in drawn if row.metric == metric]
        rows += [_line(row, metric_title(metric) if place == 0 else "") for place, row in enumerate(own)]
    ends = [row[name] for row in rows for name in ("value", "ci_low", "ci_high") if row[name] is not None]
    told = "; ".join(f"{row['label']} by {row['metric']}: {row['verdict']}" for row in rows[:4])
    a, b = (shorten(name, _LONGEST) for name in (comparison.a, comparison.b))
    return Figure(
        "comparison",
        "A − B on the same test groups",
        f"Right of zero, A ({a}) is closer to {shorten(comparison.reference, _LONGEST)}, or retrieves more; left of "
        f"it, B ({b}). Line: 95 % interval over {comparison.groups:,} test groups, unadjusted; the word is the "
        "verdict, a paired test, corrected (Holm) within each metric: ▲ above, ▼ below, ● cannot tell.",
        f"Forest plot of the paired differences of A and B around zero. {told}",
        rows,
        point_charts.forest(rows, title="A − B", ends=(min(ends, default=0.0), max(ends, default=0.0))),
    )


def _line(row: "ContrastRow", head: str) -> dict[str, Any]:
    label = shorten(row.contrast.rpartition(": ")[0].replace("→", " → "), _LONGEST)
    colour, shape = _VERDICTS.get(row.verdict, _UNKNOWN)
    return {
        "metric": row.metric,
        "label": label,
        "value": row.value,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "p_holm": row.p_holm,
        "verdict": row.verdict,
        "n": row.n,
        "_head": head,
        "_colour": colour,
        "_shape": shape,
        "_tip": f"{label}, {metric_title(row.metric)}: {signed(row.value or 0.0)}, {row.verdict}",
    }
