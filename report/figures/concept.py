"""The concept diagram of a run: data, encoders, adapters, joint space and reference, with their widths."""

from collections.abc import Sequence
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure, escape
from featcache.report.names import shorten
from featcache.report.runs import REFERENCE, RunResults, metric_title
from featcache.report.seeds import headline_run
from featcache.report.sentences import listed

Rows = list[dict[str, Any]]
_BOX, _HIGH, _BETWEEN, _LANE = 184, 46, 40, 74
_LONGEST = 23


def concept(runs: Sequence[RunResults]) -> Figure:
    """Draws what the headline run joins and measures, from its own names, widths and counts."""
    run, _ = headline_run(runs)
    nodes, edges = _nodes(run), _edges(run)
    names = run.names()
    sides = [f"{names[side]} by {run.config['sides'][side]['encoder']}" for side in run.sides]
    against = f"; the joint space is compared with {names['reference']}" if run.reference else ""
    return Figure(
        "concept",
        "What is joined, and with what it is compared",
        "Grey: frozen encoders, run once and cached. Coloured: trained on the cached features alone. d is the width "
        "of a space." + (" Dashed: compared, never trained on." if _untouched(run) else ""),
        f"Diagram: {listed(sides)}; each side has an adapter into one joint space{against}.",
        [{key: node[key] for key in ("node", "kind", "name", "detail")} for node in nodes],
        {},
        drawing=_draw(nodes, edges),
    )


def _untouched(run: RunResults) -> bool:
    return bool(run.reference) and run.settings.get("loss") != "cka" and run.settings.get("adapter") != "ridge"


def _nodes(run: RunResults) -> Rows:
    counts = run.config.get("split", {}).get("n", {})
    groups = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    middle = (len(run.sides) - 1) / 2
    nodes = [_node("data", "data", str(run.config.get("dataset", "")), groups.replace("validation", "val."), 0, middle)]
    for place, side in enumerate(run.sides):
        array, colours = run.config["sides"][side], theme.space(side, run.sides)
        kind = run.settings.get("adapter", "")
        kind = kind.get(side, "") if isinstance(kind, dict) else kind
        nodes.append(_node(side, "encoder", array["encoder"], f"{side}, {array['layer']}{_width(run, side)}", 1, place))
        nodes.append(_node(f"adapter {side}", "adapter", f"{kind} adapter", f"of {side}", 2, place, colours))
    width = f"d = {run.settings['width']}" if "width" in run.settings and not run.solved else "one joint space"
    nodes.append(_node("joint", "joint", "joint space", width, 3, middle, theme.space("joint", run.sides)))
    if run.reference:
        detail = f"reference, {run.reference['layer']}{_width(run, REFERENCE)}"
        nodes.append(_node("reference", "reference", run.reference["encoder"], detail, 1, len(run.sides)))
        metrics = listed([metric_title(metric) for metric in run.metrics])
        nodes.append(_node("score", "score", "alignment", metrics, 3, len(run.sides)))
    return nodes


def _width(run: RunResults, array: str) -> str:
    width = run.config.get("widths", {}).get(array)  # runs did not always record it
    return f", d = {width:,}" if width else ""


def _node(
    node: str, kind: str, name: str, detail: str, column: float, lane: float, colours: tuple[str, str] = ("", "")
) -> dict[str, Any]:
    return {"node": node, "kind": kind, "name": name, "detail": detail, "column": column, "lane": lane} | {
        "colour": colours[0],
        "text": colours[1],
    }


def _edges(run: RunResults) -> list[tuple[str, str, bool]]:
    """From, to, and whether the edge is a comparison only."""
    edges: list[tuple[str, str, bool]] = []
    for side in run.sides:
        edges += [("data", side, False), (side, f"adapter {side}", False), (f"adapter {side}", "joint", False)]
    if run.reference:
        edges += [("data", "reference", False), ("reference", "score", True), ("joint", "score", True)]
    return edges


def _draw(nodes: Rows, edges: Sequence[tuple[str, str, bool]]) -> str:
    """The diagram as SVG."""
    places = {node["node"]: (10 + node["column"] * (_BOX + _BETWEEN), 10 + node["lane"] * _LANE) for node in nodes}
    width = 20 + 4 * _BOX + 3 * _BETWEEN
    height = 20 + _HIGH + max(y for _, y in places.values()) - 10
    font = escape(theme.FONT.replace('"', "'"))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" viewBox="0 0 {width} {height:g}" '
        f'font-family="{font}">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8Z" fill="{theme.MUTED}"/></marker></defs>',
        f'<rect width="{width}" height="{height:g}" fill="white"/>',
    ]
    parts += [_edge(places[a], places[b], dashed) for a, b, dashed in edges]
    parts += [_box(node, *places[node["node"]]) for node in nodes]
    return "".join([*parts, "</svg>"])


def _edge(start: tuple[float, float], end: tuple[float, float], dashed: bool) -> str:
    (x, y), (u, v) = start, end
    if x == u:  # from above
        path = f"M{x + _BOX / 2:g} {y + _HIGH:g} V{v - 2:g}"
    else:
        bend = u - _BETWEEN / 2
        path = f"M{x + _BOX:g} {y + _HIGH / 2:g} H{bend:g} V{v + _HIGH / 2:g} H{u - 2:g}"
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{theme.MUTED}" stroke-width="1.3"{dash} marker-end="url(#head)"/>'


def _box(node: dict[str, Any], x: float, y: float) -> str:
    line, fill = node["colour"] or "#9aa0a6", "white" if node["colour"] else theme.FAINT
    dash = ' stroke-dasharray="5 4"' if node["kind"] == "score" else ""
    middle = x + _BOX / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_BOX}" height="{_HIGH}" rx="5" fill="{fill}" stroke="{line}" '
        f'stroke-width="{2 if node["colour"] else 1}"{dash}/>'
        f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle" font-size="12" font-weight="600" '
        f'fill="{node["text"] or theme.INK}">{escape(shorten(node["name"], _LONGEST))}</text>'
        f'<text x="{middle:g}" y="{y + 35:g}" text-anchor="middle" font-size="10.5" fill="{theme.MUTED}">'
        f"{escape(shorten(node['detail'], 36))}</text>"
    )
