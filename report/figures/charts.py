"""Chart types of runs as small multiples in altair, which only this module and `point_charts` import."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from featcache.report.figures import theme

Rows = list[dict[str, Any]]
Datasets = dict[str, Rows]
_WIDTHS = {1: 520, 2: 270, 3: 176}
_HEIGHT = 220
_DOTTED = 25  # epochs up to which each is a visible dot
_LABEL_GAP = 13.0  # pixels between the baselines of two direct labels


def epochs(panels: Sequence[tuple[str, Rows]], *, columns: int, y_titles: Sequence[str]) -> dict[str, Any]:
    """Draws lines over epochs, one panel a run or metric, with direct labels at the right.

    Args:
        panels: (title, rows) a panel. A row has series, epoch, value, _colour, _text, _share ("line", "constant" or
            "kept"). A constant has epoch None and spans the panel; "kept" marks the selected epoch and has no value.
        columns: Panels side by side.
        y_titles: One axis title a panel, perhaps of two lines; panels of equal title share their scale.

    Returns:
        A Vega-Lite specification.
    """
    ends = {title: (0.0, 0.0) for title in y_titles}
    for (_, rows), title in zip(panels, y_titles, strict=True):
        values = [row["value"] for row in rows if row["value"] is not None]
        ends[title] = (min([ends[title][0], *values]), max([ends[title][1], *values]))
    data: Datasets = {}
    charts = []
    for i, ((title, rows), y_title) in enumerate(zip(panels, y_titles, strict=True)):
        shown = y_title if i % columns == 0 or y_title != y_titles[i - 1] else ""
        low, high = ends[y_title]
        room = 0.06 * (high - low) or 1.0
        scale = (low - room if low < 0 else low, high + room if high > 0 or low == high else high)
        charts.append(_epochs_panel(data, title, rows, scale, shown, columns))
    return _finish(data, alt.concat(*charts, columns=columns))


def dots(panels: Sequence[tuple[str, Rows]], *, columns: int, order: Sequence[str]) -> dict[str, Any]:
    """Draws one dot a space with its null range, interval and chance; hollow dots are untrained.

    Args:
        panels: (title, rows) a panel. A row has metric, label, value, _colour, _fill, _shape, _size, _tip, and where it
            was measured chance, null_low, null_high, ci_low, ci_high (else None).
        columns: Panels side by side; the first of each row has the labels. Panels of one metric share a scale.
        order: Labels from top to bottom.

    Returns:
        A Vega-Lite specification.
    """
    data: Datasets = {}
    charts = []
    lows: dict[str, float] = {}
    tops: dict[str, float] = {}
    for row in (row for _, rows in panels for row in rows):
        metric, value = row["metric"], row["value"]
        lows[metric] = min(lows.get(metric, 0.0), value, row["ci_low"] or 0.0, row["null_low"] or 0.0)
        tops[metric] = max(tops.get(metric, 0.0), value, row["ci_high"] or 0.0, row["null_high"] or 0.0)
    for i, (title, rows) in enumerate(panels):
        top = tops[rows[0]["metric"]]
        x_scale = alt.Scale(domain=[lows[rows[0]["metric"]], top * 1.2 or 1.0], nice=False)
        labels = alt.Axis(labelLimit=230, labelColor=theme.INK, grid=True, title=None, labels=i % columns == 0)
        y = alt.Y("label:N", sort=list(order), axis=labels)
        x_axis = alt.Axis(tickCount=4, format=".1f" if top > 0.4 else ".2f")
        x = alt.X("value:Q", scale=x_scale, title=None, axis=x_axis)
        base = alt.Chart(_named(data, rows))
        with_null = alt.Chart(_named(data, [row for row in rows if row["null_low"] is not None]))
        with_interval = alt.Chart(_named(data, [row for row in rows if row["ci_low"] is not None]))
        null = with_null.mark_rule(strokeWidth=8, color="#c4c8cd", aria=False).encode(
            x=alt.X("null_low:Q", scale=x_scale), x2=alt.X2("null_high:Q"), y=y
        )
        chance = base.mark_tick(color=theme.INK, thickness=1.5, size=12, aria=False).encode(
            x=alt.X("chance:Q", scale=x_scale), y=y
        )
        interval = with_interval.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("ci_low:Q", scale=x_scale), x2=alt.X2("ci_high:Q"), y=y, color=alt.Color("_colour:N", scale=None)
        )
        points = base.mark_point(strokeWidth=2, opacity=1).encode(
            x=x,
            y=y,
            color=alt.Color("_colour:N", scale=None),
            fill=alt.Fill("_fill:N", scale=None),
            shape=alt.Shape("_shape:N", scale=None),
            size=alt.Size("_size:Q", scale=None),
            description=alt.Description("_tip:N"),
        )
        # the text starts past the interval, so that no rule runs through a number
        values = base.transform_calculate(end="max(datum.value, datum.ci_high)").mark_text(align="left", dx=9)
        numbers = values.encode(x=alt.X("end:Q", scale=x_scale), y=y, text=alt.Text("value:Q", format=".3f"))
        layers = alt.layer(null, interval, chance, points, numbers)
        charts.append(layers.properties(title=title, width=_WIDTHS[columns], height=alt.Step(22)))
    return _finish(data, alt.concat(*charts, columns=columns))


def bars(panels: Sequence[tuple[str, Rows]], *, columns: int, colours: dict[str, str]) -> dict[str, Any]:
    """Draws recall as grouped bars with intervals, chance as a tick and untrained adapters as a hollow dot.

    Args:
        panels: (title, rows) a panel. A row has metric, direction, value, ci_low, ci_high, chance, untrained, _tip.
        columns: Panels side by side.
        colours: Direction -> colour.

    Returns:
        A Vega-Lite specification.
    """
    rows = [row for _, panel in panels for row in panel]
    top = max(max(row["value"], row["ci_high"] or 0.0, row["untrained"] or 0.0) for row in rows)
    scale = alt.Scale(domain=[0, top * 1.1 or 1.0], nice=False)
    legend = alt.Legend(title=None, symbolType="square")
    data: Datasets = {}
    charts = []
    for i, (title, panel) in enumerate(panels):
        base = alt.Chart(_named(data, panel)).encode(
            x=alt.X("metric:N", sort=list(dict.fromkeys(row["metric"] for row in rows)), title=None)
            .axis(labelAngle=0)
            .scale(paddingInner=0.3),
            xOffset=alt.XOffset("direction:N", sort=list(colours), scale=alt.Scale(paddingInner=0.12)),
        )
        y_title = "share of queries answered" if i % columns == 0 else ""
        colour = alt.Color("direction:N", legend=legend).scale(domain=list(colours), range=list(colours.values()))
        axis = alt.Axis(title=y_title, tickCount=5)
        bar = base.mark_bar(opacity=0.85).encode(
            y=alt.Y("value:Q", scale=scale, axis=axis), color=colour, description=alt.Description("_tip:N")
        )
        interval = base.mark_rule(strokeWidth=1.5, color=theme.INK).encode(
            y=alt.Y("ci_low:Q", scale=scale), y2=alt.Y2("ci_high:Q")
        )
        chance = base.mark_tick(color=theme.INK, thickness=2, size=_WIDTHS[columns] / 11, aria=False).encode(
            y=alt.Y("chance:Q", scale=scale)
        )
        untrained = base.mark_point(shape="circle", size=36, fill="white", stroke=theme.INK, opacity=1).encode(
            y=alt.Y("untrained:Q", scale=scale)
        )
        numbers = base.transform_calculate(end="max(datum.value, datum.ci_high)").mark_text(dy=-7, fontSize=10)
        text = numbers.encode(y=alt.Y("end:Q", scale=scale), text=alt.Text("value:Q", format=".2f"))
        layers = alt.layer(bar, interval, chance, untrained, text)
        charts.append(layers.properties(title=title, width=_WIDTHS[columns] + 30, height=_HEIGHT))
    return _finish(data, alt.concat(*charts, columns=columns))


def heatmaps(panels: Sequence[tuple[str, str, Rows]], *, columns: int) -> dict[str, Any]:
    """Draws square kernels on a perceptually uniform scale, each panel stretched between its own ends.

    Args:
        panels: (title, subtitle, rows) a panel. A row has row, col, shade in [0, 1].
        columns: Panels side by side.

    Returns:
        A Vega-Lite specification.
    """
    data: Datasets = {}
    charts = []
    for i, (title, subtitle, rows) in enumerate(panels):
        size = 1 + max(row["row"] for row in rows)
        side = size * max(1, 196 // size)  # whole pixels a cell, or hairlines show between the cells
        ends = alt.Legend(title=["similarity", "of two groups"], values=[0, 1], gradientLength=100, orient="right")
        ends.labelExpr = "datum.value == 0 ? 'low' : 'high'"  # pyright: ignore[reportAttributeAccessIssue]
        last_of_row = i == min(columns, len(panels)) - 1
        chart = alt.Chart(_named(data, rows)).mark_rect(aria=False)
        colour = alt.Color("shade:Q", scale=alt.Scale(scheme=theme.SEQUENTIAL, domain=[0, 1]))
        chart = chart.encode(
            x=alt.X("col:O", axis=None), y=alt.Y("row:O", axis=None), color=colour.legend(ends if last_of_row else None)
        )
        charts.append(chart.properties(title=_title(title, subtitle), width=side, height=side))
    return _finish(data, alt.concat(*charts, columns=columns).resolve_scale(color="independent"))


def maps(panels: Sequence[tuple[str, Rows]], *, columns: int, colours: dict[str, str]) -> dict[str, Any]:
    """Draws points of the plane without axes, one panel a space, coloured by label.

    Args:
        panels: (title, rows) a panel. A row has px, py in [-1, 1], shown (label or "other"), _tip.
        columns: Panels side by side.
        colours: Label -> colour, in legend order; "other" is drawn first, below the rest.

    Returns:
        A Vega-Lite specification.
    """
    frame = alt.Scale(domain=[-1.03, 1.03], nice=False)
    side = {1: 440, 2: 360}.get(columns, 236)
    legend = alt.Legend(title=None, columns=min(len(colours), 8), labelLimit=140) if len(colours) > 1 else None
    data: Datasets = {}
    charts = []
    for title, rows in panels:
        ordered = sorted(rows, key=lambda row: row["shown"] != "other")
        chart = alt.Chart(_named(data, ordered)).mark_circle(size=16, opacity=0.75)
        colour = alt.Color("shown:N", legend=legend).scale(domain=list(colours), range=list(colours.values()))
        chart = chart.encode(
            x=alt.X("px:Q", scale=frame, axis=None),
            y=alt.Y("py:Q", scale=frame, axis=None),
            color=colour,
            description=alt.Description("_tip:N"),
        )
        view = alt.ViewBackground(stroke=theme.FAINT)
        charts.append(chart.properties(title=title, width=side, height=side, view=view))
    return _finish(data, alt.concat(*charts, columns=columns))


def paths(rows: Rows, *, titles: tuple[str, str]) -> dict[str, Any]:
    """Draws a path over epochs for each run, through two scores.

    Args:
        rows: In the order of the path. A row has run, epoch, retrieval, alignment, kept, _colour, _text, _tip.
        titles: Of both axes.

    Returns:
        A Vega-Lite specification.
    """
    data: Datasets = {}
    x = alt.X("retrieval:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=titles[0], tickCount=5))
    y = alt.Y("alignment:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=titles[1], tickCount=5))
    colour = alt.Color("_colour:N", scale=None)
    first = [row for row in rows if row["epoch"] == 0]
    last = [*{row["run"]: row for row in rows}.values()]
    base = alt.Chart(_named(data, rows))
    layers = [
        base.mark_line(strokeWidth=1.6, opacity=0.7, aria=False).encode(
            x=x, y=y, color=colour, detail=alt.Detail("run:N"), order=alt.Order("epoch:Q")
        ),
        base.mark_point(size=26, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, description=alt.Description("_tip:N")
        ),
        alt.Chart(_named(data, first))
        .mark_point(size=70, fill="white", opacity=1, strokeWidth=2, aria=False)
        .encode(x=x, y=y, color=colour),
        alt.Chart(_named(data, [row for row in rows if row["kept"]]))
        .mark_point(size=150, strokeWidth=1.6, opacity=1, aria=False)
        .encode(x=x, y=y, color=alt.ColorValue(theme.INK)),
        alt.Chart(_named(data, last))
        .mark_text(align="left", dx=10, aria=False)
        .encode(x=x, y=y, text=alt.Text("run:N"), color=alt.Color("_text:N", scale=None)),
    ]
    return _finish(data, alt.concat(alt.layer(*layers).properties(width=_WIDTHS[1], height=280)))


def spread_labels(values: Sequence[float], *, gap: float) -> list[float]:
    """Moves label positions apart until neighbours stand at least `gap` from each other, order and centre kept.

    Args:
        values: Wanted positions, any order.
        gap: Least distance, in the same unit.

    Returns:
        One position a value, in the order given.

    Example:
        >>> spread_labels([1.0, 1.0, 5.0], gap=1.0)
        [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    blocks: list[list[float]] = []  # [centre, count]: labels that touch move as one block around their mean
    for i in order:
        blocks.append([values[i], 1])
        while len(blocks) > 1:
            (low, a), (high, b) = blocks[-2:]
            if high - low >= gap * (a + b) / 2 - 1e-12:
                break
            blocks[-2:] = [[(low * a + high * b) / (a + b), a + b]]
    placed = [centre + gap * (j - (count - 1) / 2) for centre, count in blocks for j in range(int(count))]
    result = [0.0] * len(values)
    for i, position in zip(order, placed, strict=True):
        result[i] = position
    return result


def _epochs_panel(data: Datasets, title: str, rows: Rows, ends: tuple[float, float], y_title: str, columns: int) -> Any:
    lines = [row for row in rows if row["_share"] == "line"]
    constants = [row for row in rows if row["_share"] == "constant"]
    kept = [row for row in rows if row["_share"] == "kept"]
    last = max([row["epoch"] for row in lines], default=1)
    x_scale = alt.Scale(domain=[min([0, *(row["epoch"] for row in lines)]), max(last, 1)], nice=False)
    y_scale = alt.Scale(domain=[*ends], nice=False)
    x = alt.X("epoch:Q", scale=x_scale, axis=alt.Axis(title="epoch", tickMinStep=1, tickCount=5, format="d"))
    y = alt.Y("value:Q", scale=y_scale, axis=alt.Axis(title=y_title.split("\n"), tickCount=5))
    colour = alt.Color("_colour:N", scale=None)
    labels = _ends(lines, constants, last, ends[1] - ends[0])
    layers = [
        alt.Chart(_named(data, kept)).mark_rule(color=theme.RULE, aria=False).encode(x=x),
        alt.Chart(_named(data, kept))
        .mark_text(align="center", dy=-6, fontSize=10, color=theme.MUTED)
        .encode(x=x, y=alt.YValue(0), text=alt.Text("series:N")),
        alt.Chart(_named(data, constants)).mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=y, color=colour),
        alt.Chart(_named(data, lines))
        .mark_line(strokeWidth=2.2, aria=False)
        .encode(x=x, y=y, color=colour, detail=alt.Detail("series:N")),
        alt.Chart(_named(data, lines))
        .mark_circle(size=18, opacity=1 if last <= _DOTTED else 0)  # unseen, it still answers to the pointer
        .encode(x=x, y=y, color=colour, description=alt.Description("_tip:N")),
        alt.Chart(_named(data, labels))
        .mark_text(align="left", dx=8, baseline="middle", aria=False)
        .encode(
            x=x, y=alt.Y("place:Q", scale=y_scale), text=alt.Text("series:N"), color=alt.Color("_text:N", scale=None)
        ),
    ]
    return alt.layer(*layers).properties(title=title, width=_WIDTHS[columns], height=_HEIGHT)


def _ends(lines: Rows, constants: Rows, last: int, span: float) -> Rows:
    final: dict[str, dict[str, Any]] = {row["series"]: row for row in sorted(lines, key=lambda row: row["epoch"])}
    final |= {row["series"]: row for row in constants}
    places = spread_labels([row["value"] for row in final.values()], gap=span * _LABEL_GAP / _HEIGHT)
    return [row | {"epoch": last, "place": place} for row, place in zip(final.values(), places, strict=True)]


def _title(text: str, subtitle: str) -> alt.TitleParams:
    return alt.TitleParams(text=text, subtitle=subtitle)


def _named(data: Datasets, rows: Rows) -> alt.NamedData:
    # rows go by name: altair would copy and check every value of inline data several times over
    known = next((name for name, have in data.items() if have is rows), None)
    name = known or f"rows {len(data)}"
    data[name] = rows
    return alt.NamedData(name)


def _finish(data: Datasets, chart: alt.ConcatChart) -> dict[str, Any]:
    return chart.to_dict(validate=False) | {"config": theme.configuration(), "datasets": data}
