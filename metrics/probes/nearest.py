"""k-nearest-neighbour classification by cosine: weighted votes as DINO's, or plain ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from featcache.metrics.arrays import X
from featcache.metrics.errors import BadChoice, BadShape
from featcache.metrics.knn.gallery import neighbors_in

TEMPERATURE = 0.07
DINO_KS = (10, 20, 100, 200)  # of its published evaluation
_QUERIES = 8_192  # whose lists are voted at a time


def knn_classes(
    queries: X, gallery: X, classes: Int[np.ndarray, " n"], *, k: int = 20, temperature: float | None = TEMPERATURE
) -> Int[np.ndarray, " q"]:
    """The class that the k nearest gallery rows of each query vote for.

    Args:
        queries: [q, d].
        gallery: [n, d] training rows.
        classes: Class of each gallery row.
        k: Neighbours that vote, 1 <= k <= n.
        temperature: A vote weighs exp(cosine / temperature); None: every vote alike, and of equal counts the class
            with the larger sum of cosines.

    Returns:
        Class of each query; of classes that are equal to the last digit the first.

    Raises:
        BadShape: If there is not one class a gallery row; BadChoice: If the temperature is not above 0.
        TooFewRows, ZeroRow, NotFinite: As `neighbors_in`.

    Example:
        >>> gallery = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
        >>> queries, classes = np.array([[1.0, 0.1]]), np.array([0, 1, 1])
        >>> knn_classes(queries, gallery, classes, k=3).item()
        0
        >>> knn_classes(queries, gallery, classes, k=3, temperature=None).item()
        1

    Source: Wu et al. 2018, arXiv:1805.01978, section 3.4; k = 20 and temperature .07: Caron et al. 2021,
    arXiv:2104.14294.
    """
    return knn_classes_by_k(queries, gallery, classes, ks=(k,), temperature=temperature)[0]


def knn_classes_by_k(
    queries: X,
    gallery: X,
    classes: Int[np.ndarray, " n"],
    *,
    ks: Sequence[int] = DINO_KS,
    temperature: float | None = TEMPERATURE,
) -> Int[np.ndarray, "ks q"]:
    """As `knn_classes`, for several k by one search.

    Args:
        queries: [q, d].
        gallery: [n, d] training rows.
        classes: Class of each gallery row.
        ks: Numbers of neighbours that vote.
        temperature: Of the votes.

    Returns:
        Class of each query at each k, in the order of `ks`.
    """
    if not ks:
        raise BadChoice("ks is empty: wanted one number of neighbours or more")
    if classes.shape != (len(gallery),):
        raise BadShape(f"wanted one class for each of {len(gallery)} gallery rows, got {classes.shape}")
    if temperature is not None and temperature <= 0:
        raise BadChoice(f"temperature = {temperature}: wanted a number above 0")
    graph = neighbors_in(queries, gallery, k=max(ks))
    count, voted = int(classes.max()) + 1, np.empty((len(ks), graph.n), np.int64)
    for start in range(0, graph.n, _QUERIES):
        near = classes[graph.ids[start : start + _QUERIES]]
        cosines = graph.similarities[start : start + _QUERIES].astype(np.float64)
        for place, k in enumerate(ks):
            if temperature is None:  # cosines lie in [-1, 1]: k of them never outweigh a vote
                weights = 1 + (cosines[:, :k] + 1) / (4 * k)
            else:
                weights = np.exp((cosines[:, :k] - 1) / temperature)
            votes = np.zeros((len(near), count))
            np.add.at(votes, (np.arange(len(near))[:, None], near[:, :k]), weights)
            voted[place, start : start + _QUERIES] = votes.argmax(axis=1)
    return voted
