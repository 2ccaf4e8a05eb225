"""Charts of the emergence study: lines in styles of their own, coefficients by level, and heat maps over two depths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.charts import spread_labels

Rows = list[dict[str, Any]]
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_WIDTHS = {1: 420, 2: 330, 3: 220}
_HEIGHT, _GAP = 210, 13.0
_CELL = 19
_BOX, _ASIDE = "#c9cdd1", 0.24  # colour of boxes; how far beside them the coefficient over all maps stands


@dataclass(frozen=True)
class Style:
    """How a series is drawn.

    Args:
        colour: Of its line, points and name.
        dash: Of the line; empty for an unbroken one, None for points alone.
        shape: Of its points; "" for none.
        filled: Whether the points are.
        named: Whether its name stands at its last point; else in the legend of the caption alone.
    """

    colour: str
    dash: Sequence[int] | None = ()
    shape: str = "circle"
    filled: bool = True
    named: bool = True


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: Above it, in lines.
        rows: What is drawn.
        x: Title of the x axis.
        y: Title of the y axis; panels of equal title share its scale.
    """

    title: Sequence[str]
    rows: Rows
    x: str
    y: str


def styled_lines(panels: Sequence[Panel], *, columns: int, styles: Mapping[str, Style]) -> dict[str, Any]:
    """Draws series over a number, each in its style, with intervals, and names at the right that do not touch.

    Args:
        panels: A row has x, value, series, ci_low and ci_high or None, and _tip.
        columns: Panels side by side.
        styles: Series -> its style.

    Returns:
        A Vega-Lite specification.
    """
    ends = _ends(panels)
    charts = [_lines_panel(panel, ends[panel.y], styles, _WIDTHS[columns]) for panel in panels]
    return _whole(charts, columns)


def _lines_panel(panel: Panel, ends: tuple[float, float], styles: Mapping[str, Style], width: int) -> dict[str, Any]:
    rows = panel.rows
    places = sorted({row["x"] for row in rows})
    scale = {"domain": [places[0], places[-1]], "nice": False, "zero": False, "padding": 8}
    axis: dict[str, Any] = {"tickCount": 10, "format": "~f", "labelOverlap": True}
    axis |= {"values": places} if len(places) <= 12 else {}
    x = {"field": "x", "type": "quantitative", "scale": scale, "title": panel.x, "axis": axis}
    y_scale = {"domain": [*ends], "nice": False, "zero": False}
    y = {"field": "value", "type": "quantitative", "scale": y_scale, "title": panel.y, "axis": {"tickCount": 5}}
    layers: list[dict[str, Any]] = []
    for series in dict.fromkeys(row["series"] for row in rows):
        own = sorted((row for row in rows if row["series"] == series), key=lambda row: row["x"])
        layers += _series_layers(own, styles[series], x, y)
    names = _names(rows, styles, ends)
    text = {"type": "text", "align": "left", "dx": 9, "baseline": "middle", "aria": False}
    layers.append(
        {"data": {"values": names}, "mark": text,
         "encoding": {"x": x, "y": y | {"field": "place"}, "text": {"field": "series"},
                      "color": {"field": "_colour", "type": "nominal", "scale": None}}}
    )  # fmt: skip
    return {"title": _title(panel.title, width), "width": width, "height": _HEIGHT, "layer": layers}


def _series_layers(own: Rows, style: Style, x: dict[str, Any], y: dict[str, Any]) -> list[dict[str, Any]]:
    """Interval, line and points of one series."""
    colour = {"value": style.colour}
    spread = [row for row in own if row["ci_low"] is not None]
    layers: list[dict[str, Any]] = []
    if spread:
        layers.append(
            {"data": {"values": spread}, "mark": {"type": "rule", "opacity": 0.6, "aria": False},
             "encoding": {"x": x, "y": y | {"field": "ci_low"}, "y2": {"field": "ci_high"}, "color": colour}}
        )  # fmt: skip
    if style.dash is not None:
        mark = {"type": "line", "strokeWidth": 2, "strokeDash": [*style.dash], "aria": False}
        layers.append({"data": {"values": own}, "mark": mark, "encoding": {"x": x, "y": y, "color": colour}})
    if style.shape:
        point = {"type": "point", "shape": style.shape, "size": 44, "opacity": 1, "strokeWidth": 1.6}
        fill = {"value": style.colour if style.filled else "white"}
        layers.append(
            {"data": {"values": own}, "mark": point,
             "encoding": {"x": x, "y": y, "stroke": colour, "fill": fill, "description": {"field": "_tip"}}}
        )  # fmt: skip
    return layers


