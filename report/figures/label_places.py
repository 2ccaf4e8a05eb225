"""Places of direct labels beside their points, so that no two overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))  # right first, then left, above, below
_REACHES = (1.0, 1.5, 2.4, 3.6)  # gaps between a point and its label; the first two for labels that may be left out
_GAP, _APART = 9.0, 2.0  # pixels between a point and its label, and beside a label
_LINE = 1.5  # half of the width of a line
_TYPE = 0.54  # width of a character over the size of the type, at most in the mean


@dataclass(frozen=True)
class Label:
    """Text that is to stand near a point.

    Args:
        x: Of the point, in pixels from the left.
        y: Of the point, in pixels from the top.
        text: One line.
        size: Of the type, in pixels.
        needed: Whether it must stand somewhere; others are left out where there is no room.
    """

    x: float
    y: float
    text: str
    size: float = 11.0
    needed: bool = False


@dataclass(frozen=True)
class Place:
    """Where a label stands.

    Args:
        x: Its left end, middle or right end, as `align` says.
        y: Its middle.
        align: "left", "center" or "right".
    """

    x: float
    y: float
    align: str


Box = tuple[float, float, float, float]  # left, top, right, bottom
Mark = tuple[float, float, float]  # middle across and down, and half of its size


def place_labels(
    labels: Sequence[Label],
    *,
    marks: Sequence[Mark],
    lines: Sequence[tuple[float, float]] = (),
    width: float,
    height: float,
) -> list[Place | None]:
    """The place of each label, or None where it is left out.

    Labels are placed in their order, each at the nearest free place around its point: no label lies over another, over
    a mark or a line, or outside the frame; and none that may be left out stands nearer to another mark than to its own.
    A needed label without a free place stands where it covers least.

    Args:
        labels: The most important first.
        marks: What no label may cover, their own points among them.
        lines: Points of lines that no label may cover.
        width: Of the frame, in pixels.
        height: Of the frame.

    Example:
        >>> labels = [Label(50, 50, "a", needed=True), Label(50, 50, "b")]
        >>> [(place.x, place.align) for place in place_labels(labels, marks=[(50, 50, 4)], width=100, height=100)]
        [(59.0, 'left'), (41.0, 'right')]
    """
    drawn = [*marks, *((x, y, _LINE) for x, y in lines)]
    taken = [(x - half, y - half, x + half, y + half) for x, y, half in drawn]
    places: list[Place | None] = []
    for label in labels:
        least, best = float("inf"), None
        for place, box in _candidates(label):
            if not label.needed and _is_nearer_to_another(label, box, marks):
                continue
            covered = _covered(box, taken, (0, 0, width, height))
            if covered < least:
                least, best = covered, (place, box)
            if covered == 0:
                break
        if best is None or (least > 0 and not label.needed):
            places.append(None)
        else:
            places.append(best[0])
            taken.append(best[1])
    return places


def _candidates(label: Label) -> list[tuple[Place, Box]]:
    """Places around the point, the best first, and the box of the label there."""
    long, up = _TYPE * label.size * max(len(label.text), 1), label.size / 2
    candidates: list[tuple[Place, Box]] = []
    for reach in _REACHES if label.needed else _REACHES[:2]:
        for dx, dy in _SIDES:
            x, y = label.x + dx * _GAP * reach, label.y + dy * (_GAP * reach + up)
            left = x if dx > 0 else x - long if dx < 0 else x - long / 2
            box = (left - _APART, y - up - 1, left + long + _APART, y + up + 1)
            candidates.append((Place(x, y, {1: "left", 0: "center", -1: "right"}[dx]), box))
    return candidates


def _is_nearer_to_another(label: Label, box: Box, marks: Sequence[Mark]) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    own = math.hypot(x - label.x, y - label.y)
    return any(math.hypot(x - across, y - down) < own - _LINE for across, down, _ in marks)


def _covered(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Pixels of a box over others or outside the frame."""
    return sum(_shared(box, other) for other in taken) + _shared(box, box) - _shared(box, frame)


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
