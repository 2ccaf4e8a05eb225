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
    from metrics.scores.overlap import mutual_knn as mutual_knn
    from metrics.scores.overlap import mutual_knn_graphs as mutual_knn_graphs
    from metrics.scores.ranking import Retrieval as Retrieval
    from metrics.scores.ranking import chance_recall as chance_recall
    from metrics.scores.ranking import clustered_wilson as clustered_wilson
    from metrics.scores.ranking import retrieval as retrieval
    from metrics.scores.ranks import rank_knn as rank_knn
    from metrics.scores.ranks import rank_knn_graphs as rank_knn_graphs
    from metrics.scores.ranks import second_order_cosine as second_order_cosine
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
    from metrics.sweeps.curve import depth_for as depth_for
    from metrics.sweeps.curve import gallery_curve as gallery_curve
    from metrics.sweeps.curve import k_curve as k_curve
    from metrics.sweeps.grid import Grid as Grid
    from metrics.sweeps.grid import GridPoint as GridPoint
    from metrics.sweeps.grid import layer_grid as layer_grid
    from metrics.sweeps.grid import many_grid as many_grid
    from metrics.table import METRICS as METRICS
    from metrics.table import Metric as Metric

_HOME = {
    "approximate_neighbors": "knn.approximate",
    "Calibrated": "certainty.calibration",
    "MaxNull": "certainty.calibration",
    "calibrate": "certainty.calibration",
    "max_null": "certainty.calibration",
    "CeilingPoint": "sweeps.ceiling",
    "MixingPoint": "sweeps.ceiling",
    "mixing_curve": "sweeps.ceiling",
    "ridge_ceiling": "sweeps.ceiling",
    "cca": "scores.correlation",
    "pwcca": "scores.correlation",
    "svcca": "scores.correlation",
    "CurvePoint": "sweeps.curve",
    "depth_for": "sweeps.curve",
    "gallery_curve": "sweeps.curve",
    "k_curve": "sweeps.curve",
    "Difference": "certainty.differences",
    "Exceeds": "certainty.differences",
    "exceeds_parts": "certainty.differences",
    "paired_difference": "certainty.differences",
    "rsa": "scores.dissimilarity",
    "MetricError": "errors",
    "neighbors_in": "knn.gallery",
    "Neighbors": "knn.graph",
    "neighbors": "knn.graph",
    "Grid": "sweeps.grid",
    "GridPoint": "sweeps.grid",
    "layer_grid": "sweeps.grid",
    "many_grid": "sweeps.grid",
    "alignment_loss": "scores.hypersphere",
    "modality_gap": "scores.hypersphere",
    "uniformity": "scores.hypersphere",
    "hsic": "scores.independence",
    "Interval": "certainty.intervals",
    "query_interval": "certainty.intervals",
    "sample_interval": "certainty.intervals",
    "scores_interval": "certainty.intervals",
    "cka": "scores.kernels",
    "rv": "scores.kernels",
    "cknna": "scores.local",
    "chance_cka": "certainty.moments",
    "moments_cka": "certainty.moments",
    "moments_knn": "certainty.moments",
    "moments_hsic": "certainty.moments",
    "Null": "certainty.nulls",
    "permutation_null": "certainty.nulls",
    "permutation_null_cka": "certainty.nulls",
    "permutation_null_knn": "certainty.nulls",
    "chance_mutual_knn": "scores.overlap",
    "mutual_knn": "scores.overlap",
    "mutual_knn_graphs": "scores.overlap",
    "Paired": "pairing",
    "paired": "pairing",
    "clamped": "preparation",
    "outlier_threshold": "preparation",
    "prepared": "preparation",
    "Retrieval": "scores.ranking",
    "chance_recall": "scores.ranking",
    "clustered_wilson": "scores.ranking",
    "retrieval": "scores.ranking",
    "rank_knn": "scores.ranks",
    "rank_knn_graphs": "scores.ranks",
    "second_order_cosine": "scores.ranks",
    "aligned_cosine": "scores.shapes",
    "angular_cka": "scores.shapes",
    "angular_distance": "scores.shapes",
    "procrustes": "scores.shapes",
    "group_mean": "spaces",
    "joint": "spaces",
    "mixed": "spaces",
    "CkaSums": "streaming",
    "StreamingCka": "streaming",
    "StreamingMetric": "streaming",
    "METRICS": "table",
    "Metric": "table",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that importing the package costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'metrics' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"metrics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
