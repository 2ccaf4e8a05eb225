"""How alike are two spaces of the same samples? Pure functions of arrays; nothing here knows of files or models.

>>> from metrics import METRICS
>>> METRICS["mutual_knn"].higher_is_better
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.certainty.calibration import Calibrated as Calibrated
    from metrics.certainty.calibration import MaxNull as MaxNull
    from metrics.certainty.calibration import calibrate as calibrate
    from metrics.certainty.calibration import max_null as max_null
    from metrics.certainty.differences import Difference as Difference
    from metrics.certainty.differences import Exceeds as Exceeds
    from metrics.certainty.differences import exceeds_parts as exceeds_parts
    from metrics.certainty.differences import paired_difference as paired_difference
    from metrics.certainty.intervals import Interval as Interval
    from metrics.certainty.intervals import query_interval as query_interval
    from metrics.certainty.intervals import sample_interval as sample_interval
    from metrics.certainty.intervals import scores_interval as scores_interval
    from metrics.certainty.moments import chance_cka as chance_cka
    from metrics.certainty.moments import moments_cka as moments_cka
    from metrics.certainty.moments import moments_hsic as moments_hsic
    from metrics.certainty.moments import moments_knn as moments_knn
    from metrics.certainty.nulls import Null as Null
    from metrics.certainty.nulls import permutation_null as permutation_null
    from metrics.certainty.nulls import permutation_null_cka as permutation_null_cka
    from metrics.certainty.nulls import permutation_null_knn as permutation_null_knn
    from metrics.errors import MetricError as MetricError
    from metrics.knn.approximate import approximate_neighbors as approximate_neighbors
    from metrics.knn.gallery import neighbors_in as neighbors_in
    from metrics.knn.graph import Neighbors as Neighbors
    from metrics.knn.graph import neighbors as neighbors
    from metrics.knn.parts import depth_for as depth_for
    from metrics.pairing import Paired as Paired
    from metrics.pairing import paired as paired
    from metrics.preparation import clamped as clamped
    from metrics.preparation import outlier_threshold as outlier_threshold
    from metrics.preparation import prepared as prepared
    from metrics.scores.correlation import cca as cca
    from metrics.scores.correlation import pwcca as pwcca
    from metrics.scores.correlation import svcca as svcca
    from metrics.scores.dissimilarity import rsa as rsa
    from metrics.scores.hypersphere import alignment_loss as alignment_loss
    from metrics.scores.hypersphere import modality_gap as modality_gap
    from metrics.scores.hypersphere import uniformity as uniformity
    from metrics.scores.independence import hsic as hsic
    from metrics.scores.kernels import cka as cka
    from metrics.scores.kernels import rv as rv
    from metrics.scores.local import cknna as cknna
    from metrics.scores.overlap import chance_mutual_knn as chance_mutual_knn
    from metrics.scores.overlap import cycle_knn as cycle_knn
    from metrics.scores.overlap import cycle_knn_graphs as cycle_knn_graphs
    from metrics.scores.overlap import edit_distance_knn as edit_distance_knn
    from metrics.scores.overlap import edit_distance_knn_graphs as edit_distance_knn_graphs
    from metrics.scores.overlap import jaccard_knn as jaccard_knn
    from metrics.scores.overlap import jaccard_knn_graphs as jaccard_knn_graphs
    from metrics.scores.overlap import lcs_knn as lcs_knn
    from metrics.scores.overlap import lcs_knn_graphs as lcs_knn_graphs
    from metrics.scores.overlap import mutual_knn as mutual_knn
    from metrics.scores.overlap import mutual_knn_graphs as mutual_knn_graphs
    from metrics.scores.ranking import Retrieval as Retrieval
    from metrics.scores.ranking import chance_recall as chance_recall
    from metrics.scores.ranking import clustered_wilson as clustered_wilson
    from metrics.scores.ranking import retrieval as retrieval
    from metrics.scores.ranks import rank_knn as rank_knn
    from metrics.scores.ranks import rank_knn_graphs as rank_knn_graphs
    from metrics.scores.ranks import second_order_cosine as second_order_cosine
    from metrics.scores.recall import retrieval_recall as retrieval_recall
    from metrics.scores.shapes import aligned_cosine as aligned_cosine
    from metrics.scores.shapes import angular_cka as angular_cka
    from metrics.scores.shapes import angular_distance as angular_distance
    from metrics.scores.shapes import procrustes as procrustes
    from metrics.spaces import group_mean as group_mean
    from metrics.spaces import joint as joint
    from metrics.spaces import mixed as mixed
    from metrics.streaming import CkaSums as CkaSums
    from metrics.streaming import StreamingCka as StreamingCka
    from metrics.streaming import StreamingMetric as StreamingMetric
    from metrics.sweeps.ceiling import CeilingPoint as CeilingPoint
    from metrics.sweeps.ceiling import MixingPoint as MixingPoint
    from metrics.sweeps.ceiling import mixing_curve as mixing_curve
    from metrics.sweeps.ceiling import ridge_ceiling as ridge_ceiling
    from metrics.sweeps.curve import CurvePoint as CurvePoint
    from metrics.sweeps.curve import gallery_curve as gallery_curve
    from metrics.sweeps.curve import k_curve as k_curve
    from metrics.sweeps.grid import Grid as Grid
    from metrics.sweeps.grid import GridPoint as GridPoint
    from metrics.sweeps.grid import layer_grid as layer_grid
    from metrics.sweeps.grid import many_grid as many_grid
    from metrics.table import METRICS as METRICS
    from metrics.table import Metric as Metric

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
    "cycle_knn_graphs": "scores.overlap",
    "depth_for": "knn.parts",
    "edit_distance_knn": "scores.overlap",
    "edit_distance_knn_graphs": "scores.overlap",
    "exceeds_parts": "certainty.differences",
    "gallery_curve": "sweeps.curve",
    "group_mean": "spaces",
    "hsic": "scores.independence",
    "jaccard_knn": "scores.overlap",
    "jaccard_knn_graphs": "scores.overlap",
    "joint": "spaces",
    "k_curve": "sweeps.curve",
    "layer_grid": "sweeps.grid",
    "lcs_knn": "scores.overlap",
    "lcs_knn_graphs": "scores.overlap",
    "many_grid": "sweeps.grid",
    "max_null": "certainty.calibration",
    "mixed": "spaces",
    "mixing_curve": "sweeps.ceiling",
    "modality_gap": "scores.hypersphere",
    "moments_cka": "certainty.moments",
    "moments_hsic": "certainty.moments",
    "moments_knn": "certainty.moments",
    "mutual_knn": "scores.overlap",
    "mutual_knn_graphs": "scores.overlap",
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
    "rank_knn_graphs": "scores.ranks",
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
        raise AttributeError(f"module 'metrics' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"metrics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
