"""Figures of verdicts: the spaces with what the joint is compared with, and every contrast at a glance."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from featcache.report.answer import answer
from featcache.report.figures import theme, verdict_charts
from featcache.report.figures.figure import Figure
from featcache.report.names import short_names, shorten
from featcache.report.runs import RunResults, metric_title, metrics_of, number
from featcache.report.seeds import headline_run, score_text
from featcache.report.tables import AlignmentRow, VerdictRow, contrast_table, summary_table

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row

Rows = list[dict[str, Any]]
_LONGEST_LABEL = 34
_SHADES = {"above": "#dcefe8", "below": "#f7e3d6"}
_TEXTS = {"above": "#00593f", "below": "#8f3f00"}
_SIGNS = {"above": "▲", "below": "▼"}
_SHUFFLED = "joint, pairs shuffled"
_ORDER = ("joint", "raw", "adapted", "untrained", "mixed")


def hero(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the headline run's spaces on one axis, a bracket for each contrast of the joint; None without reference.

    Of more than two sides the joints of pairs are left to the figure of all scores.
    """
    run, _ = headline_run(runs)
    if not run.reference:
        return None
    metric = run.metrics[0]
    table = [row for row in summary_table([run]) if metric in row.scores and _is_shown(row)]
    table.sort(key=lambda row: _ORDER.index(row.group))
    rows = [_dot(row, metric, run) for row in table] + _shuffled(run, metric)
    contrasts = [
        {"label": label, "text": _bracket_text(row), "_colour": _TEXTS.get(row.unanimous, theme.MUTED)}
        | {"contrast": row.contrast, "verdict": row.verdict, "difference": row.difference, "interval": row.interval}
        for row in contrast_table([run])
        if row.metric == metric and row.whole == "joint" and (label := _compared_with(row, table, run))
    ]
    band = _band([row.scores[metric] for row in table])
    names = run.names()
    n, k = (next((getattr(row.scores[metric], what) for row in table), None) for what in ("n", "k"))
    size = f", {n:,} test groups" if n else ""
    title = f"{metric_title(metric)} with {names['reference']}" + (f", k = {k}" if k else "")
    chance = "; dark tick: chance" if any(row["chance"] is not None for row in rows) else ""
    null = "; grey band: 95 % of what unrelated features score" if band else ""
    mixed = "; mixed: the raw kernels weighted and added, no training" if any(r.group == "mixed" for r in table) else ""
    line = "range over seeds where a score has one, else 95 % interval" if run.seeds else "95 % interval"
    spread = "range over seeds" if run.seeds else "95 % interval"
    written = [{key: value for key, value in row.items()} | _written(row["label"], contrasts) for row in rows]
    return Figure(
        "answer",
        f"How close each space is to {names['reference']}",
        f"Further right is closer. Dot: score on the test split{size}; line: {line}; hollow: untrained or shuffled; "
        f"diamond: average{mixed}{null}{chance}. Brackets: what the joint space is compared with on the same "
        f"groups, difference and {spread}; the verdict is a test corrected for all contrasts.",
        f"{answer(run)}. Scores: " + "; ".join(f"{row['label']} {row['value']:.3f}" for row in rows) + ".",
        written,
        verdict_charts.brackets(rows, contrasts, band=band, title=title[0].upper() + title[1:]),
    )


def verdict_matrix(runs: Sequence[RunResults], most: int = 6) -> Figure | None:
    """Draws every contrast of every run and metric as above, below or cannot tell; None without contrasts.

    Args:
        runs: From `pool_seeds`.
        most: Runs shown: the headline run, then the others in their order.
    """
    first, _ = headline_run(runs)
    shown = [first, *(run for run in runs if run is not first)][:most]
    several = len(shown) > 1
    metrics = metrics_of(shown)
    table = [(run, row) for run in shown for row in contrast_table([run])]
    names = short_names((run.label for run in shown), 18)
    columns = [
        f"{names[run.label]}\n{metric_title(metric)}" if several else metric_title(metric)
        for run in shown
        for metric in metrics
    ]
    if not table or len(columns) > 12:
        columns = [*names.values()]
        table = [(run, row) for run, row in table if row.metric == metrics[0]]
    if not table:
        return None
    rows = [_cell(run, row, names[run.label] if several else "", columns) for run, row in table]
    counts = {what: sum(row["sign"] == sign for row in rows) for what, sign in _SIGNS.items()}
    rest = len(rows) - sum(counts.values())
    told = f"{counts['above']} above, {counts['below']} below, {rest} that cannot be told or differ between seeds"
    return Figure(
        "verdicts",
        "Every contrast at a glance",
        f"Of {len(rows)} contrasts: {told}. ▲ the first space is closer to the reference, ▼ farther, ○ cannot tell "
        "(after correction for all contrasts of a run and metric); the number is the difference.",
        f"Matrix of contrasts: {told}. "
        + "; ".join(f"{row['label']}, {row['column']}: {row['verdict']} {row['difference']}" for row in rows),
        rows,
        verdict_charts.matrix(rows, columns=list(dict.fromkeys(row["column"] for row in rows))),
    )


