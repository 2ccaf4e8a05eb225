"""Figures of dials: alignment, correlations and performance by how much of one view is spoilt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, require_renderer
from featcache.report.names import file_stem, finite, short_names, shorten
from featcache.report.runs import metric_title

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.dials.doses import DialResult

Rows = list[dict[str, Any]]
BEST = "best pair of layers"
_AXES = {
    "swapped": "share of wrong captions",
    "delete": "share of characters deleted",
    "noise": "share of pixels replaced",
    "voice-unique": "share of voices tied to the label",
    "voice-redundant": "share of voices tied to the class",
    "graded": "share that was to be rewritten",
}
_LONGEST = 24
_MOST_SERIES = 6


def write_dial_figures(result: "DialResult") -> list[str]:
    """Draws the figures of a dial beside its tables, as PNG, SVG and CSV; [] where it has no tables.

    Args:
        result: From `featcache.studies.emergence`.

    Returns:
        The PNGs' names.

    Raises:
        UsageError: If what draws is not installed.
    """
    require_renderer()
    if not result.paths:
        return []
    folder = next(iter(result.paths.values())).parent
    figures = dial_figures(result.alignment, result.correlations, result.performance, result.bits)
    for figure in figures:
        figure.write(folder, formats=("png", "svg"))
    return [f"{figure.name}.png" for figure in figures]


def dial_figures(
    alignment: "pl.DataFrame", correlations: "pl.DataFrame | None" = None, performance: "pl.DataFrame | None" = None,
    bits: "pl.DataFrame | None" = None,
) -> list[Figure]:  # fmt: skip
    """The figures of one dial: those that its tables have rows for.

    Args:
        alignment: alignment.parquet of the dial.
        correlations: correlations.parquet.
        performance: performance.parquet.
        bits: bits.parquet.
    """
    drawn = [alignment_by_dose(alignment)]
    if correlations is not None:
        drawn.append(correlations_by_dose(correlations))
    drawn.append(performance_by_dose(performance, bits))
    return [figure for figure in drawn if figure is not None]


def alignment_by_dose(table: "pl.DataFrame") -> Figure | None:
    """Alignment of each encoder's default layer with the other view's fixed layer, and of the best pair; None for none.

    Args:
        table: alignment.parquet of one dial.
    """
    import polars as pl

    from featcache.report.figures import point_charts

    scored = table.filter(pl.col("value").is_finite())
    if scored.is_empty() or scored["dose"].n_unique() < 2:
        return None
    panels = [
        ([metric_title(metric)], _lines(scored.filter(metric=metric), metric)) for metric in _unique(scored, "metric")
    ]
    panels = [(title, rows) for title, rows in panels if rows]
    if not panels:
        return None
    colours = _colours([row["series"] for _, rows in panels for row in rows])
    first = scored.row(0, named=True)
    columns = point_charts.columns_of(len(panels))
    spec = point_charts.lines(panels, columns=columns, colours=colours, titles=(_axis(first), "alignment"), log=False)
    draws = scored["draw"].n_unique()
    many = f" Means over {draws} draws, the interval that of the first." if draws > 1 else ""
    pairs = len(scored.filter(dose=first["dose"]).select("space", "against").unique())
    best = (
        f" Black: the highest of {pairs:,} pairs of layers at each dose, which is high by choice."
        if BEST in colours
        else ""
    )
    return Figure(
        file_stem(f"alignment_{first['dial']}_{first['dataset']}_{first['y_view']}", "alignment"),
        f"Alignment by dose: {_title(first)}",
        f"{_fall(panels)} {_against(scored)}, {first['n'] or 0:,} rows, k = {first['k']}. Lines: 95 % intervals of new "
        f"samples; dashed: chance.{many}{best}",
        f"Lines of alignment over the {_axis(first)}: {_fall(panels)}",
        [row for _, rows in panels for row in rows],
        spec,
    )


def correlations_by_dose(table: "pl.DataFrame") -> Figure | None:
    """Coefficients over layers by dose, each with its interval over encoders; None where no dose has one.

    Args:
        table: correlations.parquet of one dial.
    """
    import polars as pl

    from featcache.report.figures import point_charts

    kept = table.filter(pl.col("value").is_finite())
    if kept.is_empty() or kept["dose"].n_unique() < 2:
        return None
    kept = kept.filter(pl.col("metric").is_in(["", kept.filter(pl.col("metric") != "")["metric"][0]]))
    keys = ["side", "x", "y", "against"]
    panels: list[tuple[Sequence[str], Rows]] = []
    for (_, x, y, against), part in kept.sort("x", "dose").group_by(keys, maintain_order=True):
        if part["dose"].n_unique() > 1 and (x, y) != ("depth", "probe_accuracy"):
            title = [
                f"{part['view'][0]}: {_word(str(x))} and {_word(str(y))}",
                *([f"with {against}"] if against else []),
            ]
            panels.append((title, _coefficients(part)))
    if not panels:
        return None
    colours = _colours([row["series"] for _, rows in panels for row in rows])
    first = kept.row(0, named=True)
    of_side = kept.sort("dose").unique("side", keep="first", maintain_order=True)
    models = [(row["view"], row["models"], row["clusters"]) for row in of_side.iter_rows(named=True)]
    counts = "; ".join(f"{view}: {n} layers of {clusters} encoders" for view, n, clusters in models)
    rules = "95 % intervals of Spearman's coefficients that leave out one encoder at a time" + (
        "" if kept["low"].is_not_null().any() else ", of which 4 or more are needed"
    )
    if kept["draw"].n_unique() > 1:
        rules = f"least to greatest of {kept['draw'].n_unique()} draws of Spearman's coefficients"
    titles = _axis(first), "coefficient"
    return Figure(
        file_stem(f"correlations_{first['dial']}_{first['dataset']}_{models[0][0]}", "correlations"),
        f"Correlations over layers by dose: {_title(first)}",
        f"{_span(panels)} {counts}. Rules: {rules}. Within encoders: the mean of each one's own coefficient. Intervals "
        "over encoders, in the table, are about other encoders on these very rows.",
        f"Lines of coefficients over the {_axis(first)}",
        [row for _, rows in panels for row in rows],
        point_charts.lines(panels, columns=min(2, len(panels)), colours=colours, titles=titles, log=False),
    )


def performance_by_dose(performance: "pl.DataFrame | None", bits: "pl.DataFrame | None") -> Figure | None:
    """Probe accuracy of each encoder's best layer, and bits per byte, where they change with the dose; else None.

    Args:
        performance: performance.parquet of one dial, or None.
        bits: bits.parquet, or None.
    """
    from featcache.report.figures import point_charts

    panels: list[tuple[Sequence[str], Rows]] = []
    for side in ("x", "y"):
        rows = [] if performance is None else _accuracies(performance.filter(side=side))
        if rows:
            panels.append(([f"probe accuracy, {rows[0]['view']}"], rows))
    rows = [] if bits is None else _bits(bits)
    if rows:
        panels.append((["bits per byte of the texts"], rows))
    if not panels:
        return None
    first = performance if performance is not None and len(performance) else bits
    assert first is not None  # rows come from one of them
    named = first.row(0, named=True)
    dial = named.get("dial", "delete")
    colours = _colours([row["series"] for _, own in panels for row in own])
    unit = "accuracy" if not rows else "bits per byte" if len(panels) == 1 else "accuracy, or bits"
    changes = "; ".join(
        f"{' '.join(title)}: {own[0]['series']} {own[0]['value']:.3f} at the first dose, "
        f"{[row for row in own if row['series'] == own[0]['series']][-1]['value']:.3f} at the last"
        for title, own in panels
    )
    return Figure(
        file_stem(f"performance_{dial}_{named.get('dataset', named['view'])}", "performance"),
        "Performance by dose",
        f"{changes}. Accuracy: the layer of each encoder that is best at the first dose; rules: Wilson intervals over "
        "test groups; dashed: chance.",
        f"Lines of performance over the dose: {changes}",
        [row for _, own in panels for row in own],
        point_charts.lines(
            panels, columns=point_charts.columns_of(len(panels)), colours=colours,
            titles=(_AXES.get(dial, "dose"), unit), log=False,
        ),
    )  # fmt: skip


def _lines(rows: "pl.DataFrame", metric: str) -> Rows:
    """One line an encoder at its default layer, against the other side's fixed layer, and the best of all pairs."""
    import polars as pl

    side = _side(rows)
    other = "y" if side == "x" else "x"
    own = rows.filter(pl.col(f"{side}_default") & pl.col("fixed").str.contains(other))
    names = short_names([f"{row[f'{side}_encoder']}" for row in own.iter_rows(named=True)], _LONGEST)
    lines: Rows = []
    for (encoder, dose), cell in own.sort("dose", "draw").group_by([f"{side}_encoder", "dose"], maintain_order=True):
        at = cell.row(0, named=True)
        lines.append(
            {"x": dose, "series": names[str(encoder)], "metric": metric, "value": cell["value"].mean(),
             "ci_low": finite(at["ci_low"]), "ci_high": finite(at["ci_high"]), "chance": finite(at["chance"]),
             "draws": len(cell), "pair": f"{at['space']} and {at['against']}"}
        )  # fmt: skip
    kept = set(list(names.values())[: _MOST_SERIES - 1])
    lines = [row for row in lines if row["series"] in kept]
    counts = rows.group_by("dose", "draw").len()["len"]
    return lines + (_best(rows, metric) if len(counts) and min(counts) > 1 and not _few(rows) else [])


