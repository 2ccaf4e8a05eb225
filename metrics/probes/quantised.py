"""Posteriors gathered into a few cells, and the table of cells and classes."""

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.errors import BadChoice, BadShape

CELLS = 64
_ROUNDS, _TOLERANCE = 60, 1e-9  # of the assignment; a divergence in nats that no longer counts
_RAKES = 200


def posterior_cells(
    log_posteriors: Float[np.ndarray, "n c"], *, cells: int = CELLS, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Gathers rows of alike posteriors, so that the cell tells as much of the class as the posterior does, or nearly.

    k-means by Kullback-Leibler divergence: a cell stands for the mean posterior of its rows, and what the cells lose of
    the mutual information is the mean divergence from it. Rows of one posterior fall into one cell.

    Args:
        log_posteriors: Log probabilities of the classes of each row.
        cells: At most so many; there are fewer where fewer posteriors differ.
        seed: Of the first cells, which are drawn far from each other.

    Returns:
        Number of the cell of each row, 0 to some k - 1, each with a row.

    Raises:
        BadShape: If posteriors are no [n, c] of one row or more.
        BadChoice: If cells are below 1.

    Example:
        >>> posterior_cells(np.log([[0.9, 0.1], [0.89, 0.11], [0.2, 0.8]]), cells=2).tolist()
        [0, 0, 1]

    Source:
        Dhillon, Mallela & Kumar 2003, Journal of Machine Learning Research 3 (information-theoretic clustering).
    """
    if log_posteriors.ndim != 2 or not log_posteriors.size:
        raise BadShape(f"wanted log posteriors [n, c] of one row or more, got shape {log_posteriors.shape}")
    if cells < 1:
        raise BadChoice(f"cells = {cells}: wanted 1 or more")
    p = np.exp(log_posteriors)
    p /= p.sum(axis=1, keepdims=True)
    p, back, counts = np.unique(p.round(9), axis=0, return_inverse=True, return_counts=True)
    own = np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0).sum(axis=1)
    centres = _far_apart(p, own, counts, cells, np.random.default_rng(seed))
    of = np.full(len(p), -1)
    for _ in range(_ROUNDS):
        before, of = of, _divergences(p, own, centres).argmin(axis=1)
        if (of == before).all():
            break
        totals = np.bincount(of, weights=counts, minlength=len(centres))
        sums = np.stack([np.bincount(of, weights=counts * column, minlength=len(centres)) for column in p.T], axis=1)
        kept = totals > 0
        centres[kept] = sums[kept] / totals[kept, None]
    first = np.unique(of[back.ravel()], return_inverse=True)[1]
    order = np.argsort(np.unique(first, return_index=True)[1], kind="stable")  # by first appearance
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[first]


def cell_table(
    of: Int[np.ndarray, " n"], log_posteriors: Float[np.ndarray, "n c"], shares: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "k c"]:
    """p(cell, class) from the posteriors of the rows of each cell, so that the classes have given shares.

    Means of calibrated posteriors instead of counts of classes: counts of few rows would look informative by chance.
    Rows and columns are scaled in turn until the classes have their shares and the cells theirs, so that the tables of
    two spaces agree on the classes.

    Args:
        of: Cell of each row (`posterior_cells`).
        log_posteriors: Log probabilities of the classes of each row, finite.
        shares: Of the classes, above 0, together 1.

    Raises:
        BadShape: If there is not one cell a row and one share a class.

    Example:
        >>> log_posteriors = np.log([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
        >>> cell_table(np.array([0, 0, 1]), log_posteriors, np.array([0.7, 0.3])).round(3).tolist()
        [[0.6, 0.067], [0.1, 0.233]]
    """
    if of.shape != (len(log_posteriors),) or shares.shape != log_posteriors.shape[1:]:
        raise BadShape(f"wanted a cell a row and a share a class of {log_posteriors.shape}: {of.shape}, {shares.shape}")
    table = np.zeros((int(of.max()) + 1, len(shares)))
    np.add.at(table, of, np.exp(log_posteriors) / len(of))
    weights = np.bincount(of) / len(of)
    for _ in range(_RAKES):
        table *= (weights / table.sum(axis=1))[:, None]
        ratios = shares / table.sum(axis=0)
        table *= ratios
        if np.abs(ratios - 1).max() < 1e-12:
            break
    return table / table.sum()


def _divergences(p: np.ndarray, own: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """KL divergence of each row from each centre, [n, k]."""
    return own[:, None] - p @ np.log(np.maximum(centres, 1e-300)).T


def _far_apart(p: np.ndarray, own: np.ndarray, counts: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """First centres: each next one drawn by its rows' divergence from the nearest before it (k-means++)."""
    chosen = [int(counts.argmax())]
    nearest = _divergences(p, own, p[chosen])[:, 0]
    while len(chosen) < min(cells, len(p)):
        weights = np.maximum(nearest, 0.0) * counts
        weights[nearest <= _TOLERANCE] = 0.0
        if not weights.any():
            break
        chosen.append(int(rng.choice(len(p), p=weights / weights.sum())))
        nearest = np.minimum(nearest, _divergences(p, own, p[chosen[-1:]])[:, 0])
    return p[chosen].copy()