def _shuffled(run: RunResults, metric: str) -> Rows:
    """The joint of the control that a run was compared with, at its own score less their difference; or nothing."""
    joint = run.on_test("trained", "joint", metric)
    rows = [row for row in contrast_table([run]) if (row.metric, row.topic) == (metric, "pairing")]
    differences = [one.value for row in rows for one in row.rows if one.value is not None]
    if joint is None or len(differences) != len(run.each):
        return []
    value, colour = number(joint) - fmean(differences), theme.space("joint", run.sides)[0]
    blank = dict.fromkeys(("ci_low", "ci_high", "chance", "null_low", "null_high", "n", "k"))
    look = {"_colour": colour, "_fill": "white", "_shape": "circle", "_size": 80}
    return [
        {"label": _SHUFFLED, "metric": metric, "value": value, **blank, **look, "_tip": f"{_SHUFFLED}: {value:.3f}"}
    ]


def _is_shown(row: AlignmentRow) -> bool:
    if row.group not in _ORDER or row.space == "maximum" or row.space.startswith("joint:"):
        return False
    return row.group != "untrained" or row.space == "joint"


def _label(row: AlignmentRow) -> str:
    names = {"joint": "joint, trained", "mixed": "raw kernels mixed", "untrained": "joint, untrained"}
    if row.group in names:
        return names[row.group]
    space = "average of the parts" if row.space == "average" else shorten(row.space, _LONGEST_LABEL)
    return f"{space}, {row.group}"


def _dot(row: AlignmentRow, metric: str, run: RunResults) -> dict[str, Any]:
    score, label = row.scores[metric], _label(row)
    colour, _ = theme.space(row.space, run.sides)
    columns = {
        name: getattr(score, name) for name in ("ci_low", "ci_high", "chance", "null_low", "null_high", "n", "k")
    }
    return {
        "label": label,
        "metric": metric,
        "value": number(score),
        **columns,
        "_colour": colour,
        "_fill": "white" if row.group == "untrained" else colour,
        "_shape": "diamond" if row.derived else "circle",
        "_size": 46 if row.derived else 80,
        "_tip": f"{label}: {score_text(score)}",
    }


def _compared_with(row: VerdictRow, table: Sequence[AlignmentRow], run: RunResults) -> str:
    """The label of the space that a contrast of the joint is with; "" where it is not drawn."""
    group = row.rows[0].parts.split(" ")[0]
    if row.topic == "pairing":
        return _SHUFFLED
    space = {"untrained": "joint", "mixed": "mixed"}.get(group, "average")
    if row.rows[0].kind == "max":
        bindings = {one.binding.removeprefix(f"{group} ") for one in row.rows}
        space = bindings.pop() if len(bindings) == 1 else ""
    return next((_label(one) for one in table if (one.group, one.space) == (group, space)), "")


def _bracket_text(row: VerdictRow) -> str:
    verdict = row.unanimous or row.verdict
    sign = _SIGNS.get(verdict, "○")
    return f"{sign} {verdict}: {row.difference} {row.interval}"


def _written(label: str, contrasts: Rows) -> dict[str, Any]:
    own = next((row for row in contrasts if row["label"] == label), {})
    return {name: own.get(name, "") for name in ("contrast", "verdict", "difference", "interval")}


def _band(scores: "Sequence[Row]") -> tuple[float, float] | None:
    lows, highs = ([getattr(row, name) for row in scores if getattr(row, name) is not None]
                   for name in ("null_low", "null_high"))  # fmt: skip
    return (min(lows), max(highs)) if lows and highs else None


def _cell(run: RunResults, row: VerdictRow, name: str, columns: Sequence[str]) -> dict[str, Any]:
    verdict, title = row.unanimous, metric_title(row.metric)
    column = f"{name}\n{title}" if name else title
    column = column if column in columns else name
    return {
        "label": row.contrast,
        "column": column,
        "run": run.label,
        "metric": row.metric,
        "verdict": row.verdict,
        "difference": row.difference,
        "range": row.interval,
        "p": row.p,
        "sign": _SIGNS.get(verdict, "○"),
        "text": row.difference.removeprefix("mean "),
        "_colour": _TEXTS.get(verdict, theme.MUTED),
        "_shade": _SHADES.get(verdict, theme.FAINT),
        "_tip": f"{run.label}, {row.contrast}, {title}: {row.text()}",
    }
