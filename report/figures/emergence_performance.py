"""Figures of whether alignment predicts performance: coefficients by U, heat maps over depths, the law of depths."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.emergence import U
from featcache.report.figures import theme
from featcache.report.figures.emergence import METRICS, named, titled
from featcache.report.figures.emergence_charts import Panel, Style, coefficients, depth_maps, styled_lines
from featcache.report.figures.figure import Figure
from featcache.report.names import decimals, finite

if TYPE_CHECKING:
    import polars as pl

    from featcache.studies.emergence.questions.claims import Published

Rows = list[dict[str, Any]]
_METHODS = {"spearman": "Spearman", "pearson": "Pearson"}
_PAIRS = (  # question and x of correlations with accuracy, and their title, which is a released figure's name
    ("rq2", "alignment", "alignment and accuracy"),
    ("beyond depth", "alignment", "alignment and accuracy, beyond depth"),
    ("rq2", "depth", "depth and accuracy"),
)
_SHOWN = (0, 2, 4, 6, 8)  # U of heat maps
_LEVELS = (0, 4, 8)  # U of the law


def performance_figure(
    relations: "pl.DataFrame", published: "Mapping[str, Published]", setting: str = ""
) -> Figure | None:
    """Correlations of alignment and of depth with exact accuracy by U, boxes over maps, released medians beside.

    Args:
        relations: Of one setting.
        published: Released figures by name.
        setting: What it is called, of several.
    """
    panels: list[Panel] = []
    kept = relations.filter((relations["y"] == "accuracy") & relations["question"].is_in([of for of, _, _ in _PAIRS]))
    kept = kept.filter(kept["metric"].is_in(["cka_clipped", ""]) & kept["value"].is_not_null())
    for question, x, what in _PAIRS:
        for method, name in _METHODS.items():
            own = kept.filter(question=question, x=x, method=method)
            if len(own):
                figure = None if setting else published.get(what)
                rows = _coefficient_rows(own, figure if figure and figure.method == method else None)
                panels.append(Panel([f"{what[0].upper()}{what[1:]}", name], rows, U, "coefficient"))
    if not panels:
        return None
    values = [row[name] for panel in panels for row in panel.rows for name in ("value", "ci_low", "ci_high")]
    known = [value for value in values if value is not None]
    ends = (max(-1.0, min(known) - 0.05), min(1.0, max(known) + 0.05))
    told = _told(kept)
    return Figure(
        named("performance", setting),
        titled("Does alignment predict performance? Coefficients by U", setting),
        f"{told} Blue: all maps, within each, with its 95 % interval over depths; box and dots: {_groups(kept)}; "
        "diamond: median of the released figure, by eye (Spearman). Beyond depth: models less the mean of their depth. "
        "Accuracy is exact.",
        f"Coefficients of alignment and depth with accuracy by U. {told}",
        [{"panel": " · ".join(panel.title), **row} for panel in panels for row in panel.rows],
        coefficients(panels, columns=2, ends=ends),
    )


def _groups(kept: "pl.DataFrame") -> str:
    spans = dict.fromkeys(kept.filter(group=True)["phi_depths"])
    if not spans:
        return "no group of maps has 12 models"
    several = [one for one in spans if "–" in one]
    return f"groups of maps ({', '.join(f'D_φ {one}' for one in spans)})" if several else "one coefficient a map"


def _coefficient_rows(own: "pl.DataFrame", figure: "Published | None") -> Rows:
    rows: Rows = []
    for row in own.sort("uniqueness").iter_rows(named=True):
        what = "group" if row["group"] else "all"
        text = f"U = {row['uniqueness']}, D_φ {row['phi_depths']}: {row['value']:+.3f}, {row['models']} models"
        rows.append(
            {"x": row["uniqueness"], "what": what, "value": row["value"], "maps": row["phi_depths"],
             "models": row["models"], "ci_low": None if row["group"] else finite(row["low"]),
             "ci_high": None if row["group"] else finite(row["high"]), "_tip": text}
        )  # fmt: skip
    for u, value in zip(figure.uniqueness, figure.value, strict=True) if figure else ():
        rows.append(
            {"x": u, "what": "published", "value": value, "maps": "", "models": None, "ci_low": None, "ci_high": None,
             "_tip": f"U = {u}: released median {value:.2f}"}
        )  # fmt: skip
    return rows


def _told(kept: "pl.DataFrame") -> str:
    """The coefficients of alignment at the first and the last U, and the range of those of depth."""
    sentences: list[str] = []
    for question, words in (("rq2", "Alignment and accuracy"), ("beyond depth", "beyond depth and map")):
        own = kept.filter(question=question, x="alignment", method="spearman", group=False).sort("uniqueness")
        if len(own):
            first, last = own.row(0, named=True), own.row(-1, named=True)
            sentences.append(
                f"{words}: ρ = {decimals(first['value'])} at U = {first['uniqueness']}, {decimals(last['value'])} at "
                f"U = {last['uniqueness']}"
            )
    sentences = ["; ".join(sentences) + "."] if sentences else []
    depth = kept.filter(x="depth", method="spearman", group=False)
    if len(depth):
        low, high = float(depth["value"].min()), float(depth["value"].max())  # pyright: ignore[reportArgumentType]
        sentences.append(f"Depth and accuracy: {decimals(low)} to {decimals(high)}.")
    return " ".join(sentences)


def depth_figure(by_depth: "pl.DataFrame", setting: str = "") -> Figure | None:
    """Heat maps of alignment and of exact accuracy over the depth of the encoder and that of the map.

    Args:
        by_depth: Of one setting.
        setting: What it is called, of several.
    """
    own = _with_share(by_depth)
    levels = [u for u in _SHOWN if u in set(own["uniqueness"])]
    if not levels or own["depth"].n_unique() < 2 or own["phi_depth"].n_unique() < 2:
        return None
    legends = {"value": "alignment", "share": "accuracy /\nBayes"}
    panels: list[Panel] = []
    rows: Rows = []
    for what, legend in legends.items():
        for u in levels:
            cells = [
                {"x": row["phi_depth"], "depth": row["depth"], "value": row[what],
                 "_tip": f"U = {u}, D_φ {row['phi_depth']}, encoder {row['depth']}: {row[what]:.3f}"}
                for row in own.filter(uniqueness=u).sort("phi_depth", "depth").iter_rows(named=True)
            ]  # fmt: skip
            panels.append(Panel([f"U = {u}"], cells, "D_φ", what))
            rows += [{"U": u, "shows": legend.replace("\n", " "), **cell} for cell in cells]
    ends = {what: (float(own[what].min()), float(own[what].max())) for what in legends}  # pyright: ignore[reportArgumentType]
    least = own.sort("share").row(0, named=True)
    return Figure(
        named("depths", setting),
        titled("Alignment and accuracy over both depths", setting),
        f"Above: maximum over layers of {METRICS['cka_clipped']}; below: exact accuracy as a share of this U's Bayes "
        f"accuracy; means over seeds, one scale a row. Least share {least['share']:.3f}: U = {least['uniqueness']}, "
        f"D_φ {least['phi_depth']}, depth {least['depth']}.",
        f"Heat maps of alignment and accuracy over encoder's and map's depth at U = {', '.join(map(str, levels))}",
        rows,
        depth_maps(panels, columns=len(levels), ends=ends, legends=legends),
    )


def _with_share(by_depth: "pl.DataFrame") -> "pl.DataFrame":
    """Rows of the released metric, with accuracy as a share of the Bayes accuracy of their U."""
    import polars as pl

    return by_depth.filter(metric="cka_clipped").with_columns(share=pl.col("accuracy") / pl.col("bayes_accuracy"))


def law_figure(law: "pl.DataFrame", by_depth: "pl.DataFrame", setting: str = "") -> Figure | None:
    """Accuracy over the difference of depths, a line for some maps: lines that coincide would be the law.

    Args:
        law: Of one setting.
        by_depth: Of the same.
        setting: What it is called, of several.
    """
    own = _with_share(by_depth)
    maps = _some(sorted(set(own["phi_depth"])))
    panels: list[Panel] = []
    for u in [u for u in _LEVELS if u in set(own["uniqueness"])]:
        rows: Rows = []
        for phi in maps:
            for row in own.filter(uniqueness=u, phi_depth=phi).sort("depth").iter_rows(named=True):
                rows.append(
                    {"x": row["depth"] - phi, "value": row["share"], "series": f"D_φ {phi}", "depth": row["depth"],
                     "accuracy": row["accuracy"], "ci_low": None, "ci_high": None,
                     "_tip": f"U = {u}, D_φ {phi}, encoder {row['depth']}: {row['accuracy']:.3f}"}
                )  # fmt: skip
        panels.append(Panel([f"U = {u}"], rows, "encoder's depth − map's depth", "exact accuracy / Bayes accuracy"))
    if not panels or own["depth"].n_unique() < 2:
        return None
    shades = ("#0072B2", "#56B4E9", "#CC79A7", "#D55E00")
    styles = {f"D_φ {phi}": Style(colour) for phi, colour in zip(maps, shades, strict=False)}
    told = _law_told(law)
    return Figure(
        named("law", setting),
        titled("Does only the difference of depths count?", setting),
        f"{told} Lines: maps; where they coincide, the difference of depths is all that counts.",
        f"Lines of accuracy over the difference of depths. {told}",
        [{"panel": panel.title[0], **row} for panel in panels for row in panel.rows],
        styled_lines(panels, columns=len(panels), styles=styles),
    )


def slopes_figure(law: "pl.DataFrame", setting: str = "") -> Figure | None:
    """Slopes of accuracy and of alignment over the difference and the sum of depths, and what designs explain, by U.

    Args:
        law: Of one setting.
        setting: What it is called, of several.
    """
    own = law.filter(law["value"].is_not_null())
    panels: list[Panel] = []
    for outcome in ("accuracy", "alignment"):
        rows: Rows = []
        for term in ("difference", "sum"):
            for row in own.filter(outcome=outcome, term=term).sort("uniqueness").iter_rows(named=True):
                rows.append(
                    {"x": row["uniqueness"], "value": row["value"], "series": f"over the {term}",
                     "ci_low": finite(row["low"]), "ci_high": finite(row["high"]),
                     "_tip": f"U = {row['uniqueness']}, {outcome} over the {term}: {row['value']:+.4f} a layer"}
                )  # fmt: skip
        if rows:
            panels.append(Panel([f"Slope of {outcome}"], rows, U, f"{outcome} a layer"))
    designs = ("any function of the difference", "any function of each, added")
    shares: Rows = []
    for term in designs:
        for row in own.filter(outcome="accuracy", term=term).sort("uniqueness").iter_rows(named=True):
            shares.append(
                {"x": row["uniqueness"], "value": row["value"], "series": _short(term), "ci_low": None, "ci_high": None,
                 "_tip": f"U = {row['uniqueness']}, {term}: {row['value']:.3f}"}
            )  # fmt: skip
    panels += [Panel(["Variance of accuracy explained"], shares, U, "adjusted R²")] if shares else []
    if not panels:
        return None
    blue, orange, green = (theme.series(place)[0] for place in (0, 1, 5))
    styles = {"over the difference": Style(blue), "over the sum": Style(orange, (5, 4), "square"),
              _short(designs[0]): Style(blue), _short(designs[1]): Style(green, (5, 4), "square")}  # fmt: skip
    told = _law_told(law)
    return Figure(
        named("slopes", setting),
        titled("The law of depths, fitted", setting),
        f"{told} Rules: 95 % intervals over depths and maps, which cross. The law asks for a slope of 0 over the sum, "
        "and for a function of the difference that explains as much as free functions of both depths.",
        f"Slopes over difference and sum of depths by U. {told}",
        [{"panel": panel.title[0], **row} for panel in panels for row in panel.rows],
        styled_lines(panels, columns=len(panels), styles=styles),
    )


def _short(design: str) -> str:
    return {"any function of the difference": "f(difference)", "any function of each, added": "f(encoder) + g(map)"}[
        design
    ]


def _law_told(law: "pl.DataFrame") -> str:
    """At how many U the slopes of accuracy leave 0 out."""
    counted: dict[str, tuple[int, int]] = {}
    for term in ("difference", "sum"):
        rows = law.filter((law["outcome"] == "accuracy") & (law["term"] == term) & law["low"].is_not_null())
        apart = rows.filter((rows["low"] > 0) | (rows["high"] < 0))
        counted[term] = (len(apart), len(rows))
    if not any(total for _, total in counted.values()):
        return "Too few depths or maps for intervals."
    first, second = counted["difference"], counted["sum"]
    return (
        f"Accuracy's slope over the difference of depths leaves 0 out at {first[0]} of {first[1]} U, that over their "
        f"sum, 0 if only the difference counts, at {second[0]} of {second[1]}.{_explained(law)}"
    )


def _explained(law: "pl.DataFrame") -> str:
    """The ranges over U of the variance of accuracy that both kinds of functions explain."""
    told: list[str] = []
    designs = (("any function of the difference", "A function of the difference explains"),
               ("any function of each, added", "functions of both depths"))  # fmt: skip
    for term, words in designs:
        values = law.filter(outcome="accuracy", term=term)["value"].drop_nulls().to_list()
        if values:
            told.append(f"{words} {decimals(min(values))} to {decimals(max(values))}")
    return f" {', '.join(told)} of its variance (adjusted)." if len(told) == len(designs) else ""


def _some(maps: Sequence[int]) -> list[int]:
    return [*maps] if len(maps) <= 4 else [maps[round(place * (len(maps) - 1) / 3)] for place in range(4)]
