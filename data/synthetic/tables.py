"""The joint table of two synthetic modalities and their label, over inputs that differ in what they tell of it."""

import numpy as np
from jaxtyping import Float

from featcache.data.errors import DataInvalid
from featcache.data.synthetic.generator import Table

_DIGITS = 12  # to which two lines of a table are compared


def joint_table(table: Table) -> Float[np.ndarray, "x1 x2 c"]:
    """p(x1, x2, y), where codes that the table does not tell apart are one value.

    Bits that the label does not read are so left out, and the table is small enough for a decomposition. What x1, x2,
    both, or the part that they share tell of the label stays the same.

    Args:
        table: p(y | shared, unique 1, unique 2); all codes are equally likely.

    Returns:
        [values of x1, values of x2, classes], sum 1. A value of x1 is one of the shared part and one of the first
        unique part; x1 and x2 always agree in the shared part, so that most pairs have probability 0.

    Raises:
        DataInvalid: If the table has not four axes, or a line does not sum to 1.

    Example:
        >>> copies = np.zeros((4, 2, 2, 2))  # the label is the first of two shared bits
        >>> copies[:2, ..., 0] = copies[2:, ..., 1] = 1
        >>> joint_table(copies).tolist()
        [[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]]
    """
    if table.ndim != 4 or not np.allclose(table.sum(axis=3), 1):
        raise DataInvalid(f"wanted p(y | shared, unique 1, unique 2) with 4 axes, lines of sum 1; got {table.shape}")
    shares: list[np.ndarray] = []
    for axis in range(3):
        table, share = _merged(table, axis)
        shares.append(share)
    shared, unique1, unique2, classes = table.shape
    weights = shares[0][:, None, None] * shares[1][None, :, None] * shares[2]
    joint = np.zeros((shared, unique1, shared, unique2, classes))
    agree = np.arange(shared)
    joint[agree, :, agree] = weights[..., None] * table
    joint /= joint.sum()
    return joint.reshape(shared * unique1, shared * unique2, classes)


def _merged(table: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The table with one of each group of equal slices along an axis, and the share of the axis in each group."""
    lines = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    _, first, counts = np.unique(lines.round(_DIGITS), axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return np.take(table, first[order], axis=axis), counts[order] / len(lines)
