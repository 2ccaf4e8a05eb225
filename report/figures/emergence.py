"""Figures of when alignment emerges: its maximum by U beside theory and published values, its bias, the PID axis."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.emergence import U, coefficient_text, unique_bits
from featcache.report.figures import theme
from featcache.report.figures.emergence_charts import Panel, Style, styled_lines
from featcache.report.figures.figure import Figure
from featcache.report.names import decimals, file_stem, finite, shorten

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.questions.claims import Published

Rows = list[dict[str, Any]]
METRICS = {
    "cka_clipped": "CKA, clipped at 0 (released)",
    "cka_debiased": "CKA, unbiased",
    "cka_population": "exact CKA, all inputs",
    "mutual_knn": "mutual k-NN, k = 100",
}
_DECOMPOSITIONS = {"broja": "BROJA", "common": "common part"}
_MAPS = 4  # lines of one panel
_THEORY, _RELEASED, _ARTIFICIAL = "exact posteriors", "released, D_φ = 1", "point not measured"


def named(name: str, setting: str) -> str:
    """A figure's name, apart for each setting."""
    return f"{name}-{file_stem(setting, 'setting')}" if setting else name


def titled(title: str, setting: str) -> str:
    """A figure's title, with the setting where there are several."""
    return f"{title} ({setting})" if setting else title


def rq1_curve(
    maxima: "pl.DataFrame", relations: "pl.DataFrame", published: "Mapping[str, Published]", setting: str = ""
) -> Figure | None:
    """The maximum alignment by U, a line for some maps, with the theory curve and the published points.

    Args:
        maxima: Of one setting.
        relations: Correlations of it.
        published: Released figures by name.
        setting: What it is called, of several.
    """
    panels: list[Panel] = []
    for metric in ("cka_clipped", "cka_population", "mutual_knn"):
        rows = _curve_rows(maxima.filter(metric=metric), metric, published if not setting else {})
        if rows:
            cka = metric != "mutual_knn"
            panels.append(Panel([METRICS[metric]], rows, U, "maximum alignment" if cka else "mutual k-NN"))
    if not panels:
        return None
    rows = [{"metric": METRICS[name], **row} for name, panel in zip(_names(panels), panels, strict=True)
            for row in panel.rows]  # fmt: skip
    told = _fall(relations)
    return Figure(
        named("rq1", setting),
        titled("The maximum alignment by U", setting),
        f"{told} Lines: maps of depth D_φ; maximum over layers, depths and seeds. Dashed: CKA of the exact posteriors "
        "p(y|x1), p(y|x2), which two Bayes-optimal models would show. Diamonds: released figure, by eye; cross: the "
        "point (8, 0) that it adds and nobody measured.",
        f"Lines of the maximum alignment over U. {told}",
        rows,
        styled_lines(panels, columns=min(3, len(panels)), styles=_styles(maxima)),
    )


def _names(panels: Sequence[Panel]) -> list[str]:
    words = {text: name for name, text in METRICS.items()}
    return [words[panel.title[0]] for panel in panels]


def _shown_maps(maxima: "pl.DataFrame") -> list[int]:
    """Some maps from the first to the last, at even steps."""
    maps = sorted(set(maxima["phi_depth"]))
    if len(maps) <= _MAPS:
        return maps
    return [maps[round(place * (len(maps) - 1) / (_MAPS - 1))] for place in range(_MAPS)]


def _styles(maxima: "pl.DataFrame") -> dict[str, Style]:
    shades = ("#0072B2", "#56B4E9", "#CC79A7", "#D55E00")
    shapes = ("circle", "square", "triangle-up", "diamond")
    lines = zip(_shown_maps(maxima), shades, shapes, strict=False)
    styles = {f"D_φ {phi}": Style(colour, shape=shape) for phi, colour, shape in lines}
    return styles | {
        _THEORY: Style(theme.INK, (5, 4), ""),
        _RELEASED: Style("#8A5F00", None, "diamond", filled=False),
        _ARTIFICIAL: Style(theme.MUTED, None, "cross", filled=False, named=False),
    }


