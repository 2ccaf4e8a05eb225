"""Charts of means with intervals: over a number, by name, and effects around zero."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from featcache.report.figures import theme
from featcache.report.figures.charts import spread_labels

Rows = list[dict[str, Any]]
Panel = tuple[Sequence[str], Rows]
_WIDTHS = {1: 420, 2: 300, 3: 210}
_HEIGHT, _ROW = 180, 20
_FOREST, _LINE, _LETTER = 330, 17, 6.2  # pixels: the axis, the height of a line, and the width of a letter of its name
_LABEL_GAP = 13.0  # pixels between the baselines of two direct labels
_LABEL_LIMIT = 230
_SLOPE = 325  # degrees of names above a frame
_ROUNDING = 1e-9  # two values no further apart are one
_CHANCE, _CHANCES = "#8f959b", 2  # colour; more values of chance in a panel than that would hide what is drawn
_CLOSE = 25  # values of x from which on points would touch
_BETWEEN, _SERIES = 5, 9  # pixels between labels, and of each series of one label


def columns_of(panels: int) -> int:
    """How many panels stand side by side: three or two, so that rows are full where they can be.

    Example:
        >>> [columns_of(panels) for panels in (1, 2, 4, 5, 6, 8)]
        [1, 2, 2, 3, 3, 2]
    """
    return next((columns for columns in (3, 2) if panels % columns == 0), min(3, panels))


def lines(
    panels: Sequence[Panel], *, columns: int, colours: dict[str, str], titles: tuple[str, str], log: bool
) -> dict[str, Any]:
    """Draws means over a number, a line for each series, with intervals: rules, or a band where points stand close.

    Args:
        panels: (lines of the title, rows) a panel. A row has x, value, series, metric, and ci_low, ci_high and chance
            or None, and perhaps _chance, what the dashed line is, and _name, what stands at x: then names stand above.
            Panels of one metric share a scale.
        columns: Panels side by side.
        colours: Series -> colour; each line has its name at the right.
        titles: Of both axes.
        log: Whether x is on a logarithmic scale.

    Returns:
        A Vega-Lite specification.
    """
    ends, data = _ends_by_metric(panels), dict[str, Rows]()
    return _finished(
        data,
        alt.concat(
            *(
                _lines_panel(data, title, rows, ends[rows[0]["metric"]],
                             (titles[0], titles[1] if i % columns == 0 else ""), colours=colours, log=log,
                             width=_WIDTHS[columns])
                for i, (title, rows) in enumerate(panels)
            ),
            columns=columns,
        )
    )  # fmt: skip


def _lines_panel(
    data: dict[str, Rows], title: Sequence[str], rows: Rows, ends: tuple[float, float], titles: tuple[str, str],
    *, colours: dict[str, str], log: bool, width: int,
) -> Any:  # fmt: skip
    x_scale = alt.Scale(type="log", base=2, nice=False) if log else alt.Scale(nice=False, zero=False)
    ticks = sorted({row["x"] for row in rows})
    close, names = len(ticks) > _CLOSE, {row["x"]: row["_name"] for row in rows if row.get("_name")}
    shown: dict[str, Any] = {"tickCount": 5} if close or names else {"values": ticks}
    axis = alt.Axis(title=titles[0], labelExpr="format(datum.value, '~g')", labelOverlap=True, **shown)
    x, y_scale = alt.X("x:Q", scale=x_scale, axis=axis), alt.Scale(domain=[*ends], nice=False)
    y = alt.Y("value:Q", scale=y_scale, axis=alt.Axis(title=titles[1], tickCount=5))
    base, colour = _chart(data, rows), alt.Color("series:N", legend=None).scale(
        domain=list(colours), range=list(colours.values())
    )  # fmt: skip
    spread = base.transform_filter("datum.ci_low != null")
    interval = spread.mark_area(opacity=0.2, aria=False) if close else spread.mark_rule(opacity=0.7, aria=False)
    layers = [
        *_chance_lines(data, rows, x, y_scale),
        interval.encode(x=x, y=alt.Y("ci_low:Q", scale=y_scale), y2=alt.Y2("ci_high:Q"), color=colour),
        base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, detail=alt.Detail("series:N")),
    ]
    if not close:
        points = base.mark_point(size=34, filled=True, opacity=1)
        layers.append(points.encode(x=x, y=y, color=colour, shape=_shape(colours)))
    if len(colours) > 1:
        labels = _chart(data, _line_ends(rows, ends[1] - ends[0]))
        layers.append(
            labels.mark_text(align="left", dx=8, baseline="middle", aria=False).encode(
                x=x, y=alt.Y("place:Q", scale=y_scale), text=alt.Text("series:N"), color=colour
            )
        )
    layers += [*_names_above(data, names, x, width), *_chance_words(data, rows, y_scale)]
    return alt.layer(*layers).properties(title=_title(title, width), width=width, height=_HEIGHT)


def _names_above(data: dict[str, Rows], names: dict[float, str], x: alt.X, width: int) -> list[alt.Chart]:
    """Names above the frame, each over its x and moved aside where two would touch."""
    gap = (max(names, default=0) - min(names, default=0)) * _LABEL_GAP / width
    places = spread_labels([*names], gap=gap)
    rows = [{"x": place, "name": name} for place, name in zip(places, names.values(), strict=True)]
    mark = _chart(data, rows).mark_text(align="left", baseline="middle", angle=_SLOPE, aria=False, color=theme.INK)
    return [mark.encode(x=x, y=alt.YValue(-8), text=alt.Text("name:N"))] if names else []


def _chance_words(data: dict[str, Rows], rows: Rows, y_scale: alt.Scale) -> list[alt.Chart]:
    """What the dashed line across is, above its left end; nothing where there are several."""
    values = {round(row["chance"], 4): row.get("_chance", "") for row in rows if row["chance"] is not None}
    words = [{"value": value, "words": words} for value, words in values.items() if words]
    mark = _chart(data, words).mark_text(align="left", baseline="bottom", dy=-3, aria=False, color=theme.MUTED)
    place = {"x": alt.XValue(3), "y": alt.Y("value:Q", scale=y_scale), "text": alt.Text("words:N")}
    return [mark.encode(**place)] if len(values) == len(words) == 1 else []


def _line_ends(rows: Rows, span: float) -> Rows:
    """The name of each line at its last point, moved apart where they would touch; in shapes' order from above."""
    last = max(row["x"] for row in rows)
    final = {row["series"]: row for row in sorted(rows, key=lambda row: row["x"])}
    places = spread_labels([row["value"] for row in final.values()], gap=span * _LABEL_GAP / _HEIGHT)
    return [
        {"x": last, "place": place, "series": row["series"]} for row, place in zip(final.values(), places, strict=True)
    ]


