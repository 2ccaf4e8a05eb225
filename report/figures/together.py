"""Figures of encoders trained together: what contrast gains and costs by its weight, and which bits it keeps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.report.emergence import of_dial
from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, reworded
from featcache.report.names import file_stem, finite

if TYPE_CHECKING:
    import polars as pl

Rows = list[dict[str, Any]]
_SHOWN = (
    ("joint", "both", 0, "joint task"),
    ("alone", "0", 0, "modality 0 alone"),
    ("alone", "1", 0, "modality 1 alone"),
    ("few", "both", 5, "5 labels a class"),
    ("transfer", "0→1", 0, "train on 0, use on 1"),
    ("transfer_mapped", "0→1", 0, "train on 0, use on 1 by a map"),
)
_BY_PARTS = (("joint", "both", 0), ("alone", "0", 0), ("alone", "1", 0), ("few", "both", 5))
_PARTS = {"redundancy": "redundancy", "unique": "unique, both sides", "synergy": "synergy"}
_KINDS = {
    ("shared", True): "shared, read by the label",
    ("shared", False): "shared, not read",
    ("unique", True): "unique, read by the label",
    ("unique", False): "unique, not read",
}
_CELL, _HIGH = 22, 13
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def together_figures(effects: "pl.DataFrame", kept: "pl.DataFrame") -> list[Figure]:
    """The figures of one study: of each generator and map of the second modality, effects by weight, and the bits kept.

    Of trainings of several lengths the longest, and a figure of what the length changes.

    Args:
        effects: effects.parquet of the study.
        kept: kept.parquet.
    """
    import polars as pl

    figures: list[Figure] = []
    for generator, phi_depth in effects.select("generator", "phi_depth").unique(maintain_order=True).rows():
        own, of = {"generator": generator, "phi_depth": phi_depth}, f"{generator}, D_φ = {phi_depth}"
        mine, bits = effects.filter(**own), kept.filter(**own)
        drawn = [lengths_figure(mine, of)] if mine["steps"].n_unique() > 1 else []
        longest = pl.col("steps") == mine["steps"].max()
        drawn += [effects_figure(mine.filter(longest), of), kept_figure(bits.filter(longest), of)]
        figures += [reworded(figure, of_dial(mine)) for figure in drawn]
    return figures


def lengths_figure(effects: "pl.DataFrame", of: str) -> Figure:
    """Accuracy less that without contrast, over the steps of the training, a line for each lambda, everything aligned.

    Args:
        effects: Rows of several lengths, of one generator and map.
        of: Of which, for the title.
    """
    from featcache.report.figures import point_charts

    panels: list[point_charts.Panel] = []
    levels = sorted(set(effects["uniqueness"]))
    for use, side, labels, title in _SHOWN:
        for level in levels:
            cell = effects.filter(use=use, side=side, labels=labels, private=0, uniqueness=level)
            rows = [
                _effect(row, title) | {"series": f"λ {row['lambda']:g}", "x": row["steps"], "uniqueness": level}
                for row in cell.sort("lambda", "steps").to_dicts()
            ]
            if rows:
                panels.append(([title, f"U = {level}"], rows))
    lines = list(dict.fromkeys(row["series"] for _, rows in panels for row in rows))
    return Figure(
        file_stem(f"together-steps-{of}", "together-steps"),
        f"Does contrast cost, or only slow: {of}",
        f"Accuracy at λ less that at λ = 0 by the steps of the training, exact over all inputs; mean over "
        f"{effects['seeds'].max()} seeds, rules: 95 % over seeds. A line that returns to 0: contrast cost time alone. "
        "Each use has its own scale.",
        f"Lines of the change of accuracy over the steps of the training, {len(panels)} panels.",
        [row for _, rows in panels for row in rows],
        point_charts.lines(
            panels,
            columns=min(3, len(levels)),
            colours={line: theme.series(place)[0] for place, line in enumerate(lines)},
            titles=("steps", "change of accuracy"),
            log=True,
        ),
    )


def effects_figure(effects: "pl.DataFrame", of: str) -> Figure:
    """Accuracy less that without contrast, over lambda, a line for each U: all features aligned, and the remedy beside.

    Args:
        effects: Rows of `featcache.studies.emergence.together.training.effects`, of one generator and map.
        of: Of which, for the title.
    """
    from featcache.report.figures import point_charts

    arms = sorted(set(effects["private"]))
    panels: list[point_charts.Panel] = []
    for use, side, labels, title in _SHOWN:
        for private in arms:
            cell = effects.filter(use=use, side=side, labels=labels, private=private)
            rows = [_effect(row, title) for row in cell.sort("uniqueness", "lambda").to_dicts()]
            if rows:
                panels.append(([title, f"{private} features private" if private else "all features aligned"], rows))
    levels = list(dict.fromkeys(row["series"] for _, rows in panels for row in rows))
    interval = any(row["ci_low"] is not None for _, rows in panels for row in rows)
    seeds = effects["seeds"].max()
    told = _worst(effects)
    return Figure(
        file_stem(f"together-{of}", "together"),
        f"What contrast gains and costs: {of}",
        f"{told} Accuracy at λ less that at λ = 0, exact over all inputs, pairs of one seed; mean over {seeds} "
        f"seed{'s' if seeds != 1 else ''}{', rules: 95 % over seeds (Student’s t)' if interval else ''}. Right: the "
        "contrastive loss sees only part of the features. Each use has its own scale.",
        f"Lines of the change of accuracy over lambda by U, {len(panels)} panels. {told}",
        [row for _, rows in panels for row in rows],
        point_charts.lines(
            panels, columns=len(arms), colours=_shades(levels), titles=("λ", "change of accuracy"),
            log=len({row["x"] for _, rows in panels for row in rows}) > 1,
        ),
    )  # fmt: skip


def parts_figures(effects: "pl.DataFrame", oracles: "pl.DataFrame", weight: float = 1.0) -> list[Figure]:
    """Effects of one weight over the exact redundancy, uniqueness and synergy of the label, a figure a use and map.

    Args:
        effects: effects.parquet of one or several studies, of different generators.
        oracles: oracles.parquet of them all.
        weight: The lambda shown; everything aligned.
    """
    import polars as pl

    broja = ("redundancy", "unique1", "unique2", "synergy")
    known = oracles.select("generator", "uniqueness", *(f"broja_{name}" for name in broja))
    shown = effects.filter(pl.col("lambda") == weight, private=0)
    joined = shown.join(known, on=["generator", "uniqueness"]).with_columns(
        redundancy="broja_redundancy", unique=pl.col("broja_unique1") + pl.col("broja_unique2"), synergy="broja_synergy"
    )
    titles = {key[:3]: key[3] for key in _SHOWN}
    figures: list[Figure] = []
    for phi_depth in sorted(set(joined["phi_depth"])):
        for use, side, labels in _BY_PARTS:
            rows = joined.filter(phi_depth=phi_depth, use=use, side=side, labels=labels).to_dicts()
            if len(rows) > 1:
                figures.append(_parts_figure(rows, f"{titles[use, side, labels]}, D_φ = {phi_depth}", weight))
    return figures


def _parts_figure(effects: Rows, of: str, weight: float) -> Figure:
    from featcache.report.figures import scatter

    rows = [
        {
            **{name: row[name] for name in ("generator", "uniqueness", "phi_depth", "use", "side", "labels", *_PARTS)},
            "value": row["effect"],
            "ci_low": finite(row["low"]),
            "ci_high": finite(row["high"]),
            "label": str(row["uniqueness"]),
            "series": row["generator"],
            "_tip": f"{row['generator']} {row['uniqueness']}: {row['effect']:+.3f}, redundancy {row['redundancy']:.2f}"
            f", unique {row['unique']:.2f}, synergy {row['synergy']:.2f}",
        }
        for row in effects
    ]
    generators = list(dict.fromkeys(row["series"] for row in rows))
    least, most = (choose(rows, key=lambda row: row["value"]) for choose in (min, max))
    told = f"From {least['value']:+.3f} ({least['_tip'].split(':')[0]}) to {most['value']:+.3f}."
    return Figure(
        file_stem(f"together-parts-{of}", "together-parts"),
        f"What λ = {weight:g} changes by what the label holds: {of}",
        f"{told} Exact accuracy at λ = {weight:g} less that at λ = 0 over each part of what the label holds (BROJA). "
        "Numbers: the generator's level, of the released one U; rules: 95 % over seeds.",
        f"Scatter of the change of accuracy over redundancy, uniqueness and synergy of {len(rows)} labels. {told}",
        rows,
        scatter.scatter(
            [(title, [row | {"x": row[name]} for row in rows]) for name, title in _PARTS.items()],
            titles=["nats"] * len(_PARTS),
            y_title="change of accuracy",
            colours={name: theme.series(place)[0] for place, name in enumerate(generators)},
            log=False,
        ),
    )


def _effect(row: dict[str, Any], title: str) -> dict[str, Any]:
    return {
        "use": row["use"],
        "side": row["side"],
        "labels": row["labels"],
        "private": row["private"],
        "series": f"U {row['uniqueness']}",
        "x": row["lambda"],
        "value": row["effect"],
        "ci_low": finite(row["low"]),
        "ci_high": finite(row["high"]),
        "accuracy": row["accuracy"],
        "baseline": row["baseline"],
        "seeds": row["seeds"],
        "chance": 0.0,
        "metric": title,
    }


def _worst(effects: "pl.DataFrame") -> str:
    """The largest loss and gain of all shown uses with everything aligned, in words."""
    import polars as pl

    shown = [(use, side, labels) for use, side, labels, _ in _SHOWN]
    titles = {key[:3]: key[3] for key in _SHOWN}
    rows = [
        row for row in effects.filter(pl.col("private") == 0).sort("effect").to_dicts()
        if (row["use"], row["side"], row["labels"]) in shown and row["use"] != "transfer"
    ]  # fmt: skip
    if not rows:
        return ""
    ends = [
        f"{titles[row['use'], row['side'], row['labels']]} {row['effect']:+.3f} (U = {row['uniqueness']}, "
        f"λ = {row['lambda']:g})"
        for row in (rows[0], rows[-1])
    ]
    return f"Of all but the plain transfer, most lost: {ends[0]}; most gained: {ends[1]}."


def kept_figure(kept: "pl.DataFrame", of: str) -> Figure:
    """How well each bit is decoded by the linear probe, over lambda: a heat map for each U, encoder and arm.

    Args:
        kept: Rows of kept.parquet of one generator and map.
        of: Of which, for the title.
    """
    import polars as pl

    keys = ["uniqueness", "private", "side", "kind", "used", "bit", "lambda"]
    means = kept.filter(probe="linear").group_by(keys).agg(pl.col("accuracy").mean(), seeds=pl.len()).sort(keys)
    arms = sorted(set(means["private"]))
    panels: list[tuple[list[str], Rows]] = []
    for level in sorted(set(means["uniqueness"])):
        for side in (0, 1):
            for private in arms:
                # a pair without contrast has nothing private: it stands in both panels
                cell = means.filter(pl.col("private").eq(private) | pl.col("lambda").eq(0), uniqueness=level, side=side)
                rows = [_bit(row) for row in cell.to_dicts()]
                panels.append(
                    ([f"U {level}, encoder {side}", f"{private} private" if private else "all aligned"], rows)
                )
    told = _kept_words(means)
    return Figure(
        file_stem(f"kept-{of}", "kept"),
        f"Which bits contrast keeps: {of}",
        f"{told} Accuracy of linear probes of each bit on held-out inputs, mean over seeds; .5: the features do not "
        "know it. A rule parts shared bits, above, from those that the modality alone holds; • marks bits that the "
        "label reads. λ = 0 is the same in both arms.",
        f"Heat maps of the accuracy with which each bit is decoded, over lambda. {told}",
        [row for _, rows in panels for row in rows],
        _heat(panels, columns=2 * len(arms)),
    )


def _bit(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "uniqueness": row["uniqueness"],
        "side": row["side"],
        "private": row["private"],
        "lambda": f"{row['lambda']:g}",
        "bit": f"{row['kind']} {row['bit']}{' •' if row['used'] else ''}",
        "kind": row["kind"],
        "used": row["used"],
        "accuracy": row["accuracy"],
        "seeds": row["seeds"],
        "_place": row["bit"],
        "_lambda": row["lambda"],
    }


def _kept_words(means: "pl.DataFrame") -> str:
    """The mean of each kind of bit without and with the most contrast, everything aligned."""
    import polars as pl

    aligned = means.filter(pl.col("private") == 0)
    least, most = (aligned.filter(pl.col("lambda") == end) for end in (0, aligned["lambda"].max()))
    told: list[str] = []
    for (kind, used), words in _KINDS.items():
        ends = [part.filter(kind=kind, used=used)["accuracy"].mean() for part in (least, most)]
        if all(isinstance(end, float) for end in ends):
            told.append(f"{words} {ends[0]:.2f} → {ends[1]:.2f}")
    return f"From λ = 0 to {aligned['lambda'].max():g}: {'; '.join(told)}."


def _shades(levels: Sequence[str]) -> dict[str, str]:
    """Colours of ordered levels, dark to light, short of the yellow that no line is read in."""
    shades = theme.VIRIDIS[:-1]
    last = max(1, len(levels) - 1)
    return {level: shades[round(place * (len(shades) - 1) / last)] for place, level in enumerate(levels)}


def _heat(panels: Sequence[tuple[list[str], Rows]], *, columns: int) -> dict[str, Any]:
    charts = [_heat_panel(title, rows, first=number % columns == 0) for number, (title, rows) in enumerate(panels)]
    return {
        "$schema": _SCHEMA,
        "config": theme.configuration(),
        "columns": columns,
        "concat": charts,
        "resolve": {"scale": {"color": "shared"}},
    }


def _heat_panel(title: list[str], rows: Rows, *, first: bool) -> dict[str, Any]:
    bits = list(dict.fromkeys(row["bit"] for row in sorted(rows, key=lambda row: row["_place"])))
    weights = list(dict.fromkeys(row["lambda"] for row in sorted(rows, key=lambda row: row["_lambda"])))
    axis = {"labelAngle": 0, "grid": False, "title": "λ"}
    x = {"field": "lambda", "type": "ordinal", "sort": weights, "axis": axis}
    left = {"grid": False, "title": None, "labels": first or any(row["used"] for row in rows)}
    y = {"field": "bit", "type": "ordinal", "sort": bits, "axis": left}
    legend = {"title": "decoded", "format": ".2f", "orient": "top", "gradientLength": 160, "values": [0.5, 0.75, 1.0]}
    scale = {"scheme": theme.SEQUENTIAL, "domain": [0.5, 1.0], "clamp": True}
    colour = {"field": "accuracy", "type": "quantitative", "scale": scale, "legend": legend}
    unique = [bit for bit in bits if bit.startswith("unique")]
    rule = {"field": "bit", "type": "ordinal", "sort": bits, "bandPosition": 0}
    return {
        "title": {"text": title},
        "width": _CELL * len(weights),
        "height": _HIGH * len(bits),
        "data": {"values": rows},
        "layer": [
            {"mark": "rect", "encoding": {"x": x, "y": y, "color": colour}},
            {
                "transform": [{"filter": f"datum.bit == '{unique[0] if unique else ''}'"}],
                "mark": {"type": "rule", "color": "white", "strokeWidth": 2, "aria": False},
                "encoding": {"y": rule},
            },
        ],
    }