def _curve_rows(maxima: "pl.DataFrame", metric: str, published: "Mapping[str, Published]") -> Rows:
    rows: Rows = []
    for phi in _shown_maps(maxima) if len(maxima) else []:
        for row in maxima.filter(phi_depth=phi).sort("uniqueness").iter_rows(named=True):
            rows.append(_point(row["uniqueness"], row["value"], f"D_φ {phi}"))
    if not rows:
        return []
    if metric != "mutual_knn":
        theory = maxima.select("uniqueness", "posterior_cka").unique().sort("uniqueness").drop_nulls()
        rows += [_point(u, value, _THEORY) for u, value in theory.rows()]
    figure = published.get("maximum by U")
    if figure and metric == "cka_clipped":
        rows += [_point(u, value, _RELEASED) for u, value in zip(figure.uniqueness, figure.value, strict=True)]
        rows.append(_point(max(figure.uniqueness) + 1, 0.0, _ARTIFICIAL))
    return rows


def _point(x: float, value: float, series: str) -> dict[str, Any]:
    return {"x": x, "value": value, "series": series, "ci_low": None, "ci_high": None,
            "_tip": f"{series}, U = {x:g}: {value:.3f}"}  # fmt: skip


def _fall(relations: "pl.DataFrame") -> str:
    """How the maximum falls with U, in one sentence."""
    rows = relations.filter(question="rq1", x="uniqueness", metric="cka_clipped", method="pearson", group=False)
    told = {row["points"]: coefficient_text(row) for row in rows.iter_rows(named=True) if row["value"] is not None}
    if "measured" not in told:
        return ""
    artificial = told.get("the last U set to 0")
    also = f"; with the last U set to 0 as in the released figure {artificial}" if artificial else ""
    return f"Over U as measured, r = {told['measured']}{also}."


def information_axis(maxima: "pl.DataFrame", relations: "pl.DataFrame", setting: str = "") -> Figure | None:
    """The maximum alignment over exact redundancy, unique information and synergy by two decompositions.

    Args:
        maxima: Of one setting.
        relations: Correlations of it.
        setting: What it is called, of several.
    """
    from featcache.report.figures import scatter

    own = maxima.filter(metric="cka_clipped")
    panels: list[tuple[str, Rows]] = []
    titles: list[str] = []
    for name, words in _DECOMPOSITIONS.items():
        for part in ("redundancy", "unique", "synergy"):
            quantity = f"{name}_{part}"
            rows = _axis_rows(own.filter(own[quantity].is_not_null()), quantity)
            if len(rows) > 1:
                known = relations.filter(question="information", x=quantity, metric="cka_clipped", method="pearson")
                told = (
                    coefficient_text(known.row(0, named=True)) if len(known) and known["value"][0] is not None else "–"
                )
                panels.append((f"r = {told}", rows))
                titles.append(f"{part}{', both sides' if part == 'unique' else ''}, nats ({words})")
    if not panels:
        return None
    said = "; ".join(f"{title} {panel[0]}" for title, panel in zip(titles, panels, strict=True))
    return Figure(
        named("information", setting),
        titled("The maximum alignment over exact redundancy, unique information and synergy", setting),
        f"{unique_bits(own)} Dot: one U, mean over maps; rule: least to greatest map; r: Pearson within maps, its 95 % "
        "interval over label tables. Above BROJA, below the decomposition by the common part: the same tables.",
        f"Scatter of the maximum alignment over exact information quantities: {said}",
        [{"quantity": title, **row} for title, (_, rows) in zip(titles, panels, strict=True) for row in rows],
        scatter.scatter(
            panels, titles=titles, y_title="maximum CKA (released)", colours={"U": theme.series(0)[0]}, log=False
        ),
    )