def _few(rows: "pl.DataFrame") -> bool:
    """Whether a metric was measured with default layers alone, so that its best pair would be one of few."""
    return bool((rows["fixed"] != "").all())


def _best(rows: "pl.DataFrame", metric: str) -> Rows:
    import polars as pl

    at_dose = rows.group_by("dose", "draw").agg(pl.col("value").max()).group_by("dose").agg(pl.col("value").mean())
    blank = {
        "series": BEST,
        "metric": metric,
        "ci_low": None,
        "ci_high": None,
        "chance": None,
        "draws": None,
        "pair": "",
    }
    return [{"x": row["dose"], **blank, "value": row["value"]} for row in at_dose.sort("dose").iter_rows(named=True)]


def _coefficients(part: "pl.DataFrame") -> Rows:
    """Means over draws; Spearman's with the range of several draws, or with the interval over encoders of one."""
    rows: Rows = []
    if max(part["clusters"]) == 1:  # both are the same
        part = part.filter(part["levels"] == part["levels"][0])
    several = part["draw"].n_unique() > 1
    order = part.sort("dose", "draw").group_by(["method", "levels", "dose"], maintain_order=True)
    for (method, levels, dose), cell in order:
        first = cell.row(0, named=True)
        ends = (cell["value"].min(), cell["value"].max()) if several else (finite(first["low"]), finite(first["high"]))
        if method != "spearman" or (several and len(cell) == 1):  # two rules at one place would hide each other
            ends = (None, None)
        series = f"{str(method).capitalize()}, {'within encoders' if 'within' in str(levels) else 'all'}"
        value = {"metric": "coefficient", "value": cell["value"].mean(), "chance": 0.0}
        counts = {"models": first["models"], "encoders": first["clusters"], "draws": len(cell)}
        rows.append({"x": dose, "series": series, **value, "ci_low": ends[0], "ci_high": ends[1], **counts})
    return rows


