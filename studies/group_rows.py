"""One row a group of a cached array: the mean of its rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from featcache.features import Features
from featcache.metrics import group_mean


def group_rows(
    features: Features, names: Sequence[str], *, values: np.ndarray | None = None
) -> Float[np.ndarray, "g d"]:
    """The mean of each group's rows, in float32 and in the order of the names.

    Args:
        features: The array, which has rows of every group.
        names: The groups, each once.
        values: Rows [n, d] taken instead of the array's own, such as adapted ones.
    """
    rows = np.asarray(features.values if values is None else values)
    number = {name: place for place, name in enumerate(names)}
    of = np.array([number.get(group, -1) for group in features.groups.tolist()])
    kept = np.flatnonzero(of >= 0)
    kept = kept[np.argsort(of[kept], kind="stable")]
    taken = rows[kept].astype(np.float32)
    return taken if len(kept) == len(names) else np.asarray(group_mean(taken, of[kept])[0])
