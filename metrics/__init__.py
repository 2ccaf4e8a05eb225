"""How alike are two spaces of the same samples? Pure functions of arrays; nothing here knows of files or models.

>>> from metrics import METRICS
>>> METRICS["mutual_knn"].higher_is_better
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.approximate import approximate_neighbors as approximate_neighbors
    from metrics.calibration import Calibrated as Calibrated
    from metrics.calibration import MaxNull as MaxNull
    from metrics.calibration import calibrate as calibrate
    from metrics.calibration import max_null as max_null
    from metrics.ceiling import CeilingPoint as CeilingPoint
    from metrics.ceiling import MixingPoint as MixingPoint
    from metrics.ceiling import mixing_curve as mixing_curve
    from metrics.ceiling import ridge_ceiling as ridge_ceiling
    from metrics.correlation import cca as cca
    from metrics.correlation import pwcca as pwcca
    from metrics.correlation import svcca as svcca
    from metrics.curve import CurvePoint as CurvePoint
    from metrics.curve import depth_for as depth_for
    from metrics.curve import gallery_curve as gallery_curve
    from metrics.curve import k_curve as k_curve
    from metrics.differences import Difference as Difference
    from metrics.differences import Exceeds as Exceeds
    from metrics.differences import exceeds_parts as exceeds_parts
    from metrics.differences import paired_difference as paired_difference
    from metrics.dissimilarity import rsa as rsa
    from metrics.errors import MetricError as MetricError
    from metrics.gallery import neighbors_in as neighbors_in
    from metrics.graph import Neighbors as Neighbors
    from metrics.graph import neighbors as neighbors
    from metrics.grid import Grid as Grid
    from metrics.grid import GridPoint as GridPoint
    from metrics.grid import layer_grid as layer_grid
    from metrics.grid import many_grid as many_grid
    from metrics.hypersphere import alignment_loss as alignment_loss
    from metrics.hypersphere import modality_gap as modality_gap
    from metrics.hypersphere import uniformity as uniformity
    from metrics.independence import hsic as hsic
    from metrics.intervals import Interval as Interval
    from metrics.intervals import query_interval as query_interval
    from metrics.intervals import sample_interval as sample_interval
    from metrics.intervals import scores_interval as scores_interval
    from metrics.kernels import cka as cka
    from metrics.kernels import rv as rv
    from metrics.local import cknna as cknna
    from metrics.moments import chance_cka as chance_cka
    from metrics.moments import moments_cka as moments_cka
    from metrics.moments import moments_hsic as moments_hsic
    from metrics.moments import moments_knn as moments_knn
    from metrics.nulls import Null as Null
    from metrics.nulls import permutation_null as permutation_null
    from metrics.nulls import permutation_null_cka as permutation_null_cka
    from metrics.nulls import permutation_null_knn as permutation_null_knn
    from metrics.overlap import chance_mutual_knn as chance_mutual_knn
    from metrics.overlap import mutual_knn as mutual_knn
    from metrics.overlap import mutual_knn_graphs as mutual_knn_graphs
    from metrics.pairing import Paired as Paired
    from metrics.pairing import paired as paired
    from metrics.preparation import clamped as clamped
    from metrics.preparation import outlier_threshold as outlier_threshold
    from metrics.preparation import prepared as prepared
    from metrics.ranking import Retrieval as Retrieval
    from metrics.ranking import chance_recall as chance_recall
    from metrics.ranking import clustered_wilson as clustered_wilson
    from metrics.ranking import retrieval as retrieval
    from metrics.ranks import rank_knn as rank_knn
    from metrics.ranks import rank_knn_graphs as rank_knn_graphs
    from metrics.ranks import second_order_cosine as second_order_cosine
    from metrics.shapes import aligned_cosine as aligned_cosine
    from metrics.shapes import angular_cka as angular_cka
    from metrics.shapes import angular_distance as angular_distance
    from metrics.shapes import procrustes as procrustes
    from metrics.spaces import group_mean as group_mean
    from metrics.spaces import joint as joint
    from metrics.spaces import mixed as mixed
    from metrics.streaming import CkaSums as CkaSums
    from metrics.streaming import StreamingCka as StreamingCka
    from metrics.streaming import StreamingMetric as StreamingMetric
    from metrics.table import METRICS as METRICS
    from metrics.table import Metric as Metric

_HOME = {
    "approximate_neighbors": "approximate",
    "Calibrated": "calibration",
    "MaxNull": "calibration",
    "calibrate": "calibration",
    "max_null": "calibration",
    "CeilingPoint": "ceiling",
    "MixingPoint": "ceiling",
    "mixing_curve": "ceiling",
    "ridge_ceiling": "ceiling",
    "cca": "correlation",
    "pwcca": "correlation",
    "svcca": "correlation",
    "CurvePoint": "curve",
    "depth_for": "curve",
    "gallery_curve": "curve",
    "k_curve": "curve",
    "Difference": "differences",
    "Exceeds": "differences",
    "exceeds_parts": "differences",
    "paired_difference": "differences",
    "rsa": "dissimilarity",
    "MetricError": "errors",
    "neighbors_in": "gallery",
    "Neighbors": "graph",
    "neighbors": "graph",
    "Grid": "grid",
    "GridPoint": "grid",
    "layer_grid": "grid",
    "many_grid": "grid",
    "alignment_loss": "hypersphere",
    "modality_gap": "hypersphere",
    "uniformity": "hypersphere",
    "hsic": "independence",
    "Interval": "intervals",
    "query_interval": "intervals",
    "sample_interval": "intervals",
    "scores_interval": "intervals",
    "cka": "kernels",
    "rv": "kernels",
    "cknna": "local",
    "chance_cka": "moments",
    "moments_cka": "moments",
    "moments_knn": "moments",
    "moments_hsic": "moments",
    "Null": "nulls",
    "permutation_null": "nulls",
    "permutation_null_cka": "nulls",
    "permutation_null_knn": "nulls",
    "chance_mutual_knn": "overlap",
    "mutual_knn": "overlap",
    "mutual_knn_graphs": "overlap",
    "Paired": "pairing",
    "paired": "pairing",
    "clamped": "preparation",
    "outlier_threshold": "preparation",
    "prepared": "preparation",
    "Retrieval": "ranking",
    "chance_recall": "ranking",
    "clustered_wilson": "ranking",
    "retrieval": "ranking",
    "rank_knn": "ranks",
    "rank_knn_graphs": "ranks",
    "second_order_cosine": "ranks",
    "aligned_cosine": "shapes",
    "angular_cka": "shapes",
    "angular_distance": "shapes",
    "procrustes": "shapes",
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
