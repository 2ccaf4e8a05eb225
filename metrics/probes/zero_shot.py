"""Zero-shot classification: class vectors from prompts, and the class whose vector is nearest."""

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import X, as_float64, unit_rows
from featcache.metrics.errors import BadShape


def class_vectors(prompts: X, classes: Int[np.ndarray, " p"]) -> Float[np.ndarray, "c d"]:
    """One unit vector a class: the mean of its normalised prompt embeddings, normalised again.

    Args:
        prompts: Embeddings of the prompts, in the space of the images.
        classes: Class of each prompt, 0 to c - 1, each with one prompt or more.

    Raises:
        BadShape: If there is not one class a prompt, or a class has none.
        ZeroRow, NotFinite: As `mutual_knn`; also if the prompts of a class cancel.

    Example:
        >>> class_vectors(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, -3.0]]), np.array([0, 0, 1])).round(3).tolist()
        [[0.707, 0.707], [0.0, -1.0]]

    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4, and its published notebook.
    """
    rows = unit_rows(as_float64(prompts, "prompts"), "prompts")
    if classes.shape != (len(rows),):
        raise BadShape(f"wanted one class for each of {len(rows)} prompts, got {classes.shape}")
    counts = np.bincount(classes)
    if not counts.all():
        raise BadShape(f"class {int(counts.argmin())} has no prompt")
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, classes, rows)
    return unit_rows(sums / counts[:, None], "class vectors")


def zero_shot_classes(images: X, vectors: Float[np.ndarray, "c d"]) -> Int[np.ndarray, " n"]:
    """The class of the largest cosine, the first of equals; ZeroRow, NotFinite and BadShape as `mutual_knn`.

    Example:
        >>> zero_shot_classes(np.array([[3.0, 1.0], [0.0, -1.0]]), np.eye(2)).tolist()
        [0, 0]
    """
    rows = unit_rows(as_float64(images, "images"), "images")
    if rows.shape[1] != vectors.shape[1]:
        raise BadShape(f"images are {rows.shape[1]} wide and the class vectors {vectors.shape[1]}: one space is needed")
    return (rows @ vectors.T).argmax(axis=1)
