"""How alike are two spaces of the same samples? Pure functions of arrays; nothing here knows of files or models.

>>> from featcache.metrics import METRICS
>>> METRICS["mutual_knn"].higher_is_better
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.metrics.certainty.calibration import Calibrated as Calibrated
    from featcache.metrics.certainty.calibration import MaxNull as MaxNull
    from featcache.metrics.certainty.calibration import calibrate as calibrate
    from featcache.metrics.certainty.calibration import max_null as max_null
    from featcache.metrics.certainty.differences import Difference as Difference
    from featcache.metrics.certainty.differences import Exceeds as Exceeds
    from featcache.metrics.certainty.differences import exceeds_parts as exceeds_parts
    from featcache.metrics.certainty.differences import paired_difference as paired_difference
    from featcache.metrics.certainty.intervals import Interval as Interval
    from featcache.metrics.certainty.intervals import query_interval as query_interval
    from featcache.metrics.certainty.intervals import sample_interval as sample_interval
    from featcache.metrics.certainty.intervals import scores_interval as scores_interval
    from featcache.metrics.certainty.moments import chance_cka as chance_cka
    from featcache.metrics.certainty.moments import moments_cka as moments_cka
    from featcache.metrics.certainty.moments import moments_hsic as moments_hsic
    from featcache.metrics.certainty.moments import moments_knn as moments_knn
    from featcache.metrics.certainty.nulls import Null as Null
    from featcache.metrics.certainty.nulls import permutation_null as permutation_null
    from featcache.metrics.certainty.nulls import permutation_null_cka as permutation_null_cka
    from featcache.metrics.certainty.nulls import permutation_null_knn as permutation_null_knn
    from featcache.metrics.errors import MetricError as MetricError
    from featcache.metrics.knn.approximate import approximate_neighbors as approximate_neighbors
    from featcache.metrics.knn.gallery import neighbors_in as neighbors_in
    from featcache.metrics.knn.graph import Neighbors as Neighbors
    from featcache.metrics.knn.graph import neighbors as neighbors
    from featcache.metrics.knn.graph_scores import cycle_knn_graphs as cycle_knn_graphs
    from featcache.metrics.knn.graph_scores import edit_distance_knn_graphs as edit_distance_knn_graphs
    from featcache.metrics.knn.graph_scores import jaccard_knn_graphs as jaccard_knn_graphs
    from featcache.metrics.knn.graph_scores import lcs_knn_graphs as lcs_knn_graphs
    from featcache.metrics.knn.graph_scores import mutual_knn_graphs as mutual_knn_graphs
    from featcache.metrics.knn.graph_scores import rank_knn_graphs as rank_knn_graphs
    from featcache.metrics.knn.parts import depth_for as depth_for
    from featcache.metrics.pairing import Paired as Paired
    from featcache.metrics.pairing import paired as paired
    from featcache.metrics.preparation import clamped as clamped
    from featcache.metrics.preparation import outlier_threshold as outlier_threshold
    from featcache.metrics.preparation import prepared as prepared
    from featcache.metrics.scores.correlation import cca as cca
    from featcache.metrics.scores.correlation import pwcca as pwcca
    from featcache.metrics.scores.correlation import svcca as svcca
    from featcache.metrics.scores.dissimilarity import rsa as rsa
    from featcache.metrics.scores.hypersphere import alignment_loss as alignment_loss
    from featcache.metrics.scores.hypersphere import modality_gap as modality_gap
    from featcache.metrics.scores.hypersphere import uniformity as uniformity
    from featcache.metrics.scores.independence import hsic as hsic
    from featcache.metrics.scores.kernels import cka as cka
    from featcache.metrics.scores.kernels import rv as rv
    from featcache.metrics.scores.local import cknna as cknna
    from featcache.metrics.scores.overlap import chance_mutual_knn as chance_mutual_knn
    from featcache.metrics.scores.overlap import cycle_knn as cycle_knn
    from featcache.metrics.scores.overlap import edit_distance_knn as edit_distance_knn
    from featcache.metrics.scores.overlap import jaccard_knn as jaccard_knn
    from featcache.metrics.scores.overlap import lcs_knn as lcs_knn
    from featcache.metrics.scores.overlap import mutual_knn as mutual_knn
    from featcache.metrics.scores.ranking import Retrieval as Retrieval
    from featcache.metrics.scores.ranking import chance_recall as chance_recall
    from featcache.metrics.scores.ranking import clustered_wilson as clustered_wilson
    from featcache.metrics.scores.ranking import retrieval as retrieval
    from featcache.metrics.scores.ranks import rank_knn as rank_knn
    from featcache.metrics.scores.ranks import second_order_cosine as second_order_cosine
    from featcache.metrics.scores.recall import retrieval_recall as retrieval_recall
    from featcache.metrics.scores.shapes import aligned_cosine as aligned_cosine
    from featcache.metrics.scores.shapes import angular_cka as angular_cka
    from featcache.metrics.scores.shapes import angular_distance as angular_distance
    from featcache.metrics.scores.shapes import procrustes as procrustes
    from featcache.metrics.spaces import group_mean as group_mean
    from featcache.metrics.spaces import joint as joint
    from featcache.metrics.spaces import mixed as mixed
    from featcache.metrics.streaming import CkaSums as CkaSums
    from featcache.metrics.streaming import StreamingCka as StreamingCka
    from featcache.metrics.streaming import StreamingMetric as StreamingMetric
    from featcache.metrics.sweeps.ceiling import CeilingPoint as CeilingPoint
    from featcache.metrics.sweeps.ceiling import MixingPoint as MixingPoint
    from featcache.metrics.sweeps.ceiling import mixing_curve as mixing_curve
    from featcache.metrics.sweeps.ceiling import ridge_ceiling as ridge_ceiling
    from featcache.metrics.sweeps.curve import CurvePoint as CurvePoint
    from featcache.metrics.sweeps.curve import gallery_curve as gallery_curve
    from featcache.metrics.sweeps.curve import k_curve as k_curve
    from featcache.metrics.sweeps.grid import Grid as Grid
    from featcache.metrics.sweeps.grid import GridPoint as GridPoint
    from featcache.metrics.sweeps.grid import layer_grid as layer_grid
    from featcache.metrics.sweeps.grid import many_grid as many_grid
    from featcache.metrics.table import METRICS as METRICS
    from featcache.metrics.table import Metric as Metric

_HOME = {
    "aligned_cosine": "scores.shapes",
    "alignment_loss": "scores.hypersphere",
    "angular_cka": "scores.shapes",
    "angular_distance": "scores.shapes",
    "approximate_neighbors": "knn.approximate",
    "calibrate": "certainty.calibration",
    "cca": "scores.correlation",
    "chance_cka": "certainty.moments",
    "chance_mutual_knn": "scores.overlap",
    "chance_recall": "scores.ranking",
    "cka": "scores.kernels",
    "cknna": "scores.local",
    "clamped": "preparation",
    "clustered_wilson": "scores.ranking",
    "cycle_knn": "scores.overlap",
    "cycle_knn_graphs": "knn.graph_scores",
    "depth_for": "knn.parts",
    "edit_distance_knn": "scores.overlap",
    "edit_distance_knn_graphs": "knn.graph_scores",
    "exceeds_parts": "certainty.differences",
    "gallery_curve": "sweeps.curve",
    "group_mean": "spaces",
    "hsic": "scores.independence",
    "jaccard_knn": "scores.overlap",
    "jaccard_knn_graphs": "knn.graph_scores",
    "joint": "spaces",
    "k_curve": "sweeps.curve",
    "layer_grid": "sweeps.grid",
    "lcs_knn": "scores.overlap",
    "lcs_knn_graphs": "knn.graph_scores",
    "many_grid": "sweeps.grid",
    "max_null": "certainty.calibration",
    "mixed": "spaces",
    "mixing_curve": "sweeps.ceiling",
    "modality_gap": "scores.hypersphere",
    "moments_cka": "certainty.moments",
    "moments_hsic": "certainty.moments",
    "moments_knn": "certainty.moments",
    "mutual_knn": "scores.overlap",
    "mutual_knn_graphs": "knn.graph_scores",
    "neighbors": "knn.graph",
    "neighbors_in": "knn.gallery",
    "outlier_threshold": "preparation",
    "paired": "pairing",
    "paired_difference": "certainty.differences",
    "permutation_null": "certainty.nulls",
    "permutation_null_cka": "certainty.nulls",
    "permutation_null_knn": "certainty.nulls",
    "prepared": "preparation",
    "procrustes": "scores.shapes",
    "pwcca": "scores.correlation",
    "query_interval": "certainty.intervals",
    "rank_knn": "scores.ranks",
    "rank_knn_graphs": "knn.graph_scores",
    "retrieval": "scores.ranking",
    "ridge_ceiling": "sweeps.ceiling",
    "retrieval_recall": "scores.recall",
    "rsa": "scores.dissimilarity",
    "rv": "scores.kernels",
    "sample_interval": "certainty.intervals",
    "scores_interval": "certainty.intervals",
    "second_order_cosine": "scores.ranks",
    "svcca": "scores.correlation",
    "uniformity": "scores.hypersphere",
    "Calibrated": "certainty.calibration",
    "CeilingPoint": "sweeps.ceiling",
    "CkaSums": "streaming",
    "CurvePoint": "sweeps.curve",
    "Difference": "certainty.differences",
    "Exceeds": "certainty.differences",
    "Grid": "sweeps.grid",
    "GridPoint": "sweeps.grid",
    "Interval": "certainty.intervals",
    "METRICS": "table",
    "MaxNull": "certainty.calibration",
    "Metric": "table",
    "MetricError": "errors",
    "MixingPoint": "sweeps.ceiling",
    "Neighbors": "knn.graph",
    "Null": "certainty.nulls",
    "Paired": "pairing",
    "Retrieval": "scores.ranking",
    "StreamingCka": "streaming",
    "StreamingMetric": "streaming",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that importing the package costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"featcache.metrics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
