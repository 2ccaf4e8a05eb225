"""Pairing of two views by group, five captions a photo included."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from featcache.metrics.arrays import Groups, X, Y, checked, group_codes, is_whole
from featcache.metrics.errors import BadChoice, BadShape

Mode = Literal["mean", "first", "all", "random"]
MODES: tuple[Mode, ...] = get_args(Mode)

PairedX = Float[Tensor, "p dx"] | Float[np.ndarray, "p dx"]
PairedY = Float[Tensor, "p dy"] | Float[np.ndarray, "p dy"]
Rows = Int[np.ndarray, " p"]


@dataclass(frozen=True, eq=False)
class Paired:
    """Two spaces whose row i is the same sample."""

    x: PairedX  # [p, dx], of the kind and on the device of what was given
    y: PairedY  # [p, dy]
    # the group of each row: what neighbours exclude and permutations move whole. All different unless the mode is
    # "all"; pass it on to every metric, null and interval
    groups: tuple[Hashable, ...]
    mode: Mode  # how several rows of a group became one, or stayed
    rows_x: Rows | None  # row of the given x behind each row, [p]; None where rows of a group were averaged
    rows_y: Rows | None  # the same for y
    dropped_x: int  # groups that only x has
    dropped_y: int  # groups that only y has

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.groups)


def paired(x: X, y: Y, groups_x: Groups, groups_y: Groups, *, mode: Mode = "mean", seed: int = 0) -> Paired:
    """Rows of two views matched by group, in the order in which x first shows each group.

    Groups that only one view has are dropped and counted. The default, like "first" and "random", gives one row a
    group, so that duplicates cannot raise a score; after "all" they can, unless `groups` is passed on.

    Args:
        x: Features of one view.
        y: Features of the other.
        groups_x: What each row of x shows (the photo's id).
        groups_y: What each row of y shows.
        mode: "mean": the mean of a group's rows, summed in float64 (float64 out; a view with one row a group stays as
            it is). "first": the first row of each group. "random": one row of each group; where a group has as many
            rows in both views, the same position in both. "all": every row; where a group has one row in one view it
            is repeated, where both have as many they are taken in order.
        seed: Of the draws of "random".

    Raises:
        BadShape: If groups do not fit their view, if the views share no group, or if the mode is "all" and a group has
            several rows in both views, but not as many.
        BadDtype, NotFinite: As `mutual_knn`.
        BadChoice: If the mode is unknown, or the seed no whole number of 0 or more.

    Example:
        >>> photos, captions = np.array([[1.0], [2.0]]), np.array([[3.0], [5.0], [8.0]])
        >>> both = paired(photos, captions, ["a", "b"], ["b", "b", "c"])
        >>> both.groups, both.x.tolist(), both.y.tolist(), both.dropped_x, both.dropped_y
        (('b',), [[2.0]], [[4.0]], 1, 1)
        >>> both = paired(photos, captions, ["a", "b"], ["b", "b", "c"], mode="all")
        >>> both.groups, both.rows_x.tolist(), both.rows_y.tolist()
        (('b', 'b'), [1, 1], [0, 1])
    """
    if mode not in MODES:
        raise BadChoice(f"mode {mode!r} is unknown; there are {', '.join(MODES)}")
    if not is_whole(seed) or seed < 0:
        raise BadChoice(f"seed = {seed!r}: wanted a whole number of 0 or more")
    first, second = _View(x, groups_x, "x"), _View(y, groups_y, "y")
    theirs = {group: code for code, group in enumerate(second.groups)}
    shared = [group for group in first.groups if group in theirs]
    if not shared:
        raise BadShape(
            f"groups_x and groups_y share no group: x has {_some(first.groups)}, y has {_some(second.groups)}; "
            f"choose views of the same samples"
        )
    ours = {group: code for code, group in enumerate(first.groups)}
    codes_x = np.array([ours[group] for group in shared])
    codes_y = np.array([theirs[group] for group in shared])
    dropped = len(first.groups) - len(shared), len(second.groups) - len(shared)
    if mode == "all":
        rows_x, rows_y, of = _all_rows(first, second, codes_x, codes_y)
        groups = tuple(shared[number] for number in of)
        return Paired(first.rows(rows_x), second.rows(rows_y), groups, mode, rows_x, rows_y, *dropped)
    # One draw a group serves both views: equal counts give equal positions, so the same caption of two text encoders.
    draw = np.random.default_rng(seed).random(len(shared))
    a, rows_x = first.one_each(codes_x, mode, draw)
    b, rows_y = second.one_each(codes_y, mode, draw)
    return Paired(a, b, tuple(shared), mode, rows_x, rows_y, *dropped)


class _View:
    """One view and its rows, sorted by group."""

    def __init__(self, values: X, groups: Groups, name: str):
        self.given, self.values = values, checked(values, name)
        codes, self.groups = group_codes(groups, len(self.values), f"groups_{name}")
        self.order = np.argsort(codes, kind="stable")
        self.sizes = np.bincount(codes)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def rows(self, rows: np.ndarray) -> PairedX:
        """Some rows, in their own dtype."""
        return self._like(self.values[rows])

    def one_each(self, codes: np.ndarray, mode: str, draw: np.ndarray) -> tuple[PairedX, np.ndarray | None]:
        """One row for each of some groups, and which row it is."""
        starts, sizes = self.starts[codes], self.sizes[codes]
        if mode == "mean" and sizes.max() > 1:
            means = np.zeros((len(codes), self.values.shape[1]))
            for place in range(int(sizes.max())):
                has = sizes > place
                means[has] += self.values[self.order[starts[has] + place]]
            means /= sizes[:, None]
            return self._like(means), None
        within = (draw * sizes).astype(np.int64) if mode == "random" else 0
        rows = self.order[starts + within]
        return self.rows(rows), rows

    def _like(self, values: np.ndarray) -> PairedX:
        return torch.from_numpy(values).to(self.given.device) if isinstance(self.given, torch.Tensor) else values


def _all_rows(
    first: _View, second: _View, codes_x: np.ndarray, codes_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of x, row of y and number of the shared group of every pair."""
    many_x, many_y = first.sizes[codes_x], second.sizes[codes_y]
    unlike = np.flatnonzero((many_x != many_y) & (many_x > 1) & (many_y > 1))
    if len(unlike):
        at = unlike[0]
        raise BadShape(
            f'mode "all": group {first.groups[codes_x[at]]!r} has {many_x[at]} rows in x and {many_y[at]} in y '
            f"({len(unlike)} such groups); wanted as many in both, or one in one of them. Take mean, first or random"
        )
    counts = np.maximum(many_x, many_y)
    of = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows_x = first.order[first.starts[codes_x][of] + np.where(many_x[of] > 1, within, 0)]
    rows_y = second.order[second.starts[codes_y][of] + np.where(many_y[of] > 1, within, 0)]
    return rows_x, rows_y, of


def _some(groups: list[Hashable]) -> str:
    shown = ", ".join(repr(group) for group in groups[:3])
    return f"{shown}, ... ({len(groups)})" if len(groups) > 3 else shown
