"""The figure of quality against cost: scores over parameters, operations and time of the encoders."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import scatter, theme
from featcache.report.figures.figure import Figure
from featcache.report.names import shorten
from featcache.report.runs import metric_title

if TYPE_CHECKING:
    from featcache.studies.quality import Quality, QualityPoint

_AXES = {"parameters": "parameters", "flops": "FLOP a row", "forward_ms": "ms a row on {device}"}
_OF = {
    "reference": "{metric} of the joint space with the reference, by the reference's cost",
    "sides": "{metric} of the joint space with the reference, by the cost of all sides",
    "encoder": "{metric} of encoders, by their own cost",
}
_LONGEST = 28


def quality_figures(quality: "Quality") -> list[Figure]:
    """One figure for each score and kind of cost that has two encoders or more on a data set."""
    kinds = dict.fromkeys((point.of, point.metric) for point in quality.points)
    return [_figure([p for p in quality.points if (p.of, p.metric) == kind], quality.left_out) for kind in kinds]


def _figure(points: "Sequence[QualityPoint]", left_out: Sequence[str]) -> Figure:
    first = points[0]
    rows = [_row(point) for point in points]
    datasets = {one: theme.series(place)[0] for place, one in enumerate(dict.fromkeys(row["series"] for row in rows))}
    panels, titles = [], []
    for name, title in _AXES.items():
        shown = [row | {"x": row[name]} for row in rows if row[name] > 0]
        if shown:
            panels.append(("", shown))
            titles.append(title.format(device=shorten(first.device)))
    metric = metric_title(first.metric)
    title = _OF[first.of].format(metric=metric)
    best, least = (choose(points, key=lambda point: point.value) for choose in (max, min))
    told = (
        f"Highest: {_name(best)}, {best.value:.3f} with {best.parameters / 1e6:.1f} M parameters; lowest: "
        f"{_name(least)}, {least.value:.3f} with {least.parameters / 1e6:.1f} M."
    )
    intervals = "; ".join(dict.fromkeys(point.interval for point in points if point.interval))
    words = f" Rule: {intervals}." if intervals else ""
    lacking = [name for name in left_out if name.split(" ")[0] in {point.dataset for point in points}]
    without = (
        f" Without a cost, and left out: {', '.join(shorten(name, 40) for name in lacking[:6])}." if lacking else ""
    )
    return Figure(
        f"cost-{first.of}-{''.join(c if c.isalnum() else '-' for c in first.metric.lower())[:40]}",
        f"{title[0].upper()}{title[1:]}",
        f"{told} Logarithmic axes of cost; costs as featcache cost measured them.{words}{without}",
        f"Scatter of {metric} over parameters, operations and time of {len(points)} choices. {told}",
        rows,
        scatter.scatter(panels, titles=titles, y_title=metric, colours=datasets, log=True),
    )


def _row(point: "QualityPoint") -> dict[str, Any]:
    name = _name(point)
    return {
        "dataset": point.dataset,
        "of": point.of,
        "name": point.label,
        "label": name,
        "metric": point.metric,
        "value": point.value,
        "ci_low": point.low,
        "ci_high": point.high,
        "interval": point.interval,
        "parameters": point.parameters,
        "flops": point.flops,
        "forward_ms": point.forward_ms,
        "device": point.device,
        "series": shorten(point.dataset),
        "_tip": f"{name} on {shorten(point.dataset)}: {point.value:.3f}, {point.parameters / 1e6:.1f} M parameters, "
        f"{point.flops / 1e9:.2f} GFLOP, {point.forward_ms:.1f} ms",
    }


def _name(point: "QualityPoint") -> str:
    """Encoders without views and layers, which the data have whole."""
    if point.of == "sides":
        return shorten(" + ".join(str(one).split("/")[0] for one in json.loads(point.label).values()), _LONGEST)
    parts = point.label.split("/")
    return shorten(parts[1] if len(parts) > 2 else point.label, _LONGEST)
