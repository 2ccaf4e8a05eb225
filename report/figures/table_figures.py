"""Figures of the tables that commands write: curves, layer grids, ceilings, alignment, competence and probes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.advice import advice_table_figure
from featcache.report.figures.figure import Figure
from featcache.report.figures.layer_map import layer_figure
from featcache.report.figures.probe import probe_table_figure
from featcache.report.names import finite, shorten
from featcache.report.runs import metric_title
from featcache.report.terminal.alignment import PAIRINGS

if TYPE_CHECKING:
    from featcache.report.inputs import InputTable
    from featcache.studies.competence import RankCorrelation

Rows = list[dict[str, Any]]
_LONGEST = 26
_SOURCES = {"x": "linear map of x", "y": "linear map of y", "both": "linear map of both", "raw x": "x, raw",
            "raw y": "y, raw"}  # fmt: skip


def table_figures(tables: "Sequence[InputTable]") -> list[Figure]:
    """The figures of tables that speak for themselves; those of two tables of a kind share a name.

    Costs and competence are drawn by `quality_against_cost` and `competence_figure`, of what studies make of them.
    """
    drawn = [draw(table) for table in tables for draw in _DRAWINGS.get(table.kind, ())]
    return [figure for figure in drawn if figure is not None]


def gallery_curve(table: "InputTable") -> Figure | None:
    """A score of neighbours against the size of the gallery; None for fewer than two sizes."""
    rows = table.rows.filter(table.rows["value"].is_finite())
    several = rows.filter(rows["size"] < rows["size"].max()) if len(rows) else rows
    if several.is_empty():
        return None
    k = several["k"][0]
    points = _means(rows.filter(rows["k"] == k), "size")
    what = _pair(table)
    ends = (
        f"{points[0]['value']:.3f} at {points[0]['x']:,.0f} rows, {points[-1]['value']:.3f} at {points[-1]['x']:,.0f}"
    )
    title = metric_title(points[0]["metric"])
    short = sum(row["short_rows"] for row in points)
    left = f" {short:,} rows whose lists ran short were left out." if short else ""
    return _curve(
        "gallery_curve", points, "rows of the gallery", title,
        f"{title} and the size of the gallery: {what}",
        f"{ends}. Mean over draws of {what}, k = {k}; rule: least to greatest draw; dashed: chance, k / (n − 1).{left} "
        "Scores of neighbours compare at one size only.",
    )  # fmt: skip


def k_curve(table: "InputTable") -> Figure | None:
    """A score of neighbours against k at the full gallery; None for fewer than two k."""
    rows = table.rows.filter(table.rows["value"].is_finite())
    rows = rows.filter(rows["size"] == rows["size"].max()) if len(rows) else rows
    if rows.is_empty() or rows["k"].n_unique() < 2:
        return None
    points = _means(rows, "k")
    what, title, size = _pair(table), metric_title(points[0]["metric"]), rows["size"].max()
    ends = (
        f"{points[0]['value']:.3f} at k = {points[0]['x']:.0f}, {points[-1]['value']:.3f} at k = {points[-1]['x']:.0f}"
    )
    return _curve(
        "k_curve", points, "k, neighbours", title, f"{title} and k: {what}",
        f"{ends}; {size:,} rows of {what}. Dashed: chance.",
    )  # fmt: skip


def ceiling_figure(table: "InputTable") -> Figure | None:
    """What linear maps of two encoders reach of a reference beside the raw spaces; None without such rows."""
    from featcache.report.figures import point_charts

    kept = table.rows.filter((table.rows["kind"] == "ridge") & table.rows["value"].is_finite())
    kept = kept.filter(kept["source"].is_in(list(_SOURCES)))
    if kept.is_empty():
        return None
    rows: Rows = []
    kept = kept.sort(
        kept["source"].replace_strict({one: place for place, one in enumerate(_SOURCES)}), maintain_order=True
    )
    for (source, metric), cell in kept.group_by(["source", "metric"], maintain_order=True):
        values = cell["value"].to_list()
        rows.append(
            {
                "label": _SOURCES[str(source)],
                "series": "mean over folds",
                "metric": str(metric),
                "value": sum(values) / len(values),
                "ci_low": min(values),
                "ci_high": max(values),
                "chance": finite(cell["chance"].mean()),
                "folds": len(values),
            }
        )
    metrics = [*dict.fromkeys(row["metric"] for row in rows)]
    panels = [([metric_title(metric)], [row for row in rows if row["metric"] == metric]) for metric in metrics]
    first = table.rows.row(0, named=True)
    x, y, reference = (shorten(first[f"{role}_encoder"]) for role in ("x", "y", "reference"))
    best = max((row for row in rows if row["metric"] == metrics[-1]), key=lambda row: row["value"])
    return Figure(
        "ceiling",
        f"What {x} and {y} hold of {reference}",
        f"By {metric_title(metrics[-1])} {best['label']} reaches {best['value']:.3f}. x: {x}, y: {y}, on "
        f"{shorten(first['dataset'])}. Dot: mean over held-out folds; rule: least to greatest fold; dashed: chance.",
        f"Scores against {reference} of linear maps and raw spaces",
        rows,
        point_charts.named_points(
            panels, columns=point_charts.columns_of(len(panels)), colours={"mean over folds": theme.series(0)[0]},
            title="score on held-out groups", key="",
        ),
    )  # fmt: skip


def mixing_figure(table: "InputTable") -> Figure | None:
    """Scores of mixtures of two kernels by the weight of the first; None without such rows."""
    from featcache.report.figures import point_charts

    kept = table.rows.filter((table.rows["kind"] == "mixing") & table.rows["value"].is_finite())
    kept = kept.filter(kept["weight"].is_not_null())
    if kept.is_empty():
        return None
    rows: Rows = [
        {"x": row["weight"], "value": row["value"], "series": "mixture", "metric": row["metric"], "ci_low": None,
         "ci_high": None, "chance": finite(row["chance"])}
        for row in kept.sort("weight").iter_rows(named=True)
    ]  # fmt: skip
    metrics = [*dict.fromkeys(row["metric"] for row in rows)]
    panels = [([metric_title(metric)], [row for row in rows if row["metric"] == metric]) for metric in metrics]
    first = table.rows.row(0, named=True)
    x, y, reference = (shorten(first[f"{role}_encoder"]) for role in ("x", "y", "reference"))
    best = max(panels[0][1], key=lambda row: row["value"])
    return Figure(
        "mixing",
        f"Mixtures of {x} and {y} against {reference}",
        f"By {metric_title(metrics[0])} the best mixture has {best['x']:.0%} of {x} ({best['value']:.3f}). The weights "
        "are compared on the very rows that they are chosen on; dashed: chance.",
        f"Lines of the score over the weight of {x}",
        rows,
        point_charts.lines(
            panels, columns=point_charts.columns_of(len(panels)), colours={"mixture": theme.series(0)[0]},
            titles=(f"weight of {x}", "score"), log=False,
        ),
    )  # fmt: skip


def align_figure(table: "InputTable") -> Figure | None:
    """Scores of two encoders by metric, with interval, null and chance; None without scores."""
    from featcache.report.figures import charts

    rows: Rows = []
    for row in table.rows.filter(table.rows["value"].is_finite()).iter_rows(named=True):
        numbers = {name: finite(row[name]) for name in ("chance", "null_low", "null_high", "ci_low", "ci_high")}
        label = shorten(metric_title(row["metric"]), _LONGEST)
        score = {"metric": "", "label": label, "value": row["value"], **numbers, "n": row["n"], "k": row["k"]}
        look = {"_colour": theme.series(0)[0], "_fill": theme.series(0)[0], "_shape": "circle", "_size": 60}
        rows.append({**score, **look, "_tip": f"{label}: {row['value']:.3f}"})
    if not rows:
        return None
    first = table.rows.row(0, named=True)
    what = f"{shorten(first['space'], _LONGEST)} and {shorten(first['against'], _LONGEST)}"
    told = ", ".join(f"{row['label']} {row['value']:.3f}" for row in rows[:4])
    interval = "" if all(row["ci_low"] is None for row in rows) else "; thin line: 95 % interval"
    return Figure(
        "alignment",
        f"Alignment of {what}",
        f"{told}. {first['n'] or 0:,} rows of {shorten(first['dataset'])}. Dot: score{interval}; grey band: 95 % of "
        "what unrelated features score; dark tick: chance.",
        f"Dots of the alignment of {what}: {told}",
        rows,
        charts.dots([("", rows)], columns=1, order=[row["label"] for row in rows]),
    )


def grid_figure(table: "InputTable") -> Figure | None:
    """Heat maps of every pair of layers; None without scores."""
    from featcache.studies.alignment.grid import LayerScore

    rows = table.rows.filter(table.rows["value"].is_finite())
    if rows.is_empty():
        return None
    names = [name for name in LayerScore.__dataclass_fields__ if name in rows.columns]
    scores = [
        LayerScore(
            encoder_x=f"{row['x_view']}/{row['x_encoder']}", layer_x=row["x_layer"],
            encoder_y=f"{row['y_view']}/{row['y_encoder']}", layer_y=row["y_layer"],
            **{name: row[name] for name in names},
        )
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    pairing = rows["pairing"][0]
    return layer_figure(_with_best(scores), rows["dataset"][0], rows=PAIRINGS.get(pairing, ""))


def _with_best(scores: Sequence[Any]) -> list[Any]:
    """The scores, the best of each metric and pair of encoders marked where a table says of none that it is."""
    from dataclasses import replace

    best: dict[tuple[str, str, str], Any] = {}
    for one in scores:
        key = (one.metric, one.encoder_x, one.encoder_y)
        known = best.get(key)
        closer = known is not None and (one.value > known.value) == bool(one.higher_is_better)
        if known is None or (one.best and not known.best) or (closer and one.best == known.best):
            best[key] = one
    chosen = {id(one) for one in best.values()}
    return [replace(one, best=id(one) in chosen) for one in scores]


def competence_figure(table: "InputTable", correlation: "RankCorrelation") -> Figure | None:
    """Mean alignment with the other encoders against performance, one dot an encoder; None below two.

    Args:
        table: Of `featcache competence`.
        correlation: Of its two columns, from `featcache.studies.competence.correlation_of`.
    """
    from featcache.report.figures import scatter

    kept = table.rows.filter(table.rows["value"].is_finite() & table.rows["performance"].is_finite())
    if len(kept) < 2:
        return None
    first = kept.row(0, named=True)
    rows: Rows = [
        {
            "encoder": row["encoder"],
            "label": _encoder(row["encoder"]),
            "x": row["performance"],
            "value": row["value"],
            "ci_low": None,
            "ci_high": None,
            "series": row["encoder"].partition("/")[0],
            "_tip": f"{row['encoder']}: {row['performance']:.3f}, alignment {row['value']:.3f}",
        }
        for row in kept.iter_rows(named=True)
    ]
    from featcache.metrics.measure.row import p_text

    told = "no rank correlation: one of both does not vary"
    if correlation.rho is not None and correlation.p is not None:
        told = f"Spearman's ρ = {correlation.rho:+.2f}".replace("-", "−") + f", p {p_text(correlation.p)}"
    title = metric_title(first["metric"])
    performance = shorten(first["performance_of"].replace("_", " "), 40)
    series = {one: theme.series(place)[0] for place, one in enumerate(dict.fromkeys(row["series"] for row in rows))}
    return Figure(
        "competence",
        "Do encoders that do better stand closer to the others?",
        f"{told[0].upper()}{told[1:]} over {len(rows)} encoders ({correlation.method}). {shorten(first['dataset'])}, "
        f"{first['n']:,} groups, k = {first['k']}.",
        f"Scatter of mean {title} with the other encoders over {performance}: {told}",
        rows,
        scatter.scatter(
            [("", rows)], titles=[performance], y_title=f"mean {title} with the others", colours=series, log=False
        ),
    )


def _pair(table: "InputTable") -> str:
    first = table.rows.row(0, named=True)
    x, y = (shorten(f"{first[f'{side}_encoder']}/{first[f'{side}_layer']}", _LONGEST) for side in "xy")
    return f"{x} and {y} on {shorten(first['dataset'])}"


def _encoder(name: str) -> str:
    """The encoder of "view/encoder/layer", or the name where it is of another form."""
    parts = name.split("/")
    return shorten(parts[1] if len(parts) > 2 else name, _LONGEST)


def _means(rows: Any, x: str) -> Rows:
    """Mean over draws at each x, with the least and greatest of several."""
    points: Rows = []
    for (at,), cell in rows.sort(x).group_by([x], maintain_order=True):
        values = cell["value"].to_list()
        ends = (min(values), max(values)) if len(values) > 1 else (None, None)
        points.append(
            {"x": float(at), "value": sum(values) / len(values), "ci_low": ends[0], "ci_high": ends[1],
             "chance": finite(cell["chance"].mean()), "draws": len(values), "series": "score",
             "metric": cell["metric"][0], "short_rows": int(cell["short_rows"].sum())}
        )  # fmt: skip
    return points


def _curve(name: str, points: Rows, x: str, y: str, title: str, caption: str) -> Figure:
    from featcache.report.figures import point_charts

    ends = [row["x"] for row in points]
    log = ends[-1] / max(ends[0], 1.0) >= 4
    spec = point_charts.lines(
        [([], points)], columns=1, colours={"score": theme.series(0)[0]}, titles=(x, y), log=log
    )  # fmt: skip
    return Figure(name, title, caption, f"Line: {title}", points, spec)


_DRAWINGS: "dict[str, tuple[Callable[[InputTable], Figure | None], ...]]" = {
    "curve": (gallery_curve, k_curve),
    "grid": (grid_figure,),
    "ceiling": (ceiling_figure, mixing_figure),
    "align": (align_figure,),
    "probe": (probe_table_figure,),
    "advise": (advice_table_figure,),
}
