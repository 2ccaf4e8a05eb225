"""Charts of many runs: ladders of scores, thin curves, and bars with two intervals."""

from collections.abc import Sequence
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.charts import spread_labels

Rows = list[dict[str, Any]]
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_LADDER, _LINE = 270, 16
_CURVES, _HEIGHT, _GAP = 300, 240, 13.0
_BARS, _BAR = 250, 30
_NULL, _CHANCE = "#e3e6e9", "#8f959b"
_SHAPES = {"raw": "square", "mixed": "square", "headline": "diamond", "control": "cross"}
_MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def ladders(panels: Sequence[dict[str, Any]], *, columns: int) -> dict[str, Any]:
    """Draws one line a recipe under those of the parts that all share, panels side by side.

    Args:
        panels: Each with title, subtitle, chance, null_low and null_high (or None), and lines: rows with label, what
            ("raw", "mixed", "joint", "headline" or "control"), value, low, high, _colour, _range, _dots and _tip.
        columns: Panels side by side; only the first of those with the same lines has their names.

    Returns:
        A Vega-Lite specification.
    """
    charts: list[dict[str, Any]] = []
    for place, panel in enumerate(panels):
        named = place % columns == 0 or [one["label"] for one in panel["lines"]] != [
            one["label"] for one in panels[place - 1]["lines"]
        ]
        charts.append(_ladder(panel, named))
    return {"$schema": _SCHEMA, "config": theme.configuration(), "columns": columns, "concat": charts}


