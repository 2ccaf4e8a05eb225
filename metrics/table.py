"""Which alignment metrics are there, and what may one expect of each?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from metrics.comparison import Comparison, KnnComparison, options_of
from metrics.kernels import cka
from metrics.local import cknna
from metrics.overlap import (
    cycle_knn,
    cycle_knn_graphs,
    edit_distance_knn,
    edit_distance_knn_graphs,
    jaccard_knn,
    jaccard_knn_graphs,
    lcs_knn,
    lcs_knn_graphs,
    mutual_knn,
    mutual_knn_graphs,
)


@dataclass(frozen=True)
class Metric:
    """One alignment metric: a function of two spaces of the same samples.

    Args:
        name: Its key in `METRICS`.
        function: (x [n, dx], y [n, dy], **options) -> float.
        higher_is_better: Whether a higher score means more aligned.
        symmetric: Whether swapping the spaces leaves the score.
        range: Lowest and highest score at the default options.
        self_score: Score of a space against itself at the default options; None where it depends on the space.
        chance: What unrelated spaces score.
        invariances: What may be done to one space without changing the score: "rotation" (any orthogonal map),
            "scale" (one positive factor), "translation", "row_scale" (a positive factor a row).
        source: Where it is defined.
        comparison: (**options) -> Comparison, the same metric in two steps; `comparison(**options)(x, y)` is
            `function(x, y, **options)`.
    """

    name: str
    function: Callable[..., float]
    higher_is_better: bool
    symmetric: bool
    range: tuple[float, float]
    self_score: float | None
    chance: str
    invariances: frozenset[str]
    source: str
    comparison: Callable[..., Comparison[Any]] | None = None

    def options(self) -> frozenset[str]:
        """Names of the options that its function and its comparison take ("k", "groups", ...)."""
        return options_of(self.comparison) if self.comparison else frozenset()


_COSINE = frozenset({"rotation", "scale", "row_scale"})
_AFFINE = frozenset({"rotation", "scale", "translation"})
_HUH = "Huh et al. 2024, arXiv:2405.07987"
_REP = "platonic-rep, commit dcd76ba"
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
        "Kornblith et al. 2019, arXiv:1905.00414",
    ),
    Metric(
        "cka_rbf", partial(cka, kernel="rbf"), True, True, (0.0, 1.0), 1.0,
        'no closed form; permutation_null_cka(..., kernel="rbf")', _AFFINE - {"scale"},
        "Kornblith et al. 2019, arXiv:1905.00414",
    ),
    Metric(
        "cka_debiased", partial(cka, debiased=True), True, True, (-1.0, 1.0), 1.0,
        "0, standard deviation sqrt(2 / (n (n - 3)))", _AFFINE, "Song et al. 2012, JMLR 13",
    ),
    Metric(
        "cknna", cknna, True, False, (-math.inf, math.inf), 1.0,
        "about 0; permute the rows of one space", _COSINE, _HUH,
    ),
)  # fmt: skip

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""Every metric by name."""
