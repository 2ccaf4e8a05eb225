"""Figures of training: both sides of a run at its stages on one plane, and the plane of its spaces."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from featcache.report.figures import map_charts, theme
from featcache.report.figures.figure import Figure
from featcache.report.figures.label_places import Label, Mark, place_labels
from featcache.report.figures.maps import label_colours
from featcache.report.names import short_names, shorten
from featcache.report.runs import RunResults, metric_title
from featcache.report.seeds import headline_run
from featcache.report.sentences import listed

Rows = list[dict[str, Any]]
_MOST_STAGES = 6
_LONGEST_LABEL, _LONGEST_NAME = 30, 28  # characters of a name beside a point, and of one in a legend
_WIDTH, _TALLEST, _LOWEST, _MARGIN = 560, 520, 240, 46
_HALF_SIZES = {"raw": 6.0, "reference": 7.0, "path": 4.0, "kept": 8.0}  # of the marks, in pixels
_BAR = 0.5  # agreement whose distance the plane's bar shows


def stage_maps(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the adapted sides of the headline run at its stages, all on one plane; None where the run stored none.

    At most six stages: the first, the one kept, the last, and of those between the ones that are farthest apart.
    """
    run, _ = headline_run(runs)
    stored = run.drawn("stages")
    if not stored:
        return None
    shown = chosen_stages({row["epoch"] for row in stored}, run.drawn_epoch)
    rows = [row for row in stored if row["epoch"] in shown]
    sides = list(dict.fromkeys(row["space"] for row in rows))
    colours, by_side = _stage_colours(rows, sides, run)
    names = short_names(colours, _LONGEST_NAME)
    named = short_names(sides, _LONGEST_NAME)
    placed = _placed(rows, names, "space" if by_side else "label")
    used = {row["shown"] for row in placed}
    colours = {names[name]: colour for name, colour in colours.items() if names[name] in used}
    panels = [(_stage_name(run, epoch), [row for row in placed if row["epoch"] == epoch]) for epoch in shown]
    n, labels = len({row["id"] for row in rows}), len({row["label"] for row in rows})
    kinds = "coloured by side" if by_side else f"coloured by label ({labels})"
    titles = listed([title for title, _ in panels])
    return Figure(
        "stage_maps",
        "Sides at the stages of training",
        f"First two principal components of {n:,} test groups, {listed(sides)} together, {kinds}; a shape for each "
        f"side. One basis, centre and scale for all stages ({titles}), so points may be followed. "
        "The plane shows only part of the variance: read clusters and the gap between the sides, not distances.",
        f"Scatter plots of {n:,} groups, each once a side, at {len(panels)} stages of training: {titles}.",
        [{"run": run.label} | row for row in rows],
        map_charts.stages(panels, columns=min(3, len(panels)), colours=colours, sides=[*named.values()]),
    )


def chosen_stages(epochs: Iterable[int], kept: int | None, most: int = _MOST_STAGES) -> list[int]:
    """The epochs that a row of panels shows: first, kept, last, and others spread evenly over their logarithm.

    Example:
        >>> chosen_stages([0, 1, 2, 5, 10, 15, 20], 15, most=5)
        [0, 2, 5, 15, 20]
    """
    shown = sorted(epochs)
    while len(shown) > max(most, 1):
        between = [i for i in range(1, len(shown) - 1) if shown[i] != kept]
        if not between:
            break
        nearest = min(between, key=lambda i: math.log((shown[i + 1] + 1) / (shown[i - 1] + 1)))
        del shown[nearest]
    return shown


def space_plane(runs: Sequence[RunResults]) -> Figure | None:
    """Draws the plane of all spaces of the headline run, with the path of each over training; None without it."""
    run, _ = headline_run(runs)
    stored = run.drawn("spaces")
    if not stored:
        return None
    points = [_point(run, row, agreement=_with_reference(run)) for row in stored]
    frame = _frame(points)
    labels, bar = _labels(run, points, frame), _bar(frame)
    stress = stored[0]["stress"]
    metric, k = metric_title("mutual_knn"), run.settings.get("k")
    reference = ", the reference (diamond)" if any(row["_mark"] == "reference" for row in points) else ""
    return Figure(
        "space_plane",
        "The plane of spaces",
        f"Every space of the run on the test groups: raw sides (squares){reference}, and the adapted sides and the "
        f"joint space along training (in the file {_steps(run)}). The nearer two points, the higher their {metric} "
        f"(k = {k}): "
        "distances are −log of it (Huh et al. 2024), as well as a plane can show them (metric scaling, stress "
        f"{stress:.2f}; 0 is exact, above .20 poor). Spaces that agree no more than unrelated ones do are drawn as far "
        "apart as these. Directions are arbitrary.",
        f"Plane of {len({row['series'] for row in points})} spaces. {_ends(run, points)}",
        [{"run": run.label} | row for row in points],
        map_charts.plane(points, labels, bar, frame),
    )


