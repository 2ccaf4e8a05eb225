"""Features of two modalities matched by what their rows show."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featcache.errors import UsageError
from featcache.features import Features

if TYPE_CHECKING:
    from featcache.metrics.pairing import Mode


def pair(x: Features, y: Features, *, pairing: "Mode" = "mean", seed: int = 0) -> tuple[Features, Features]:
    """The rows of two arrays whose groups both have, so that row i of both shows the same thing.

    Ids of two modalities differ ("frog.png" and "frog.png#0"): groups are what they share.

    Args:
        x: Features of one modality.
        y: Of the other, of the same data set.
        pairing: What becomes of several rows of a group: their "mean", the "first", one at "random", or "all", as
            `featcache.metrics.pairing.paired`.
        seed: Of the pairing "random".

    Returns:
        Both, [n, dx] and [n, dy], in the order in which x first shows each group. Ids are the groups where rows were
        averaged, else those of the rows; content hashes of averaged rows are "".

    Raises:
        UsageError: If one is no Features, they are of different data sets, or share no group.
        BadShape: As `paired`.

    Example:
        >>> import numpy as np
        >>> def made(ids, groups, values):
        ...     names, of = np.array(ids, object), np.array(groups, object)
        ...     return Features(np.array(values, np.float32)[:, None], names, of, np.full(len(ids), "", object))
        >>> photos = made(["frog.png", "owl.png"], ["frog", "owl"], [1, 2])
        >>> names = made(["owl#0", "owl#1", "frog#0"], ["owl", "owl", "frog"], [10, 30, 5])
        >>> a, b = pair(photos, names)
        >>> a.ids.tolist(), b.values.ravel().tolist()
        (['frog.png', 'owl.png'], [5.0, 20.0])
    """
    from featcache.metrics.pairing import paired

    for each in (x, y):
        if not isinstance(each, Features):  # type: ignore[reportUnnecessaryIsInstance]  # of a program without types
            raise UsageError(
                f"pair takes two Features, whose groups say which rows belong together, and got {type(each).__name__}\n"
                "  Give what Cache.load or featcache.extract gave: .values of both results are the arrays"
            )
    if x.dataset != y.dataset:
        raise UsageError(f"{x.name} is of {x.dataset} and {y.name} of {y.dataset}: pair features of one data set")
    if not set(x.groups.tolist()) & set(y.groups.tolist()):
        raise UsageError(f"{x.name} ({x.view}) and {y.name} ({y.view}) share no group")
    both = paired(x.values, y.values, x.groups.tolist(), y.groups.tolist(), mode=pairing, seed=seed)
    return _matched(x, both.x, both.rows_x, both.groups), _matched(y, both.y, both.rows_y, both.groups)


def _matched(features: Features, values: object, rows: np.ndarray | None, groups: tuple[object, ...]) -> Features:
    if rows is not None:
        return features.take(rows)
    first: dict[object, int] = {}
    for row, group in enumerate(features.groups.tolist()):
        first.setdefault(group, row)
    kept = features.take(np.array([first[group] for group in groups]))
    names = np.array(groups, dtype=object)
    means = np.asarray(values).astype(np.float32)
    hashes = np.full(len(names), "", object) if len(kept.hashes) else kept.hashes
    return replace(kept, values=means, ids=names, hashes=hashes)