def _accuracies(rows: "pl.DataFrame") -> Rows:
    """Each encoder at the layer that is best at the first dose, where accuracy changes with the dose; [] else."""
    import polars as pl

    of_layer = rows.group_by("encoder", "layer").agg(pl.col("value").n_unique().alias("values"))
    if rows.is_empty() or of_layer["values"].max() == 1:
        return []
    first = rows.filter(pl.col("dose") == rows["dose"].min()).sort("value", descending=True, maintain_order=True)
    best = first.group_by("encoder", maintain_order=True).agg(pl.col("layer").first())
    names = short_names([f"{row['encoder']}/{row['layer']}" for row in best.iter_rows(named=True)], _LONGEST)
    kept = rows.join(best, on=["encoder", "layer"]).sort("dose", "draw")
    lines: Rows = []
    for (encoder, layer, dose), cell in kept.group_by(["encoder", "layer", "dose"], maintain_order=True):
        at = cell.row(0, named=True)
        lines.append(
            {"x": dose, "series": names[f"{encoder}/{layer}"], "metric": f"accuracy {at['side']}",
             "value": cell["value"].mean(), "ci_low": finite(at["ci_low"]), "ci_high": finite(at["ci_high"]),
             "chance": finite(at["chance"]), "view": at["view"], "draws": len(cell)}
        )  # fmt: skip
    return lines