def _steps(run: RunResults) -> str:
    if run.solved:
        return "with 0 beside the untrained adapters and 1 beside the solution"
    return "with the epochs beside the points and a ring around the epoch kept"


def _stage_name(run: RunResults, epoch: int) -> str:
    if run.solved:
        return "untrained" if epoch == 0 else "solved"
    name = "untrained" if epoch == 0 else f"epoch {epoch}"
    return f"{name}, kept" if epoch == run.drawn_epoch else name


def _stage_colours(rows: Rows, sides: Sequence[str], run: RunResults) -> tuple[dict[str, str], bool]:
    """Colour of each label as on the maps, "other" last; or of each side, where there is no more than one label."""
    if len({row["label"] for row in rows if row["label"]}) < 2:
        return {side: theme.space(side, run.sides)[0] for side in sides}, True
    return label_colours([run]), False


def _placed(rows: Rows, names: dict[str, str], coloured_by: str) -> Rows:
    """Rows centred and scaled to [-1, 1], with one unit for both axes and all stages."""
    xs, ys = [row["px"] for row in rows], [row["py"] for row in rows]
    sides = short_names((row["space"] for row in rows), _LONGEST_NAME)
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    reach = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0
    return [
        {
            "epoch": row["epoch"],
            "space": sides[row["space"]],
            "shown": names.get(row[coloured_by], "other"),
            "px": round((row["px"] - middle[0]) / reach, 4),
            "py": round((row["py"] - middle[1]) / reach, 4),
        }
        for row in rows
    ]


def _with_reference(run: RunResults) -> dict[tuple[str, int | None], float]:
    """Agreement of each space with the reference."""
    known: dict[tuple[str, int | None], float] = {}
    for row in run.drawn("agreement"):
        ends = (row["a"], row["a_epoch"]), (row["b"], row["b_epoch"])
        for one, other in (ends, ends[::-1]):
            if other == ("reference", None):
                known[one] = row["value"]
    return known


def _point(run: RunResults, row: dict[str, Any], *, agreement: dict[tuple[str, int | None], float]) -> dict[str, Any]:
    space, epoch = row["space"], row["epoch"]
    bare = space.removeprefix("raw ") if epoch is None else space
    value = agreement.get((space, epoch))
    words = f"{_space_name(run, space, epoch)}{'' if epoch is None else f', {_stage_name(run, epoch)}'}"
    return {
        "series": space,
        "epoch": epoch,
        "px": row["px"],
        "py": row["py"],
        "stress": row["stress"],
        "with_reference": value,
        "_colour": theme.space(bare, run.sides)[0],
        "_text": theme.space(bare, run.sides)[1],
        "_mark": _mark(run, space, epoch),
        "_tip": words if value is None else f"{words}: {value:.3f} with the reference",
    }


def _mark(run: RunResults, space: str, epoch: int | None) -> str:
    if epoch is None:
        return "reference" if space == "reference" else "raw"
    return "kept" if epoch == run.drawn_epoch else "path"


def _space_name(run: RunResults, space: str, epoch: int | None) -> str:
    names = run.names()
    if epoch is None:
        bare = space.removeprefix("raw ")
        name = names.get("reference", space) if space == "reference" else f"{bare} raw" if bare in run.sides else space
    else:
        name = space if space in run.sides else run.space_name(space)
    return shorten(name, _LONGEST_LABEL)


def _frame(points: Rows) -> map_charts.Frame:
    """A frame in which one unit is as long across as up, with room for labels around the points."""
    xs, ys = [row["px"] for row in points], [row["py"] for row in points]
    wide, high = max(xs) - min(xs), max(ys) - min(ys)
    inner = _WIDTH - 2 * _MARGIN
    unit = inner / max(wide, high * inner / (_TALLEST - 2 * _MARGIN)) if wide or high else 1.0
    height = round(min(_TALLEST, max(_LOWEST, high * unit + 2 * _MARGIN)))
    x, y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    across, up = _WIDTH / unit / 2, height / unit / 2
    return map_charts.Frame(_WIDTH, height, (x - across, x + across), (y - up, y + up))


