"""Alignment and retrieval rows of one split."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from featcache.metrics import (
    Null,
    chance_cka,
    chance_mutual_knn,
    cka,
    joint,
    moments_cka,
    mutual_knn_graphs,
    neighbors,
    permutation_null_cka,
    permutation_null_knn,
    retrieval,
)
from featcache.trainer.adapters import TwoAdapters
from featcache.trainer.config import FitConfig
from featcache.trainer.pairs import Pairs
from featcache.trainer.table import Row

RECALLS = (1, 5, 10)
METRICS = ("mutual_knn", "cka")
# a permuted CKA costs n^2, and with this many groups its distribution is normal: the moments, which are exact, suffice
PERMUTED_CKA_GROUPS = 500
_NORMAL = 1.959964  # 97.5 % point
NULL_ESTIMAND = "null range: score of these groups matched at random, central 95 %"
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


@dataclass(frozen=True, eq=False)
class Space:
    """One row a group, with its neighbour graph (cosine, self excluded), searched once.

    Args:
        features: [n, d].
        k: Neighbours a row.
    """

    features: Float[Tensor, "n d"]
    k: int

    @cached_property
    def graph(self) -> NDArray[Any]:
        """[n, k] ids."""
        return np.asarray(neighbors(self.features, k=self.k).ids)


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """One split, ready to be measured again and again.

    Alignment takes one row a group: raw features are averaged over a group's rows, adapted features are adapted,
    normalised, averaged and normalised again. Retrieval takes every row. Everything is measured on the CPU, whichever
    device trained.

    Args:
        name: "validation" or "test".
        pairs: The groups of this split only.
        config: Reads k, permutations and seed.
        full: Whether null ranges and intervals are computed.
    """

    name: str
    pairs: Pairs
    config: FitConfig
    full: bool = False

    @cached_property
    def x(self) -> Space:
        """Raw features of side x."""
        return Space(self.pairs.x.means(), self.config.k)

    @cached_property
    def y(self) -> Space:
        """Raw features of side y."""
        return Space(self.pairs.y.means(), self.config.k)

    @cached_property
    def reference(self) -> Space:
        """Features of the reference."""
        return Space(self.pairs.reference, self.config.k)


@dataclass(frozen=True, eq=False)
class Adapted:
    """What adapters make of one split.

    Args:
        rows: "x", "y" -> [rows, width] every row, L2-normalised.
        spaces: "x", "y", "joint" -> one row a group.
    """

    rows: dict[str, Float[Tensor, "rows width"]]
    spaces: dict[str, Space]


@torch.no_grad()
def adapt(split: EvaluationSplit, adapters: TwoAdapters) -> Adapted:
    """Maps the rows of a split into the joint space.

    Args:
        split: The split.
        adapters: Adapters on the CPU.
    """
    sides = {"x": split.pairs.x, "y": split.pairs.y}
    rows = {name: adapters.embed(name, side.values) for name, side in sides.items()}
    means = {
        name: torch.nn.functional.normalize(replace(side, values=rows[name]).means()) for name, side in sides.items()
    }
    features = {**means, "joint": torch.as_tensor(joint(means["x"], means["y"]))}
    return Adapted(rows, {name: Space(values, split.config.k) for name, values in features.items()})


def adapted_rows(split: EvaluationSplit, adapted: Adapted, stage: str, epoch: int) -> list[Row]:
    """Alignment and retrieval of adapted features.

    Args:
        split: The split.
        adapted: Its rows through the adapters.
        stage: "untrained" or "trained".
        epoch: Epoch of the weights, 0 before training.

    Returns:
        Rows of x, y and joint against the reference, of x against y, and of retrieval in both directions.
    """
    spaces = adapted.spaces
    rows = [row for name, space in spaces.items() for row in align_reference(split, space, stage, name)]
    rows += align_sides(split, spaces["x"], spaces["y"], stage)
    rows += [*_retrieve(split, adapted, stage, "x", "y"), *_retrieve(split, adapted, stage, "y", "x")]
    return [replace(row, epoch=epoch) for row in rows]


def align_reference(split: EvaluationSplit, space: Space, stage: str, name: str) -> list[Row]:
    """Alignment of one space with the reference."""
    row = Row(stage, name, "reference", "", split.name, 0.0)
    return [alignment_row(split, space, split.reference, replace(row, metric=metric)) for metric in METRICS]


def align_sides(split: EvaluationSplit, x: Space, y: Space, stage: str) -> list[Row]:
    """Alignment of the two sides with each other."""
    row = Row(stage, "x+y", "pair", "", split.name, 0.0)
    return [alignment_row(split, x, y, replace(row, metric=metric)) for metric in METRICS]


def alignment_row(split: EvaluationSplit, a: Space, b: Space, row: Row) -> Row:
    """One metric of two spaces, in a row that says the rest."""
    n, k = len(a.features), split.config.k
    knn = row.metric == "mutual_knn"
    if knn:
        value, chance = float(np.mean(mutual_knn_graphs(a.graph, b.graph))), chance_mutual_knn(n, k)
    else:
        # the search over mixtures compares scores only; their chance would take longer than the scores
        searching = row.stage == "mixed" and not split.full
        value, chance = cka(a.features, b.features), None if searching else chance_cka(a.features, b.features)
    row = replace(row, value=value, n=n, k=k if knn else None, chance=chance)
    if not split.full:
        return row
    low, high, estimand = _null_range(split, a, b, knn)
    return replace(row, null_low=low, null_high=high, estimand=estimand)


def _null_range(split: EvaluationSplit, a: Space, b: Space, knn: bool) -> tuple[float, float, str]:
    draws: dict[str, Any] = {"permutations": split.config.permutations, "seed": split.config.seed}
    null = permutation_null_knn(a.graph, b.graph, **draws) if knn else cka_null(a.features, b.features, **draws)
    how = f"of {null.permutations} permutations" if null.permutations else "normal with the exact permutation moments"
    return null.low, null.high, f"{NULL_ESTIMAND}, {how}"


def cka_null(
    x: Float[Tensor, "n dx"] | Float[NDArray[Any], "n dx"],
    y: Float[Tensor, "n dy"] | Float[NDArray[Any], "n dy"],
    *,
    debiased: bool = False,
    permutations: int,
    seed: int,
) -> Null:
    """Linear CKA and its null: permuted up to PERMUTED_CKA_GROUPS rows, above that in closed form.

    The closed form is a normal of exact permutation mean and variance; 1,000 permutations of 1,000 rows cost seconds a
    score, and at that size the two ranges agree to 4e-4.

    Args:
        x: Features of n groups.
        y: Features of the same groups.
        debiased: As in `metrics.cka`.
        permutations: How many are drawn, where they are.
        seed: Of the draws.

    Returns:
        The null; `permutations` is 0 where it is in closed form.
    """
    if len(x) <= PERMUTED_CKA_GROUPS:
        return permutation_null_cka(x, y, debiased=debiased, permutations=permutations, seed=seed)
    observed = cka(x, y, debiased=debiased)
    mean, std = moments_cka(x, y, debiased=debiased)
    tail = 0.5 * math.erfc((observed - mean) / std / math.sqrt(2))
    return Null(observed, mean, std, mean - _NORMAL * std, mean + _NORMAL * std, tail, 0, "closed form")


def _retrieve(split: EvaluationSplit, adapted: Adapted, stage: str, query: str, gallery: str) -> list[Row]:
    sides = {"x": split.pairs.x, "y": split.pairs.y}
    result = retrieval(
        adapted.rows[query],
        adapted.rows[gallery],
        query_groups=sides[query].groups.numpy(),
        gallery_groups=sides[gallery].groups.numpy(),
        ks=RECALLS,
    )
    direction = f"{query}→{gallery}"
    row = Row(stage, "x+y", "pair", "", split.name, 0.0, direction=direction, n=len(adapted.rows[query]))
    rows = [replace(row, metric=f"R@{k}", k=k, value=result.recall[k], chance=result.chance[k]) for k in RECALLS]
    if split.full:
        bounds = [{"ci_low": result.low[k], "ci_high": result.high[k], "estimand": result.estimand} for k in RECALLS]
        rows = [replace(row, **bound) for row, bound in zip(rows, bounds, strict=True)]
    return [
        *rows,
        replace(row, metric="median_rank", value=result.median_rank, chance=float(result.chance_median_rank)),
    ]
