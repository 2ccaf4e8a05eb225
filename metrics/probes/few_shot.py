"""Few-shot classification: draws of a few labelled rows a class, and ridge regression on them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from featcache.metrics.errors import BadChoice, BadShape

FEW_SHOT_RIDGE = 0.3  # beside rows of total variance 1


def draw_shots(
    y: Int[np.ndarray, " n"], pool: Bool[np.ndarray, " n"], shots: int, *, draws: int, seed: int
) -> Int[np.ndarray, "draws rows"]:
    """Rows with labels of each draw: so many of each class, or all of a class that has fewer.

    Args:
        y: Class of each row; numbers that no row of the pool has are passed over.
        pool: Rows that may be drawn.
        shots: Rows a class, 1 or more.
        draws: How many draws.
        seed: Of the draws.

    Raises:
        BadShape: If there is not one truth value a row.
        BadChoice: If shots or draws are below 1.

    Example:
        >>> y = np.array([0, 0, 0, 1, 1, 2])
        >>> y[draw_shots(y, np.ones(6, bool), 2, draws=2, seed=0)].tolist()
        [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2]]
    """
    if pool.shape != y.shape:
        raise BadShape(f"wanted one truth value for each of {len(y)} rows, got {pool.shape}")
    if shots < 1 or draws < 1:
        raise BadChoice(f"shots = {shots}, draws = {draws}: wanted 1 or more of each")
    stream = np.random.default_rng(seed)
    pools = [np.flatnonzero(pool & (y == one)) for one in np.unique(y[pool])]
    return np.stack(
        [
            np.concatenate([stream.choice(rows, min(shots, len(rows)), replace=False) for rows in pools])
            for _ in range(draws)
        ]
    )


def few_shot_classes(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    drawn: Int[np.ndarray, "draws rows"],
    held: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"],
    *,
    classes: int,
) -> Iterator[Int[np.ndarray, " m"]]:
    """Classes of held-out rows by ridge regression on class indicators of a few rows, one answer a draw.

    The penalty is fixed: few labels cannot choose one. No constant is fitted: columns are centred beforehand.

    Args:
        x: Centred and of total variance 1 (`centred_unit`).
        y: Class of each row, 0 to classes - 1 where it is drawn.
        drawn: Rows with labels (`draw_shots`).
        held: Rows that are read.
        classes: How many there are.

    Example:
        >>> x, y = np.array([[-0.8], [0.9], [-0.7], [0.6]]), np.array([0, 1, 0, 1])
        >>> [said.tolist() for said in few_shot_classes(x, y, np.array([[0, 1]]), np.array([2, 3]), classes=2)]
        [[0, 1]]
    """
    for rows in drawn:
        goal = np.eye(classes)[y[rows]] - 1 / classes
        gram = x[rows] @ x[rows].T + FEW_SHOT_RIDGE * np.eye(len(rows))
        weights = x[rows].T @ np.linalg.solve(gram, goal)
        yield (x[held] @ weights).argmax(axis=1)


def centred_unit(
    x: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    """All rows, centred and brought to total variance 1 by some of them, which takes no labels.

    Example:
        >>> centred_unit(np.array([[1.0], [3.0], [5.0]]), np.array([0, 1])).tolist()
        [[-1.0], [1.0], [3.0]]
    """
    centred = x - x[rows].mean(axis=0)
    total = float(np.sqrt(centred[rows].var(axis=0).sum()))
    return centred / total if total > 0 else centred