def _axis_rows(maxima: "pl.DataFrame", quantity: str) -> Rows:
    rows: Rows = []
    for (u,), own in maxima.sort("uniqueness").group_by(["uniqueness"], maintain_order=True):
        values = own["value"].to_list()
        mean = sum(values) / len(values)
        rows.append(
            {"x": own[quantity][0], "value": mean, "label": f"U {u}", "ci_low": min(values), "ci_high": max(values),
             "series": "U", "_tip": f"U = {u}: {mean:.3f} at {own[quantity][0]:.3f} nats"}
        )  # fmt: skip
    return rows


def bias_figure(bias: "pl.DataFrame", setting: str = "") -> Figure | None:
    """How the maximum of estimates outgrows that of exact values as more models or seeds are compared.

    Args:
        bias: Of one setting.
        setting: What it is called, of several.
    """
    own = bias.filter(metric="cka_clipped")
    levels = [u for u in (0, 4, 8) if u in set(own["uniqueness"])] or sorted(set(own["uniqueness"]))[:3]
    if own.is_empty() or own["count"].max() == 1:
        return None
    lines = {"estimate": "largest estimate", "population": "largest exact value", "selected": "exact value of its pair"}
    panels: list[Panel] = []
    unit = own["unit"][0]
    for u in levels:
        rows: Rows = []
        cells = own.filter(uniqueness=u)
        for (count,), part in cells.sort("count").group_by(["count"], maintain_order=True):
            rows += [_point_at(count, part[name].mean(), series, unit) for name, series in lines.items()]
        panels.append(Panel([f"U = {u}"], rows, f"{unit} compared", f"maximum CKA at U = {u}, mean over maps"))
    counts = (own["count"].min(), own["count"].max())
    excess = {
        count: finite((part["estimate"] - part["population"]).mean())
        for count, part in ((count, own.filter(count=count)) for count in counts)
    }
    told = (
        f"The largest estimate lies {excess[counts[0]] or 0.0:+.3f} from the largest exact value with {counts[0]} of "
    )
    told += f"the {unit} and {excess[counts[1]] or 0.0:+.3f} with {counts[1]}, mean over U and maps."
    blue, green, orange = (theme.series(place)[0] for place in (0, 5, 1))
    styles = {lines["estimate"]: Style(blue), lines["population"]: Style(green, (5, 4), "square"),
              lines["selected"]: Style(orange, (2, 2), "triangle-up")}  # fmt: skip
    return Figure(
        named("maximum_bias", setting),
        titled("What a maximum over many models adds by itself", setting),
        f"{told} Estimates are of 512 rows (released metric), exact values of all inputs; each point is the mean over "
        "every choice of so many. Each panel has a scale of its own.",
        f"Lines of the maximum over the number compared: {told}",
        [{"panel": panel.title[0], **row} for panel in panels for row in panel.rows],
        styled_lines(panels, columns=len(panels), styles=styles),
    )


def _point_at(count: int, value: Any, series: str, unit: str) -> dict[str, Any]:
    number = float(value)
    return {"x": count, "value": number, "series": series, "ci_low": None, "ci_high": None,
            "_tip": f"{series}, {count} {unit}: {number:.3f}"}  # fmt: skip


