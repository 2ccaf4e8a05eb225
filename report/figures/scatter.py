"""Scatter charts with a name at each dot: quality against cost, alignment against competence."""

import math
from collections.abc import Sequence
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.charts import spread_labels

Rows = list[dict[str, Any]]
_WIDTHS = {1: 440, 2: 300, 3: 230}
_HEIGHT, _GAP = 240, 12.0
_CLOSE = 0.22  # of the width: names of dots that stand closer than that are moved apart
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def scatter(
    panels: Sequence[tuple[str, Rows]], *, titles: Sequence[str], y_title: str, colours: dict[str, str], log: bool
) -> dict[str, Any]:
    """Draws one dot a row with its name beside it and its interval, panels side by side on one vertical scale.

    Args:
        panels: (title, rows) a panel. A row has x, value, label, series, _tip, and ci_low and ci_high or None.
        titles: Of the x axis of each panel.
        y_title: Of the y axis.
        colours: Series -> colour; each has a shape of its own, too.
        log: Whether x is on a logarithmic scale.

    Returns:
        A Vega-Lite specification.
    """
    values = [row[name] for _, rows in panels for row in rows for name in ("value", "ci_low", "ci_high")]
    values = [value for value in values if value is not None]
    room = 0.06 * (max(values) - min(values)) or 0.5
    ends = (min(values) - room, max(values) + room)
    columns = min(3, len(panels))
    charts = [
        _panel(title, rows, x, y_title if place % columns == 0 else "", ends, colours, log=log, width=_WIDTHS[columns])
        for place, ((title, rows), x) in enumerate(zip(panels, titles, strict=True))
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": theme.configuration(),
        "columns": columns,
        "concat": charts,
    }


def _panel(
    title: str, rows: Rows, x_title: str, y_title: str, ends: tuple[float, float], colours: dict[str, str],
    *, log: bool, width: int,
) -> dict[str, Any]:  # fmt: skip
    scale: dict[str, Any] = {"type": "log", "nice": False} if log else {"zero": False, "nice": False}
    places = [row["x"] for row in rows]
    low, high = min(places), max(places)
    # room at both ends, so that the names of the outermost dots stay inside
    scale["domain"] = [low / 1.5, high * 1.5] if log else [low - (room := 0.1 * (high - low) or 0.5), high + room]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": scale,
        "title": x_title,
        "axis": {"tickCount": 4, "format": "~s" if log else "~g"},
    }
    y_scale = {"domain": [*ends], "nice": False}
    y = {"field": "value", "type": "quantitative", "scale": y_scale, "title": y_title or None, "axis": {"tickCount": 5}}
    names = [*colours]
    domain = {"domain": names, "range": [*colours.values()]}
    shapes = {"domain": names, "range": [_SHAPES[place % len(_SHAPES)] for place in range(len(names))]}
    legend = None if len(names) < 2 else {"title": None, "symbolOpacity": 1}
    colour = {"field": "series", "type": "nominal", "scale": domain, "legend": legend}
    shape = {"field": "series", "type": "nominal", "scale": shapes, "legend": legend}
    label = {"field": "place", "type": "quantitative", "scale": y_scale}
    return {
        "title": title,
        "width": width,
        "height": _HEIGHT,
        "data": {"values": _placed(rows, log=log, span=ends[1] - ends[0])},
        "layer": [
            {
                "transform": [{"filter": "datum.ci_low != null"}],
                "mark": {"type": "rule", "aria": False, "opacity": 0.7},
                "encoding": {"x": x, "y": y | {"field": "ci_low"}, "y2": {"field": "ci_high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "description": {"field": "_tip"}},
            },
            *(
                {
                    "transform": [{"filter": f"{'' if left else '!'}datum.left"}],
                    "mark": {"type": "text", "align": "right" if left else "left", "dx": -8 if left else 8,
                             "fontSize": 10, "aria": False},
                    "encoding": {"x": x, "y": label, "text": {"field": "label"}},
                }
                for left in (False, True)
            ),
        ],
    }  # fmt: skip


def _placed(rows: Rows, *, log: bool, span: float) -> Rows:
    """The rows with the place of each name: left of dots in the right half, apart where names would touch."""
    at = [math.log(row["x"]) if log else row["x"] for row in rows]
    low, width = min(at), (max(at) - min(at)) or 1.0
    shares = [(place - low) / width for place in at]
    placed = [row | {"left": share > 0.5, "place": row["value"]} for row, share in zip(rows, shares, strict=True)]
    for left in (False, True):
        mine = [number for number, row in enumerate(placed) if row["left"] == left]
        order = sorted(mine, key=lambda number: shares[number])
        while order:
            group = [number for number in order if shares[number] - shares[order[0]] <= _CLOSE]
            order = [number for number in order if number not in group]
            moved = spread_labels([placed[number]["value"] for number in group], gap=span * _GAP / _HEIGHT)
            for number, place in zip(group, moved, strict=True):
                placed[number]["place"] = place
    return placed
