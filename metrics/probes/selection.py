"""The penalty of a probe, chosen on held-out rows or by inner folds of the training rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import X, as_float64
from featcache.metrics.errors import BadChoice, BadShape

_PATIENCE = 2  # penalties in a row that do worse than the best before them, behind which inner folds stop


class Probe(Protocol):
    """A fitted classifier."""

    @property
    def penalty(self) -> float:
        """What it was fitted with."""
        ...

    def logits(self, x: X) -> Float[np.ndarray, "n c"]:
        """One number a class; the largest is the class."""
        ...

    def loss(self, logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
        """Mean of what was minimised, without the penalty; decides between penalties of equally many hits."""
        ...


P = TypeVar("P", bound=Probe)
Path = Callable[[X, Int[np.ndarray, " n"]], Iterator[P]]  # training rows and classes -> a probe for each penalty
Held = tuple[X, Int[np.ndarray, " n"], X, Int[np.ndarray, " m"]]


def choose_held_out(path: Path[P], x: X, y: Int[np.ndarray, " n"], held_out: tuple[X, Int[np.ndarray, " m"]]) -> P:
    """The probe whose penalty is best on held-out rows: by hits, of equals by loss, of equals the first.

    Args:
        path: Fits a probe for each penalty.
        x: [n, d] training rows, the only ones fitted on.
        y: Their classes.
        held_out: Validation rows and their classes; a class that no training row has is always missed.
    """
    rows, true = held_out
    return max(path(x, y), key=lambda probe: _score(probe, rows, true))


def choose_in_folds(path: Path[P], x: X, y: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"]) -> P:
    """The probe fitted on all rows with the penalty that is best over inner folds, each read by fits on the others.

    Hits and losses add up over the folds. Where two penalties in a row do worse than the best before them, the rest is
    not tried.

    Args:
        path: Fits a probe for each penalty, in the same order for all rows.
        x: [n, d] training rows.
        y: Their classes.
        folds: Fold of each row, as of `group_folds`.

    Raises:
        BadShape: If there is not one fold a row.
        BadChoice: If there is a single fold.

    Source: Stone 1974, Journal of the Royal Statistical Society B 36.
    """
    if folds.shape != y.shape:
        raise BadShape(f"wanted one fold for each of {len(y)} rows, got {folds.shape}")
    values, held = as_float64(x), [folds == fold for fold in np.unique(folds)]
    if len(held) < 2:
        raise BadChoice("one fold: wanted two or more, to fit on some and read others")
    best, chosen, since = (-1.0, 0.0), 0.0, 0
    for probes in zip(*(path(values[~rows], y[~rows]) for rows in held), strict=True):
        scores = [_score(probe, values[rows], y[rows]) for probe, rows in zip(probes, held, strict=True)]
        hits, gain = (float(sum(part)) for part in zip(*scores, strict=True))
        since += 1
        if (hits, gain) > best:
            best, chosen, since = (hits, gain), probes[0].penalty, 0
        if since >= _PATIENCE:
            break
    return next(probe for probe in path(values, y) if probe.penalty == chosen)


def best_hits(path: Path[P], inner: Sequence[Held]) -> int:
    """Hits of the best penalty, summed over parts, by which spaces are chosen among; every penalty is tried.

    Args:
        path: Fits a probe for each penalty, in the same order for all rows.
        inner: (rows fitted on, their classes, rows that are read, theirs), one or more: a validation split, or folds.
    """
    every = zip(*(path(rows, classes) for rows, classes, _, _ in inner), strict=True)
    return max(
        sum(int(_score(probe, rows, true)[0]) for probe, (_, _, rows, true) in zip(probes, inner, strict=True))
        for probes in every
    )


def _score(probe: Probe, rows: X, true: Int[np.ndarray, " m"]) -> tuple[float, float]:
    """Hits, and minus the summed loss of the rows whose class the probe knows."""
    logits = probe.logits(rows)
    known = true < logits.shape[1]
    hits = np.count_nonzero(logits.argmax(axis=1) == true)
    loss = probe.loss(logits[known], true[known]) if known.any() else 0.0
    return float(hits), -loss * float(np.count_nonzero(known))
