"""The table of alignment metrics: each one's function, range, direction, chance level, invariances and source."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from featcache.metrics.arrays import Groups
from featcache.metrics.comparison import Comparison, KnnComparison, options_of
from featcache.metrics.errors import BadChoice
from featcache.metrics.knn.graph_scores import (
    cycle_knn_graphs,
    edit_distance_knn_graphs,
    jaccard_knn_graphs,
    lcs_knn_graphs,
    mutual_knn_graphs,
    rank_knn_graphs,
)
from featcache.metrics.scores.correlation import cca, cca_comparison, pwcca, pwcca_comparison, svcca, svcca_comparison
from featcache.metrics.scores.dissimilarity import rsa, rsa_comparison
from featcache.metrics.scores.hypersphere import AlignmentLoss, ModalityGap, alignment_loss, modality_gap
from featcache.metrics.scores.independence import HsicComparison, hsic
from featcache.metrics.scores.kernels import LinearCka, RbfCka, cka, rv, rv_comparison
from featcache.metrics.scores.local import Cknna, cknna
from featcache.metrics.scores.neighbor_ranks import SecondOrderCosine, rank_knn, second_order_cosine
from featcache.metrics.scores.overlap import (
    chance_mutual_knn,
    cycle_knn,
    edit_distance_knn,
    jaccard_knn,
    lcs_knn,
    mutual_knn,
)
from featcache.metrics.scores.recall import RecallComparison, retrieval_recall
from featcache.metrics.scores.shapes import (
    AlignedCosine,
    AngularCka,
    AngularComparison,
    ProcrustesComparison,
    aligned_cosine,
    angular_cka,
    angular_distance,
    procrustes,
)


@dataclass(frozen=True)
class Metric:
    """One alignment metric: a function of two spaces of the same samples."""

    name: str  # its key in `METRICS`
    function: Callable[..., float]  # (x [n, dx], y [n, dy], **options) -> float
    higher_is_better: bool  # whether a higher score means more aligned
    symmetric: bool  # whether swapping the spaces leaves the score
    range: tuple[float, float]  # lowest and highest score at the default options
    self_score: float | None  # of a space with itself at the default options; None where it depends on the space
    chance: str  # what unrelated spaces score
    # what may be done to one space without changing the score: "rotation" (any orthogonal map), "scale" (one positive
    # factor), "translation", "row_scale" (a positive factor a row)
    invariances: frozenset[str]
    source: str  # where it is defined
    comparison: Callable[..., Comparison[Any]]  # (**options) -> Comparison, the same metric in two steps
    same_width: bool = False  # whether rows of one space are compared with rows of the other
    # whether the score depends on which row of x goes with which row of y. Where it does not, rearranging the rows
    # changes nothing: there is no permutation null, and a part of the rows is no weaker evidence
    paired: bool = True

    def options(self) -> frozenset[str]:
        """Names of the options that its function and its comparison take ("k", "groups", ...)."""
        return options_of(self.comparison)


_COSINE = frozenset({"rotation", "scale", "row_scale"})
_AFFINE = frozenset({"rotation", "scale", "translation"})
_HUH = "Huh et al. 2024, arXiv:2405.07987"
_REP = "platonic-rep, commit dcd76ba"
_SHAPES = "Williams et al. 2021, arXiv:2110.14739"
_DRAWN = "no closed form, above 0 and rising with width over n; permutation_null"
_PERMUTED = "no closed form; permutation_null_knn(..., score={}_graphs)"

_ALL = (
    Metric(
        "mutual_knn", mutual_knn, True, True, (0.0, 1.0), 1.0,
        "k / (n - 1); chance_mutual_knn with groups", _COSINE, _HUH, partial(KnnComparison, mutual_knn_graphs),
    ),
    Metric(
        "jaccard_knn", jaccard_knn, True, True, (0.0, 1.0), 1.0,
        _PERMUTED.format("jaccard_knn"), _COSINE, "Klabunde et al. 2024, arXiv:2408.00531",
        partial(KnnComparison, jaccard_knn_graphs),
    ),
    Metric(
        "cycle_knn", cycle_knn, True, False, (0.0, 1.0), None,
        _PERMUTED.format("cycle_knn"), _COSINE, _REP, partial(KnnComparison, cycle_knn_graphs),
    ),
    Metric(
        "lcs_knn", lcs_knn, True, True, (0.0, 10.0), 10.0,
        _PERMUTED.format("lcs_knn"), _COSINE, _REP, partial(KnnComparison, lcs_knn_graphs),
    ),
    Metric(
        "edit_distance_knn", edit_distance_knn, True, True, (0.0, 1.0), 1.0,
        _PERMUTED.format("edit_distance_knn"), _COSINE, _REP, partial(KnnComparison, edit_distance_knn_graphs),
    ),
    Metric(
        "cka_linear", cka, True, True, (0.0, 1.0), 1.0,
        "tr K tr L / ((n - 1) |K| |L|) of centred kernels: chance_cka", _AFFINE,
        "Kornblith et al. 2019, arXiv:1905.00414", LinearCka,
    ),
    Metric(
        "cka_rbf", partial(cka, kernel="rbf"), True, True, (0.0, 1.0), 1.0,
        'no closed form; permutation_null_cka(..., kernel="rbf")', _AFFINE - {"scale"},
        "Kornblith et al. 2019, arXiv:1905.00414", RbfCka,
    ),
    Metric(
        "cka_debiased", partial(cka, debiased=True), True, True, (-1.0, 1.0), 1.0,
        "0, standard deviation sqrt(2 / (n (n - 3)))", _AFFINE, "Song et al. 2012, JMLR 13",
        partial(LinearCka, debiased=True),
    ),
    Metric(
        "cknna", cknna, True, False, (-math.inf, math.inf), 1.0,
        "about 0; permute the rows of one space", _COSINE, _HUH, Cknna,
    ),
    Metric(
        "hsic", hsic, True, True, (0.0, math.inf), None,
        "tr K tr L / (n - 1)^3 of centred kernels: moments_hsic", _AFFINE - {"scale"},
        "Gretton et al. 2005, Algorithmic Learning Theory", HsicComparison,
    ),
    Metric(
        "rv", rv, True, True, (0.0, 1.0), 1.0,
        "as cka_linear", _AFFINE, "Robert & Escoufier 1976, JRSS C 25", rv_comparison,
    ),
    Metric(
        "rank_knn", rank_knn, True, True, (0.0, 1.0), 1.0,
        _PERMUTED.format("rank_knn"), _COSINE, "Wang et al. 2022, IEEE TKDE 34",
        partial(KnnComparison, rank_knn_graphs),
    ),
    Metric(
        "second_order_cosine", second_order_cosine, True, True, (-1.0, 1.0), 1.0,
        "no closed form, near 1 where all cosines are alike; permutation_null", _COSINE,
        "Hamilton et al. 2016, arXiv:1606.02821", SecondOrderCosine,
    ),
    Metric(
        "rsa", rsa, True, True, (-1.0, 1.0), 1.0,
        "0", frozenset({"scale", "row_scale"}), "Kriegeskorte et al. 2008, Frontiers in Systems Neuroscience 2",
        rsa_comparison,
    ),
    Metric(
        "procrustes", procrustes, False, True, (0.0, math.sqrt(2)), 0.0,
        "no closed form, below sqrt 2 and falling with width over n; permutation_null", _AFFINE, _SHAPES,
        ProcrustesComparison,
    ),
    Metric(
        "angular_distance", angular_distance, False, True, (0.0, math.pi / 2), 0.0,
        "no closed form, below pi / 2 and falling with width over n; permutation_null", _AFFINE, _SHAPES,
        AngularComparison,
    ),
    Metric(
        "angular_cka", angular_cka, False, True, (0.0, math.pi / 2), 0.0,
        "about the arccos of chance_cka", _AFFINE, _SHAPES, AngularCka,
    ),
    Metric(
        "aligned_cosine", aligned_cosine, True, True, (-1.0, 1.0), 1.0,
        _DRAWN, frozenset({"rotation", "scale"}), "Hamilton et al. 2016, arXiv:1605.09096", AlignedCosine,
    ),
    Metric(
        "cca", cca, True, True, (0.0, 1.0), 1.0,
        "no closed form; the mean square is max(dx, dy) / (n - 1)", _AFFINE, "Hotelling 1936, Biometrika 28",
        cca_comparison,
    ),
    Metric(
        "svcca", svcca, True, True, (0.0, 1.0), 1.0,
        "no closed form; the mean square is the larger number of components over n - 1", _AFFINE,
        "Raghu et al. 2017, arXiv:1706.05806", svcca_comparison,
    ),
    Metric(
        "pwcca", pwcca, True, False, (0.0, 1.0), 1.0,
        _DRAWN, frozenset({"scale", "translation"}), "Morcos et al. 2018, arXiv:1806.05759", pwcca_comparison,
    ),
    Metric(
        "modality_gap", modality_gap, False, True, (0.0, 2.0), 0.0,
        "the gap itself: it does not depend on which rows match", frozenset({"scale", "row_scale"}),
        "Liang et al. 2022, arXiv:2203.02053", ModalityGap, same_width=True, paired=False,
    ),
    Metric(
        "alignment_loss", alignment_loss, False, True, (0.0, 4.0), 0.0,
        "2 - 2 times the product of the two centroids of unit rows", frozenset({"scale", "row_scale"}),
        "Wang & Isola 2020, arXiv:2005.10242", AlignmentLoss, same_width=True,
    ),
    Metric(
        "retrieval_recall", retrieval_recall, True, False, (0.0, 1.0), 1.0,
        "k / n; chance_recall with groups", frozenset({"scale", "row_scale"}),
        "Faghri et al. 2018, arXiv:1707.05612", RecallComparison, same_width=True,
    ),
)  # fmt: skip

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""Every metric by name."""


