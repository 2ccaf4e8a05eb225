"""How alike are two cached encoders on the groups they share? The numbers behind `featcache align`."""

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.features import Features
from trainer.errors import NotPaired
from trainer.evaluate import cka_null

if TYPE_CHECKING:
    from metrics import Null


@dataclass(frozen=True)
class Alignment:
    """One metric of one pair of feature arrays.

    Args:
        metric: "mutual_knn", "cka" or "cka_debiased".
        value: The score; higher is more aligned.
        n: Groups compared, one row each.
        k: Neighbours, where the metric has them.
        chance: Its mean when the groups of one side are permuted.
        null_low: Lower end of the central 95 % under permutation.
        null_high: Upper end.
        p: Share of permutations that score at least as high, the observed one counted; else a normal's tail.
        null: How the null was got: "200 permutations", or "closed form" (exact mean and variance, normal tails).
        backend: What computed it.
        seconds: Time of the score and its null.
    """

    metric: str
    value: float
    n: int
    k: int | None
    chance: float
    null_low: float
    null_high: float
    p: float
    null: str
    backend: str
    seconds: float


def align(
    x: Features, y: Features, *, k: int = 10, split: str | None = None, permutations: int = 200, seed: int = 0
) -> list[Alignment]:
    """Mutual-kNN and linear CKA, biased and debiased, of two feature arrays of one data set.

    Rows of a group (five captions of a photo) are averaged first, so that no group is its own neighbour and duplicate
    rows cannot raise a score.

    Args:
        x: Features of one encoder.
        y: Features of the other.
        k: Neighbours.
        split: Only groups of this split; None for all.
        permutations: Behind each null range.
        seed: Of the permutations.

    Raises:
        NotPaired: If the two share no groups, or are of different data sets.
        TooFewRows: If k is not below the number of groups.
    """
    import metrics

    a, b = paired_means(x, y, split)
    draws: dict[str, Any] = {"permutations": permutations, "seed": seed}
    started = perf_counter()
    graphs = [metrics.neighbors(space, k=k) for space in (a, b)]
    null = metrics.permutation_null_knn(graphs[0].ids, graphs[1].ids, **draws)
    found = [_alignment("mutual_knn", null, len(a), k, graphs[0].backend, started)]
    for name, debiased in (("cka", False), ("cka_debiased", True)):
        started = perf_counter()
        null = cka_null(a, b, debiased=debiased, **draws)
        found.append(_alignment(name, null, len(a), None, "numpy", started))
    return found


def _alignment(metric: str, null: "Null", n: int, k: int | None, backend: str, started: float) -> Alignment:
    how = f"{null.permutations} permutations" if null.permutations else null.method
    bounds = (null.mean, null.low, null.high, null.p, how)
    return Alignment(metric, null.observed, n, k, *bounds, backend, perf_counter() - started)


def paired_means(x: Features, y: Features, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One row a shared group of each array: the mean of the group's rows, groups in the order of x.

    Args:
        x: Features of one encoder.
        y: Features of the other.
        split: Only groups of this split; None for all.

    Returns:
        Two arrays [g, dx] and [g, dy], float32.

    Raises:
        NotPaired: If the two share no groups, or are of different data sets.
    """
    from metrics import group_mean

    if x.dataset != y.dataset:
        raise NotPaired(f"{x.name} is of {x.dataset} and {y.name} of {y.dataset}; choose two encoders of one data set")
    means: list[dict[Any, int]] = []
    arrays: list[np.ndarray] = []
    for features in (x, y):
        part = features if split is None else features.take(features.splits == split)
        if not len(part):
            there = ", ".join(sorted(set(features.splits.tolist()))) or "none"
            raise NotPaired(f"{features.name} of {features.dataset} has no rows in split {split!r}; it has {there}")
        values, order = group_mean(part.values.astype(np.float32), part.groups)
        means.append({group: row for row, group in enumerate(order)})
        arrays.append(np.asarray(values))
    shared = [group for group in means[0] if group in means[1]]
    if not shared:
        raise NotPaired(
            f"{x.name} ({x.view}) and {y.name} ({y.view}) share no groups; choose views of the same samples"
        )
    first, second = (values[[rows[group] for group in shared]] for values, rows in zip(arrays, means, strict=True))
    return first, second
