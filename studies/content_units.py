"""Groups that share a picture, a recording or a text, by content hash: folds must not part them."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from featcache.features import Features


def content_units(arrays: Iterable[Features], names: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Numbers of connected groups: two are connected if a row of one has the content of a row of the other.

    Args:
        arrays: Arrays whose views count; rows of unknown content connect nothing.
        names: The groups.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    number = {group: place for place, group in enumerate(names)}
    links, first = [(0, 0)], dict[tuple[str, str], int]()
    for features in arrays:
        if not len(features.hashes):
            continue
        for group, content in zip(features.groups.tolist(), features.hashes.tolist(), strict=True):
            if content and group in number:
                links.append((first.setdefault((features.view, content), number[group]), number[group]))
    rows, columns = np.array(links).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1].astype(np.int64)
