"""Figures of the spaces: kernels as heat maps, averaged or of five groups, and principal planes, one panel a space."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from featcache.report.figures import charts, map_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.names import short_names, shorten
from featcache.report.runs import RunResults
from featcache.report.seeds import headline_run, same_features

Rows = list[dict[str, Any]]
_LONGEST_LABEL, _LONGEST_NAME = 34, 28  # characters of a title, and of a label in a legend
_FEW = 12  # groups that a kernel with numbers has room for


def kernel_heatmaps(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the cosine kernel of each space over test groups; None where no run stored one."""
    panels, every = [], []
    for run, space, title in _panels(runs):
        cells = [row for row in run.kernels if row["space"] == space]
        if cells:
            shaded, low, high = _shade(cells)
            panels.append((title, f"cosine {low:.2f} to {high:.2f}".replace("-", "−"), shaded))
            every += [{"run": run.label} | row for row in cells]
    if not panels:
        return None
    size = 1 + max(row["row"] for row in every)
    return Figure(
        "kernels",
        "Kernels",
        f"Cosine similarity of test groups, sorted by label, then id, and averaged to {size} × {size} blocks. "
        "Each panel is stretched between its own 2nd and 98th percentile, printed above: compare patterns, not levels.",
        f"Heat maps of the cosine kernel of {len(panels)} spaces.",
        every,
        charts.heatmaps(panels, columns=_columns(len(panels))),
    )


def principal_maps(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the first two principal components of each space, coloured by the commonest labels; None without any."""
    panels: list[tuple[str, Rows]] = []
    every: Rows = []
    by_label = label_colours(runs)
    names = short_names(by_label, _LONGEST_NAME)
    for run, space, title in _panels(runs):
        points = [row for row in run.map if row["space"] == space]
        if points:
            panels.append((title, _place(points, names)))
            every += [{"run": run.label} | row for row in points]
    if not panels:
        return None
    shown = {row["shown"] for _, rows in panels for row in rows}
    colours = {names[label]: colour for label, colour in by_label.items() if names[label] in shown}
    labels = len({str(row["label"]) for row in every})
    kinds = f"coloured by label, {len(colours)} of {labels} named" if "other" not in colours else ""
    kinds = kinds or f"coloured by the {len(colours) - 1} commonest of {labels} labels"
    n = len({row["id"] for row in every})
    return Figure(
        "maps",
        "Maps",
        f"First two principal components of {n:,} test and validation groups in each space, {kinds}. Directions and "
        "signs are arbitrary; the plane shows only part of the variance, so read clusters, not distances.",
        f"Scatter plots of {n:,} groups in {len(panels)} spaces, {kinds}.",
        every,
        charts.maps(panels, columns=_columns(len(panels)), colours=colours),
    )


def chosen_kernels(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the cosine of every two of five test groups in each space, of the headline run; None without any."""
    run, _ = headline_run(runs)
    cells = [row for row in run.drawn("kernel_rows") if 0 <= row["row"] < _FEW and 0 <= row["col"] < _FEW]
    if not cells:
        return None
    size = 1 + max(max(row["row"], row["col"]) for row in cells)
    groups = {row["row"]: row for row in reversed(cells)}
    names = [_group_name(number, groups.get(number)) for number in range(size)]
    titles, panels = _titles(run), []
    for space in dict.fromkeys(str(row["space"]) for row in cells):
        own = [row for row in cells if row["space"] == space]
        others = [row["value"] for row in own if row["row"] != row["col"]] or [0.0]
        low, span = min(others), (max(others) - min(others)) or 1.0
        shaded = [
            {
                **{key: row[key] for key in ("row", "col")},
                "shade": min(1.0, (row["value"] - low) / span),
                "text": f"{row['value']:.2f}".replace("-", "−"),
            }
            for row in own
        ]
        title = shorten(titles.get(space, space), _LONGEST_LABEL)
        panels.append((title, f"cosine {min(others):.2f} to {max(others):.2f}".replace("-", "−"), shaded))
    return Figure(
        "chosen_kernels",
        "Kernels of five groups",
        f"Cosine similarity of {size} test groups, chosen by a rule: the first two by id of the commonest label, and "
        "the first of each of the next three (without labels the first by id). Numbers are the cosines; the shade of "
        "each panel goes from its lowest to its highest between different groups, lighter is more similar.",
        f"Kernels of {size} groups in {len(panels)} spaces, a number in every cell. Groups: {'; '.join(names)}.",
        [{"run": run.label} | row for row in cells],
        map_charts.cells(panels, columns=2 if len(panels) in (2, 4) else min(3, len(panels)), names=names),
    )


def _group_name(number: int, row: dict[str, Any] | None) -> str:
    """A number, which no two rows share, and what can be read of label and id."""
    if row is None:
        return str(number + 1)
    words = (shorten(str(row["row_label"]), 18), shorten(str(row["row_id"]), 14))
    return f"{number + 1}  {', '.join(filter(None, words))}"


def _titles(run: RunResults) -> dict[str, str]:
    names = run.names()
    titles = {f"raw {side}": f"{names[side]}, raw" for side in run.sides}
    return titles | {"reference": names.get("reference", ""), "joint": run.space_name("joint")}


def _panels(runs: Sequence[RunResults]) -> list[tuple[RunResults, str, str]]:
    """(run, space, title) of each panel; spaces that every run shares stand once. Of several seeds, the first's."""
    shared = same_features(runs)
    panels = []
    for i, run in enumerate(runs):
        titles = _titles(run) | {"joint": "joint"}
        for space in dict.fromkeys(row["space"] for row in (*run.kernels, *run.map)):
            if space == "joint" or i == 0 or not shared:
                own = len(runs) > 1 and (space == "joint" or not shared)
                seed = f", seed {run.settings.get('seed')}" if run.seeds and space == "joint" else ""
                title = shorten(titles.get(space, space), _LONGEST_LABEL)
                panels.append((run, space, f"{title}, {run.label}{seed}" if own else f"{title}{seed}"))
    return panels


def _columns(panels: int) -> int:
    return 4 if panels % 4 == 0 else 3 if panels > 2 else panels


def _shade(cells: Rows) -> tuple[Rows, float, float]:
    values = sorted(row["value"] for row in cells)
    low, high = (values[round(share * (len(values) - 1))] for share in (0.02, 0.98))
    span = (high - low) or 1.0
    shaded = [{**row, "shade": min(1.0, max(0.0, (row["value"] - low) / span))} for row in cells]
    return [{key: row[key] for key in ("row", "col", "shade")} for row in shaded], low, high


def label_colours(runs: Sequence[RunResults]) -> dict[str, str]:
    """The colours of the commonest labels of the first run's map, and that of "other"."""
    counts = Counter(str(row["label"]) for run in runs[:1] for row in run.map if row["space"] == "joint")
    common = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return dict(zip(common, theme.LABELS, strict=False)) | {"other": theme.OTHER}


def _place(points: Rows, names: dict[str, str]) -> Rows:
    """Centres and scales one panel to [-1, 1] with one unit for both axes, so that shapes are kept."""
    xs, ys = [row["px"] for row in points], [row["py"] for row in points]
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    reach = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0
    return [
        {
            "px": round((row["px"] - middle[0]) / reach, 4),
            "py": round((row["py"] - middle[1]) / reach, 4),
            "shown": names.get(str(row["label"]), "other"),
            "_tip": f"{row['id']}, {row['label']}",
        }
        for row in points
    ]
