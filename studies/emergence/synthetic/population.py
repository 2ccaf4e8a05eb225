"""Accuracy and alignment over every input of two synthetic modalities, without sampling."""

import numpy as np
from jaxtyping import Float, Int

from featcache.data.synthetic.generator import Table
from featcache.metrics.errors import BadShape


def population_cka(h1: Float[np.ndarray, "inputs d1"], h2: Float[np.ndarray, "inputs d2"], shared: int) -> float | None:
    """Linear CKA of two encoders over all pairs of inputs, which share some fair bits and are else independent.

    ||C12||^2 / (||C11|| ||C22||) of the covariances, where C12 is that of the means given the shared bits: what
    debiased CKA estimates from rows. Symmetric, in [0, 1]; higher is more aligned.

    Args:
        h1: Features of each of the 2^shared x 2^unique inputs, shared bits first.
        h2: The same of the other modality.
        shared: Bits that both hold.

    Returns:
        The score; None where an encoder is constant.

    Raises:
        BadShape: If the inputs are not a multiple of the codes of the shared bits.

    Example:
        >>> bits = np.array([[0., 0.], [0., 1.], [1., 0.], [1., 1.]])
        >>> population_cka(bits[:, :1], bits[:, :1], 1), population_cka(bits[:, 1:], bits[:, 1:], 1)
        (1.0, 0.0)
    """
    sides = [np.asarray(values, dtype=np.float64) for values in (h1, h2)]
    if any(len(values) % 2**shared for values in sides):
        raise BadShape(f"wanted inputs of {shared} shared bits and others, got {[len(values) for values in sides]}")
    sides = [values - values.mean(axis=0) for values in sides]
    own = [np.linalg.norm(values.T @ values / len(values)) for values in sides]
    size = np.abs(sides[0]).max(initial=0), np.abs(sides[1]).max(initial=0)
    if own[0] <= 1e-12 * size[0] or own[1] <= 1e-12 * size[1] or not min(own):
        return None
    means = [values.reshape(2**shared, -1, values.shape[1]).mean(axis=1) for values in sides]
    return float(np.linalg.norm(means[0].T @ means[1] / 2**shared) ** 2 / (own[0] * own[1]))


def label_given(table: Table, modality: int) -> Float[np.ndarray, "inputs classes"]:
    """p(y | input) of one modality's inputs, in the order of their codes.

    Args:
        table: p(y | shared, unique 1, unique 2).
        modality: 0 for the first, 1 for the second.
    """
    return table.mean(axis=2 if modality == 0 else 1).reshape(-1, table.shape[3])


def exact_accuracy(label: Float[np.ndarray, "inputs classes"], chosen: Int[np.ndarray, " inputs"]) -> float:
    """Mean over all inputs of the probability of the class that is chosen for it.

    Example:
        >>> exact_accuracy(np.array([[.9, .1], [.4, .6]]), np.array([0, 0]))
        0.65
    """
    return float(label[np.arange(len(label)), chosen].mean())
