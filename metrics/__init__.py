"""How alike are two spaces of the same samples? Pure functions of arrays; nothing here knows of files or models.

>>> from metrics import METRICS
>>> METRICS["mutual_knn"].higher_is_better
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrics.errors import MetricError as MetricError
    from metrics.graph import Neighbors as Neighbors
    from metrics.graph import neighbors as neighbors
    from metrics.kernels import cka as cka
    from metrics.local import cknna as cknna
    from metrics.moments import chance_cka as chance_cka
    from metrics.moments import moments_cka as moments_cka
    from metrics.moments import moments_knn as moments_knn
    from metrics.nulls import Null as Null
    from metrics.nulls import permutation_null_cka as permutation_null_cka
    from metrics.nulls import permutation_null_knn as permutation_null_knn
    from metrics.overlap import chance_mutual_knn as chance_mutual_knn
    from metrics.overlap import mutual_knn as mutual_knn
    from metrics.overlap import mutual_knn_graphs as mutual_knn_graphs
    from metrics.ranking import Retrieval as Retrieval
    from metrics.ranking import chance_recall as chance_recall
    from metrics.ranking import clustered_wilson as clustered_wilson
    from metrics.ranking import retrieval as retrieval
    from metrics.spaces import group_mean as group_mean
    from metrics.spaces import joint as joint
    from metrics.spaces import mixed as mixed
    from metrics.table import METRICS as METRICS
    from metrics.table import Metric as Metric

_HOME = {
    "MetricError": "errors",
    "Neighbors": "graph",
    "neighbors": "graph",
    "cka": "kernels",
    "cknna": "local",
    "chance_cka": "moments",
    "moments_cka": "moments",
    "moments_knn": "moments",
    "Null": "nulls",
    "permutation_null_cka": "nulls",
    "permutation_null_knn": "nulls",
    "chance_mutual_knn": "overlap",
    "mutual_knn": "overlap",
    "mutual_knn_graphs": "overlap",
    "Retrieval": "ranking",
    "chance_recall": "ranking",
    "clustered_wilson": "ranking",
    "retrieval": "ranking",
    "group_mean": "spaces",
    "joint": "spaces",
    "mixed": "spaces",
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
