"""Alignment of language models with others over their bits per byte: does a better language model stand closer?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.report.figures import point_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.figures.layer_map import draw_layers
from featcache.report.names import decimals, short_names
from featcache.report.runs import metric_title

if TYPE_CHECKING:
    from featcache.studies.alignment.grid import LayerGrids, LayerScore

Rows = list[dict[str, Any]]
_LONGEST = 30


def draw_convergence(grids: "LayerGrids", path: Path) -> str:
    """Draws `convergence_figure` as .png or .svg, or the grids without two language models; says why then."""
    figure = convergence_figure(grids)
    if figure is not None:
        figure.draw(path)
        return ""
    draw_layers(grids, path)
    models = [f"{name} {bits:.2f}" for name, bits in grids.bits.items()]
    return (
        "Over bits per byte it takes two language models of different bits and another encoder; of "
        f"{grids.dataset} here: {', '.join(models) or 'none has bits per byte'}. So the layers are drawn."
    )


def convergence_figure(grids: "LayerGrids") -> Figure | None:
    """A line for each encoder: its best pair of layers with each language model, over the model's bits per byte.

    Args:
        grids: Of a protocol; None is returned where fewer than two encoders have bits per byte.

    Source:
        Huh et al. 2024, arXiv:2405.07987, figure 3.
    """
    others = [name for name in dict.fromkeys(_encoders(grids)) if name not in grids.bits]
    if len(set(grids.bits.values())) < 2 or not others:
        return None
    names = _names([*others, *grids.bits])
    panels = [([metric_title(metric)], _rows(grids, metric, names)) for metric in _metrics(grids)]
    colours = {names[name]: theme.series(number)[0] for number, name in enumerate(others)}
    spec = point_charts.lines(
        panels, columns=point_charts.columns_of(len(panels)), colours=colours,
        titles=("bits per byte: further left is a better language model", "alignment"), log=False,
    )  # fmt: skip
    models = ", ".join(f"{names[name]} {bits:.2f}" for name, bits in sorted(grids.bits.items(), key=lambda one: one[1]))
    first = next(score for score in grids.scores if score.best)
    facts = f"n = {first.n:,}" + (f", k = {first.k}" if first.k else "")
    caption = (
        f"The best of all pairs of layers, protocol {grids.settings.protocol}, {first.n:,} rows of {grids.dataset}. "
        f"Dashed: chance of one pair. Bits per byte: {models}."
    )
    title = f"Language models and others on {grids.dataset}"
    spec["title"] = {
        "text": title,
        "subtitle": [
            f"best of all pairs of layers, protocol {grids.settings.protocol}; {facts}",
            "a line for each other encoder, its points the language models that are named above",
        ],
        "offset": 16,
    }
    told = "; ".join(
        f"{row['series']} with {row['model']} {row['value']:.3f}" for _, rows in panels for row in rows
    )  # fmt: skip
    shown = [row for _, rows in panels for row in rows]
    return Figure("convergence", title, caption, told, shown, spec)


def _names(encoders: list[str]) -> dict[str, str]:
    """Short names, without their views where they differ without."""
    bare = [encoder.partition("/")[2] for encoder in encoders]
    short = short_names(bare if len(set(bare)) == len(bare) else encoders, _LONGEST)
    return dict(zip(encoders, short.values(), strict=True))


def _encoders(grids: "LayerGrids") -> list[str]:
    return [name for score in grids.scores for name in (score.encoder_x, score.encoder_y)]


def _metrics(grids: "LayerGrids") -> list[str]:
    return list(dict.fromkeys(score.metric for score in grids.scores))


def _rows(grids: "LayerGrids", metric: str, names: dict[str, str]) -> Rows:
    """The best pairs of a language model and another encoder, from the best language model on."""
    rows: Rows = []
    for score in grids.scores:
        pair = {score.encoder_x, score.encoder_y}
        model = pair & grids.bits.keys()
        if not score.best or score.metric != metric or len(model) != 1:
            continue
        [one], [other] = model, pair - model
        rows.append(_row(score, grids.bits[one], names[one], names[other]))
    return sorted(rows, key=lambda row: (row["series"], row["x"]))


def _row(score: "LayerScore", bits: float, model: str, other: str) -> dict[str, Any]:
    return {
        "x": bits, "value": score.value, "series": other, "model": model, "metric": score.metric, "ci_low": None,
        "ci_high": None, "chance": score.chance, "p": score.p, "calibrated": score.calibrated,
        "_name": model, "_chance": "" if score.chance is None else f"chance of one pair {decimals(score.chance)}",
    }  # fmt: skip