def chosen(name: str, *, groups: Groups | None = None, **options: Any) -> tuple[Metric, Comparison[Any]]:
    """A metric by name and its comparison at these options; groups go to metrics that exclude neighbours by group.

    Raises:
        BadChoice: If there is no such metric, or it has no such option; lists what exists.

    Example:
        >>> chosen("mutual_knn", k=5)[1].at_least
        2
    """
    if name not in METRICS:
        raise BadChoice(f"metric {name!r} is unknown; there are {', '.join(sorted(METRICS))}")
    metric = METRICS[name]
    unknown = sorted(set(options) - metric.options())
    if unknown:
        there = ", ".join(sorted(metric.options() - {"groups"})) or "none"
        raise BadChoice(f"{name} has no option {', '.join(unknown)}; it has {there}")
    if "groups" in metric.options():
        options["groups"] = groups
    return metric, metric.comparison(**options)


def names_of(kind: type[Comparison[Any]]) -> list[str]:
    """Names of the metrics whose comparison is of one class: `KnnComparison`, or `RowComparison` of means over rows.

    Example:
        >>> names_of(SecondOrderCosine)
        ['second_order_cosine']
    """
    return [name for name, metric in METRICS.items() if isinstance(metric.comparison(), kind)]


def known_chance(comparison: Comparison[Any], n: int, groups: Groups | None = None) -> float | None:
    """What two unrelated spaces score on average, where n and k alone say so (mutual_knn); else None.

    Raises:
        TooFewRows: If a row has fewer than k rows outside its group; for any metric of neighbour graphs.

    Example:
        >>> round(known_chance(chosen("mutual_knn", k=5)[1], 101), 6)
        0.05
    """
    if not isinstance(comparison, KnnComparison):
        return None
    chance = chance_mutual_knn(n, comparison.k, groups)
    return chance if comparison.per_row is mutual_knn_graphs else None
