"""Figures of the spaces: kernels as heat maps and principal planes, one panel a space."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from featcache.report import charts, theme
from featcache.report.figure import Figure, shorten
from featcache.report.runs import RunResults
from featcache.report.sentences import same_features

Rows = list[dict[str, Any]]
_SPACES = ("raw x", "raw y", "reference", "joint")


def kernel_heatmaps(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the cosine kernel of each space over test groups; None where no run stored one."""
    panels, every = [], []
    for run, space, title in _panels(runs):
        cells = [row for row in run.kernels if row["space"] == space]
        if cells:
            shaded, low, high = _shade(cells)
            panels.append((title, f"cosine {low:.2f} to {high:.2f}", shaded))
            every += [{"run": run.label} | row for row in cells]
    if not panels:
        return None
    size = 1 + max(row["row"] for row in every)
    caption = _likeness(runs)
    return Figure(
        "kernels",
        "Kernels",
        f"{caption}Cosine similarity of test groups, sorted by label, then id, and averaged to {size} × {size} blocks. "
        "Each panel is stretched between its own 2nd and 98th percentile, printed above: compare patterns, not levels.",
        f"Heat maps of the cosine kernel of {len(panels)} spaces. {caption}",
        every,
        charts.heatmaps(panels, columns=_columns(len(panels))),
    )


def principal_maps(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the first two principal components of each space, coloured by the commonest labels; None without any."""
    panels: list[tuple[str, Rows]] = []
    every: Rows = []
    colours = _label_colours(runs)
    for run, space, title in _panels(runs):
        points = [row for row in run.map if row["space"] == space]
        if points:
            panels.append((title, _place(points, colours)))
            every += [{"run": run.label} | row for row in points]
    if not panels:
        return None
    shown = {row["shown"] for _, rows in panels for row in rows}
    colours = {label: colour for label, colour in colours.items() if label in shown}
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


def _panels(runs: Sequence[RunResults]) -> list[tuple[RunResults, str, str]]:
    """Returns (run, space, title) a panel; spaces that every run shares stand once."""
    shared = same_features(runs)
    panels = []
    for i, run in enumerate(runs):
        names = {role: shorten(name) for role, name in run.names().items()}
        titles = dict(
            zip(_SPACES, (f"{names['x']}, raw", f"{names['y']}, raw", names["reference"], "joint"), strict=True)
        )
        for space in _SPACES:
            if space == "joint" or i == 0 or not shared:
                own = len(runs) > 1 and (space == "joint" or not shared)
                panels.append((run, space, f"{titles[space]}, {run.label}" if own else titles[space]))
    return panels


def _columns(panels: int) -> int:
    return 4 if panels % 4 == 0 else 3 if panels > 2 else panels


def _shade(cells: Rows) -> tuple[Rows, float, float]:
    values = sorted(row["value"] for row in cells)
    low, high = (values[round(share * (len(values) - 1))] for share in (0.02, 0.98))
    span = (high - low) or 1.0
    shaded = [{**row, "shade": min(1.0, max(0.0, (row["value"] - low) / span))} for row in cells]
    return [{key: row[key] for key in ("row", "col", "shade")} for row in shaded], low, high


def _likeness(runs: Sequence[RunResults]) -> str:
    """Returns how closely each space's blocks follow its reference's, by correlation off the diagonal."""
    correlations = []
    for run, space, title in _panels(runs):
        value = _correlation(_blocks(run, space), _blocks(run, "reference"))
        if space != "reference" and value is not None:
            correlations.append((value, title))
    correlations.sort(reverse=True)
    listed = "; ".join(f"{title}: {value:.2f}" for value, title in correlations)
    return f"Correlation of the blocks with the reference's: {listed}. " if listed else ""


def _blocks(run: RunResults, space: str) -> dict[tuple[int, int], float]:
    return {(row["row"], row["col"]): row["value"] for row in run.kernels if row["space"] == space}


def _correlation(a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]) -> float | None:
    from statistics import StatisticsError, correlation

    cells = [cell for cell in a if cell in b and cell[0] < cell[1]]
    try:
        return correlation([a[cell] for cell in cells], [b[cell] for cell in cells])
    except StatisticsError:  # fewer than two cells, or a constant kernel
        return None


def _label_colours(runs: Sequence[RunResults]) -> dict[str, str]:
    counts = Counter(str(row["label"]) for run in runs[:1] for row in run.map if row["space"] == "joint")
    common = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return dict(zip(common, theme.LABELS, strict=False)) | {"other": theme.OTHER}


def _place(points: Rows, colours: dict[str, str]) -> Rows:
    """Centres and scales one panel to [-1, 1] with one unit for both axes, so that shapes are kept."""
    xs, ys = [row["px"] for row in points], [row["py"] for row in points]
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    reach = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0
    return [
        {
            "px": round((row["px"] - middle[0]) / reach, 4),
            "py": round((row["py"] - middle[1]) / reach, 4),
            "shown": str(row["label"]) if str(row["label"]) in colours else "other",
            "_tip": f"{row['id']}, {row['label']}",
        }
        for row in points
    ]
