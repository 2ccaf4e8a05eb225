"""Charts of spaces and single groups: stages of training, the plane of spaces, small kernels, mixtures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from featcache.report.figures import theme

Rows = list[dict[str, Any]]
_SHAPES = ("circle", "triangle-up", "square", "diamond", "cross", "triangle-down")
_MARKS = ((("raw",), "square", 110), (("reference",), "diamond", 150), (("path", "kept"), "circle", 42))
_STAGE, _CELL = 236, 40
_CURVE = (300, 220)


def stages(
    panels: Sequence[tuple[str, Rows]], *, columns: int, colours: dict[str, str], sides: Sequence[str]
) -> dict[str, Any]:
    """Draws the points of all sides at each stage on one scale, coloured by label, a shape for each side.

    Args:
        panels: (title, rows) a panel. A row has px, py in [-1, 1], shown (a key of `colours`) and space.
        columns: Panels side by side.
        colours: What is shown -> colour, in legend order; "other" is drawn first, below the rest.
        sides: Names of the sides.

    Returns:
        A Vega-Lite specification.
    """
    frame = alt.Scale(domain=[-1.03, 1.03], nice=False)
    by_side = list(colours) == list(sides)
    legend = alt.Legend(title=None, columns=min(len(colours), 4), labelLimit=160, symbolType="square")
    # a side's colour and shape share a legend; beside labels the shapes have a grey one of their own
    grey: dict[str, Any] = {} if by_side else {"symbolFillColor": theme.MUTED, "symbolStrokeColor": theme.MUTED}
    shapes = alt.Legend(title=None, columns=len(sides), labelLimit=160, **grey)
    data: dict[str, Rows] = {}
    field = "space:N" if by_side else "shown:N"
    charts = []
    for title, rows in panels:
        ordered = sorted(rows, key=lambda row: row["shown"] != "other")
        chart = alt.Chart(_named(data, ordered)).mark_point(filled=True, size=20, opacity=0.75, aria=False)
        colour = alt.Color(field, legend=shapes if by_side else legend)
        colour = colour.scale(domain=list(colours), range=list(colours.values()))
        shape = alt.Shape("space:N", legend=shapes).scale(domain=list(sides), range=_shapes(len(sides)))
        x, y = (alt.X("px:Q", scale=frame, axis=None), alt.Y("py:Q", scale=frame, axis=None))
        chart = chart.encode(x=x, y=y, color=colour, shape=shape)
        view = alt.ViewBackground(stroke=theme.FAINT)
        charts.append(chart.properties(title=title, width=_STAGE, height=_STAGE, view=view))
    return _finished(data, alt.concat(*charts, columns=columns))


@dataclass(frozen=True)
class Frame:
    """The pixels of a plane, and which part of it they show."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]


