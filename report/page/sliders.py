"""Sliders over epochs: the sides as points of groups, and the plane of spaces."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.figure import escape
from featcache.report.names import shorten
from featcache.report.page.samples import json_script
from featcache.report.runs import REFERENCE, RunResults

Rows = list[dict[str, Any]]
Point = tuple[int, int]
_SIZE = 1000  # units of a drawing's width
_MARGIN = 40
# marks of sides, drawn from a point: circle, triangle, square, diamond
_SHAPES = ("m-8 0a8 8 0 1 0 16 0a8 8 0 1 0-16 0", "m0-10l10 17h-20z", "m-7-7h14v14h-14z", "m0-11l11 11-11 11-11-11z")
_RAW, _DIAMOND = "m-11-11h22v22h-22z", "m0-16l16 16-16 16-16-16z"
# of the names of spaces, as page.css sets them on a narrow screen
_LINE_HEIGHT, _LETTER, _GAP = 36, 17, 20
_LONGEST_NAME = 24
# where the name of a space may stand: how far below its mark, and whether before it; the first that is free is taken
_OFFSETS = [(down, ends) for down in (0, -20, 20, -40, 40, -60, 60, -90, 90) for ends in (False, True)]


def stage_slider(run: RunResults, colours: Mapping[str, str]) -> str:
    """A scatter plot of the adapted sides at one epoch, with a slider over the epochs that were kept; "" without any.

    Args:
        run: One run.
        colours: Label -> colour; other labels are drawn in that of "other".
    """
    rows = _placed(run.drawn("stages"))
    if not rows:
        return ""
    epochs, sides, ids = (_distinct(rows, key) for key in ("epoch", "space", "id"))
    epochs.sort()
    label_of = {row["id"]: row["label"] or "" for row in rows}
    labels = list(dict.fromkeys(label_of.values()))
    shades = {label: colours.get(label, colours.get("other", theme.OTHER)) for label in labels}
    palette = list(dict.fromkeys([*colours.values(), *shades.values()]))
    shade = [palette.index(shades[label]) for label in labels]
    places = dict(zip([(row["epoch"], row["space"], row["id"]) for row in rows], _square(rows), strict=True))
    xy = [[[places.get((epoch, side, id_)) for id_ in ids] for side in sides] for epoch in epochs]
    numbers = {label: number for number, label in enumerate(labels)}
    kind = [numbers[label_of[id_]] for id_ in ids]
    start, bottom = _start(run, epochs), max(y for _, y in places.values()) + _MARGIN
    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(sides))]
    paths = "".join(
        f'<path data-side="{side}" data-shade="{place}" fill="{escape(palette[place])}" d="'
        + _marks([point for point, label in zip(xy[start][side], kind, strict=True) if shade[label] == place], shape)
        + '"/>'
        for side, shape in enumerate(shapes)
        for place in sorted(set(shade))
    )
    data = {
        "epochs": _epoch_names(run, epochs),
        "ids": ids,
        "labels": labels,
        "label": kind,
        "shade": shade,
        "sides": sides,
        "shapes": shapes,
        "xy": [[[unit for point in points for unit in point or (None, None)] for points in each] for each in xy],
    }
    alt = f"Scatter plot of {len(ids):,} groups after the adapters of {' and '.join(sides)}. "
    return (
        f'<div class="widget" data-widget="stages" role="group" aria-label="Sides over epochs">\n'
        f'{_controls(data["epochs"], start)}<div class="beside">'
        f'<svg class="plot" role="application" tabindex="0" viewBox="0 0 {_SIZE} {bottom}" aria-label="{escape(alt)}'
        'Arrow keys go from point to point."><rect width="100%" height="100%" fill="#fff"/>'
        f'{paths}<circle class="ring" r="15"/></svg>\n{_key(sides, shapes, labels, shades)}</div>\n'
        f'<p class="point needs-script" aria-live="polite"></p>{json_script(data)}</div>\n'
    )


def space_slider(run: RunResults) -> str:
    """The plane of spaces at one epoch, with the paths that led there and the agreement with the reference; "" without.

    The raw sides and the reference stand still; the joint and the adapted sides move.
    """
    rows = _placed(run.drawn("spaces"))
    epochs = sorted({row["epoch"] for row in rows if row["epoch"] is not None})
    if not epochs:
        return ""
    fixed = _distinct([row for row in rows if row["epoch"] is None], "space")
    moving = _distinct([row for row in rows if row["epoch"] is not None], "space")
    names = {space: shorten(space_title(run, space), _LONGEST_NAME) for space in (*fixed, *moving)}
    places: dict[tuple[str, int | None], Point]
    places = dict(zip([(row["space"], row["epoch"]) for row in rows], _square(rows), strict=True))
    still = [(space, point) for (space, epoch), point in places.items() if epoch is None]
    at = [still + [(space, point) for (space, of), point in places.items() if of == epoch] for epoch in epochs]
    labels = [_label_places(points, names) for points in at]
    bottom = max(y for points in [[point for _, point in each] for each in at] + [[*each.values()] for each in labels]
                 for _, y, *_ in points)  # fmt: skip
    agreement = {space: values for space in moving if any(values := _agreement(run, space, epochs))}
    data = {
        "epochs": _epoch_names(run, epochs),
        "xy": [[places.get((space, epoch)) for epoch in epochs] for space in moving],
        "labels": [[each.get(space) for space in names] for each in labels],
        "agreement": [[value or "–" for value in values] for values in agreement.values()],
    }
    start = _start(run, epochs)
    drawing = "".join(  # the names lie below the marks
        [
            *(_space_text(run, space, name, labels[start].get(space)) for space, name in names.items()),
            *(_space_mark(run, space, [point], 0) for space, point in still),
            *(_space_mark(run, space, xy, start) for space, xy in zip(moving, data["xy"], strict=True)),
        ]
    )
    alt = f"Plane of {len(names)} spaces: {', '.join(names.values())}. Nearer is more alike."
    return (
        '<div class="widget" data-widget="spaces" role="group" aria-label="Spaces over epochs">\n'
        f'{_controls(data["epochs"], start)}<div class="beside">'
        f'<svg class="plot wide" role="img" viewBox="0 0 {_SIZE} {bottom + _MARGIN}" aria-label="{escape(alt)}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{drawing}</svg>\n'
        f"{_agreement_table(run, agreement, start)}</div>\n{_stress(rows)}{json_script(data)}</div>\n"
    )


def space_title(run: RunResults, space: str) -> str:
    """What a reader calls a space of the tables of pictures: "raw SIDE", "SIDE" (adapted), "joint" or "reference"."""
    if space in run.sides:
        return f"{space}, adapted"
    raw = space.removeprefix("raw ")
    return f"{run.names()[raw]}, raw" if raw != space and raw in run.sides else run.space_name(space)


def _label_places(points: Sequence[tuple[str, Point]], names: Mapping[str, str]) -> dict[str, tuple[int, int, int]]:
    """x, y and whether it ends there, of the name beside each point: where it covers no mark and no other name."""
    places: dict[str, tuple[int, int, int]] = {}
    taken = [(x - 14, y - 14, x + 14, y + 14) for _, (x, y) in points]
    for space, (x, y) in sorted(points, key=lambda one: one[1][1]):
        width = _LETTER * len(names[space])
        boxes = {}
        for offset, ends in _OFFSETS:
            left, line = (x - _GAP - width if ends else x + _GAP), y + offset + 9
            box = (left, line - _LINE_HEIGHT * 3 // 4, left + width, line + _LINE_HEIGHT // 4)
            boxes[box] = (x - _GAP if ends else x + _GAP, line, int(ends))
        inside = [box for box in boxes if box[0] >= 0 and box[1] >= 0 and box[2] <= _SIZE] or [*boxes]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        chosen = (free or inside)[0]
        taken.append(chosen)
        places[space] = boxes[chosen]
    return places


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _space_mark(run: RunResults, space: str, points: Sequence[Point | None], at: int) -> str:
    """The mark of a space, a square where it is raw and a diamond of the reference, and the path that it took."""
    side = space.removeprefix("raw ")
    colour, _ = theme.space(side, run.sides)
    known = [point for point in points[: at + 1] if point]
    x, y = known[-1] if known else (-_SIZE, 0)
    if len(points) == 1:
        return f'<path class="still" d="M{x} {y}{_RAW if space != side else _DIAMOND}" fill="{colour}"/>'
    return (
        f'<g class="moving" fill="{colour}" stroke="{colour}"><path d="M{"L".join(f"{x} {y}" for x, y in known)}"/>'
        f'<circle r="11" style="transform:translate({x}px,{y}px)"/></g>'
    )


def _space_text(run: RunResults, space: str, name: str, place: tuple[int, int, int] | None) -> str:
    x, y, ends = place or (-_SIZE, 0, 0)
    colour, anchor = theme.space(space.removeprefix("raw "), run.sides)[1], "end" if ends else "start"
    return (
        f'<text style="transform:translate({x}px,{y}px)" text-anchor="{anchor}" fill="{colour}">{escape(name)}</text>'
    )


def _agreement(run: RunResults, space: str, epochs: Sequence[int]) -> list[str]:
    """Agreement of a space with the reference at each epoch, "" where it was not measured."""
    values = {}
    for row in run.drawn("agreement"):
        for one, other in (("a", "b"), ("b", "a")):
            if (row[one], row[other]) == (space, REFERENCE) and row["value"] is not None:
                values[row[f"{one}_epoch"]] = f"{row['value']:.3f}"
    return [values.get(epoch, "") for epoch in epochs]


def _agreement_table(run: RunResults, agreement: Mapping[str, Sequence[str]], start: int) -> str:
    if not agreement:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(space_title(run, space))}</th><td>{values[start] or "–"}</td></tr>'
        for space, values in agreement.items()
    )
    head = f"agreement with {escape(run.names().get(REFERENCE, REFERENCE))}, mutual-kNN"
    return f'<table class="agreement"><caption>{head}</caption><tbody>{rows}</tbody></table>'


def _stress(rows: Rows) -> str:
    values = sorted({row["stress"] for row in rows if row.get("stress") is not None})
    if not values:
        return ""
    text = f"{values[0]:.3f}" if len(values) == 1 else f"{values[0]:.3f} to {values[-1]:.3f}"
    return f'<p class="note">Stress of the plane: {text} (0: it holds every distance).</p>'


def _distinct(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _placed(rows: Rows) -> Rows:
    return [row for row in rows if all(row[key] is not None and isfinite(row[key]) for key in ("px", "py"))]


def _marks(points: Sequence[Point | None], shape: str) -> str:
    return "".join(f"M{point[0]} {point[1]}{shape}" for point in points if point)


def _square(rows: Rows) -> list[Point]:
    """Points of rows in units of the drawing, one unit for both axes; y points down, as in SVG."""
    xs, ys = [row["px"] for row in rows], [row["py"] for row in rows]
    (left, right), (bottom, top) = (min(xs), max(xs)), (min(ys), max(ys))
    scale = (_SIZE - 2 * _MARGIN) / (max(right - left, top - bottom) or 1.0)
    start = (_SIZE - (right - left) * scale) / 2
    return [
        (round(start + (x - left) * scale), round(_MARGIN + (top - y) * scale)) for x, y in zip(xs, ys, strict=True)
    ]


def _start(run: RunResults, epochs: Sequence[int]) -> int:
    """Where a slider starts: at the epoch that was kept, or at the last."""
    kept = run.each[0].selected_epoch
    return epochs.index(kept) if kept in epochs else len(epochs) - 1


def _epoch_names(run: RunResults, epochs: Sequence[int]) -> list[str]:
    notes = {run.each[0].selected_epoch: ", kept", 0: ", untrained"}
    return [f"epoch {epoch}{notes.get(epoch, '')}" for epoch in epochs]


def _controls(epochs: Sequence[str], start: int) -> str:
    return (
        '<div class="controls needs-script"><button type="button" class="play">Play</button>'
        f'<label>epoch <input type="range" min="0" max="{len(epochs) - 1}" step="1" value="{start}" '
        f'autocomplete="off"></label><output aria-live="polite">{epochs[start]}</output></div>\n'
        f'<p class="no-script note">{epochs[start][0].upper()}{epochs[start][1:]}.</p>\n'
    )


def _key(sides: Sequence[str], shapes: Sequence[str], labels: Sequence[str], shades: Mapping[str, str]) -> str:
    """Which shape is which side, and which colour is which label; labels of one colour stand as one."""
    items = [f"<li>{_swatch(shape, theme.MUTED)}{escape(side)}</li>" for side, shape in zip(sides, shapes, strict=True)]
    by_colour: dict[str, list[str]] = {}
    for label in labels:
        by_colour.setdefault(shades[label], []).append(label)
    for colour, own in sorted(by_colour.items(), key=lambda item: len(item[1]) > 1):
        words = f"{len(own):,} other labels" if len(own) > 1 else own[0] or "no label"
        items.append(f"<li>{_swatch(_SHAPES[0], colour)}{escape(words)}</li>")
    return f'<ul class="key">{"".join(items)}</ul>\n'


def _swatch(shape: str, colour: str) -> str:
    return f'<svg viewBox="-12 -12 24 24" aria-hidden="true"><path fill="{escape(colour)}" d="M0 0{shape}"/></svg>'