def _names(rows: Rows, styles: Mapping[str, Style], ends: tuple[float, float]) -> Rows:
    """The name of each series at its last point, moved apart where they would touch."""
    last = {row["series"]: row for row in sorted(rows, key=lambda row: row["x"]) if styles[row["series"]].named}
    places = spread_labels([row["value"] for row in last.values()], gap=(ends[1] - ends[0]) * _GAP / _HEIGHT)
    at = max((row["x"] for row in rows), default=0)
    return [
        {"x": at, "place": place, "series": row["series"], "_colour": styles[row["series"]].colour}
        for row, place in zip(last.values(), places, strict=True)
    ]


def coefficients(panels: Sequence[Panel], *, columns: int, ends: tuple[float, float]) -> dict[str, Any]:
    """Draws, at each level, a box over groups, the coefficient over all with its interval, and a published value.

    Args:
        panels: A row has x (the level), value, what ("group", "all" or "published"), ci_low and ci_high or None, _tip.
        columns: Panels side by side.
        ends: Of the y axis.

    Returns:
        A Vega-Lite specification.
    """
    return _whole([_coefficients_panel(panel, ends, _WIDTHS[columns]) for panel in panels], columns)


def _coefficients_panel(panel: Panel, ends: tuple[float, float], width: int) -> dict[str, Any]:
    levels = sorted({row["x"] for row in panel.rows})
    scale = {"domain": [levels[0] - 0.5, levels[-1] + 0.5], "nice": False, "zero": False}
    axis = {"values": levels, "format": "d"}
    x = {"field": "x", "type": "quantitative", "scale": scale, "title": panel.x, "axis": axis}
    y_scale = {"domain": [*ends], "nice": False, "clamp": True}
    y = {"field": "value", "type": "quantitative", "scale": y_scale, "title": panel.y, "axis": {"tickCount": 5}}
    groups = [row for row in panel.rows if row["what"] == "group"]
    every = [row | {"x": row["x"] + _ASIDE} for row in panel.rows if row["what"] == "all"]
    published = [row | {"x": row["x"] - _ASIDE} for row in panel.rows if row["what"] == "published"]
    joint, tip = theme.series(0)[0], {"description": {"field": "_tip"}}
    zero = {"data": {"values": [{"value": 0}]}, "mark": {"type": "rule", "color": theme.RULE, "aria": False},
            "encoding": {"y": y}}  # fmt: skip
    return {
        "title": _title(panel.title, width),
        "width": width,
        "height": _HEIGHT,
        "layer": [
            zero,
            *_boxes(groups, x, y),
            {"data": {"values": groups}, "mark": {"type": "circle", "size": 13, "color": theme.MUTED, "opacity": 0.8},
             "encoding": {"x": x, "y": y, **tip}},
            {"data": {"values": [row for row in every if row["ci_low"] is not None]},
             "mark": {"type": "rule", "strokeWidth": 2, "color": joint, "aria": False},
             "encoding": {"x": x, "y": y | {"field": "ci_low"}, "y2": {"field": "ci_high"}}},
            {"data": {"values": every},
             "mark": {"type": "point", "filled": True, "size": 46, "color": joint, "opacity": 1},
             "encoding": {"x": x, "y": y, **tip}},
            {"data": {"values": published},
             "mark": {"type": "point", "shape": "diamond", "size": 58, "fill": "white", "stroke": theme.series(1)[0],
                      "strokeWidth": 1.8, "opacity": 1},
             "encoding": {"x": x, "y": y, **tip}},
        ],
    }  # fmt: skip