def _chance_lines(data: dict[str, Rows], rows: Rows, x: alt.X, y_scale: alt.Scale) -> list[alt.Chart]:
    """Chance, dashed: a line across where it does not depend on x, else one for each series."""
    known = [row for row in rows if row["chance"] is not None]
    values = {round(row["chance"], 4) for row in known}
    flat = all(len({round(row["chance"], 4) for row in known if row["series"] == one}) == 1
               for one in {row["series"] for row in known})  # fmt: skip
    if flat:
        mark = _chart(data, [{"value": value} for value in sorted(values)])
        mark = mark.mark_rule(strokeDash=[4, 3], color=_CHANCE, aria=False)
        return [mark.encode(y=alt.Y("value:Q", scale=y_scale))] if values else []
    mark = _chart(data, known).mark_line(strokeDash=[4, 3], strokeWidth=1, color=_CHANCE, aria=False)
    return [mark.encode(x=x, y=alt.Y("chance:Q", scale=y_scale), detail=alt.Detail("series:N"))]


def named_points(
    panels: Sequence[Panel], *, columns: int, colours: dict[str, str], title: str, key: str
) -> dict[str, Any]:
    """Draws means by name from top to bottom, the series of a name one below the other, with intervals.

    Args:
        panels: (lines of the title, rows) a panel. A row has label, value, series, metric, and ci_low, ci_high and
            chance or None, and perhaps _tip and _chance, what the dashed line is. Panels of one metric share a scale.
        columns: Panels side by side; only the first of each row has the labels, if those of all panels are the same.
        colours: Series -> colour, in the order of the legend.
        title: Of the axis.
        key: Title of the legend.

    Returns:
        A Vega-Lite specification.
    """
    orders, ends, data = _orders(panels), _ends_by_metric(panels), dict[str, Rows]()
    charts = []
    for i, ((name, rows), order) in enumerate(zip(panels, orders, strict=True)):
        same = i % columns > 0 and order == orders[i - 1]
        lanes = _lanes([own for (_, own), other in zip(panels, orders, strict=True) if other == order], colours)
        charts.append(
            _named_panel(data, name, rows, order, ends[rows[0]["metric"]], colours=colours, lanes=lanes, title=title,
                         key=key, labels=not same, width=_WIDTHS[columns])
        )  # fmt: skip
    return _finished(data, alt.concat(*charts, columns=columns))