def _ladder(panel: dict[str, Any], named: bool) -> dict[str, Any]:
    shared = [line for line in panel["lines"] if line["what"] in ("raw", "mixed")]
    # a gap of half a line between what is shared and the recipes
    lines = [
        _drawn(line) | {"line": number + (0 if number < len(shared) else 0.5)}
        for number, line in enumerate(panel["lines"])
    ]
    dots = [
        {"value": dot["value"], "line": at["line"], "_tip": dot["_tip"], "_colour": line["_colour"]}
        for line, at in zip(panel["lines"], lines, strict=True)
        for dot in line["_dots"]
    ]
    known = [line[name] for line in lines for name in ("value", "low", "high")] + [dot["value"] for dot in dots]
    known += [panel[name] for name in ("chance", "null_low", "null_high")]
    ends = [value for value in known if value is not None]
    room = 0.05 * (max(ends) - min(ends)) or 0.5
    scale = {"domain": [min(ends) - room, max(ends) + room], "nice": False, "zero": False}
    rows = len(lines) + 0.5
    y_scale = {"domain": [-0.8, rows - 0.2], "nice": False, "zero": False, "reverse": True}
    y = {"field": "line", "type": "quantitative", "scale": y_scale, "axis": None}
    x = {"field": "value", "type": "quantitative", "scale": scale, "title": None, "axis": {"tickCount": 5}}
    colour = {"field": "_colour", "type": "nominal", "scale": None}
    band = {"low": panel["null_low"], "high": panel["null_high"]}
    layers: list[dict[str, Any]] = []
    if band["low"] is not None:
        layers.append(
            {"data": {"values": [band]}, "mark": {"type": "rect", "color": _NULL, "aria": False},
             "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}}}
        )  # fmt: skip
    if panel["chance"] is not None:
        layers.append(_vertical([{"value": panel["chance"], "_colour": _CHANCE}], x, [4, 3], 1.0))
    layers.append(_vertical([line for line in lines if line["what"] == "raw"], x, [2, 2], 0.55))
    layers += [
        {"transform": [{"filter": "datum.low != null"}],
         "mark": {"type": "rule", "strokeWidth": 1.6, "aria": False},
         "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour}},
        {"data": {"values": dots},
         "mark": {"type": "point", "size": 16, "strokeWidth": 1, "opacity": 1, "fill": "white"},
         "encoding": {"x": x, "y": y, "stroke": colour, "description": {"field": "_tip"}}},
        {"mark": {"type": "point", "filled": True, "opacity": 1},
         "encoding": {"x": x, "y": y, "color": {"field": "_fill", "type": "nominal", "scale": None},
                      "shape": {"field": "_shape", "type": "nominal", "scale": None},
                      "size": {"field": "_size", "type": "quantitative", "scale": None},
                      "description": {"field": "_tip"}}},
        {"mark": {"type": "text", "align": "left", "fontSize": 10},
         "encoding": {"x": {"value": _LADDER + 8}, "y": y, "text": {"field": "value", "format": ".3f"}}},
    ]  # fmt: skip
    for bold in (False, True) if named else ():
        layers.append(
            {"transform": [{"filter": f"{'' if bold else '!'}datum._bold"}],
             "mark": {"type": "text", "align": "right", "fontSize": 11, "fontWeight": 700 if bold else 400},
             "encoding": {"x": {"value": -10}, "y": y, "text": {"field": "name"}}}
        )  # fmt: skip
    title: dict[str, Any] = {"text": panel["title"]} | ({"subtitle": panel["subtitle"]} if panel["subtitle"] else {})
    size = {"width": _LADDER, "height": round(_LINE * (rows + 0.6))}
    return {"title": title, **size, "data": {"values": lines}, "layer": layers}


def _drawn(line: dict[str, Any]) -> dict[str, Any]:
    headline = line["what"] == "headline"
    kept = {name: line[name] for name in ("value", "low", "high", "what", "_colour", "_tip")}
    return kept | {
        "name": f"headline: {line['label']}" if headline else line["label"],
        "_bold": headline,
        "_fill": theme.INK if headline else line["_colour"],
        "_shape": _SHAPES.get(line["what"], "circle"),
        "_size": 90 if headline else 46,
    }


def _vertical(rows: Rows, x: dict[str, Any], dash: list[int], opacity: float) -> dict[str, Any]:
    mark = {"type": "rule", "strokeDash": dash, "opacity": opacity, "aria": False}
    return {
        "data": {"values": [{"value": row["value"], "_colour": row["_colour"]} for row in rows]},
        "mark": mark,
        "encoding": {"x": x, "color": {"field": "_colour", "type": "nominal", "scale": None}},
    }


def curves(panels: Sequence[dict[str, Any]], *, colours: dict[str, str], key: str) -> dict[str, Any]:
    """Draws thin lines over epochs, all runs in one panel a metric; a shape at the end of each says its colour again.

    Args:
        panels: Each with title, rows (run, series, epoch, value, _headline, _tip) and constants (series, value, _text).
        colours: Series -> colour, in the order of the legend.
        key: Title of the legend.

    Returns:
        A Vega-Lite specification.
    """
    return {
        "$schema": _SCHEMA,
        "config": theme.configuration(),
        "columns": 3 if len(panels) == 3 else 2,
        "concat": [_curves_panel(panel, colours, key) for panel in panels],
    }


def _curves_panel(panel: dict[str, Any], colours: dict[str, str], key: str) -> dict[str, Any]:
    rows, constants = panel["rows"], panel["constants"]
    values = [row["value"] for row in (*rows, *constants)]
    room = 0.05 * (max(values) - min(values)) or 0.5
    ends = (min(values) - room, max(values) + room)
    last = max(row["epoch"] for row in rows)
    x_scale = {"domain": [0, max(last, 1)], "nice": False}
    axis = {"tickMinStep": 1, "tickCount": 5, "format": "d"}
    x = {"field": "epoch", "type": "quantitative", "scale": x_scale, "title": "epoch", "axis": axis}
    scale = {"domain": [*ends], "nice": False, "zero": False}
    y = {"field": "value", "type": "quantitative", "scale": scale, "title": None, "axis": {"tickCount": 5}}
    domain = {"domain": [*colours], "range": [*colours.values()]}
    shapes = {"domain": [*colours], "range": [_MARKS[place % len(_MARKS)] for place in range(len(colours))]}
    legend = {"title": key or None, "columns": 4, "symbolOpacity": 1} if len(colours) > 1 else None
    colour = {"field": "series", "type": "nominal", "scale": domain, "legend": legend}
    shape = {"field": "series", "type": "nominal", "scale": shapes, "legend": legend}
    at_end = list({row["run"]: row for row in sorted(rows, key=lambda row: row["epoch"])}.values())
    at_end = [{name: row[name] for name in ("run", "series", "epoch", "value", "_tip")} for row in at_end]
    places = spread_labels([row["value"] for row in constants], gap=(ends[1] - ends[0]) * _GAP / _HEIGHT)
    named = [row | {"epoch": last, "place": place} for row, place in zip(constants, places, strict=True)]
    text = {"field": "_text", "type": "nominal", "scale": None}
    layers: list[dict[str, Any]] = [
        {"data": {"values": constants}, "mark": {"type": "rule", "strokeDash": [5, 4], "aria": False},
         "encoding": {"y": y, "color": text}},
        *({"transform": [{"filter": f"{'' if headline else '!'}datum._headline"}],
           "mark": {"type": "line", "strokeWidth": 3 if headline else 1.1, "opacity": 1 if headline else 0.75},
           "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "run"}, "description": {"field": "_tip"}}}
          for headline in (False, True)),
        {"data": {"values": at_end}, "mark": {"type": "point", "filled": True, "size": 26, "opacity": 1},
         "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "description": {"field": "_tip"}}},
        {"data": {"values": named}, "mark": {"type": "text", "align": "left", "dx": 8, "aria": False},
         "encoding": {"x": x, "y": y | {"field": "place"}, "text": {"field": "series"}, "color": text}},
    ]  # fmt: skip
    return {
        "title": {"text": panel["title"]},
        "width": _CURVES,
        "height": _HEIGHT,
        "data": {"values": [{name: value for name, value in row.items() if name != "metric"} for row in rows]},
        "layer": layers,
    }


def bars(panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Draws one bar a name with two intervals: of the mean over seeds, thick, and of one seed over samples, thin.

    Args:
        panels: Each with title and bars: rows with label, value, seed_low, seed_high, sample_low, sample_high (or None)
            and _tip; the same names in every panel.

    Returns:
        A Vega-Lite specification.
    """
    return {
        "$schema": _SCHEMA,
        "config": theme.configuration(),
        "columns": len(panels),
        "concat": [_bars_panel(panel, place == 0) for place, panel in enumerate(panels)],
    }


def _bars_panel(panel: dict[str, Any], named: bool) -> dict[str, Any]:
    rows = panel["bars"]
    order = [row["label"] for row in rows]
    axis = {"labels": named, "labelColor": theme.INK, "labelLimit": 220, "grid": False}
    y = {"field": "label", "type": "nominal", "sort": order, "title": None, "axis": axis}
    x = {"type": "quantitative", "title": None, "axis": {"tickCount": 5}, "scale": {"nice": True}}
    layers = [
        {"mark": {"type": "bar", "opacity": 0.45, "height": 14},
         "encoding": {"x": x | {"field": "value"}, "y": y, "color": {"value": theme.COLOURS["joint"]},
                      "description": {"field": "_tip"}}},
        *({"transform": [{"filter": f"datum.{of}_low != null"}],
           "mark": {"type": "rule", "strokeWidth": width, "color": theme.INK, "aria": False, "strokeCap": "butt"},
           "encoding": {"x": x | {"field": f"{of}_low"}, "x2": {"field": f"{of}_high"}, "y": y}}
          for of, width in (("seed", 4), ("sample", 1.2))),
        {"transform": [{"calculate": "max(datum.value, datum.seed_high, datum.sample_high, 0)", "as": "end"}],
         "mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 10},
         "encoding": {"x": x | {"field": "end"}, "y": y, "text": {"field": "value", "format": ".3f"}}},
    ]  # fmt: skip
    return {
        "title": {"text": panel["title"]},
        "width": _BARS,
        "height": {"step": _BAR},
        "data": {"values": rows},
        "layer": layers,
    }