def plane(rows: Rows, labels: Rows, bar: Rows, frame: Frame) -> dict[str, Any]:
    """Draws spaces as points of a plane, distances to scale, and the path of each over training as a line.

    Args:
        rows: A row has px, py, series (points of one are joined by their epochs), epoch or None, _colour, _mark
            ("raw", "reference", "path" or "kept"), _tip.
        labels: A row has px, py, text, _align ("left", "center" or "right" of the place), _text (its colour), _size.
        bar: Two rows px, py: a length of known agreement; the first with its text, or none.
        frame: Pixels and domains, one unit as long across as up.

    Returns:
        A Vega-Lite specification.
    """
    x = alt.X("px:Q", scale=alt.Scale(domain=[*frame.x], nice=False), axis=None)
    y = alt.Y("py:Q", scale=alt.Scale(domain=[*frame.y], nice=False), axis=None)
    data: dict[str, Rows] = {}
    colour = alt.Color("_colour:N", scale=None)
    paths = [row for row in rows if row["epoch"] is not None]
    layers = [
        alt.Chart(_named(data, bar)).mark_line(color=theme.MUTED, strokeWidth=2, aria=False).encode(x=x, y=y),
        alt.Chart(_named(data, bar[:1]))
        .mark_text(align="left", dy=-9, fontSize=10, color=theme.MUTED)
        .encode(x=x, y=y, text=alt.Text("text:N")),
        alt.Chart(_named(data, paths))
        .mark_line(strokeWidth=1.6, opacity=0.7, aria=False)
        .encode(x=x, y=y, color=colour, detail=alt.Detail("series:N"), order=alt.Order("epoch:Q")),
        alt.Chart(_named(data, [row for row in rows if row["_mark"] == "kept"]))
        .mark_point(filled=True, fill="white", size=150, strokeWidth=1.6, opacity=1, aria=False)
        .encode(x=x, y=y, stroke=alt.Stroke("_colour:N", scale=None)),
        *(
            alt.Chart(_named(data, [row for row in rows if row["_mark"] in marks]))
            .mark_point(filled=True, opacity=1, strokeWidth=0, shape=shape, size=size)
            .encode(x=x, y=y, color=colour, description=alt.Description("_tip:N"))
            for marks, shape, size in _MARKS
        ),
        *(
            alt.Chart(_named(data, [row for row in labels if row["_align"] == align]))
            .mark_text(align=align, baseline="middle", aria=False)
            .encode(
                x=x,
                y=y,
                text=alt.Text("text:N"),
                color=alt.Color("_text:N", scale=None),
                size=alt.Size("_size:Q", scale=None, legend=None),
            )
            for align in ("left", "center", "right")
        ),
    ]
    view = alt.ViewBackground(stroke=theme.FAINT)
    chart = alt.layer(*layers).properties(width=frame.width, height=frame.height, view=view)
    return _finished(data, alt.concat(chart, columns=1))


def cells(panels: Sequence[tuple[str, str, Rows]], *, columns: int, names: Sequence[str]) -> dict[str, Any]:
    """Draws small kernels with the value in every cell, each panel shaded between its own ends.

    Args:
        panels: (title, subtitle, rows) a panel. A row has row, col, shade in [0, 1], text.
        columns: Panels side by side; the first of each line has the names.
        names: Of the rows, from the first.

    Returns:
        A Vega-Lite specification.
    """
    data: dict[str, Rows] = {}
    charts = []
    for i, (title, subtitle, rows) in enumerate(panels):
        named = [row | {"name": names[row["row"]], "number": str(row["col"] + 1)} for row in rows]
        base = alt.Chart(_named(data, named))
        left = alt.Axis(title=None, labels=i % columns == 0, labelLimit=230, labelColor=theme.INK, domain=False)
        top = alt.Axis(title=None, labelAngle=0, orient="top", domain=False)
        y = alt.Y("name:N", sort=list(names), axis=left)
        x = alt.X("number:N", sort=[str(number + 1) for number in range(len(names))], axis=top)
        shade = alt.Color("shade:Q", legend=None, scale=alt.Scale(scheme=theme.SEQUENTIAL, domain=[0, 1]))
        ink = alt.condition("datum.shade > 0.5", alt.value(theme.INK), alt.value("white"))
        layers = [
            base.mark_rect(stroke="white", strokeWidth=1).encode(
                x=x, y=y, color=shade, description=alt.Description("text:N")
            ),
            base.mark_text(fontSize=11, aria=False).encode(x=x, y=y, text=alt.Text("text:N"), color=ink),
        ]
        side = _CELL * len(names)
        title_of = alt.TitleParams(text=title, subtitle=subtitle)
        charts.append(alt.layer(*layers).properties(title=title_of, width=side, height=side))
    return _finished(data, alt.concat(*charts, columns=columns).resolve_scale(color="independent"))


_LETTER, _OFF = 5.6, 13  # pixels: of a letter of the name of a curve, and between both