def _named_panel(
    data: dict[str, Rows], name: Sequence[str], rows: Rows, order: list[str], ends: tuple[float, float],
    *, colours: dict[str, str], lanes: list[str], title: str, key: str, labels: bool, width: int,
) -> Any:  # fmt: skip
    axis = alt.Axis(labelLimit=_LABEL_LIMIT, labelColor=theme.INK, grid=True, title=None, labels=labels)
    y = alt.Y("label:N", sort=order, axis=axis, scale=alt.Scale(padding=0.25, domain=order))
    beside = alt.YOffset("series:N", sort=lanes, scale=alt.Scale(domain=lanes))
    offset: dict[str, Any] = {"yOffset": beside} if len(lanes) > 1 else {}
    base = _chart(data, rows)
    x_scale, colour = alt.Scale(domain=[*ends], nice=False), _colour(colours, key)
    values = {round(row["chance"], 4) for row in rows if row["chance"] is not None}
    chance = _chart(data, [{"value": value} for value in values])
    tip: dict[str, Any] = {"description": "_tip:N"} if "_tip" in rows[0] else {}
    rule = (
        base.transform_filter("datum.ci_low != null")
        .mark_rule(strokeWidth=1.4, aria=False)
        .encode(x=alt.X("ci_low:Q", scale=x_scale), x2=alt.X2("ci_high:Q"), y=y, color=colour, **offset)
    )
    points = base.mark_point(size=38, filled=True, opacity=1).encode(
        x=alt.X("value:Q", scale=x_scale, axis=alt.Axis(title=title, tickCount=5)),
        y=y, color=colour, shape=_shape(colours), **offset, **tip,
    )  # fmt: skip
    layers = [rule, points]
    if 0 < len(values) <= _CHANCES:
        mark = chance.mark_rule(strokeDash=[4, 3], color=_CHANCE, aria=False)
        layers.insert(0, mark.encode(x=alt.X("value:Q", scale=x_scale)))
    words = {row["_chance"] for row in rows if row.get("_chance") and row["chance"] is not None}
    if len(values) == len(words) == 1:
        place = (next(iter(values)) - ends[0]) / (ends[1] - ends[0])
        align = "left" if place < 1 / 3 else "right" if place > 2 / 3 else "center"
        mark = _chart(data, [{"value": value, "words": one} for value, one in zip(values, words, strict=True)])
        mark = mark.mark_text(align=align, aria=False, color=theme.MUTED)
        layers.append(mark.encode(x=alt.X("value:Q", scale=x_scale), y=alt.YValue(-7), text=alt.Text("words:N")))
    step = max(_ROW, _SERIES * len(lanes) + _BETWEEN)
    return alt.layer(*layers).properties(title=_title(name, width), width=width, height=step * max(1, len(order)))


def _lanes(panels: Sequence[Rows], colours: dict[str, str]) -> list[str]:
    """The series that lie one below the other in panels of the same names; none where each name has one only."""
    of: dict[str, set[str]] = {}
    for row in (row for rows in panels for row in rows):
        of.setdefault(row["label"], set()).add(row["series"])
    there = set[str]().union(*of.values())
    return [series for series in colours if series in there] if any(len(own) > 1 for own in of.values()) else []


def _orders(panels: Sequence[Panel]) -> list[list[str]]:
    """The names of each panel from top to bottom: the same for all where they hardly differ, so that lines align."""
    own = [[*dict.fromkeys(row["label"] for row in rows)] for _, rows in panels]
    every = [*dict.fromkeys(label for order in own for label in order)]
    return [every] * len(own) if len(every) <= 1.5 * min(map(len, own)) else own


def _ends_by_metric(panels: Sequence[Panel]) -> dict[str, tuple[float, float]]:
    """The ends of each metric's scale, a little beyond everything that is drawn of it."""
    ends: dict[str, tuple[float, float]] = {}
    for row in (row for _, rows in panels for row in rows):
        values = [row[name] for name in ("value", "ci_low", "ci_high", "chance") if row[name] is not None]
        low, high = ends.get(row["metric"], (values[0], values[0]))
        ends[row["metric"]] = (min(low, *values), max(high, *values))
    spans = {metric: high - low for metric, (low, high) in ends.items()}
    room = {metric: 0.04 * span if span > _ROUNDING else 0.5 for metric, span in spans.items()}
    return {metric: (low - room[metric], high + room[metric]) for metric, (low, high) in ends.items()}


