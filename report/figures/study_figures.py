"""Figures of a study: the plots of each sweep, from its table of points, and the claims of the ledger as a forest."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, require_renderer

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.experiments.spec import Plot
    from featcache.studies.experiments.sweep import Sweep
    from featcache.studies.ledger.ledger import Entry

Rows = list[dict[str, Any]]
_LOG_FROM = 16.0  # a number whose largest value is so many times the smallest is drawn on a logarithmic scale,
_LOG_VALUES = 15  # if it has no more values than that
_VERDICTS = {"held": "#009E73", "failed": "#D55E00"}


def write_sweep_figures(sweep: "Sweep") -> list[str]:
    """Draws every plot of a sweep that has points, as PNG, SVG and CSV beside its tables; returns the PNGs' names.

    Raises:
        UsageError: If what draws is not installed.
    """
    require_renderer()
    figures = [
        figure
        for plot in sweep.source.experiment.plots
        if (figure := plot_figure(plot, sweep.tables.points.filter(plot=plot.name), sweep))
    ]
    for figure in figures:
        figure.write(sweep.folder, formats=("png", "svg"))
    return [f"{figure.name}.png" for figure in figures]


def plot_figure(plot: "Plot", points: "pl.DataFrame", sweep: "Sweep") -> Figure | None:
    """One plot of a sweep; None without points.

    Args:
        plot: The plot.
        points: Its rows of the table of points.
        sweep: For question and file names.
    """
    from featcache.report.figures import point_charts

    if points.is_empty():
        return None
    rows = _rows(points)
    series = dict.fromkeys(row["series"] for row in rows)
    colours = {one: theme.series(number)[0] for number, one in enumerate(series)}
    panels = [
        (panel, [row for row in rows if row["panel"] == panel]) for panel in dict.fromkeys(row["panel"] for row in rows)
    ]
    columns, score = min(3, len(panels)), _score(points)
    if all(row["x"] is not None for row in rows) and len({row["x"] for row in rows}) > 1:
        numbers = [row["x"] for row in rows]
        few = len(set(numbers)) <= _LOG_VALUES
        log = few and min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_FROM
        titles = (plot.x, score)
        spec = point_charts.lines(
            [(panel, sorted(own, key=lambda row: row["x"])) for panel, own in panels],
            columns=columns, colours=colours, titles=titles, log=log, key=plot.colour,
        )  # fmt: skip
    else:
        spec = point_charts.named_points(panels, columns=columns, colours=colours, title=score, key=plot.colour)
    words = "; ".join(dict.fromkeys(row["interval"] for row in rows if row["interval"])) or "no interval: one run"
    return Figure(
        _stem(plot.name),
        f"{sweep.source.name}: {plot.name}",
        f"{sweep.source.experiment.question} Means over seeds; intervals: {words}.",
        f"{plot.name} by {plot.x}",
        rows,
        spec,
    )


def _rows(points: "pl.DataFrame") -> Rows:
    rests = [json.loads(text) for text in points["rest"]]
    keys = dict.fromkeys(key for rest in rests for key in rest)
    axes = {name: [(str(text),) for text in points[name]] for name in ("x", "colour", "facet")}
    columns = {**axes, **{key: _values(rests, key) for key in keys}}
    varied: list[str] = []
    for key in keys:  # what follows from an axis, or from what panels say already, needs no panels of its own
        follows = any(_follows(columns[key], columns[other]) for other in (*axes, *varied))
        if len(set(columns[key])) > 1 and not follows:
            varied.append(key)
    rows: Rows = []
    for point, rest in zip(points.iter_rows(named=True), rests, strict=True):
        parts = [point["facet"], *(_said(key, rest[key]) for key in varied if key in rest)]
        rows.append(
            {
                "panel": " · ".join(part for part in parts if part),
                "label": point["x"],
                "x": point["x_number"] if point["x_number"] is None or math.isfinite(point["x_number"]) else None,
                "series": point["colour"] or "none",
                "value": point["y"],
                "ci_low": point["low"],
                "ci_high": point["high"],
                "runs": point["runs"],
                "interval": point["interval"],
            }
        )
    return rows


def _values(rests: Sequence[dict[str, Any]], key: str) -> list[tuple[str, ...]]:
    return [(json.dumps(rest.get(key)),) for rest in rests]


def _follows(values: Sequence[tuple[str, ...]], others: Sequence[tuple[str, ...]]) -> bool:
    """Whether values are a function of others, such as a batch size that goes with the data set."""
    return len(set(zip(values, others, strict=True))) == len(set(others))


def _score(points: "pl.DataFrame") -> str:
    """The metric, if all points are of one that no panel names."""
    metrics = {json.loads(text).get("metric") for text in points["rest"]}
    return f"{metrics.pop()}, mean" if len(metrics) == 1 and None not in metrics else "mean"


def _said(key: str, value: Any) -> str:
    if key == "control":
        return {"shuffled": "pairs shuffled", "labels": "trained on labels"}.get(str(value), str(value or ""))
    if key in ("dataset", "space", "metric", "direction", "adapter", "loss", "variant", "transfer"):
        return str(value)
    if key == "reference":
        return f"against {str(value).split('/')[1]}"
    return f"{key} {value}"


def write_ledger_figures(entries: "Sequence[Entry]", folder: Path) -> list[str]:
    """Draws the claims of each source as a forest plot, as PNG, SVG and CSV; returns the PNGs' names.

    Raises:
        UsageError: If what draws is not installed.
    """
    require_renderer()
    sources = dict.fromkeys(entry.source for entry in entries)
    figures = [ledger_figure([entry for entry in entries if entry.source == source], source) for source in sources]
    drawn = [figure for figure in figures if figure is not None]
    for figure in drawn:
        figure.write(folder, formats=("png", "svg"))
    return [f"{figure.name}.png" for figure in drawn]


def ledger_figure(entries: "Sequence[Entry]", source: str) -> Figure | None:
    """The forest plot of a source's claims: effects that are differences of scores; None without any.

    Trends and rank correlations have units of their own and are left to the table.

    Args:
        entries: Of one source.
        source: Its name.
    """
    from featcache.report.figures import point_charts

    shown = [entry for entry in entries if entry.effect is not None and entry.estimator in ("contrast", "difference")]
    if not shown:
        return None
    rows: Rows = [
        {
            "label": " · ".join(filter(None, (entry.claim, entry.dataset, *entry.reference.split("/")[1:2]))),
            "value": entry.effect,
            "ci_low": entry.low,
            "ci_high": entry.high,
            "verdict": entry.verdict,
            "metric": entry.metric,
            "_colour": _VERDICTS.get(entry.verdict, theme.MUTED),
        }
        for entry in shown
    ]
    return Figure(
        f"claims-{_stem(source)}",
        f"Claims: {source}",
        "Effect of each claim with its 95 % interval; a verdict is a test after Holm's correction within its source.",
        "Forest plot of the claims' effects around zero",
        rows,
        point_charts.effects(rows, title="effect (difference of scores)"),
    )


def _stem(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
