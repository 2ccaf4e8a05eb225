"""Figures of a sweep: its plots, drawn from its table of points."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, require_renderer
from featcache.report.names import file_stem, finite, is_number, shorten
from featcache.report.runs import metric_title

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.experiments.spec import Plot
    from featcache.studies.experiments.sweep import Sweep
    from featcache.studies.experiments.written import SweepTables

Rows = list[dict[str, Any]]
_LOG_FROM = 16.0  # a number whose largest value is so many times the smallest is drawn on a logarithmic scale,
_LOG_VALUES = 15  # if it has no more values than that
_LONGEST, _LONGEST_TITLE = 30, 36


def write_sweep_figures(sweep: "Sweep") -> list[str]:
    """Draws every plot of a sweep that has points, as PNG, SVG and CSV beside its tables; returns the PNGs' names.

    Raises:
        UsageError: If what draws is not installed.
    """
    from featcache.studies.experiments.written import tables_of

    require_renderer()
    figures = sweep_figures(tables_of(sweep))
    for figure in figures:
        figure.write(sweep.folder, formats=("png", "svg"))
    return [f"{figure.name}.png" for figure in figures]


def sweep_figures(sweep: "SweepTables") -> list[Figure]:
    """Every plot of a sweep that has points, in the order of its file."""
    drawn = [plot_figure(plot, sweep) for plot in sweep.plots]
    return [figure for figure in drawn if figure is not None]


def plot_figure(plot: "Plot", sweep: "SweepTables") -> Figure | None:
    """One plot of a sweep; None without points.

    Panels of one metric share a scale, and have its chance where the rows know it.

    Args:
        plot: The plot.
        sweep: Its points, question and name.
    """
    from featcache.report.figures import point_charts

    rows = _rows(plot, sweep.tables.points.filter(plot=plot.name))
    if not rows:
        return None
    key = plot.colour.replace("_", " ")
    series = dict.fromkeys(row["series"] for row in rows)
    if len(series) > 1 and any(is_number(one) for one in series):  # a number says nothing without its name
        rows = [row | {"series": f"{key} {row['series']}"} for row in rows]
        series = dict.fromkeys(row["series"] for row in rows)
    colours = {one: theme.series(number)[0] for number, one in enumerate(series)}
    panels = _panels(rows)
    columns = point_charts.columns_of(len(panels))
    metrics = dict.fromkeys(row["metric"] for row in rows)
    score = f"{metric_title(next(iter(metrics)))}, mean" if len(metrics) == 1 and "" not in metrics else "mean"
    if all(row["x"] is not None for row in rows) and len({row["x"] for row in rows}) > 1:
        numbers = [float(row["x"] or 0.0) for row in rows]
        few = len(set(numbers)) <= _LOG_VALUES
        log = few and min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_FROM
        ordered = [(title, sorted(own, key=lambda row: row["x"])) for title, own in panels]
        titles = (plot.x.replace("_", " "), score)
        spec = point_charts.lines(ordered, columns=columns, colours=colours, titles=titles, log=log)
    else:
        spec = point_charts.named_points(panels, columns=columns, colours=colours, title=score, key=key)
    words = "; ".join(dict.fromkeys(row["interval"] for row in rows if row["interval"])) or "no interval: one run"
    chance = " Grey: chance." if any(row["chance"] is not None for row in rows) else ""
    return Figure(
        file_stem(plot.name, "figure"),
        f"{shorten(sweep.name, 60)}: {shorten(plot.name, 80)}",
        f"{sweep.question} Means over seeds; intervals: {words}.{chance} Panels of one metric share a scale.",
        f"{plot.name} by {plot.x}, {len(panels)} panels",
        rows,
        spec,
    )


def _panels(rows: Rows) -> list[tuple[list[str], Rows]]:
    """The rows of each panel under its title in lines, panels of one metric one after the other."""
    metrics = [*dict.fromkeys(row["metric"] for row in rows)]
    by_panel: dict[str, Rows] = {}
    for row in sorted(rows, key=lambda row: metrics.index(row["metric"])):
        by_panel.setdefault(row["panel"], []).append(row)
    return [(_wrapped(row[0]["panel"]), row) for row in by_panel.values()]


def _wrapped(title: str) -> list[str]:
    """A title of parts in lines of a few words each."""
    lines: list[str] = []
    for part in title.split(" · "):
        part = shorten(part, _LONGEST_TITLE)
        if lines and len(lines[-1]) + len(part) < _LONGEST_TITLE - 2:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def _rows(plot: "Plot", points: "pl.DataFrame") -> Rows:
    points = points.filter(points["y"].is_finite())
    rests = [json.loads(text) for text in points["rest"]]
    keys = dict.fromkeys(key for rest in rests for key in rest)
    axes = {name: [(str(text),) for text in points[name]] for name in ("x", "colour", "facet")}
    columns = {**axes, **{key: _values(rests, key) for key in keys}}
    varied: list[str] = []
    for key in keys:  # what follows from an axis, or from what panels say already, needs no panels of its own
        follows = any(_follows(columns[key], columns[other]) for other in (*axes, *varied))
        if len(set(columns[key])) > 1 and not follows:
            varied.append(key)
    labels = _short_labels(points["x"].to_list())
    rows: Rows = []
    for point, rest in zip(points.iter_rows(named=True), rests, strict=True):
        metric = str(_at(plot, point, rest, "metric") or "")
        facet = metric_title(metric) if plot.facet == "metric" else point["facet"]
        parts = [facet, *(_said(key, rest[key]) for key in varied if key in rest)]
        rows.append(
            {
                "panel": " · ".join(part for part in parts if part),
                "metric": metric,
                "label": labels[point["x"]],
                "x": finite(point["x_number"]),
                "series": shorten(point["colour"], _LONGEST) or "none",
                "value": point["y"],
                "ci_low": finite(point["low"]),
                "ci_high": finite(point["high"]),
                "chance": finite(point["chance"]),
                "runs": point["runs"],
                "interval": point["interval"],
            }
        )
    return rows


def _at(plot: "Plot", point: dict[str, Any], rest: dict[str, Any], column: str) -> Any:
    """The value of a column at a point: of the axis that it is on, else of what was kept apart."""
    axes = {plot.x: "x", plot.colour: "colour", plot.facet: "facet"}
    return point[axes[column]] if column in axes else rest.get(column)


def _short_labels(names: Sequence[str]) -> dict[str, str]:
    """Names cut in the middle, those that would be alike left whole."""
    short = {name: shorten(name, _LONGEST) for name in names}
    cut = [*short.values()]
    return {name: name if cut.count(text) > 1 else text for name, text in short.items()}


def _values(rests: Sequence[dict[str, Any]], key: str) -> list[tuple[str, ...]]:
    return [(json.dumps(rest.get(key)),) for rest in rests]


def _follows(values: Sequence[tuple[str, ...]], others: Sequence[tuple[str, ...]]) -> bool:
    """Whether values are a function of others, such as a batch size that goes with the data set."""
    return len(set(zip(values, others, strict=True))) == len(set(others))


def _said(key: str, value: Any) -> str:
    if key == "control":
        return {"shuffled": "pairs shuffled", "labels": "trained on labels"}.get(str(value), str(value or ""))
    if key == "metric":
        return metric_title(str(value))
    if key in ("dataset", "space", "direction", "adapter", "loss", "variant", "transfer"):
        return str(value)
    if key == "reference":
        return f"against {(str(value).split('/') + [str(value)])[1]}"
    return f"{key.replace('_', ' ')} {value}"
