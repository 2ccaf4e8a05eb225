"""Charts of verdicts in altair: spaces on one axis with brackets between them, and a matrix of contrasts."""

from typing import Any

import altair as alt

from featcache.report.figures import theme

Rows = list[dict[str, Any]]
_WIDTH, _ROW = 340, 24
_LANE, _GAP = 9, 14  # pixels between two brackets, and between axis and the first
_COLUMN = 118


def brackets(rows: Rows, contrasts: Rows, *, band: tuple[float, float] | None, title: str) -> dict[str, Any]:
    """Draws one dot a space with its interval, and a bracket from the first space to each it is compared with.

    Args:
        rows: From top to bottom, the space in question first. A row has label, value, ci_low and ci_high or None,
            chance or None, _colour, _fill, _shape, _size, _tip.
        contrasts: A row has label (of the space compared with, a label of `rows`), text, and _colour.
        band: What unrelated features score, or None.
        title: Of the axis.

    Returns:
        A Vega-Lite specification.
    """
    order = [row["label"] for row in rows]
    values = [value for row in rows for value in (row["value"], row["ci_low"], row["ci_high"]) if value is not None]
    values += [*(band or ())]
    low, high = min([0.0, *values]), max(values)
    x_scale = alt.Scale(domain=[low, (high + 0.13 * (high - low)) or 1.0], nice=False)
    labels = alt.Axis(labelLimit=260, labelColor=theme.INK, grid=True, title=None)
    y = alt.Y("label:N", sort=order, axis=labels, scale=alt.Scale(domain=order))
    x = alt.X("value:Q", scale=x_scale, axis=alt.Axis(title=title, tickCount=5))
    base = alt.Chart(alt.Data(values=rows))
    colour = alt.Color("_colour:N", scale=None)
    layers = [
        base.transform_filter("datum.ci_low != null")
        .mark_rule(strokeWidth=2.4, aria=False)
        .encode(x=alt.X("ci_low:Q", scale=x_scale), x2=alt.X2("ci_high:Q"), y=y, color=colour),
        base.transform_filter("datum.chance != null")
        .mark_tick(color=theme.INK, thickness=1.5, size=13, aria=False)
        .encode(x=alt.X("chance:Q", scale=x_scale), y=y),
        base.mark_point(strokeWidth=2.2, opacity=1).encode(
            x=x,
            y=y,
            color=colour,
            fill=alt.Fill("_fill:N", scale=None),
            shape=alt.Shape("_shape:N", scale=None),
            size=alt.Size("_size:Q", scale=None),
            description=alt.Description("_tip:N"),
        ),
    ]
    first = alt.Chart(alt.Data(values=rows[:1])).mark_rule(strokeDash=[3, 3], strokeWidth=1.2, aria=False)
    layers.insert(0, first.encode(x=alt.X("value:Q", scale=x_scale), color=colour))
    ended = base.transform_calculate(end="max(datum.value, datum.ci_high)")
    for halo in ({"stroke": "white", "strokeWidth": 3.5}, {}):  # so that the dashed line runs behind the numbers
        numbers = ended.mark_text(align="left", dx=9, fontSize=11, aria=False, **halo)
        layers.append(numbers.encode(x=alt.X("end:Q", scale=x_scale), y=y, text=alt.Text("value:Q", format=".3f")))
    if band is not None:
        ends = alt.Chart(alt.Data(values=[{"low": band[0], "high": band[1]}])).mark_rect(color="#d9dce0", aria=False)
        layers.insert(0, ends.encode(x=alt.X("low:Q", scale=x_scale), x2=alt.X2("high:Q")))
    layers += _bracket_layers(order, contrasts)
    chart = alt.layer(*layers).properties(width=_WIDTH, height=_ROW * len(order))
    return chart.to_dict(validate=False) | {"config": theme.configuration()}


def _bracket_layers(order: list[str], contrasts: Rows) -> list[Any]:
    """A bracket a contrast, the nearest space's outermost, so that no line crosses a text."""
    drawn = sorted((row for row in contrasts if row["label"] in order), key=lambda row: order.index(row["label"]))
    end = _WIDTH + _GAP + _LANE * len(drawn)
    layers: list[Any] = []
    for place, row in enumerate(drawn):
        lane = end - _LANE * (place + 1)
        first = order[0]
        pieces = [
            ({"a": first, "b": row["label"]}, alt.value(lane), None),
            ({"a": first, "b": first}, alt.value(lane - 4), alt.value(lane)),
            ({"a": row["label"], "b": row["label"]}, alt.value(lane), alt.value(end + 2)),
        ]
        for data, start, stop in pieces:
            rule = alt.Chart(alt.Data(values=[data])).mark_rule(strokeWidth=1.3, color=theme.MUTED, aria=False)
            y = alt.Y("a:N", sort=order, scale=alt.Scale(domain=order))
            rule = rule.encode(x=start, y=y, y2=alt.Y2("b:N")) if stop is None else rule.encode(x=start, x2=stop, y=y)
            layers.append(rule)
    if drawn:
        heading = alt.Chart(alt.Data(values=[{"label": order[0]}])).mark_text(
            align="left", fontSize=11, color=theme.MUTED
        )
        heading = heading.encode(
            x=alt.XValue(end + 7), y=alt.Y("label:N", sort=order), text=alt.TextValue("the joint is …")
        )
        layers.append(heading)
    texts = alt.Chart(alt.Data(values=drawn)).mark_text(align="left", fontSize=11.5)
    y = alt.Y("label:N", sort=order, scale=alt.Scale(domain=order))
    layers.append(
        texts.encode(x=alt.XValue(end + 7), y=y, text=alt.Text("text:N"), color=alt.Color("_colour:N", scale=None))
    )
    return layers


def matrix(rows: Rows, *, columns: list[str]) -> dict[str, Any]:
    """Draws a sign, a difference and a shade for each contrast (down) of each run or metric (across).

    Args:
        rows: A row has label, column, sign, text, _colour (of the sign), _shade, _tip.
        columns: From left to right.

    Returns:
        A Vega-Lite specification.
    """
    order = [*dict.fromkeys(row["label"] for row in rows)]
    base = alt.Chart(alt.Data(values=rows))
    axis = alt.Axis(orient="top", labelAngle=0, labelColor=theme.INK, labelLimit=_COLUMN - 8, title=None, domain=False)
    x = alt.X("column:N", sort=columns, axis=axis)
    y = alt.Y("label:N", sort=order, axis=alt.Axis(labelLimit=300, labelColor=theme.INK, title=None))
    layers = [
        base.mark_rect(stroke="white", strokeWidth=2, cornerRadius=3).encode(
            x=x, y=y, color=alt.Color("_shade:N", scale=None), description=alt.Description("_tip:N")
        ),
        base.mark_text(dx=-26, fontSize=13, fontWeight=700, aria=False).encode(
            x=x, y=y, text=alt.Text("sign:N"), color=alt.Color("_colour:N", scale=None)
        ),
        base.mark_text(dx=12, fontSize=11.5, aria=False).encode(
            x=x, y=y, text=alt.Text("text:N"), color=alt.Color("_colour:N", scale=None)
        ),
    ]
    chart = alt.layer(*layers).properties(width=_COLUMN * len(columns), height=26 * len(order))
    return chart.to_dict(validate=False) | {"config": theme.configuration()}