def _boxes(groups: Rows, x: dict[str, Any], y: dict[str, Any]) -> list[dict[str, Any]]:
    """Quartiles and median of the groups of each level that has three or more."""
    import numpy as np

    boxes: Rows = []
    for level in sorted({row["x"] for row in groups}):
        values = [row["value"] for row in groups if row["x"] == level]
        if len(values) >= 3:
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
            boxes.append({"left": level - 0.16, "right": level + 0.16, "low": low, "middle": middle, "high": high})
    ends = {"x": x | {"field": "left"}, "x2": {"field": "right"}}
    return [
        {"data": {"values": boxes}, "mark": {"type": "rect", "color": _BOX, "opacity": 0.55, "aria": False},
         "encoding": {**ends, "y": y | {"field": "low"}, "y2": {"field": "high"}}},
        {"data": {"values": boxes}, "mark": {"type": "rule", "color": theme.INK, "strokeWidth": 1.4, "aria": False},
         "encoding": {**ends, "y": y | {"field": "middle"}}},
    ]  # fmt: skip


def depth_maps(
    panels: Sequence[Panel], *, columns: int, ends: Mapping[str, tuple[float, float]], legends: Mapping[str, str]
) -> dict[str, Any]:
    """Draws a cell for each pair of an encoder's depth (up) and a map's depth (across), coloured by a score.

    Args:
        panels: A row has x, depth, value and _tip; `y` of a panel is what it shows.
        columns: Panels side by side.
        ends: What a panel shows -> ends of its colour scale.
        legends: What a panel shows -> title of its legend.

    Returns:
        A Vega-Lite specification.
    """
    last = {panel.y: number for number, panel in enumerate(panels)}
    charts = [
        _map_panel(panel, ends[panel.y], legends[panel.y] if last[panel.y] == number else "", number % columns == 0)
        for number, panel in enumerate(panels)
    ]
    return _whole(charts, columns) | {"resolve": {"scale": {"color": "independent"}}, "spacing": 14}


def _map_panel(panel: Panel, ends: tuple[float, float], legend: str, first: bool) -> dict[str, Any]:
    across, up = (sorted({row[name] for row in panel.rows}) for name in ("x", "depth"))
    width, height = _CELL * len(across), _CELL * len(up)
    shown = {"title": legend.split("\n"), "format": ".2f", "gradientLength": height - 26, "orient": "right"}
    colour = {
        "field": "value", "type": "quantitative", "legend": shown if legend else None,
        "scale": {"scheme": theme.SEQUENTIAL, "domain": [*ends], "clamp": True},
    }  # fmt: skip
    x = {"field": "x", "type": "ordinal", "sort": across, "title": panel.x, "axis": {"labelAngle": 0, "grid": False}}
    title = "encoder's depth" if first else None
    y = {
        "field": "depth",
        "type": "ordinal",
        "sort": up[::-1],
        "title": title,
        "axis": {"grid": False, "labels": first},
    }
    return {
        "title": _title(panel.title, width),
        "width": width,
        "height": height,
        "data": {"values": panel.rows},
        "mark": {"type": "rect"},
        "encoding": {"x": x, "y": y, "color": colour, "description": {"field": "_tip"}},
    }


def _ends(panels: Sequence[Panel]) -> dict[str, tuple[float, float]]:
    """Ends of the y scale of each title, a little beyond everything that is drawn."""
    values: dict[str, list[float]] = {}
    for panel in panels:
        for row in panel.rows:
            known = [row[name] for name in ("value", "ci_low", "ci_high") if row[name] is not None]
            values.setdefault(panel.y, []).extend(known)
    rooms = {title: 0.05 * (max(own) - min(own)) or 0.5 for title, own in values.items()}
    return {title: (min(own) - rooms[title], max(own) + rooms[title]) for title, own in values.items()}


def _title(lines: Sequence[str], width: int) -> dict[str, Any]:
    return {"text": [*lines], "limit": width + 80}


def _whole(charts: list[dict[str, Any]], columns: int) -> dict[str, Any]:
    return {"$schema": _SCHEMA, "config": theme.configuration(), "columns": columns, "concat": charts}