def forest(rows: Rows, *, title: str, ends: tuple[float, float]) -> dict[str, Any]:
    """Draws effects with intervals around zero, from top to bottom, a verdict at the right of each.

    Args:
        rows: A row has _head (the name of a group at its first line, else ""), label, value, ci_low and ci_high (None
            where there is no interval), verdict, _colour, _shape and _tip.
        title: Of the axis.
        ends: Of the axis; zero is always on it.

    Returns:
        A Vega-Lite specification.
    """
    numbered = [row | {"line": number} for number, row in enumerate(rows)]
    letters = max(len(row["label"]) for row in rows) + 1.15 * max(len(row["_head"]) for row in rows)
    left = round(40 + _LETTER * letters)
    heads = [row for row in numbered if row["_head"]]
    low, high = min(0.0, ends[0]), max(0.0, ends[1])
    room = 0.04 * (high - low) or 1.0
    x_scale = alt.Scale(domain=[low - room, high + room], nice=False)
    y_scale = alt.Scale(domain=[-0.7, len(rows) - 0.3], nice=False, zero=False, reverse=True)
    y = alt.Y("line:Q", scale=y_scale, axis=None)
    data = dict[str, Rows]()
    base, colour = _chart(data, numbered), alt.Color("_colour:N", scale=None)
    above = alt.Y("above:Q", scale=y_scale, axis=None)
    layers = [
        _chart(data, heads).transform_calculate(above="datum.line - 0.5")
        .mark_rule(color=theme.FAINT, aria=False).encode(y=above),
        _chart(data, [{"zero": 0}]).mark_rule(color=theme.INK, aria=False)
        .encode(x=alt.X("zero:Q", scale=x_scale)),
        base.transform_filter("datum.ci_low != null").mark_rule(strokeWidth=2, aria=False)
        .encode(x=alt.X("ci_low:Q", scale=x_scale), x2=alt.X2("ci_high:Q"), y=y, color=colour),
        base.mark_point(size=46, filled=True, opacity=1).encode(
            x=alt.X("value:Q", scale=x_scale, axis=alt.Axis(title=title, tickCount=5)),
            y=y, color=colour, shape=alt.Shape("_shape:N", scale=None), description=alt.Description("_tip:N"),
        ),
        base.mark_text(align="left", fontSize=11)
        .encode(x=alt.XValue(_FOREST + 10), y=y, text=alt.Text("verdict:N"), color=colour),
        base.mark_text(align="right", fontSize=11, color=theme.MUTED)
        .encode(x=alt.XValue(-10), y=y, text=alt.Text("label:N")),
        _chart(data, heads).mark_text(align="left", fontSize=11, fontWeight=600)
        .encode(x=alt.XValue(-left), y=y, text=alt.Text("_head:N")),
    ]  # fmt: skip
    chart = alt.layer(*layers).properties(width=_FOREST, height=_LINE * max(1, len(rows)))
    return _finished(data, alt.concat(chart, columns=1))


def _title(lines_of_it: Sequence[str], width: int) -> alt.TitleParams:
    return alt.TitleParams(text=[*lines_of_it], limit=width + 70)


def _colour(colours: dict[str, str], key: str) -> alt.Color:
    columns = max(1, 640 // (7 * max(map(len, colours)) + 30))
    legend = alt.Legend(title=key, symbolType="circle", symbolOpacity=1, columns=columns, labelLimit=220)
    legend = legend if len(colours) > 1 else None
    return alt.Color("series:N", legend=legend).scale(domain=list(colours), range=list(colours.values()))


def _shape(colours: dict[str, str]) -> alt.Shape:
    """A shape for each series beside its colour, for those who see no colour and for print in grey."""
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
    own = [shapes[number % len(shapes)] for number in range(len(colours))]
    return alt.Shape("series:N", legend=None).scale(domain=list(colours), range=own)


def _chart(data: dict[str, Rows], rows: Rows) -> alt.Chart:
    # rows go by name: altair would copy and check every value of inline data several times over
    name = next((name for name, have in data.items() if have is rows), f"rows {len(data)}")
    data[name] = rows
    return alt.Chart(alt.NamedData(name))


def _finished(data: dict[str, Rows], chart: alt.ConcatChart) -> dict[str, Any]:
    return chart.to_dict(validate=False) | {"config": theme.configuration(), "datasets": data}
