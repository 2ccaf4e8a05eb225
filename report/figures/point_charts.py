"""Charts of means with intervals: over a number, by name, and effects around zero."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from featcache.report.figures import theme

Rows = list[dict[str, Any]]
_WIDTHS = {1: 420, 2: 300, 3: 210}
_HEIGHT, _ROW = 180, 20
_FOREST = 420
_CLOSE = 25  # values of x from which on points would touch
_BETWEEN, _SERIES = 5, 9  # pixels between labels, and of each series of one label


def lines(
    panels: Sequence[tuple[str, Rows]],
    *,
    columns: int,
    colours: dict[str, str],
    titles: tuple[str, str],
    log: bool,
    key: str,
) -> dict[str, Any]:
    """Draws means over a number, a line for each series, with intervals: rules, or a band where points stand close.

    Args:
        panels: (title, rows) a panel. A row has x, value, series, and ci_low, ci_high or None.
        columns: Panels side by side.
        colours: Series -> colour, in the order of the legend.
        titles: Of both axes.
        log: Whether x is on a logarithmic scale.
        key: Title of the legend.

    Returns:
        A Vega-Lite specification.
    """
    charts = []
    x_scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(nice=False, zero=False)
    for i, (title, rows) in enumerate(panels):
        ticks = sorted({row["x"] for row in rows})
        close = len(ticks) > _CLOSE
        shown: dict[str, Any] = {} if close else {"values": ticks}
        axis = alt.Axis(title=titles[0], labelExpr="format(datum.value, '~g')", labelOverlap=True, **shown)
        x = alt.X("x:Q", scale=x_scale, axis=axis)
        y_title = titles[1] if i % columns == 0 else ""
        y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(title=y_title, tickCount=5))
        base, colour = alt.Chart(alt.Data(values=rows)), _colour(colours, key)
        spread = base.transform_filter("datum.ci_low != null")
        interval = spread.mark_area(opacity=0.2, aria=False) if close else spread.mark_rule(opacity=0.7, aria=False)
        layers = [
            interval.encode(x=x, y=alt.Y("ci_low:Q"), y2="ci_high:Q", color=colour),
            base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, detail="series:N"),
        ]
        if not close:
            points = base.mark_point(size=34, filled=True, opacity=1)
            layers.append(points.encode(x=x, y=y, color=colour, shape=_shape(colours)))
        charts.append(alt.layer(*layers).properties(title=title, width=_WIDTHS[columns], height=_HEIGHT))
    return _finished(alt.concat(*charts, columns=columns))


def named_points(
    panels: Sequence[tuple[str, Rows]], *, columns: int, colours: dict[str, str], title: str, key: str
) -> dict[str, Any]:
    """Draws means by name from top to bottom, the series of a name one below the other, with intervals.

    Args:
        panels: (title, rows) a panel. A row has label, value, series, and ci_low, ci_high or None.
        columns: Panels side by side; the first of each row has the labels, if those of all panels are the same.
        colours: Series -> colour, in the order of the legend.
        title: Of the axis.
        key: Title of the legend.

    Returns:
        A Vega-Lite specification.
    """
    orders = [[*dict.fromkeys(row["label"] for row in rows)] for _, rows in panels]
    same = all(order == orders[0] for order in orders)
    apart = any(len({row["series"] for row in rows if row["label"] == label}) > 1
                for (_, rows), order in zip(panels, orders, strict=True) for label in order)  # fmt: skip
    lanes = len(colours) if apart else 1
    charts = []
    for i, ((name, rows), order) in enumerate(zip(panels, orders, strict=True)):
        labels = alt.Axis(
            labelLimit=260, labelColor=theme.INK, grid=True, title=None, labels=not same or i % columns == 0
        )
        y = alt.Y("label:N", sort=order, axis=labels, scale=alt.Scale(padding=0.25))
        beside = alt.YOffset("series:N", sort=list(colours), scale=alt.Scale(domain=list(colours)))
        offset: dict[str, Any] = {"yOffset": beside} if apart else {}
        base = alt.Chart(alt.Data(values=rows))
        x_scale, colour = alt.Scale(zero=False, nice=True), _colour(colours, key)
        rule = (
            base.transform_filter("datum.ci_low != null")
            .mark_rule(strokeWidth=1.4, aria=False)
            .encode(x=alt.X("ci_low:Q", scale=x_scale), x2="ci_high:Q", y=y, color=colour, **offset)
        )
        points = base.mark_point(size=38, filled=True, opacity=1).encode(
            x=alt.X("value:Q", scale=x_scale, axis=alt.Axis(title=title, tickCount=5)),
            y=y,
            color=colour,
            shape=_shape(colours),
            **offset,
        )
        step = max(_ROW, _SERIES * lanes + _BETWEEN)
        charts.append(
            alt.layer(rule, points).properties(title=name, width=_WIDTHS[columns], height=step * max(1, len(order)))
        )
    return _finished(alt.concat(*charts, columns=columns))


def effects(rows: Rows, *, title: str) -> dict[str, Any]:
    """Draws effects with intervals around zero, from top to bottom (a forest plot).

    Args:
        rows: A row has label, value, ci_low and ci_high (None where there is no interval), verdict and _colour.
        title: Of the axis.

    Returns:
        A Vega-Lite specification.
    """
    order = [row["label"] for row in rows]
    y = alt.Y("label:N", sort=order, axis=alt.Axis(labelLimit=560, labelColor=theme.INK, grid=True, title=None))
    base = alt.Chart(alt.Data(values=rows))
    colour = alt.Color("_colour:N", scale=None)
    layers = [
        alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=theme.INK, aria=False).encode(x="zero:Q"),
        base.transform_filter("datum.ci_low != null")
        .mark_rule(strokeWidth=2, aria=False)
        .encode(x="ci_low:Q", x2="ci_high:Q", y=y, color=colour),
        base.mark_point(size=44, filled=True, opacity=1).encode(
            x=alt.X("value:Q", axis=alt.Axis(title=title, tickCount=7)), y=y, color=colour
        ),
        base.mark_text(align="left", fontSize=10).encode(
            x=alt.value(_FOREST + 10), y=y, text="verdict:N", color=colour
        ),
    ]
    chart = alt.layer(*layers).properties(width=_FOREST, height=_ROW * max(1, len(rows)))
    return _finished(alt.concat(chart, columns=1))


def _colour(colours: dict[str, str], key: str) -> alt.Color:
    legend = alt.Legend(title=key, symbolType="circle", symbolOpacity=1, columns=4, labelLimit=220)
    legend = legend if len(colours) > 1 else None
    return alt.Color("series:N", legend=legend).scale(domain=list(colours), range=list(colours.values()))


def _shape(colours: dict[str, str]) -> alt.Shape:
    """A shape for each series beside its colour, for those who see no colour and for print in grey."""
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
    own = [shapes[number % len(shapes)] for number in range(len(colours))]
    return alt.Shape("series:N", legend=None).scale(domain=list(colours), range=own)


def _finished(chart: alt.ConcatChart) -> dict[str, Any]:
    return chart.to_dict(validate=False) | {"config": theme.configuration()}