def _pixels(frame: map_charts.Frame, row: dict[str, Any]) -> tuple[float, float]:
    (left, right), (bottom, top) = frame.x, frame.y
    across, down = (row["px"] - left) / (right - left), (top - row["py"]) / (top - bottom)
    return across * frame.width, down * frame.height


def _labels(run: RunResults, points: Rows, frame: map_charts.Frame) -> Rows:
    """Names of all spaces, at the end of their paths, and as many epochs as find room."""
    ends = {row["series"]: row for row in points}  # of a path its last point
    named = [(row, _space_name(run, row["series"], row["epoch"]), 12.0, True) for row in ends.values()]
    moving = [row for row in points if row["epoch"] is not None]
    last = {row["series"]: row["epoch"] for row in moving}
    first = [row for row in moving if row["_mark"] == "kept" or row["epoch"] in (0, last[row["series"]])]
    epochs = [*first, *(row for row in moving if row not in first)]
    named += [(row, str(row["epoch"]), 9.5, False) for row in epochs]
    wanted = [Label(*_pixels(frame, row), text, size, needed) for row, text, size, needed in named]
    marks: list[Mark] = [(*_pixels(frame, row), _HALF_SIZES[row["_mark"]]) for row in points]
    lines = [*_path_pixels(points, frame), *_bar_pixels(frame)]
    places = place_labels(wanted, marks=marks, lines=lines, width=frame.width, height=frame.height)
    unit = (frame.x[1] - frame.x[0]) / frame.width
    return [
        {
            "px": frame.x[0] + place.x * unit,
            "py": frame.y[1] - place.y * unit,
            "text": text,
            "_align": place.align,
            "_text": row["_text"],
            "_size": size,
        }
        for (row, text, size, _), place in zip(named, places, strict=True)
        if place is not None
    ]


def _path_pixels(points: Rows, frame: map_charts.Frame) -> list[tuple[float, float]]:
    """Every fourth pixel of the lines between the points of a path."""
    pixels: list[tuple[float, float]] = []
    moving = [row for row in points if row["epoch"] is not None]
    for one, other in itertools.pairwise(moving):
        if one["series"] == other["series"]:
            (x, y), (to_x, to_y) = _pixels(frame, one), _pixels(frame, other)
            steps = int(math.hypot(to_x - x, to_y - y) // 4)
            pixels += [(x + (to_x - x) * i / steps, y + (to_y - y) * i / steps) for i in range(1, steps)]
    return pixels


def _bar_pixels(frame: map_charts.Frame) -> list[tuple[float, float]]:
    """Every fourth pixel of the bar, and of the text above it."""
    bar = [_pixels(frame, row) for row in _bar(frame)]
    length = int(bar[1][0] - bar[0][0]) if bar else 0
    return [(bar[0][0] + x, bar[0][1] - up) for x in range(0, length, 4) for up in (0, 4, 8, 12)]


def _bar(frame: map_charts.Frame) -> Rows:
    """A bar as long as the distance of two spaces that share half of their neighbours, where the frame has room."""
    length, unit = -math.log(_BAR), (frame.x[1] - frame.x[0]) / frame.width
    if length > (frame.x[1] - frame.x[0]) / 2:
        return []
    text = f"{metric_title('mutual_knn')} {_BAR:.1f}"
    start = {"px": frame.x[0] + 12 * unit, "py": frame.y[0] + 12 * unit, "text": text}
    return [start, start | {"px": start["px"] + length}]


def _ends(run: RunResults, points: Rows) -> str:
    """How near the joint space stands to the reference at first, when kept and at last."""
    joint = [row for row in points if row["series"] == "joint" and row["with_reference"] is not None]
    if not joint:
        return ""
    told = [joint[0], *(row for row in joint[1:-1] if row["_mark"] == "kept"), *joint[1:][-1:]]
    texts = [f"{row['with_reference']:.3f} {_stage_name(run, row['epoch'])}" for row in told]
    return f"Joint space with the reference: {listed(texts)}."
