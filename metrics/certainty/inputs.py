"""Checks and preparation of the spaces, or ready neighbour graphs, that nulls and intervals start from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.metrics.arrays import X, Y, checked
from featcache.metrics.comparison import Comparison, KnnComparison
from featcache.metrics.errors import BadChoice, BadShape, ConstantSpace, TooFewRows
from featcache.metrics.knn.graph import Neighbors
from featcache.metrics.scores.local import Cknna


def prepare_all(comparison: Comparison[Any], spaces: Mapping[str, X | Y | Neighbors]) -> tuple[list[Any], int]:
    """The prepared spaces, in their order, and their number of rows; row i of all is the same sample.

    A space is features [n, d], or for kNN metrics and debiased CKNNA a graph of n rows that is at least k deep,
    searched by the same metric and with the same groups. Errors as the metric, with the space's name; BadChoice also if
    a graph does not fit the metric.

    Example:
        >>> from featcache.metrics import METRICS
        >>> x = np.random.default_rng(0).standard_normal((40, 8))
        >>> prepared, n = prepare_all(METRICS["mutual_knn"].comparison(k=5), {"x": x, "y": 2 * x})
        >>> n, prepared[1].k
        (40, 5)
    """
    sizes = {name: _rows(comparison, space, name) for name, space in spaces.items()}
    if len(set(sizes.values())) != 1:
        raise BadShape(
            f"numbers of rows differ ({', '.join(f'{name}: {rows}' for name, rows in sizes.items())}): row i of all "
            f"must be the same sample; pair them by id"
        )
    n = next(iter(sizes.values()))
    if n < comparison.at_least:
        raise TooFewRows(f"wanted at least {comparison.at_least} rows, got {n}")
    prepared = [
        space if isinstance(space, Neighbors) else comparison.prepare(space, name) for name, space in spaces.items()
    ]
    return prepared, n


def _rows(comparison: Comparison[Any], space: X | Y | Neighbors, name: str) -> int:
    if isinstance(space, Neighbors):
        _check_graph(comparison, space, name)
        return space.n
    values = checked(space, name)
    refuse_constant(values, name)
    return len(values)


def refuse_constant(values: np.ndarray, name: str) -> None:
    """Raises ConstantSpace if all rows [n, d] are the same."""
    if (values[-1] == values[0]).all() and (values == values[0]).all():
        raise ConstantSpace(f"{name}: all {len(values)} rows are the same; the space has collapsed to one point")


def _check_graph(comparison: Comparison[Any], graph: Neighbors, name: str) -> None:
    if not isinstance(comparison, KnnComparison | Cknna) or (isinstance(comparison, Cknna) and not comparison.debiased):
        # Biased CKNNA has every row on its own list, which no graph has.
        raise BadChoice(f"{name} is a neighbour graph, but this metric compares features; give those")
    if graph.metric != comparison.metric:
        raise BadChoice(f"{name} was searched by {graph.metric!r}, but the metric's option says {comparison.metric!r}")
    if graph.k < comparison.k:
        raise BadChoice(f"{name} is {graph.k} deep, wanted k = {comparison.k} or more; search deeper or lower k")
    if graph.ids.min() < -1 or graph.ids.max() >= graph.n:
        raise BadChoice(f"{name}: ids run to {graph.ids.max()}, but the graph has rows 0 to {graph.n - 1}")
    if isinstance(comparison, Cknna) and np.isnan(graph.similarities[graph.ids >= 0]).any():
        raise BadChoice(f"{name}: the graph has ids without similarities, which this metric compares; give features")