def agreement_figure(agreement: "pl.DataFrame", setting: str = "") -> Figure | None:
    """The metrics beside each other by U, and the share of pairs of layers that clipping sets to 0.

    Args:
        agreement: Of one setting.
        setting: What it is called, of several.
    """
    rows: Rows = []
    clipped: Rows = []
    ranks: Rows = []
    for row in agreement.sort("uniqueness").iter_rows(named=True):
        title = METRICS.get(str(row["metric"]), str(row["metric"]))
        rows.append(_point(row["uniqueness"], row["mean"], title))
        if row["metric"] == "cka_debiased" and row["clipped"] is not None:
            clipped.append(_point(row["uniqueness"], row["clipped"], title))
        if row["metric"] not in ("cka_population",) and row["rank_correlation"] is not None:
            ranks.append(_point(row["uniqueness"], row["rank_correlation"], title))
    if not rows:
        return None
    colours = dict(zip(METRICS.values(), (theme.series(place)[0] for place in (0, 3, 6, 1)), strict=True))
    dashes: dict[str, tuple[int, ...]] = {METRICS["cka_debiased"]: (6, 4), METRICS["cka_population"]: (2, 2)}
    styles = {name: Style(colour, dashes.get(name, ())) for name, colour in colours.items()}
    quiet = {name: Style(style.colour, style.dash, named=False) for name, style in styles.items()}
    panels = [Panel(["Mean over models"], rows, U, "alignment of the best pair")]
    panels += [Panel(["Rank correlation with exact CKA"], ranks, U, "Spearman over models")] if ranks else []
    panels += [Panel(["Pairs of layers below 0"], clipped, U, "share set to 0 by clipping")] if clipped else []
    most = max((row["value"] for row in clipped), default=0.0)
    told = f"Clipping sets up to {most:.0%} of the pairs of layers to 0."
    if ranks:
        least = min(ranks, key=lambda row: row["value"])
        told += f" Least agreement with exact CKA: {least['series']} at U = {least['x']}, {decimals(least['value'])}."
    # one panel names the lines, the others share their colours
    spec = styled_lines(panels, columns=len(panels), styles=styles)
    other = styled_lines(panels, columns=len(panels), styles=quiet)
    spec["concat"] = [spec["concat"][0], *other["concat"][1:]]
    return Figure(
        named("metrics", setting),
        titled("Clipped, unclipped, exact, and by neighbours", setting),
        f"{told} Unbroken blue: the released metric; dashed: unclipped; dotted: exact; orange: neighbours.",
        f"Lines of four metrics over U. {told}",
        [{"panel": panel.title[0], **row} for panel in panels for row in panel.rows],
        spec,
    )


def generators_figure(maxima: "Sequence[pl.DataFrame]", slopes: "pl.DataFrame") -> Figure | None:
    """The maximum of exact CKA over the levels of each generator, beside theory; None of one generator.

    Args:
        maxima: Of any number of studies.
        slopes: From `featcache.studies.emergence.questions.parts.part_slopes`; may be empty.
    """
    import polars as pl

    columns = ["generator", "uniqueness", "phi_depth", "metric", "value", "posterior_cka"]
    every = pl.concat([table.select(columns) for table in maxima]).filter(metric="cka_population")
    generators = [*dict.fromkeys(every["generator"])]
    if len(generators) < 2:
        return None
    panels: list[Panel] = []
    for generator in generators:
        own = every.filter(generator=generator)
        rows: Rows = []
        for phi in _shown_maps(own):
            for row in own.filter(phi_depth=phi).sort("uniqueness").iter_rows(named=True):
                rows.append(_point(row["uniqueness"], row["value"], f"D_φ {phi}"))
        theory = own.select("uniqueness", "posterior_cka").unique().sort("uniqueness").drop_nulls()
        rows += [_point(u, value, _THEORY) for u, value in theory.rows()]
        words = generator.removeprefix("planted_").replace("_", " ")
        panels.append(Panel([shorten(words, 30)], rows, "level", "maximum exact CKA"))
    told = _slopes_told(slopes)
    return Figure(
        "generators",
        "One part of the label's information turned at a time",
        f"{told}Each panel a generator: a dial that turns one part, or one into another, and holds the rest. Dashed: "
        "CKA of the exact posteriors. Slopes: of the plane over redundancy, unique information and synergy, a nat "
        "each, with a constant for each map and intervals over generators.",
        f"Lines of the maximum alignment over the levels of {len(generators)} generators. {told}",
        [{"generator": panel.title[0], **row} for panel in panels for row in panel.rows],
        styled_lines(panels, columns=3, styles=_styles(every)),
    )


def _slopes_told(slopes: "pl.DataFrame") -> str:
    """The slopes over the three parts by BROJA, or ""."""
    own = slopes.filter(metric="cka_population", decomposition="broja") if len(slopes) else slopes
    own = own.filter(own["value"].is_not_null()) if len(own) else own
    if own.is_empty():
        return ""
    told = ", ".join(f"{row['part']} {coefficient_text(row)}" for row in own.iter_rows(named=True))
    return f"Exact CKA a nat: {told}. "