def _bits(rows: "pl.DataFrame") -> Rows:
    """Mean bits per byte of each language model, where it changes with the dose; [] else."""
    if rows.is_empty() or rows["dose"].n_unique() < 2 or rows["bits_per_byte"].n_unique() < 2:
        return []
    return [
        {"x": row["dose"], "series": shorten(row["encoder"], _LONGEST), "metric": "bits", "value": row["bits_per_byte"],
         "ci_low": None, "ci_high": None, "chance": None, "view": row["view"], "draws": None}
        for row in rows.sort("encoder", "dose").iter_rows(named=True)
    ]  # fmt: skip


def _unique(table: "pl.DataFrame", column: str) -> list[str]:
    return list(dict.fromkeys(table[column].to_list()))


def _colours(series: Sequence[str]) -> dict[str, str]:
    names = [name for name in dict.fromkeys(series) if name != BEST]
    colours = {name: theme.series(place)[0] for place, name in enumerate(names)}
    return colours | ({BEST: theme.INK} if BEST in series else {})


def _axis(row: dict[str, Any]) -> str:
    return _AXES.get(row["dial"], "dose")


def _title(row: dict[str, Any]) -> str:
    return f"{row['comparison']} of {shorten(row['dataset'])}, {_AXES.get(row['dial'], row['dial'])}"


def _word(quantity: str) -> str:
    return quantity.replace("_", " ").partition(",")[0]


def _side(rows: "pl.DataFrame") -> str:
    """The side whose encoders have lines: x, unless it has one encoder and y several."""
    return "y" if rows["x_encoder"].n_unique() == 1 < rows["y_encoder"].n_unique() else "x"


def _against(rows: "pl.DataFrame") -> str:
    import polars as pl

    other = "y" if _side(rows) == "x" else "x"
    fixed = rows.filter(pl.col("fixed") == "xy")
    row = (fixed if len(fixed) else rows).row(0, named=True)
    return f"Against {shorten(row[f'{other}_encoder'])}/{row[f'{other}_layer']} ({row[f'{other}_view']})"


def _fall(panels: Sequence[tuple[Sequence[str], Rows]]) -> str:
    """The first line of each panel in words, from its first dose to its last."""
    told: list[str] = []
    for title, rows in panels:
        own = [row for row in rows if row["series"] == rows[0]["series"]]
        told.append(
            f"{' '.join(title)} of {own[0]['series']}: {own[0]['value']:.3f} at {own[0]['x']:.0%}, "
            f"{own[-1]['value']:.3f} at {own[-1]['x']:.0%}"
        )
    return "; ".join(told) + "."


def _span(panels: Sequence[tuple[Sequence[str], Rows]]) -> str:
    """The pooled Spearman coefficient of the first panel, from its first dose to its last."""
    title, rows = panels[0]
    own = [row for row in rows if row["series"].startswith("Spearman, all")] or rows
    ends = f"{own[0]['value']:+.2f} at {own[0]['x']:.0%}, {own[-1]['value']:+.2f} at {own[-1]['x']:.0%}".replace(
        "-", "−"
    )
    return f"{title[0]}, {own[0]['series']}: {ends}."