def mixtures(panels: Sequence[tuple[str, Rows, Rows]], *, columns: int, sides: tuple[str, str]) -> dict[str, Any]:
    """Draws the score of mixed kernels by the weight of one side, with other spaces as dashed constants.

    Args:
        panels: (title, points, constants) a panel. A point has weight, value, series, _chosen, _tip; a constant has
            series, value, place (of its label), _colour, _text.
        columns: Panels side by side.
        sides: The side whose weight it is, and the other.

    Returns:
        A Vega-Lite specification.
    """
    data: dict[str, Rows] = {}
    charts = []
    for title, points, constants in panels:
        values = [row["value"] for row in (*points, *constants)] + [row["place"] for row in constants]
        low, high = min(0.0, *values), max(0.0, *values)
        scale = alt.Scale(domain=[low, high + 0.06 * (high - low or 1.0)], nice=False)
        x = alt.X("weight:Q", scale=alt.Scale(domain=[0, 1], nice=False))
        x = x.axis(title=f"weight of {sides[0]} (the rest: {sides[1]})", tickCount=5)
        y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=title, tickCount=5))
        at = _free_place(points, [row["value"] for row in constants], (high + 0.06 * (high - low or 1.0) - low))
        chosen = [row for row in points if row["_chosen"]]
        curve, dashed, colour = _named(data, points), _named(data, constants), theme.COLOURS["mixed"]
        layers = [
            alt.Chart(_named(data, chosen)).mark_rule(color=theme.RULE, aria=False).encode(x=x),
            alt.Chart(dashed)
            .mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
            .encode(y=y, color=alt.Color("_colour:N", scale=None)),
            alt.Chart(curve).mark_line(strokeWidth=2.2, color=colour, aria=False).encode(x=x, y=y),
            alt.Chart(curve)
            .mark_circle(size=20, color=colour, opacity=1)
            .encode(x=x, y=y, description=alt.Description("_tip:N")),
            alt.Chart(_named(data, chosen))
            .mark_point(size=90, filled=True, fill=colour, stroke=theme.INK, strokeWidth=1.6, opacity=1, aria=False)
            .encode(x=x, y=y),
            alt.Chart(_named(data, [{"weight": at[0], "value": at[1], "series": points[0]["series"]}]))
            .mark_text(align="left", baseline="middle", color=theme.TEXT["mixed"], aria=False)
            .encode(x=x, y=y, text=alt.Text("series:N")),
            alt.Chart(dashed)
            .mark_text(align="left", dx=8, baseline="middle", aria=False)
            .encode(
                x=alt.XValue(_CURVE[0]),
                y=alt.Y("place:Q", scale=scale),
                text=alt.Text("series:N"),
                color=alt.Color("_text:N", scale=None),
            ),
        ]
        charts.append(alt.layer(*layers).properties(width=_CURVE[0], height=_CURVE[1]))
    return _finished(data, alt.concat(*charts, columns=columns))


def _free_place(points: Rows, constants: Sequence[float], span: float) -> tuple[float, float]:
    """Where the name of a curve begins, near one of its points and off it, as far as can be from every dashed line."""
    lines, best, most = [*constants], (points[0]["weight"], points[0]["value"]), -1.0
    wide, pixel = _LETTER * len(points[0]["series"]) / _CURVE[0], span / _CURVE[1]
    for row in points:
        if row["weight"] + wide > 1:
            continue
        near = [one["value"] for one in points if row["weight"] - 0.02 <= one["weight"] <= row["weight"] + wide]
        for value in (min(near) - _OFF * pixel, max(near) + _OFF * pixel):
            free = min((abs(value - line) for line in (*lines, *near)), default=0.0)
            if free > most + 1e-9:
                best, most = (row["weight"], value), free
    return best


def _shapes(count: int) -> list[str]:
    return [_SHAPES[number % len(_SHAPES)] for number in range(count)]


def _named(data: dict[str, Rows], rows: Rows) -> alt.NamedData:
    """Rows that go by name: altair would copy every value of inline data several times over."""
    name = f"rows {len(data)}"
    data[name] = rows
    return alt.NamedData(name)


def _finished(data: dict[str, Rows], chart: alt.ConcatChart) -> dict[str, Any]:
    return chart.to_dict(validate=False) | {"config": theme.configuration(), "datasets": data}
