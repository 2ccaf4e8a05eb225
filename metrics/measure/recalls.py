"""Paired differences of recall: two ways to rank the same queries, on the same random halves of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from featcache.metrics.certainty.halves import Halves
from featcache.metrics.measure.contrasts import Contrast, HalfScores, contrast_row
from featcache.metrics.measure.row import ContrastRow, Row

_ESTIMAND = "difference of these trained adapters, new queries to this gallery"


def recall_contrasts(
    ranks: Mapping[str, Int[NDArray[np.int64], " q"]],
    groups: Int[NDArray[np.int64], " q"],
    *,
    ks: Sequence[int],
    repeats: int,
    alpha: float,
    direction: str,
    family: str,
) -> tuple[list[Row], list[ContrastRow]]:
    """Recall at each k of two rankings, and the first's minus the second's.

    Recall is a mean over queries, so that on random halves of the groups of queries its differences spread as those of
    new queries do. The gallery stays as it is.

    Args:
        ranks: Name -> rank of the first right answer to each query, from 1; of two rankings, the one in question first.
        groups: Of the queries, which are drawn whole.
        ks: Answers that are looked at.
        repeats: Random halves, an even number.
        alpha: Level of the verdicts.
        direction: "a→b", as rows name it.
        family: That the contrasts are corrected in; see `featcache.metrics.measure.contrasts.with_verdicts`.

    Returns:
        Rows of both, and one contrast a k, whose verdict is still to be corrected.
    """
    (first, second), halves = ranks, Halves(len(groups), groups, repeats=repeats)
    shares = halves.masks / halves.masks.sum(axis=1, keepdims=True)
    rows: list[Row] = []
    contrasts: list[ContrastRow] = []
    for k in ks:
        hits = {name: own <= k for name, own in ranks.items()}
        means = {name: float(each.mean()) for name, each in hits.items()}
        rows += [
            Row(name, "", f"R@{k}", value, k=k, n=len(groups), direction=direction) for name, value in means.items()
        ]
        on_halves = {name: shares @ each for name, each in hits.items()}
        scores = HalfScores(halves, means, on_halves, dict.fromkeys(hits, 0), {}, of_graphs=False)
        blank = ContrastRow("", "", "", "", "", f"R@{k}", k=k, n=len(groups), repeats=halves.repeats)
        contrast = Contrast(first, (second,), name=f"{direction}: {family}", family=family)
        row = contrast_row(contrast, scores, blank, sign=1, alpha=alpha)
        contrasts.append(replace(row, estimand=_ESTIMAND, method=halves.method))
    return rows, contrasts
