"""Alignment metrics of two spaces of the same samples: pure functions of arrays, without files or models.

>>> from featcache.metrics import METRICS
>>> METRICS["mutual_knn"].higher_is_better
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # ruff: noqa: F401 - for type checkers; `__getattr__` imports them
    from featcache.metrics.certainty.calibration import Calibrated, MaxNull, calibrate, max_null
    from featcache.metrics.certainty.intervals import Interval, query_interval, sample_interval, scores_interval
    from featcache.metrics.certainty.moments import chance_cka, moments_cka, moments_hsic, moments_knn
    from featcache.metrics.certainty.noise import spectrum_noise
    from featcache.metrics.certainty.nulls import Null, permutation_null, permutation_null_cka, permutation_null_knn
    from featcache.metrics.combine import group_mean, joint, mixed
    from featcache.metrics.errors import MetricError
    from featcache.metrics.information.decompositions import (
        DECOMPOSITIONS,
        Decomposition,
        broja,
        broja_of_margins,
        common_information,
        minimum_information,
    )
    from featcache.metrics.information.tables import bayes_accuracy, entropy, mutual_information
    from featcache.metrics.knn.approximate import approximate_neighbors
    from featcache.metrics.knn.gallery import neighbors_in
    from featcache.metrics.knn.graph import Neighbors, neighbors
    from featcache.metrics.knn.graph_scores import (
        cycle_knn_graphs,
        edit_distance_knn_graphs,
        jaccard_knn_graphs,
        lcs_knn_graphs,
        mutual_knn_graphs,
        rank_knn_graphs,
    )
    from featcache.metrics.knn.near_duplicates import NearDuplicates, near_duplicates
    from featcache.metrics.knn.subgraph import depth_for
    from featcache.metrics.measure.contrasts import Contrast
    from featcache.metrics.measure.engine import Measured, paired_difference
    from featcache.metrics.measure.row import ContrastRow, Row, verdict_text
    from featcache.metrics.measure.settings import MeasureSettings
    from featcache.metrics.measure.space import ArraySpace, Space
    from featcache.metrics.pairing import Paired, paired
    from featcache.metrics.preparation import clamped, outlier_threshold, prepared
    from featcache.metrics.scores.answers import Answers, right_answers
    from featcache.metrics.scores.correlation import cca, pwcca, svcca
    from featcache.metrics.scores.dimension import IntrinsicDimension, intrinsic_dimension
    from featcache.metrics.scores.dissimilarity import rsa
    from featcache.metrics.scores.hypersphere import alignment_loss, distribution_gap, modality_gap, uniformity
    from featcache.metrics.scores.independence import hsic
    from featcache.metrics.scores.kernels import cka, rv
    from featcache.metrics.scores.local import cknna
    from featcache.metrics.scores.neighbor_ranks import rank_knn, second_order_cosine
    from featcache.metrics.scores.overlap import (
        chance_mutual_knn,
        cycle_knn,
        edit_distance_knn,
        jaccard_knn,
        lcs_knn,
        mutual_knn,
    )
    from featcache.metrics.scores.recall import retrieval_recall
    from featcache.metrics.scores.retrieval import Retrieval, chance_recall, clustered_wilson, retrieval
    from featcache.metrics.scores.shapes import aligned_cosine, angular_cka, angular_distance, procrustes
    from featcache.metrics.streaming import CkaSums, StreamingCka, StreamingMetric
    from featcache.metrics.sweeps.ceiling import CeilingPoint, MixingPoint, mixing_curve, ridge_ceiling
    from featcache.metrics.sweeps.curve import CurvePoint, gallery_curve, k_curve
    from featcache.metrics.sweeps.grid import Grid, GridPoint, layer_grid, many_grid
    from featcache.metrics.table import METRICS, Metric

_MODULES = {
    "certainty.calibration": "Calibrated MaxNull calibrate max_null",
    "certainty.intervals": "Interval query_interval sample_interval scores_interval",
    "certainty.moments": "chance_cka moments_cka moments_hsic moments_knn",
    "certainty.noise": "spectrum_noise",
    "certainty.nulls": "Null permutation_null permutation_null_cka permutation_null_knn",
    "errors": "MetricError",
    "information.decompositions": "DECOMPOSITIONS Decomposition broja broja_of_margins common_information"
    " minimum_information",
    "information.tables": "bayes_accuracy entropy mutual_information",
    "knn.approximate": "approximate_neighbors",
    "knn.gallery": "neighbors_in",
    "knn.graph": "Neighbors neighbors",
    "knn.graph_scores": "cycle_knn_graphs edit_distance_knn_graphs jaccard_knn_graphs lcs_knn_graphs mutual_knn_graphs"
    " rank_knn_graphs",
    "knn.near_duplicates": "NearDuplicates near_duplicates",
    "knn.subgraph": "depth_for",
    "measure.contrasts": "Contrast",
    "measure.engine": "Measured paired_difference",
    "measure.row": "ContrastRow Row verdict_text",
    "measure.settings": "MeasureSettings",
    "measure.space": "ArraySpace Space",
    "pairing": "Paired paired",
    "preparation": "clamped outlier_threshold prepared",
    "scores.answers": "Answers right_answers",
    "scores.correlation": "cca pwcca svcca",
    "scores.dimension": "IntrinsicDimension intrinsic_dimension",
    "scores.dissimilarity": "rsa",
    "scores.hypersphere": "alignment_loss distribution_gap modality_gap uniformity",
    "scores.independence": "hsic",
    "scores.kernels": "cka rv",
    "scores.local": "cknna",
    "scores.overlap": "chance_mutual_knn cycle_knn edit_distance_knn jaccard_knn lcs_knn mutual_knn",
    "scores.retrieval": "Retrieval chance_recall clustered_wilson retrieval",
    "scores.neighbor_ranks": "rank_knn second_order_cosine",
    "scores.recall": "retrieval_recall",
    "scores.shapes": "aligned_cosine angular_cka angular_distance procrustes",
    "combine": "group_mean joint mixed",
    "streaming": "CkaSums StreamingCka StreamingMetric",
    "sweeps.ceiling": "CeilingPoint MixingPoint mixing_curve ridge_ceiling",
    "sweeps.curve": "CurvePoint gallery_curve k_curve",
    "sweeps.grid": "Grid GridPoint layer_grid many_grid",
    "table": "METRICS Metric",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name at its first use, so that importing the package costs no torch."""
    if name in _HOME:
        return getattr(import_module(f"featcache.metrics.{_HOME[name]}"), name)
    metrics = {} if name.startswith("_") else import_module("featcache.metrics.table").METRICS
    if name in metrics:  # a metric is public once it stands in the table
        return metrics[name].function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
