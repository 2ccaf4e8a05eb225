"""Heat maps of layer grids, one a metric and pair of encoders, the best pair of layers marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import UsageError
from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, require_renderer
from featcache.report.names import short_names, shorten
from featcache.report.runs import metric_title
from featcache.report.terminal.alignment import PAIRINGS

if TYPE_CHECKING:
    from featcache.studies.alignment.grid import LayerGrids, LayerScore

FORMATS = (".png", ".svg")
_CELL, _NAME = 26, 34


def check_figure_path(path: Path | None) -> None:
    """Refuses, before anything is measured, a name that no figure is written to.

    Raises:
        UsageError: If it ends neither in .png nor in .svg, or the libraries that draw are not installed.
    """
    if path is not None and path.suffix not in FORMATS:
        raise UsageError(f"{path}: a figure is written as {' or '.join(FORMATS)}; name such a file")
    if path is not None:
        require_renderer()


def draw_layers(grids: "LayerGrids", path: Path) -> None:
    """Draws the grids of some pairs of encoders side by side, each on a scale of its own, as .png or .svg."""
    protocol = f"; protocol {grids.settings.protocol}" if grids.settings.protocol else ""
    figure = layer_figure(grids.scores, grids.dataset, rows=PAIRINGS[grids.settings.pairing] + protocol)
    figure.draw(path)


def layer_figure(scores: "Sequence[LayerScore]", dataset: str, *, rows: str = "") -> Figure:
    """The figure; its rows are the scores.

    Args:
        scores: Every pair of layers of each pair of encoders.
        dataset: Data set name, for the title.
        rows: How rows were paired, in words.
    """
    panels: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    names = short_names(dict.fromkeys(each for score in scores for each in (score.encoder_x, score.encoder_y)), _NAME)
    for score in scores:
        row = {"x": score.layer_x, "y": score.layer_y, "value": score.value, "best": score.best, "metric": score.metric}
        panels.setdefault((score.metric, score.encoder_x, score.encoder_y), []).append(row)
    spec: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": theme.configuration(),
        "columns": min(3, len(panels)),
        "concat": [_panel(*key, rows, names) for key, rows in panels.items()],
        "title": {"text": f"Layers on {dataset}", "subtitle": [*filter(None, [rows]), *_told(scores)], "offset": 16},
        "resolve": {"scale": {"color": "independent"}},
    }
    best = "; ".join(f"{s.encoder_x}/{s.layer_x} and {s.encoder_y}/{s.layer_y} {s.value:.3f}" for s in scores if s.best)
    shown = [row for panel in panels.values() for row in panel]
    caption = f"Every pair of layers on {dataset}; the best pair is framed."
    return Figure("layers", f"Layers on {dataset}", caption, f"Best pairs of layers: {best}", shown, spec)


def _told(scores: "Sequence[LayerScore]") -> list[str]:
    """A line a metric: rows, neighbours, chance where it is known, and the direction if it is down."""
    lines: list[str] = []
    for score in {score.metric: score for score in scores}.values():
        facts = [f"{metric_title(score.metric)}: n = {score.n:,}", f"k = {score.k}" if score.k else ""]
        facts += [f"chance of one pair {score.chance:.4f}" if score.chance is not None else ""]
        facts += ["lower is more aligned" if not score.higher_is_better else ""]
        lines.append(", ".join(filter(None, facts)))
    return [
        *lines,
        "each panel has a colour scale of its own: compare panels by their numbers; the best pair is framed",
    ]


def _panel(metric: str, x: str, y: str, rows: list[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    layers_x, layers_y = (list(dict.fromkeys(row[side] for row in rows)) for side in "xy")
    ends = [fit(row["value"] for row in rows) for fit in (min, max)]
    across = {
        "field": "y",
        "type": "ordinal",
        "sort": layers_y,
        "title": shorten(y, 40),
        "axis": {"labelAngle": -90, "grid": False},
    }
    down = {"field": "x", "type": "ordinal", "sort": layers_x[::-1], "title": shorten(x, 40), "axis": {"grid": False}}
    colour = {
        "field": "value",
        "type": "quantitative",
        "scale": {"scheme": theme.SEQUENTIAL, "domain": ends},
        "legend": {"title": None, "format": ".2f", "tickCount": 4},
    }
    best = next(row for row in rows if row["best"])
    return {
        "title": {
            "text": metric_title(metric),
            "subtitle": [f"{names[x]} –", names[y], f"best {best['x']} and {best['y']}: {best['value']:.3f}"],
        },
        "width": _CELL * len(layers_y),
        "height": _CELL * len(layers_x),
        "data": {"values": rows},
        "layer": [
            {"mark": "rect", "encoding": {"x": across, "y": down, "color": colour}},
            {
                "transform": [{"filter": "datum.best"}],
                "mark": {"type": "rect", "filled": False, "stroke": "white", "strokeWidth": 2.5},
                "encoding": {"x": across, "y": down},
            },
        ],
    }
